"""The embedded model and images: size, loading with the Auto classes, captioning and retrieval accuracy."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForPreTraining, AutoProcessor, pipeline

from modeling_lavis import LavisBlipForPreTraining, LavisBlipProcessor
from modeling_lavis.embedded import embedded_images, embedded_model_path

#: minimal accuracy on the embedded images, which are from the val split
EXACT_CAPTIONS = 0.75


@cache
def model() -> Any:
    return AutoModelForPreTraining.from_pretrained(embedded_model_path()).eval()


@cache
def processor() -> Any:
    return AutoProcessor.from_pretrained(embedded_model_path())


def images() -> list[Image.Image]:
    return [Image.open(image.path) for image in embedded_images()]


def captions() -> list[str]:
    return [image.caption for image in embedded_images()]


def test_size_and_precision() -> None:
    files = [path for path in Path(embedded_model_path()).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 9_000_000
    weights = [path for path in files if path.suffix == ".safetensors"]
    with safe_open(weights[0], "pt") as stored:
        assert {stored.get_slice(name).get_dtype() for name in stored.keys()} == {"F32"}
        assert not [name for name in stored.keys() if "_m." in name or "queue" in name]


def test_auto_classes() -> None:
    assert isinstance(model(), LavisBlipForPreTraining)
    assert isinstance(processor(), LavisBlipProcessor)


def test_no_missing_or_unexpected_keys() -> None:
    _, report = LavisBlipForPreTraining.from_pretrained(embedded_model_path(), output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]


def test_image_sizes_and_captions() -> None:
    assert 8 <= len(embedded_images()) <= 16
    assert len(set(captions())) == len(captions())
    for image in embedded_images():
        with Image.open(image.path) as opened:
            assert opened.size == (128, 128)
        assert image.path.stat().st_size < 16_384


@pytest.mark.parametrize("num_beams", [1, 3])
def test_captions(num_beams: int) -> None:
    inputs = processor()(images=images(), return_tensors="pt")
    found = processor().post_process_captions(model().generate(**inputs, num_beams=num_beams))
    exact = [text == expected for text, expected in zip(found, processor().clean(captions()))]
    assert sum(exact) / len(exact) >= EXACT_CAPTIONS, list(zip(found, captions()))


def test_retrieval_accuracy() -> None:
    batch = processor()(images=images(), text=captions(), return_tensors="pt")
    with torch.no_grad():
        similarity = model()(**batch).logits_per_image
    own = torch.arange(len(similarity))
    assert (similarity.argmax(1) == own).float().mean() >= EXACT_CAPTIONS
    assert (similarity.argmax(0) == own).float().mean() >= EXACT_CAPTIONS


def test_matching_scores() -> None:
    batch = processor()(images=images(), text=captions(), return_tensors="pt")
    count = len(captions())
    pairs = torch.cartesian_prod(torch.arange(count), torch.arange(count))
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    scores = model().score_pairs(batch["pixel_values"], texts, pairs).probabilities.view(count, count)
    own = scores.diagonal().mean()
    other = (scores.sum() - scores.diagonal().sum()) / (count * count - count)
    assert own > 0.5 > other


def test_tokenizer_ignores_colons_and_case() -> None:
    tokenizer = processor().tokenizer
    assert tokenizer("Man running: DARK skin tone")["input_ids"] == tokenizer("man running dark skin tone")["input_ids"]


def test_model_card() -> None:
    card = (Path(embedded_model_path()) / "README.md").read_text(encoding="utf-8")
    for text in ("fonts-noto-color-emoji", "SIL Open Font License", "train_embedded_model.py", "R@1", "val part"):
        assert text in card


def test_loads_in_float32_whatever_is_left_open() -> None:
    assert {values.dtype for values in model().parameters()} == {torch.float32}
    loaded = AutoModelForPreTraining.from_pretrained(embedded_model_path(), dtype="auto")
    assert {values.dtype for values in loaded.parameters()} == {torch.float32}
    assert loaded.config.dtype == torch.float32
    assert pipeline("image-captioning", model=embedded_model_path(), device="cpu").model.dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
def test_can_be_fine_tuned_as_it_is(autocast: bool) -> None:
    """In half precision, the loss was NaN from the second step on."""
    trained = AutoModelForPreTraining.from_pretrained(embedded_model_path()).train()
    batch = processor()(images=images()[:4], text=captions()[4:8], return_tensors="pt")
    optimizer = torch.optim.AdamW(trained.parameters(), lr=3e-4)
    losses = []
    for _ in range(6):  # the captions are those of other images, so there is something to learn
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = trained(**batch, return_loss=True)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss_lm.item())
    assert all(torch.isfinite(values).all() for values in trained.parameters())
    assert losses[-1] < 0.9 * losses[0], losses


def test_transparent_images_are_composed_on_white(caplog: pytest.LogCaptureFixture) -> None:
    """An emoji file is transparent; dropped, its background would be black."""
    assert processor().image_processor.background == "white"
    opaque = images()[0].convert("RGB")
    values = np.asarray(opaque)
    is_white = (values == 255).all(axis=-1)
    transparent = Image.fromarray(
        np.dstack([np.where(is_white[..., None], 0, values), np.where(is_white, 0, 255)]).astype(np.uint8)
    )
    expected = processor()(images=opaque, return_tensors="pt")["pixel_values"]
    assert is_white.mean() > 0.2
    assert torch.equal(processor()(images=transparent, return_tensors="pt")["pixel_values"], expected)
    captioner = pipeline("image-captioning", model=embedded_model_path(), device="cpu")
    assert captioner(transparent) == captioner(opaque)
    assert not caplog.records
