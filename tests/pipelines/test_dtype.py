"""The dtype of a pipeline: half-precision weights run in what the device computes fast, unless the caller chose."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, pipeline

from modeling_lavis.pipelines import precision
from modeling_lavis.pipelines.loading import load
from modeling_lavis.pipelines.precision import cpu_has_bfloat16, fast_dtype
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import save_video_model

HALF = [torch.float16, torch.bfloat16]
Open = Callable[..., Any]
OPENERS: dict[str, Open] = {
    "pipeline": lambda task, folder, **options: pipeline(task, model=folder, device="cpu", **options),
    "load": lambda task, folder, **options: load(task, folder, device="cpu", **options),
}
OPEN = pytest.mark.parametrize("open_task", OPENERS.values(), ids=OPENERS)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Callable[[torch.dtype], str]:
    """Function that returns the folder of a captioner stored in a dtype."""
    made: dict[torch.dtype, str] = {}

    def make(dtype: torch.dtype) -> str:
        if dtype not in made:
            folder = save_model(tmp_path_factory.mktemp("stored"), "ForPreTraining", goldens / "tokenizer")
            AutoModel.from_pretrained(folder).to(dtype).save_pretrained(folder)
            made[dtype] = str(folder)
        return made[dtype]

    return make


@pytest.fixture(params=[False, True], ids=["without bfloat16", "with bfloat16"])
def has_bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """A CPU with and without instructions for bfloat16."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: request.param)
    yield request.param


def dtypes(pipe: Any) -> set[torch.dtype]:
    return {values.dtype for values in pipe.model.parameters() if values.is_floating_point()}


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "stored in" in record.getMessage()]


@OPEN
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_on_a_cpu(
    stored: Any, files: list[str], open_task: Open, dtype: Any, has_bfloat16: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = open_task("image-captioning", stored(dtype))
    first, again = pipe(files[0]), pipe(files[0])
    assert first == again
    if dtype == torch.bfloat16 and has_bfloat16:
        assert torch.bfloat16 in dtypes(pipe) and not messages(caplog)
        return
    assert dtypes(pipe) == {torch.float32} and pipe.model.config.dtype == torch.float32
    (message,) = messages(caplog)
    assert str(dtype) in message and "float32" in message and stored(dtype) in message
    wide = pipeline("image-captioning", model=stored(dtype), device="cpu", dtype=torch.float32)
    assert wide(files[0]) == first
    for (name, converted), loaded in zip(pipe.model.state_dict().items(), wide.model.state_dict().values()):
        assert torch.equal(converted, loaded), name
    assert len(messages(caplog)) == 1


@OPEN
@pytest.mark.parametrize("chosen", [*HALF, torch.float32])
@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_an_explicit_choice_is_obeyed(
    stored: Any, open_task: Open, dtype: Any, chosen: Any, has_bfloat16: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = open_task("image-text-matching", stored(dtype), dtype=chosen)
    assert pipe.model.vision_proj.weight.dtype == chosen and not messages(caplog)


def test_other_ways_to_choose(stored: Any, has_bfloat16: bool, caplog: pytest.LogCaptureFixture) -> None:
    task, folder = "image-text-matching", stored(torch.float16)
    chosen = pipeline(task, model=folder, device="cpu", model_kwargs={"dtype": torch.float16})
    assert chosen.model.vision_proj.weight.dtype == torch.float16
    assert pipeline(task, model=folder, device="cpu", dtype="float16").model.vision_proj.weight.dtype == torch.float16
    model = AutoModel.from_pretrained(folder, dtype=torch.float16)  # the caller loaded it
    given = pipeline(task, model=model, processor=chosen.processor, device="cpu")
    assert given.model.vision_proj.weight.dtype == torch.float16
    assert not messages(caplog)
    for dtype in (None, "auto"):
        assert dtypes(pipeline(task, model=folder, device="cpu", dtype=dtype)) == {torch.float32}
    assert dtypes(pipeline(task, model=folder, device_map="cpu")) == {torch.float32}
    assert len(messages(caplog)) == 3


@OPEN
def test_float32_stays(
    stored: Any, files: list[str], open_task: Open, has_bfloat16: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = open_task("image-captioning", stored(torch.float32))
    assert dtypes(pipe) == {torch.float32} and pipe(files[0]) and not messages(caplog)


@pytest.mark.parametrize("task", ["video-text-matching", "multimodal-feature-extraction", "video-text-retrieval"])
def test_videos(task: str, tmp_path: Path, goldens: Path) -> None:
    folder = save_video_model(tmp_path, "ForVideoTextRetrieval", goldens / "tokenizer")
    AutoModel.from_pretrained(folder).half().save_pretrained(folder)
    assert dtypes(pipeline(task, model=str(folder), device="cpu")) == {torch.float32}


def test_table(has_bfloat16: bool) -> None:
    for device in ("cuda", "cuda:1", "mps", "xpu"):
        assert [fast_dtype(dtype, device) for dtype in (*HALF, torch.float32)] == [*HALF, torch.float32]
    kept = torch.bfloat16 if has_bfloat16 else torch.float32
    assert [fast_dtype(dtype, "cpu") for dtype in HALF] == [torch.float32, kept]
    assert fast_dtype(torch.float64, "cpu") == torch.float64


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("avx512", [False, True])
def test_the_processor_is_asked(avx512: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert cpu_has_bfloat16.__wrapped__() == (avx512 or amx)


def test_a_build_that_cannot_be_asked_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert cpu_has_bfloat16.__wrapped__() is False


def test_quantized_and_spread_models_stay(
    stored: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for attribute in ("hf_quantizer", "hf_device_map"):
        model = AutoModel.from_pretrained(stored(torch.float16), dtype="auto")
        setattr(model, attribute, {"": "cpu"})
        precision.use_fast_dtype(model, "cpu")
        assert model.vision_proj.weight.dtype == torch.float16
    assert all(record.levelno < logging.WARNING for record in caplog.records)
