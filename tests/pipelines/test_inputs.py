"""What the pipelines take: kinds and modes of pictures, lists, data sets, generators; and what they refuse."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_lavis.pipelines import TASKS, register
from modeling_lavis.pipelines.loading import load
from tests.pipelines.conftest import HEADS
from tests.pipelines.tiny_models import save_broken_pictures, save_pictures_of_every_mode

Pipe = Callable[..., Any]


def row_for(task: str, picture: Any) -> dict[str, Any]:
    """One row that a task can work on."""
    text = {"image-question-answering": {"question": "what is this?"}, "image-captioning": {}}.get(
        task, {"text": "a dog"}
    )
    return {**({"images": [picture, picture]} if "pair" in task else {"image": picture}), **text}


ROW_TASKS = sorted(
    task for task in TASKS if task.startswith(("image-", "multimodal-")) and task != "image-text-retrieval"
)


@pytest.mark.parametrize("task", ROW_TASKS)
class TestEveryTask:
    """Rows work the same everywhere."""

    def test_kinds_of_pictures(self, pipe: Pipe, photos: dict[str, Path], task: str) -> None:
        path = photos["coffee"]
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        array = np.array(picture)
        kinds = [str(path), path, picture, array, torch.from_numpy(array.transpose(2, 0, 1).copy())]
        results = [pipe(task)(row_for(task, kind)) for kind in kinds]
        assert all(str(result) == str(results[0]) for result in results)

    def test_generators_and_data_sets_are_lazy(self, pipe: Pipe, files: list[str], task: str) -> None:
        run = pipe(task)
        expected = str(run([row_for(task, file) for file in files], batch_size=2))
        asked = []

        def rows() -> Any:
            for file in files:
                asked.append(file)
                yield row_for(task, file)

        results = run(rows(), batch_size=2)
        assert asked == []
        next(results)
        assert len(asked) < len(files)
        assert str(list(run(rows(), batch_size=2))) == expected
        assert str(list(run(iter([row_for(task, f) for f in files]), batch_size=2))) == expected
        table = datasets.Dataset.from_list([row_for(task, file) for file in files])
        assert str(list(run(table, batch_size=2))) == expected
        assert str(list(run(table.to_iterable_dataset(), batch_size=2))) == expected

    def test_broken_rows_do_not_stop_the_others(self, pipe: Pipe, files: list[str], tmp_path: Path, task: str) -> None:
        bad = save_broken_pictures(tmp_path, Path(files[0]))
        mixed = [str(bad[0]), files[0], str(bad[1]), str(bad[2]), files[1], str(bad[3])]
        run = pipe(task)
        results = run([row_for(task, file) for file in mixed], batch_size=2, on_error="return")
        good = run([row_for(task, file) for file in files[:2]])
        assert str([results[1], results[4]]) == str(good) or _close([results[1], results[4]], good)
        for place in (0, 2, 3, 5):
            assert Path(mixed[place]).name in results[place]["error"]
        with pytest.raises(OSError, match="truncated.png"):
            run([row_for(task, file) for file in mixed])

    def test_unknown_option_is_named(self, pipe: Pipe, files: list[str], task: str) -> None:
        with pytest.raises(TypeError, match="batchsize.*Did you mean 'batch_size'"):
            pipe(task)(row_for(task, files[0]), batchsize=2)

    def test_no_picture(self, pipe: Pipe, task: str) -> None:
        row = {"caption": "x", "question": "what?", "features": ["image_features"]}
        row.update({} if "feature" in task else {"text": "a dog"})
        with pytest.raises(ValueError, match="no picture|pairs of pictures|neither"):
            pipe(task)(row)

    @pytest.mark.parametrize("value", [None, 3, b"bytes"])
    def test_no_input_at_all(self, pipe: Pipe, task: str, value: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="expected a picture|got nothing"):
            pipe(task)(value)

    def test_empty_list(self, pipe: Pipe, task: str) -> None:
        assert pipe(task)([]) == []

    def test_wrong_model(self, repository: Pipe, task: str) -> None:
        wrong = "ForQuestionAnswering" if task != "image-question-answering" else "ForConditionalGeneration"
        with pytest.raises(ValueError, match=f"{task} cannot use LavisBlip{wrong}; it needs"):
            pipeline(task, model=repository(wrong), device="cpu")
        with pytest.raises(ValueError, match=f"{task} cannot use LavisBlip{wrong}; it needs"):
            load(task, repository(wrong))

    def test_load_equals_pipeline(self, pipe: Pipe, repository: Pipe, files: list[str], task: str) -> None:
        run = load(task, repository(HEADS[task]), device="cpu")
        assert str(run(row_for(task, files[0]))) == str(pipe(task)(row_for(task, files[0])))

    def test_bfloat16(self, repository: Pipe, files: list[str], task: str) -> None:
        run = load(task, repository(HEADS[task]), device="cpu", dtype=torch.bfloat16)
        assert run.model.vision_model.dtype == torch.bfloat16
        assert run([row_for(task, file) for file in files], batch_size=3)


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_close(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_close, left, right))
    return left == pytest.approx(right, abs=1e-4) if isinstance(left, float) else left == right


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        ("image-question-answering", "question"),
        ("image-text-matching", "text"),
        ("image-text-classification", "text"),
        ("image-pair-classification", "text"),
    ],
)
def test_missing_text(pipe: Pipe, files: list[str], task: str, missing: str) -> None:
    row = row_for(task, files[0])
    del row[missing]
    with pytest.raises(ValueError, match=f"{task} needs a {missing}; pass {missing}="):
        pipe(task)(row)
    with pytest.raises(ValueError, match=f"The {missing} is 3|The text is"):
        pipe(task)({**row, missing: 3})


def test_pictures_of_every_mode(pipe: Pipe, tmp_path: Path) -> None:
    paths = save_pictures_of_every_mode(tmp_path)
    results = pipe("image-captioning")([str(path) for path in paths], max_new_tokens=2, batch_size=4)
    assert len(results) == len(paths) and all(result[0]["generated_text"] for result in results)


def test_unicode_and_odd_paths(pipe: Pipe, photos: dict[str, Path], tmp_path: Path) -> None:
    names = ["фото кошки.png", "猫 [1].png", "naïve 'quoted'.png", "🐈.png"]
    for name in names:
        (tmp_path / name).write_bytes(photos["chelsea"].read_bytes())
    results = pipe("image-captioning")([tmp_path / name for name in names], max_new_tokens=3)
    assert results == [pipe("image-captioning")(photos["chelsea"], max_new_tokens=3)] * 4
    with pytest.raises(OSError, match="猫 missing.png"):
        pipe("image-captioning")(tmp_path / "猫 missing.png")


def test_stack_of_arrays_is_a_list(pipe: Pipe) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    run = pipe("image-captioning")
    assert run(arrays, max_new_tokens=2) == [run(array, max_new_tokens=2) for array in arrays]


def test_data_set_of_torch_with_workers(pipe: Pipe, files: list[str]) -> None:
    run = pipe("image-captioning")
    table = KeyDataset(datasets.Dataset.from_list([{"path": file} for file in files]), "path")  # type: ignore[arg-type]
    results = list(run(table, batch_size=2, num_workers=1, max_new_tokens=3))
    assert results == run(files, max_new_tokens=3)


def test_numbers_that_do_not_fit(pipe: Pipe, files: list[str]) -> None:
    run = pipe("image-question-answering")
    with pytest.raises(ValueError, match="3 inputs and 2 questions"):
        run(files[:3], question=["what?", "who?"])
    with pytest.raises(ValueError, match="cannot be dealt out"):
        run((file for file in files), question=["what?"] * 4)


def test_an_open_file_is_no_list_of_rows(pipe: Pipe, files: list[str]) -> None:
    with open(files[0], "rb") as file, pytest.raises(TypeError, match=r"BufferedReader.*PIL\.Image\.open"):
        pipe("image-captioning")(file)


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences", "max_new_tokens", "max_length"])
def test_counts_of_decoding_are_checked(pipe: Pipe, files: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected a whole number of at least 1"):
        pipe("image-captioning")(files[0], **{name: 0})


def test_unlike_options_are_answered_with_those_of_the_pipeline(pipe: Pipe, files: list[str]) -> None:
    with pytest.raises(TypeError, match=r"'xyzzy'\. It takes prompt, .*batch_size.*\.\.\.\.$"):
        pipe("image-captioning")(files[0], xyzzy=1)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"There is no folder {tmp_path}/nothing, and a repository's name looks like"):
        load("image-captioning", tmp_path / "nothing")


def test_on_error_is_checked(pipe: Pipe, files: list[str]) -> None:
    with pytest.raises(ValueError, match="on_error is 'skip'"):
        pipe("image-captioning")(files[0], on_error="skip")


def test_registering_twice_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    register()
    assert "already registered" not in caplog.text


def test_saved_pipeline_needs_no_remote_code(pipe: Pipe, files: list[str], tmp_path: Path) -> None:
    run = pipe("image-captioning")
    run.save_pretrained(tmp_path)
    again = pipeline("image-captioning", model=str(tmp_path), device="cpu")
    assert again(files[0], max_new_tokens=3) == run(files[0], max_new_tokens=3)
    assert not list(tmp_path.glob("*.py"))


def test_model_object_needs_a_processor(repository: Pipe, files: list[str]) -> None:
    """One that was loaded from a repository finds its processor there; one made from scratch cannot."""
    from modeling_lavis.pipelines.captioning import ImageCaptioningPipeline

    model = AutoModel.from_pretrained(repository("ForConditionalGeneration"))
    assert ImageCaptioningPipeline(model, device="cpu")(files[0], max_new_tokens=2)
    model.config._name_or_path = ""
    with pytest.raises(ValueError, match="needs a processor of this package"):
        ImageCaptioningPipeline(type(model)(model.config), device="cpu")


def test_missing_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.path.basename(str(tmp_path))):
        load("image-captioning", tmp_path)
    with pytest.raises(ValueError, match="Unknown task 'captioning'; expected one of image-captioning"):
        load("captioning", tmp_path)
