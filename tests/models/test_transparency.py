"""Transparent images: dropped as in the original, with one warning, or composed on a background color."""

import base64
import json
import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor

from modeling_lavis import LavisBlipProcessor, LavisImageProcessor, LavisImageProcessorTorchvision, LavisVideoProcessor
from modeling_lavis.models.processing_lavis_blip import blip_tokenizer

SIDE = 16
BOTH = pytest.mark.parametrize("processor_class", [LavisImageProcessor, LavisImageProcessorTorchvision])
RED, GREEN = (200, 30, 40), (10, 220, 60)


def pixels(image: Any, processor_class: Any = LavisImageProcessor, **options: Any) -> torch.Tensor:
    """The image without resizing and normalization, in 0..255."""
    plain = {"do_resize": False, "do_normalize": False}
    return processor_class(**plain)(image, return_tensors="pt", **options)["pixel_values"][0] * 255


def rgba(alpha: int = 0) -> PIL.Image.Image:
    """Red, with a square in the middle that is transparent over green."""
    values = np.full((SIDE, SIDE, 4), (*RED, 255), np.uint8)
    values[4:12, 4:12] = (*GREEN, alpha)
    return PIL.Image.fromarray(values)


def as_png(image: PIL.Image.Image, **options: Any) -> PIL.Image.Image:
    file = BytesIO()
    image.save(file, "PNG", **options)
    return PIL.Image.open(file)


def palette() -> PIL.Image.Image:
    return rgba(255).convert("RGB").quantize(2)


def green_entry() -> int:
    return palette().getpixel((8, 8))  # type: ignore[return-value]


def grey(mode: str) -> PIL.Image.Image:
    """Grey 80, with a square of grey 240."""
    values = np.full((SIDE, SIDE), 80, np.uint8)
    values[4:12, 4:12] = 240
    if mode == "I;16":
        return PIL.Image.fromarray(values.astype(np.uint16) * 257)
    return PIL.Image.fromarray(values > 100 if mode == "1" else values).convert(mode)


def grey_alpha() -> PIL.Image.Image:
    values = np.stack([np.asarray(grey("L")), np.full((SIDE, SIDE), 255, np.uint8)], axis=-1)
    values[4:12, 4:12, 1] = 0
    return PIL.Image.fromarray(values)


def palette_alpha() -> PIL.Image.Image:
    image = palette().convert("PA")
    image.putalpha(rgba().getchannel("A"))
    return image


#: name -> (image whose middle is transparent, color around it, color under it)
TRANSPARENT: dict[str, tuple[Callable[[], Any], tuple[int, ...], tuple[int, ...]]] = {
    "RGBA": (rgba, RED, GREEN),
    "RGBa": (lambda: rgba().convert("RGBa"), RED, (0, 0, 0)),
    "LA": (grey_alpha, (80,) * 3, (240,) * 3),
    "La": (lambda: grey_alpha().convert("La"), (80,) * 3, (0,) * 3),
    "PA": (palette_alpha, RED, GREEN),
    "P, one entry": (lambda: as_png(palette(), transparency=green_entry()), RED, GREEN),
    "P, alpha of entries": (
        lambda: as_png(palette(), transparency=bytes(0 if entry == green_entry() else 255 for entry in range(2))),
        RED,
        GREEN,
    ),
    "P, palette with alpha": (lambda: rgba().quantize(2, method=PIL.Image.Quantize.FASTOCTREE), RED, GREEN),
    "RGB, tRNS": (lambda: as_png(rgba(255).convert("RGB"), transparency=GREEN), RED, GREEN),
    "L, tRNS": (lambda: as_png(grey("L"), transparency=240), (80,) * 3, (240,) * 3),
    "1, tRNS": (lambda: as_png(grey("1"), transparency=1), (0,) * 3, (255,) * 3),
    "I;16, tRNS": (lambda: as_png(grey("I;16"), transparency=240 * 257), (80,) * 3, (240,) * 3),
    "array RGBA": (lambda: np.asarray(rgba()), RED, GREEN),
    "array LA": (lambda: np.asarray(grey_alpha()), (80,) * 3, (240,) * 3),
    "array, channels first": (lambda: np.asarray(rgba()).transpose(2, 0, 1), RED, GREEN),
    "array of floats": (lambda: np.asarray(rgba()) / 255, RED, GREEN),
    "array of 16 bits": (lambda: np.asarray(rgba()).astype(np.uint16) * 257, RED, GREEN),
    "tensor": (lambda: torch.tensor(np.asarray(rgba())), RED, GREEN),
}
EVERY = pytest.mark.parametrize(("make", "around", "under"), TRANSPARENT.values(), ids=TRANSPARENT)


def squares(values: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Colors around and inside the square of the middle, each of which must be uniform."""
    middle = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    middle[4:12, 4:12] = True
    parts = [values[:, ~middle], values[:, middle]]
    for part in parts:
        torch.testing.assert_close(part, part[:, :1].expand_as(part), rtol=0, atol=0.01)
    around, inside = (tuple(round(float(value)) for value in part[:, 0]) for part in parts)
    return around, inside


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@BOTH
@EVERY
def test_on_a_color(
    make: Any, around: Any, under: Any, processor_class: Any, caplog: pytest.LogCaptureFixture, recwarn: Any
) -> None:
    expected = (around, (12, 34, 250))
    for color in ((12, 34, 250), [12, 34, 250], "#0c22fa", "rgb(12, 34, 250)"):
        assert squares(pixels(make(), processor_class, background=color)) == expected
    stored = processor_class(do_resize=False, do_normalize=False, background="black")
    assert squares(stored(make(), return_tensors="pt")["pixel_values"][0] * 255) == (around, (0, 0, 0))
    assert not warnings_in(caplog) and not list(recwarn)


@BOTH
@EVERY
def test_dropped_by_default_with_one_warning(
    make: Any, around: Any, under: Any, processor_class: Any, caplog: pytest.LogCaptureFixture, recwarn: Any
) -> None:
    processor = processor_class(do_resize=False, do_normalize=False)
    images = [make(), make()]
    for values in processor(images, return_tensors="pt")["pixel_values"]:
        assert squares(values * 255) == (around, under)
    (message,) = warnings_in(caplog)
    assert "transparent" in message and "background=" in message
    processor(make())
    assert len(warnings_in(caplog)) == 1
    processor_class()(make())  # another processor warns for itself
    assert len(warnings_in(caplog)) == 2
    assert not list(recwarn)


def test_half_transparent_pixels_are_blended() -> None:
    around, inside = squares(pixels(rgba(128), background="white"))
    assert around == RED
    assert inside == tuple(round((color * 128 + 255 * 127) / 255) for color in GREEN)
    assert torch.equal(pixels(rgba(128), background="white"), pixels(np.asarray(rgba(128)), background=(255, 255, 255)))


@BOTH
@pytest.mark.parametrize(
    "make",
    [
        lambda: rgba(255),
        lambda: np.asarray(rgba(255)),
        lambda: grey("L").convert("LA"),
        lambda: rgba(255).convert("RGB"),
        lambda: as_png(rgba(255).convert("RGB"), transparency=(1, 2, 3)),
        lambda: as_png(grey("L"), transparency=17),
        lambda: as_png(palette(), transparency=200),
        lambda: grey("I;16"),
        lambda: rgba(255).convert("CMYK"),
    ],
)
def test_opaque_images_stay_the_same(make: Any, processor_class: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An alpha channel or a transparent color that no pixel uses neither warns nor changes a number."""
    dropped = pixels(make(), processor_class)
    assert torch.equal(pixels(make(), processor_class, background="white"), dropped)
    assert not warnings_in(caplog)


def test_files_and_urls(tmp_path: Path) -> None:
    """Also from where transformers' own loader would drop the alpha channel."""
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True}), ("a.tiff", {}), ("a.ico", {})):
        rgba().save(tmp_path / name, **options)
        assert squares(pixels(tmp_path / name, background="white")) == (RED, (255,) * 3), name
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    assert squares(pixels(uri, background="white")) == (RED, (255,) * 3)
    flat = palette()
    flat.save(tmp_path / "a.gif", transparency=green_entry())
    assert squares(pixels(tmp_path / "a.gif", background="white")) == (RED, (255,) * 3)


def test_pairs() -> None:
    processor = LavisImageProcessor(do_resize=False, do_normalize=False, background="white")
    pairs = processor([[rgba(), np.asarray(rgba())]], return_tensors="pt")["pixel_values"] * 255
    assert [squares(image) for image in pairs[0]] == [(RED, (255,) * 3)] * 2


@BOTH
@pytest.mark.parametrize("color", ["white", "#fff", (255, 128, 0), "drop"])
def test_is_saved(processor_class: Any, color: Any, tmp_path: Path) -> None:
    processor_class(background=color).save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).background == color
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["background"] == (list(color) if isinstance(color, tuple) else color)
    again = AutoImageProcessor.from_pretrained(tmp_path, background="black")
    assert again.background == "black"


def test_files_without_the_option_drop(tmp_path: Path) -> None:
    LavisImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    stored = json.loads(file.read_text())
    assert stored.pop("background") == "drop"
    file.write_text(json.dumps(stored))
    assert AutoImageProcessor.from_pretrained(tmp_path).background == "drop"


def test_processors_save_and_pass_it(goldens: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image_processor = LavisImageProcessor(size=SIDE, do_normalize=False, background="white")
    processor = LavisBlipProcessor(image_processor, blip_tokenizer(str(goldens / "tokenizer")))
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    for options, expected in (
        ({}, (255,) * 3),
        ({"background": (1, 2, 3)}, (1, 2, 3)),
        ({"background": "drop"}, GREEN),
    ):
        values = again(images=rgba(), text="a dog", return_tensors="pt", **options)["pixel_values"][0] * 255
        assert squares(values) == (RED, expected)
    assert len(warnings_in(caplog)) == 1


WRONG = ["whit", "", "#ff", "transparent", "#ffffff80", "DROP", 255, True, 1.5, (1, 2), (1, 2, 3, 4), (0, 0, 256)]
WRONG += [(-1, 0, 0), (0.5, 0.5, 0.5), (True, False, True), ("a", "b", "c"), {"r": 1}, [], [[1, 2, 3]]]


@BOTH
@pytest.mark.parametrize("color", WRONG, ids=str)
def test_wrong_colors_are_named(processor_class: Any, color: Any, goldens: Path) -> None:
    expected = rf"{processor_class.__name__}: background is .*expected 'drop', an opaque color"
    with pytest.raises(ValueError, match=expected):
        processor_class(background=color)
    with pytest.raises(ValueError, match=expected):
        processor_class()(rgba(), background=color)
    with pytest.raises(ValueError, match=expected):
        processor_class().preprocess(rgba(), background=color)
    processor = LavisBlipProcessor(processor_class(size=SIDE), blip_tokenizer(str(goldens / "tokenizer")))
    with pytest.raises(ValueError, match=expected):
        processor(images=rgba(), background=color)


def test_an_opaque_color_with_alpha_is_accepted() -> None:
    assert LavisImageProcessor(background="#ffffffff").background == "#ffffffff"
    assert LavisImageProcessor(background=None).background == "drop"
    assert LavisImageProcessor(background=np.array([1, 2, 3])).background == (1, 2, 3)


def test_videos_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    processor = LavisVideoProcessor(size=SIDE, num_frames=2, do_normalize=False)
    frames = [rgba(), rgba()]
    for video in (frames, np.stack([np.asarray(frame) for frame in frames])):
        values = processor(video, return_tensors="pt")["pixel_values_videos"]
        assert squares(values[0, 0] * 255) == (RED, GREEN)
    (message,) = warnings_in(caplog)
    assert "frame of a video has transparent pixels" in message
    processor([rgba(255), rgba(255)])
    LavisVideoProcessor(size=SIDE)([rgba(255), rgba(255)])
    assert len(warnings_in(caplog)) == 1
