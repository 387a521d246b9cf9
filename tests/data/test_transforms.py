"""Training transforms: recorded draws give the recorded pixels, and recorded seeds the recorded draws."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from modeling_lavis.data.randaugment import Operation
from modeling_lavis.data.transforms import (
    ImageTrainTransform,
    TrainDraw,
    blip2_image_train,
    blip_image_train,
    draw_crop,
    timm_image_train,
)

MAKERS = {"blip_image_train": blip_image_train, "blip2_image_train": blip2_image_train}


@pytest.fixture(scope="module")
def recordings(goldens: Path) -> list[tuple[dict, Path, dict[str, torch.Tensor]]]:
    folder = goldens / "processors"
    tensors = load_file(folder / "image_train.safetensors")
    rows = json.loads((folder / "image_train.json").read_text())["rows"]
    assert {row["processor"] for row in rows} == set(MAKERS)
    return [(row, folder / "images" / row["image"], tensors) for row in rows]


def recorded_draw(row: dict) -> TrainDraw:
    operations = tuple(Operation(name, tuple(arguments)) for name, arguments in row["ops"])
    return TrainDraw(tuple(row["crop_ijhw"]), row["flipped"], operations)


def test_recorded_draws_give_the_recorded_pixels(recordings) -> None:
    for row, path, tensors in recordings:
        transform = MAKERS[row["processor"]](row["image_size"])
        pixels = transform.apply(path, recorded_draw(row))
        torch.testing.assert_close(pixels, tensors[row["tensor"]], rtol=0, atol=0)
        before = tensors.get(f"{row['tensor']}.before_augment")
        if before is not None:
            assert np.array_equal(transform.crop_and_flip(path, recorded_draw(row)), before.numpy())


def test_recorded_seeds_give_the_recorded_draws(recordings) -> None:
    for row, path, _ in recordings:
        generator = torch.Generator().manual_seed(row["seed"])
        draw = MAKERS[row["processor"]](row["image_size"]).draw(path, generator, np.random.RandomState(row["seed"]))
        expected = recorded_draw(row)
        assert (draw.crop, draw.flip) == (expected.crop, expected.flip)
        assert [(name, arguments[:1]) for name, arguments in draw.operations] == [
            (name, arguments[:1]) for name, arguments in expected.operations
        ]


def test_call_equals_draw_and_apply(photos) -> None:
    transform = blip_image_train(40, level=9, count=4)
    for seed in range(5):
        pixels = transform(photos["coffee"], torch.Generator().manual_seed(seed))
        draw = transform.draw(photos["coffee"], torch.Generator().manual_seed(seed))
        assert pixels.shape == (3, 40, 40) and pixels.dtype == torch.float32
        assert torch.equal(pixels, transform.apply(photos["coffee"], draw))
    assert not torch.equal(transform(photos["coffee"]), transform(photos["coffee"]))
    assert not any(blip2_image_train(40).draw(photos["coffee"]).operations for _ in range(20))


def test_image_types(photos) -> None:
    transform = blip_image_train(24)
    draw = TrainDraw((3, 5, 100, 120), True, (Operation("Equalize"),))
    image = PIL.Image.open(photos["rocket"]).convert("RGB")
    expected = transform.apply(image, draw)
    array = np.array(image)
    for same in (photos["rocket"], str(photos["rocket"]), array, torch.tensor(array), array.transpose(2, 0, 1) / 255):
        assert torch.equal(transform.apply(same, draw), expected)
    with pytest.raises(FileNotFoundError, match="nothing.jpg"):
        transform("nothing.jpg")


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (10, 500), (500, 10), (2, 2)])
def test_crop_positions_and_sizes(size: tuple[int, int]) -> None:
    height, width = size
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        top, left, crop_height, crop_width = draw_crop(height, width, generator=generator)
        assert (
            0 <= top <= height - crop_height and 0 <= left <= width - crop_width and crop_height > 0 and crop_width > 0
        )
        shares.append(crop_height * crop_width / (height * width))
    if size == (480, 640):
        assert 0.49 < min(shares) < 0.6 and 0.9 < max(shares) <= 1.0


def test_choice_of_operations(photos) -> None:
    photo = next(iter(photos.values()))
    transform = blip_image_train(32, operations=["Rotate", "ShearX"], count=4)
    drawn = {
        op.name for seed in range(20) for op in transform.draw(photo, torch.Generator().manual_seed(seed)).operations
    }
    assert drawn == {"Rotate", "ShearX"}
    for wrong in (["Rotat"], [], "Rotate"):
        with pytest.raises(ValueError, match="operations is"):
            blip_image_train(32, operations=wrong)


def test_timm_transform(photos) -> None:
    pixels = timm_image_train(32)(PIL.Image.open(photos["coffee"]).convert("RGB"))
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32


def test_invalid_options_raise() -> None:
    with pytest.raises(ValueError, match="image_size is 0"):
        blip_image_train(0)
    with pytest.raises(ValueError, match="scale from 0.9 to 0.5"):
        blip_image_train(32, min_scale=0.9, max_scale=0.5)


def test_flip_probability_and_background() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 255)  # red on the left, transparent black on the right
    image = PIL.Image.fromarray(pixels)
    never = ImageTrainTransform(8, 1.0, 1.0, augment=False, flip_probability=0.0, background="white")
    always = ImageTrainTransform(8, 1.0, 1.0, augment=False, flip_probability=1.0, background="white")
    drawn = [
        transform.draw(image, torch.Generator().manual_seed(seed)) for transform in (never, always) for seed in range(8)
    ]
    assert [draw.flip for draw in drawn] == [False] * 8 + [True] * 8
    assert never.crop_and_flip(image, TrainDraw((0, 0, 8, 8)))[0, -1].tolist() == [255, 255, 255]
    assert never.crop_and_flip(pixels, TrainDraw((0, 0, 8, 8)))[0, -1].tolist() == [255, 255, 255]
    with pytest.raises(ValueError, match="flip_probability is 2; expected a number from 0 to 1"):
        ImageTrainTransform(8, flip_probability=2)
