"""What the values of image and video arrays mean: the table of the image processor's docstring, row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis import LavisImageProcessor, LavisImageProcessorTorchvision, LavisVideoProcessor
from modeling_lavis.models.image_conversion import white_value

SIZE = 16
GREY = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
GREY[0, 0], GREY[0, 1] = 0, 255  # the ranges are complete
DARK = GREY // 16
ALL_INTEGERS = ("int16", "uint16", "int32", "uint32", "int64", "uint64")
BOTH = pytest.mark.parametrize("processor_class", [LavisImageProcessor, LavisImageProcessorTorchvision])

#: name -> (array, the same image as uint8)
MEANINGS: dict[str, tuple[Any, np.ndarray]] = {
    "bool": (GREY > 127, ((GREY > 127) * 255).astype(np.uint8)),
    "uint8": (GREY, GREY),
    "uint8, dark": (DARK, DARK),
    "int8": ((GREY // 2).astype(np.int8), GREY // 2),
    **{f"{name}, 0..255": (GREY.astype(name), GREY) for name in ALL_INTEGERS},
    **{f"{name}, dark": (DARK.astype(name), DARK) for name in ALL_INTEGERS},
    **{f"{name}, 0..65535": (GREY.astype(name) * 257, GREY) for name in ALL_INTEGERS if name != "int16"},
    "big endian": (GREY.astype(">i2"), GREY),
    "big endian, 16 bits": (GREY.astype(">u2") * 257, GREY),
    **{f"{name}, 0..1": (GREY.astype(name) / np.array(255, name), GREY) for name in ("float32", "float64")},
    **{f"{name}, 0..255": (GREY.astype(name), GREY) for name in ("float16", "float32", "float64")},
    **{f"{name}, 0..65535": (GREY.astype(name) * 257, GREY) for name in ("float32", "float64")},
    "float16, 0..1": ((GREY / 255).astype(np.float16), GREY),
    "floats, rounded above 1": (GREY / 255 * 1.0000002, GREY),
    "floats, rounded below 0": (GREY / 255 - 1e-7, GREY),
    "floats, rounded above 255": (GREY * 1.0000002, GREY),
    "floats, only 0 and 1": ((GREY > 127).astype(np.float32), ((GREY > 127) * 255).astype(np.uint8)),
    "torch int16": (torch.from_numpy(GREY.astype(np.int16)), GREY),
    "torch uint16": (torch.from_numpy(GREY.astype(np.uint16) * 257), GREY),
    "torch bool": (torch.from_numpy(GREY > 127), ((GREY > 127) * 255).astype(np.uint8)),
    "torch float16": (torch.from_numpy(GREY / 255).half(), GREY),
    "torch bfloat16, 0..255": (torch.from_numpy(GREY).bfloat16(), GREY),
    "torch, with gradient": (torch.from_numpy(GREY / 255).requires_grad_(), GREY),
}

#: name -> (array, what the error says)
REFUSED: dict[str, tuple[Any, str]] = {
    "int16, more than 8 bits": (GREY.astype(np.int16) * 100, "ambiguous: white may be 32767 or 65535"),
    "int16, slightly more than 8 bits": (GREY.astype(np.int16) + 40, "ambiguous"),
    "uint16, slightly more than 8 bits": (GREY.astype(np.uint16) + 40, "ambiguous.*0..255 or 0..65535"),
    "int64, slightly more than 8 bits": (GREY.astype(np.int64) * 2, "ambiguous"),
    "floats, overshoot of 1": (GREY / 255 * 1.1, "ambiguous: it may exceed 0..1 slightly.*Clip the image to 0..1"),
    "floats, overshoot of 255": (GREY * 1.1, "ambiguous: it may exceed 0..255 slightly"),
    "negative integers": (GREY.astype(np.int16) - 128, "from -128 to 127; expected"),
    "overflow of int8": (GREY.astype(np.int8), "from -128 to 127"),
    "normalized": ((GREY / 255 - 0.5) / 0.25, "already normalized"),
    "more than 16 bits": (GREY.astype(np.int64) * 1000, "to 255000"),
    "nan": (np.where(GREY > 250, np.nan, GREY), "nan"),
    "inf": (np.where(GREY > 250, np.inf, GREY), "inf"),
    "complex": (GREY.astype(np.complex64), "array of complex64"),
    "dates": (GREY.astype("datetime64[s]"), "array of datetime64"),
    "sparse": (torch.from_numpy(GREY).to_sparse(), "dense tensor"),
    "meta": (torch.zeros(20, 24, 3, device="meta"), "dense tensor"),
}
MEANS = pytest.mark.parametrize(("values", "expected"), MEANINGS.values(), ids=MEANINGS)
REFUSES = pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)


def image(values: Any, processor_class: Any = LavisImageProcessor, **options: Any) -> torch.Tensor:
    return processor_class(size=SIZE)(values, return_tensors="pt", **options)["pixel_values"]


def video(values: Any) -> torch.Tensor:
    return LavisVideoProcessor(size=SIZE, num_frames=2)(values, return_tensors="pt")["pixel_values_videos"]


def stacked(*values: Any) -> Any:
    return torch.stack(values) if isinstance(values[0], torch.Tensor) else np.stack(values)


@BOTH
@MEANS
def test_images(values: Any, expected: np.ndarray, processor_class: Any) -> None:
    assert torch.equal(image(values, processor_class), image(expected, processor_class))
    assert torch.equal(image(values[..., 0], processor_class), image(expected[..., 0], processor_class))


@MEANS
def test_conversion_to_rgb_does_not_matter(values: Any, expected: np.ndarray) -> None:
    assert torch.equal(image(values, do_convert_rgb=False), image(expected))


@MEANS
def test_videos(values: Any, expected: np.ndarray) -> None:
    """Arrays, lists of frames and batches of videos mean what images mean; fractions are truncated, as originally."""
    wanted = video(np.stack([expected, expected]))
    # truncating loses one grey level where 1/255 is not exact, and as much again when frames are resized
    levels = 1.1 / 255 / 0.26
    for given in (stacked(values, values), [values, values], stacked(stacked(values, values))):
        torch.testing.assert_close(video(given), wanted, rtol=0, atol=levels)
    assert torch.equal(video(stacked(values, values)), video([values, values]))


@BOTH
@REFUSES
def test_refused_images(values: Any, message: str, processor_class: Any) -> None:
    with pytest.raises(ValueError, match=message):
        image(values, processor_class)


@REFUSES
def test_refused_videos(values: Any, message: str) -> None:
    for given in (stacked(values, values), [values, values], stacked(stacked(values, values))):
        with pytest.raises(ValueError, match=message):
            video(given)


@pytest.mark.parametrize(
    "scaled", [lambda v: v.astype(np.float32), lambda v: v.astype(np.int16), lambda v: v.astype(np.uint16) * 257]
)
def test_a_batch_or_a_video_has_one_range(scaled: Any) -> None:
    """Black frames of a bright video stay black, whatever they are taken for alone."""
    black = np.ones_like(GREY)
    bright = np.stack([black, GREY])
    assert torch.equal(image(scaled(bright)), image(bright))
    assert torch.equal(image(scaled(np.stack([bright, bright]))), image(np.stack([bright, bright])))  # pairs
    assert torch.equal(video(scaled(bright)), video(bright))
    assert torch.equal(video(list(scaled(bright))), video(bright))
    assert torch.equal(video(scaled(np.stack([bright, np.ones_like(bright)])))[1], video(np.ones_like(bright))[0])
    processor = LavisVideoProcessor(size=SIZE, num_frames=1)
    sampled = processor(scaled(bright), return_tensors="pt")["pixel_values_videos"]  # the black frame only
    assert torch.equal(sampled, processor(bright, return_tensors="pt")["pixel_values_videos"])


def test_frames_of_several_dtypes() -> None:
    frames = [GREY.astype(np.float32), (GREY.astype(np.uint16) * 257), GREY, PIL.Image.fromarray(GREY)]
    processor = LavisVideoProcessor(size=SIZE, num_frames=4)
    assert torch.equal(
        processor(frames, return_tensors="pt")["pixel_values_videos"],
        processor([GREY] * 4, return_tensors="pt")["pixel_values_videos"],
    )


def test_the_images_of_a_list_are_independent() -> None:
    values = image([GREY, GREY / 255, GREY.astype(np.uint16) * 257, GREY.astype(np.int16)])
    assert all(torch.equal(row, values[0]) for row in values)


def test_a_file_of_16_bits_keeps_them(tmp_path: Path) -> None:
    """The file says that it has 16 bits, so it may be as dark as it likes."""
    for level in (200, 300, 1000):
        values = np.full((20, 24), level, np.uint16)
        PIL.Image.fromarray(values).save(tmp_path / "dark.png")
        assert torch.equal(image(tmp_path / "dark.png"), image(np.full((20, 24), level // 256, np.uint8)))


def test_floats_are_left_alone_without_rescaling() -> None:
    """Neither converted nor refused, so values of any range come through."""
    values = np.stack([GREY, GREY]).transpose(0, 3, 1, 2) / 255 * 1.5 - 0.2
    found = image(values, do_rescale=False, do_resize=False, do_normalize=False)
    torch.testing.assert_close(found, torch.from_numpy(values))


def test_the_docstring_has_the_rows_of_the_table() -> None:
    documented = LavisImageProcessor.__doc__ or ""
    rows = [line.strip() for line in documented.splitlines() if line.strip().startswith("|")][2:]
    for name, low, high, white in (
        ("uint8", 0, 255, 255),
        ("other integers", 0, 255, 255),
        ("other integers, except int16", 0, 512, 65535),
        ("other integers, except int16", 0, 65535, 65535),
        ("floats", 0, 1, 1),
        ("floats", 0, 2, 255),
        ("floats", 0, 255, 255),
        ("floats", 0, 512, 65535),
    ):
        row = next(row for row in rows if row.startswith(f"| {name} |") and row.endswith(f"| {white} |"))
        assert str(high) in row
        dtype = np.dtype("float32" if name == "floats" else "uint8" if name == "uint8" else "int32")
        assert white_value(dtype, low, high) == white
    assert len(rows) == 7
