"""Image processors: equality with the recordings, image modes and types, broken files, saving."""

import base64
import http.server
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import ImageCms
from safetensors.torch import load_file
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

import modeling_lavis  # noqa: F401  (registers)
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor, LavisImageProcessorTorchvision
from tests.http_servers import serve

SIZE = 48
PROCESSOR_CLASSES = [LavisImageProcessor, LavisImageProcessorTorchvision]


def pixels(image, processor_class=LavisImageProcessor, **options) -> torch.Tensor:
    return processor_class(size=SIZE)(image, return_tensors="pt", **options)["pixel_values"]


@pytest.fixture(scope="module")
def cat(photos) -> PIL.Image.Image:
    return PIL.Image.open(photos["chelsea"]).convert("RGB")


@pytest.fixture(scope="module")
def grey(cat) -> PIL.Image.Image:
    return cat.convert("L")


def test_equals_recordings(goldens: Path) -> None:
    folder = goldens / "processors"
    recorded = load_file(folder / "image_eval.safetensors")
    rows = json.loads((folder / "image_eval.json").read_text())["rows"]
    assert rows
    for row in rows:
        options = {ours: row[name] for name, ours in (("mean", "image_mean"), ("std", "image_std")) if name in row}
        path = folder / "images" / row["image"]
        values = LavisImageProcessor(size=row["image_size"], **options)(path, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(values[0], recorded[row["tensor"]], rtol=0, atol=0)
        faster = LavisImageProcessorTorchvision(size=row["image_size"], **options)
        values = faster(path, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(values[0], recorded[row["tensor"]], rtol=0, atol=0.04)


def test_default_is_384_px_float32(photos) -> None:
    values = LavisImageProcessor()(photos["rocket"], return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 384, 384) and values.dtype == torch.float32


def convert_mode(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    if mode == "I;16":
        return PIL.Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)
    if mode == "La":
        return image.convert("LA").convert("La")
    if mode == "RGBa":
        return image.convert("RGBA").convert("RGBa")
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert(mode)


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
@pytest.mark.parametrize("mode", ["L", "LA", "La", "I", "F", "I;16"])
def test_grayscale_modes(cat, grey, mode: str, processor_class) -> None:
    image = convert_mode(cat, mode)
    assert image.mode == mode
    torch.testing.assert_close(
        pixels(image, processor_class), pixels(grey.convert("RGB"), processor_class), rtol=0, atol=0
    )


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
@pytest.mark.parametrize(
    ("mode", "tolerance"),
    # a palette of 256 colors and conversions between color spaces lose a little
    [("RGBA", 0), ("RGBa", 0), ("CMYK", 0), ("P", 0.1), ("PA", 0.1), ("YCbCr", 0.1), ("HSV", 0.1), ("LAB", 0.1)],
)
def test_color_modes(cat, mode: str, tolerance: float, processor_class) -> None:
    image = convert_mode(cat, mode)
    assert image.mode == mode
    torch.testing.assert_close(pixels(image, processor_class), pixels(cat, processor_class), rtol=0, atol=tolerance)


def test_binary_mode(cat) -> None:
    image = cat.convert("1")
    expected = PIL.Image.fromarray(np.array(image).astype(np.uint8) * 255).convert("RGB")
    assert torch.equal(pixels(image), pixels(expected))


def test_transparency_is_ignored(cat, tmp_path: Path) -> None:
    clear = cat.copy()
    clear.putalpha(PIL.Image.linear_gradient("L").resize(cat.size))
    assert torch.equal(pixels(clear), pixels(cat))
    palette = cat.convert("P")
    palette.save(tmp_path / "clear.png", transparency=0)
    opened = PIL.Image.open(tmp_path / "clear.png")
    assert opened.mode == "P" and "transparency" in opened.info
    assert torch.equal(pixels(tmp_path / "clear.png"), pixels(palette.convert("RGB")))


def test_16_bit_png(grey, tmp_path: Path) -> None:
    convert_mode(grey, "I;16").save(tmp_path / "deep.png")
    assert torch.equal(pixels(tmp_path / "deep.png"), pixels(grey))


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
def test_exif_orientation(cat, tmp_path: Path, processor_class) -> None:
    rotated = cat.transpose(PIL.Image.Transpose.ROTATE_90)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise by 90 degrees
    rotated.save(tmp_path / "photo.png", exif=exif)
    path = tmp_path / "photo.png"
    upright = pixels(cat, processor_class)
    assert torch.equal(pixels(path, processor_class), upright)
    assert torch.equal(pixels(PIL.Image.open(path), processor_class), upright)
    assert torch.equal(pixels(load_image(str(path)), processor_class), upright)
    # parity: the original ignores the orientation
    assert torch.equal(pixels(path, processor_class, do_exif_transpose=False), pixels(rotated, processor_class))


def test_damaged_exif_is_ignored(cat, tmp_path: Path) -> None:
    cat.save(tmp_path / "photo.png", exif=b"Exif\x00\x00no exif at all")
    assert torch.equal(pixels(tmp_path / "photo.png"), pixels(cat))


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
def test_arrays_and_tensors(cat, processor_class) -> None:
    array = np.array(cat)
    first = array.transpose(2, 0, 1)
    expected = pixels(cat, processor_class)
    same = {
        "uint8": array,
        "channels first": first,
        "0..1": array / 255,
        "0..255": array.astype(np.float32),
        "16 bit": array.astype(np.uint16) * 257,
        "int64": array.astype(np.int64),
        "alpha": np.dstack([array, array[..., 0]]),
        "tensor": torch.tensor(array),
        "tensor 0..1": torch.tensor(first) / 255,
        "bfloat16": (torch.tensor(first) / 255).bfloat16(),
    }
    for name, value in same.items():
        assert torch.equal(pixels(value, processor_class), expected), name


def test_grayscale_arrays(grey) -> None:
    array = np.array(grey)
    for value in (array, array[None], array[..., None], np.dstack([array, array])):
        assert torch.equal(pixels(value), pixels(grey))


def test_do_rescale_false(cat) -> None:
    values = pixels(np.array(cat) / 255, do_rescale=False)
    torch.testing.assert_close(values, pixels(cat), rtol=0, atol=1e-5)


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
def test_lists_batches_and_pairs(cat, photos, processor_class) -> None:
    array = np.array(cat)
    one = pixels(cat, processor_class)[0]
    assert torch.equal(pixels([cat, array, photos["chelsea"], str(photos["chelsea"])], processor_class)[2], one)
    assert pixels(np.stack([array, array]), processor_class).shape == (2, 3, SIZE, SIZE)
    assert pixels([[cat], [cat], [cat]], processor_class).shape == (3, 3, SIZE, SIZE)
    pairs = pixels([[photos["rocket"], cat], (cat, photos["coffee"]), [cat, cat]], processor_class)
    assert pairs.shape == (3, 2, 3, SIZE, SIZE)
    assert torch.equal(pairs[0, 1], one) and torch.equal(pairs[1, 0], one)
    assert torch.equal(pairs[1, 1], pixels(photos["coffee"], processor_class)[0])
    assert pixels(torch.tensor(np.stack([[array, array]] * 3)), processor_class).shape == (3, 2, 3, SIZE, SIZE)


def test_list_without_return_tensors(cat) -> None:
    values = LavisImageProcessor(size=SIZE)([cat, cat])["pixel_values"]
    assert isinstance(values, list) and isinstance(values[0], np.ndarray) and values[0].shape == (3, SIZE, SIZE)


def test_urls(photos, cat) -> None:
    with serve(http.server.SimpleHTTPRequestHandler, directory=photos["chelsea"].parent) as address:
        assert torch.equal(pixels(f"{address}/chelsea.png"), pixels(cat))
        with pytest.raises(OSError, match="lost.png"):
            pixels(f"{address}/lost.png")
    inline = "data:image/png;base64," + base64.b64encode(photos["chelsea"].read_bytes()).decode()
    assert torch.equal(pixels(inline), pixels(cat))


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
def test_broken_files_raise(photos, tmp_path: Path, processor_class) -> None:
    good = {name: photos[name].read_bytes() for name in ("rocket", "chelsea")}
    broken = {"cut.jpg": good["rocket"][:5000], "cut.png": good["chelsea"][:5000], "zero.png": b"", "text.jpg": b"hi"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=name):
            pixels([photos["coffee"], tmp_path / name], processor_class)
    with pytest.raises(OSError, match="cut.jpg"):
        pixels(PIL.Image.open(tmp_path / "cut.jpg"), processor_class)
    with pytest.raises(FileNotFoundError, match="missing.png"):
        pixels(str(tmp_path / "missing.png"), processor_class)
    with pytest.raises(OSError, match=tmp_path.name):
        pixels(tmp_path, processor_class)
    with pytest.raises(OSError, match="http://127.0.0.1:9/x.jpg"):
        pixels("http://127.0.0.1:9/x.jpg", processor_class)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([], ValueError, "at least one image"),
        (None, TypeError, "NoneType"),
        ({"image": 1}, TypeError, r"row\['image'\]"),
        (np.zeros((5, 6, 7)), ValueError, r"\(5, 6, 7\).*channels"),
        (np.zeros((0, 5, 3)), ValueError, r"\(0, 5, 3\)"),
        (np.full((5, 5, 3), -1.0), ValueError, "already normalized"),
        (np.full((5, 5, 3), np.nan), ValueError, "nan"),
        (np.full((5, 5, 3), None), ValueError, "array of object"),
        (np.full((5, 5, 3), "a"), ValueError, "array of <U1"),
        ([[np.zeros((5, 5))] * 3], ValueError, r"rows of \[3\].*pair"),
        ([np.zeros((5, 5)), [np.zeros((5, 5))] * 2], ValueError, r"rows of \[1, 2\]"),
    ],
)
def test_invalid_images_raise(image, error, message: str) -> None:
    with pytest.raises(error, match=message):
        pixels(image)


def test_unknown_options_raise(cat) -> None:
    with pytest.raises(TypeError, match="'do_normalise'.*'do_normalize'"):
        pixels(cat, do_normalise=False)


@pytest.mark.slow
def test_auto_image_processor_in_this_and_a_new_process(tmp_path: Path) -> None:
    for processor_class in PROCESSOR_CLASSES:
        folder = tmp_path / processor_class.__name__
        processor_class(size=SIZE, image_mean=[0.1, 0.2, 0.3], do_exif_transpose=False).save_pretrained(folder)
        again = AutoImageProcessor.from_pretrained(folder)
        assert type(again) is processor_class
        assert (again.size.height, again.image_mean, again.do_exif_transpose) == (SIZE, (0.1, 0.2, 0.3), False)
    program = (
        "import sys, pathlib, modeling_lavis; from transformers import AutoImageProcessor as Auto;"
        "[print(f.name, type(Auto.from_pretrained(f)).__name__) for f in pathlib.Path(sys.argv[1]).iterdir()]"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    found = dict(line.split() for line in run.stdout.splitlines())
    assert found == {processor_class.__name__: processor_class.__name__ for processor_class in PROCESSOR_CLASSES}
    assert "backend" not in run.stderr


@pytest.mark.parametrize("processor_class", PROCESSOR_CLASSES)
@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_with_other_numbers_of_channels(channels: int, processor_class) -> None:
    array = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, channels), dtype=np.uint8)
    mean, std = [0.1, 0.2, 0.3, 0.4][:channels], [1.0, 2.0, 3.0, 4.0][:channels]
    options = {"image_mean": mean, "image_std": std, "input_data_format": "channels_last", "return_tensors": "pt"}
    processor = processor_class(size=SIZE)
    found = processor(array, do_convert_rgb=False, **options)["pixel_values"][0]
    expected = (torch.from_numpy(array).permute(2, 0, 1) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    if channels == 4:
        with pytest.raises(ValueError, match="one for each of the 3 channels"):
            processor(array, **options)
        with pytest.raises(ValueError, match="one for each of the channels"):
            processor(array, do_convert_rgb=False, **{**options, "image_mean": [0.5] * 5})
