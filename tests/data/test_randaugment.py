"""RandAugment: operations equal recorded results of OpenCV exactly; random draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from modeling_lavis.data.randaugment import (
    GRAY,
    OPERATIONS,
    Operation,
    TorchDraws,
    apply_operation,
    apply_operations,
    draw_arguments,
    draw_operations,
    warp_affine,
)


@pytest.fixture(scope="module")
def recordings(goldens: Path) -> dict[str, np.ndarray]:
    return load_file(goldens / "processors" / "randaugment.safetensors")


def test_operations_equal_recordings(goldens: Path, recordings) -> None:
    rows = json.loads((goldens / "processors" / "randaugment.json").read_text())["rows"]
    assert {row["op"] for row in rows} > set(OPERATIONS)
    before = recordings["input"].copy()
    for row in rows:
        result = apply_operation(recordings["input"], (row["op"], row["args"]))
        np.testing.assert_array_equal(result, recordings[row["tensor"]], err_msg=row["tensor"])
        drawn = draw_arguments(row["op"], row["level"], Fixed(0.75 if row["tensor"].endswith("plus") else 0.25))
        assert len(drawn) == len(row["args"])
        assert [abs(value) for value in drawn[:1]] == [abs(value) for value in row["args"][:1]]
    np.testing.assert_array_equal(recordings["input"], before)


class Fixed:
    """Always draws the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value

    def choice(self, a, size: int) -> list[str]:
        return list(a)[:size]


def test_sign_of_arguments() -> None:
    assert draw_arguments("Rotate", 5, Fixed(0.4)) == (-15.0, GRAY)
    assert draw_arguments("Rotate", 5, Fixed(0.6)) == (15.0, GRAY)
    assert draw_arguments("ShearX", 5, Fixed(0.4)) == (0.15, GRAY)
    assert draw_arguments("TranslateY", 5, Fixed(0.6)) == (-5.0, GRAY)


def test_warp_affine_by_integer_shift_and_rotation(recordings) -> None:
    image = recordings["input"][:41, :41]
    moved = warp_affine(image, np.array([[1, 0, 3], [0, 1, -2]]), (1, 2, 3))
    np.testing.assert_array_equal(moved[:-2, 3:], image[2:, :-3])
    assert (moved[:, :3] == (1, 2, 3)).all() and (moved[-2:] == (1, 2, 3)).all()
    # column x becomes row 40 - x: a rotation by 90 degrees
    turned = warp_affine(image, np.array([[0, 1, 0], [-1, 0, 40]]), GRAY)
    np.testing.assert_array_equal(turned, np.rot90(image))


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 5, 3), (1, 30, 3), (64, 3, 3)])
def test_image_sizes(shape: tuple[int, int, int]) -> None:
    image = np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)
    for name in (*OPERATIONS, "Color", "Contrast", "Solarize", "Posterize"):
        result = apply_operation(image, Operation(name, draw_arguments(name, 10, Fixed(0.6))))
        assert result.shape == shape and result.dtype == np.uint8


def test_brightness_and_sharpness_of_level_five_are_no_ops(recordings) -> None:
    operations = [Operation(name, draw_arguments(name, 5, Fixed(0))) for name in ("Brightness", "Sharpness")]
    np.testing.assert_array_equal(apply_operations(recordings["input"], operations), recordings["input"])


def test_draws_depend_on_the_generator() -> None:
    draws = [draw_operations(TorchDraws(torch.Generator().manual_seed(seed))) for seed in range(200)]
    assert draws == [draw_operations(TorchDraws(torch.Generator().manual_seed(seed))) for seed in range(200)]
    assert {operation.name for drawn in draws for operation in drawn} == set(OPERATIONS)
    # each of two is applied with probability 1/2
    assert 150 < sum(map(len, draws)) < 250
    state = torch.get_rng_state()
    try:
        torch.manual_seed(3)
        assert draw_operations(TorchDraws()) == draw_operations(TorchDraws(torch.Generator().manual_seed(3)))
    finally:
        torch.set_rng_state(state)


def test_invalid_arguments_raise(recordings) -> None:
    with pytest.raises(ValueError, match="'Blur'; expected one of Identity"):
        apply_operation(recordings["input"], Operation("Blur"))
    with pytest.raises(ValueError, match="'Blur'"):
        draw_arguments("Blur", 5, Fixed(0))
    with pytest.raises(ValueError, match="float64"):
        apply_operation(recordings["input"] / 255, Operation("Identity"))


def test_auto_contrast_of_a_channel_without_zero() -> None:
    """parity: an overflow in the original makes the channel white. Every channel of the recorded image has zeros."""
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = np.stack([ramp, ramp + 1, np.full_like(ramp, 7)], axis=-1)
    made = apply_operation(image, Operation("AutoContrast"))
    assert np.array_equal(made[..., 0], (ramp * (255 / 11)).astype(np.uint8))
    assert (made[..., 1] == 255).all()
    assert (made[..., 2] == 7).all()
