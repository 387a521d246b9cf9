# SPDX-License-Identifier: Apache-2.0
"""The RandAugment variant that ALBEF, ALPRO and BLIP were trained with, on NumPy arrays, without OpenCV.

Every operation is a pure function of an 8-bit image and its arguments. Random numbers are drawn separately, in
[`draw_operations`], so that recorded draws can be replayed. The results are bit-exact with the original, which uses
OpenCV: affine warps follow OpenCV's fixed-point arithmetic (coordinates in 1/32 pixel, bilinear weights in 1/32768).

Shapes: H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

OPERATIONS = (
    "Identity",
    "AutoContrast",
    "Brightness",
    "Sharpness",
    "Equalize",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)
"""Names of the operations that LAVIS samples from, in its order."""

MAX_LEVEL = 10
TRANSLATE_PIXELS = 10
GRAY = (128, 128, 128)

_LEVELS = np.arange(256)


class Operation(NamedTuple):
    """An operation and its arguments, as [`apply_operation`] takes them."""

    name: str
    arguments: tuple[Any, ...] = ()


class Draws(Protocol):
    """Source of randomness: `numpy.random.RandomState` or [`TorchDraws`]."""

    def random(self) -> float: ...
    def choice(self, a: Sequence[str], size: int) -> Sequence[str]: ...


class TorchDraws:
    """
    Source of randomness that uses a generator of torch.

    Args:
        generator (`torch.Generator`, *optional*): defaults to the global one, which data loaders seed for each worker.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def random(self) -> float:
        """A number from the uniform distribution over [0, 1)."""
        return torch.rand((), generator=self.generator, dtype=torch.float64).item()

    def choice(self, a: Sequence[str], size: int) -> list[str]:
        """Sample `size` entries of `a` with replacement."""
        return [a[index] for index in torch.randint(len(a), (size,), generator=self.generator).tolist()]


def draw_operations(
    draws: Draws,
    count: int = 2,
    level: int = 5,
    names: Sequence[str] = OPERATIONS,
    probability: float = 0.5,
) -> list[Operation]:
    """
    Sample the operations for one image.

    With `numpy.random.RandomState(seed)`, they are those that the original samples after `numpy.random.seed(seed)`.

    Args:
        draws ([`Draws`]): source of randomness.
        count (`int`, *optional*, defaults to 2): number of operations to sample, with replacement.
        level (`int`, *optional*, defaults to 5): strength from 0 to 10.
        names (`Sequence[str]`, *optional*, defaults to [`OPERATIONS`]): names to sample from.
        probability (`float`, *optional*, defaults to 0.5): probability that a sampled operation is applied.

    Returns:
        `list[Operation]`: the operations to apply, in order; at most `count`, possibly none.
    """
    operations = []
    for name in draws.choice(list(names), count):
        if draws.random() > probability:
            continue
        operations.append(Operation(str(name), draw_arguments(str(name), level, draws)))
    return operations


def check_operations(names: Sequence[str]) -> tuple[str, ...]:
    """Names of operations as a tuple; `ValueError` if there are none, or one is unknown."""
    if isinstance(names, str) or not names or any(name not in _FUNCTIONS for name in names):
        raise ValueError(f"operations is {names!r}; expected a list of names out of {', '.join(_FUNCTIONS)}.")
    return tuple(names)


def draw_arguments(name: str, level: int, draws: Draws) -> tuple[Any, ...]:
    """
    Arguments of an operation. The sign of shears, translations and rotations is sampled.

    Args:
        name (`str`): name of the operation.
        level (`int`): strength from 0 to 10.
        draws ([`Draws`]): source of randomness.

    Returns:
        `tuple`: the arguments.

    Raises:
        ValueError: the operation is unknown.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"Unknown operation {name!r}; expected one of {', '.join(_FUNCTIONS)}.")
    if name in ("Identity", "AutoContrast", "Equalize"):
        return ()
    strength = level / MAX_LEVEL
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return (strength * 1.8 + 0.1,)
    if name == "Solarize":
        return (int(strength * 256),)
    if name == "Posterize":
        return (int(strength * 4),)
    if name == "Rotate":
        # parity: rotations are negative if the number is below 0.5, the other warps if it is above
        return (-strength * 30 if draws.random() < 0.5 else strength * 30, GRAY)
    size = strength * (0.3 if name.startswith("Shear") else TRANSLATE_PIXELS)
    return (-size if draws.random() > 0.5 else size, GRAY)


def apply_operation(image: np.ndarray, operation: Operation | Sequence[Any]) -> np.ndarray:
    """
    Apply an operation to an image.

    Args:
        image (`np.ndarray` of shape `(H, W, 3)`): uint8.
        operation (`Operation` or `Sequence`): an operation, or its name and its arguments.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8.

    Raises:
        ValueError: the operation is unknown, or the image has another dtype or shape.
    """
    name, arguments = operation
    if name not in _FUNCTIONS:
        raise ValueError(f"Unknown operation {name!r}; expected one of {', '.join(_FUNCTIONS)}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"Got an image of {image.dtype} and shape {image.shape}; expected uint8 and shape (H, W, 3).")
    return _FUNCTIONS[name](image, *arguments)


def apply_operations(image: np.ndarray, operations: Sequence[Operation | Sequence[Any]]) -> np.ndarray:
    """Apply operations to a uint8 image of shape (H, W, 3), in order; see [`apply_operation`]."""
    for operation in operations:
        image = apply_operation(image, operation)
    return image


def warp_affine(image: np.ndarray, matrix: np.ndarray, fill: Sequence[int]) -> np.ndarray:
    """
    Warp an image with bilinear interpolation, bit-exact with OpenCV's `warpAffine`.

    Args:
        image (`np.ndarray` of shape `(H, W, 3)`): uint8.
        matrix (`np.ndarray` of shape `(2, 3)`): maps a position (x, y, 1) of the input to its position in the result.
        fill (`Sequence[int]`): color of pixels outside of the input.

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: uint8.
    """
    height, width = image.shape[:2]
    inverse = _invert_affine(np.asarray(matrix, dtype=np.float64))
    # 10 fractional bits in the sum, of which 5 are kept, rounded to nearest
    columns = np.rint(inverse[:, :1] * np.arange(width) * 1024).astype(np.int64)
    rows = np.rint((inverse[:, 1:2] * np.arange(height) + inverse[:, 2:]) * 1024).astype(np.int64) + 16
    x, y = (rows[:, :, None] + columns[:, None, :]) >> 5
    left, top = x >> 5, y >> 5
    across, down = (x & 31)[..., None], (y & 31)[..., None]

    padded = np.empty((height + 2, width + 2, 3), dtype=np.int64)
    padded[:] = fill
    padded[1:-1, 1:-1] = image

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return padded[np.clip(row + 1, 0, height + 1), np.clip(column + 1, 0, width + 1)]

    upper = at(top, left) * (32 - across) + at(top, left + 1) * across
    lower = at(top + 1, left) * (32 - across) + at(top + 1, left + 1) * across
    # all weights are multiples of 32 / 32768, so rounding at 1 / 1024 is exact
    return ((upper * (32 - down) + lower * down + 512) >> 10).astype(np.uint8)


def _invert_affine(matrix: np.ndarray) -> np.ndarray:
    (a, b, tx), (c, d, ty) = matrix
    # parity: the order of these operations affects the last bit, and with it some roundings
    scale = 1.0 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    return np.array([[a, b, -a * tx - b * ty], [c, d, -c * tx - d * ty]])


def _identity(image: np.ndarray) -> np.ndarray:
    return image


def _per_channel(image: np.ndarray, table_for: Callable[[np.ndarray], np.ndarray | None]) -> np.ndarray:
    result = image.copy()
    for channel in range(3):
        table = table_for(image[..., channel])
        if table is not None:
            result[..., channel] = table[image[..., channel]]
    return result


def _to_table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _auto_contrast(image: np.ndarray) -> np.ndarray:
    def table_for(channel: np.ndarray) -> np.ndarray | None:
        low, high = int(channel.min()), int(channel.max())
        if high <= low:
            return None
        scale = 255 / (high - low)
        # parity: the original negates `low` as uint8, so a channel whose minimum is not 0 becomes white
        return _to_table(_LEVELS * scale + -low % 256 * scale)

    return _per_channel(image, table_for)


def _equalize(image: np.ndarray) -> np.ndarray:
    def table_for(channel: np.ndarray) -> np.ndarray | None:
        counts = np.bincount(channel.ravel(), minlength=256)
        step = int(counts[counts != 0][:-1].sum()) // 255
        if step == 0:
            return None
        starts = np.concatenate([[step // 2], counts[:-1]]).cumsum()
        return _to_table(starts // step)

    return _per_channel(image, table_for)


def _solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    return np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS).astype(np.uint8)[image]


def _posterize(image: np.ndarray, bits: int) -> np.ndarray:
    return image & np.uint8(255 << (8 - bits) & 255)


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return _to_table(_LEVELS.astype(np.float32) * np.float32(factor))[image]


# parity: the weights of BGR are applied to RGB
_LUMA = np.array([0.114, 0.587, 0.299])


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = (image.mean(axis=(0, 1)) * _LUMA).sum()
    return _to_table((_LEVELS - mean) * factor + mean)[image]


def _color(image: np.ndarray, factor: float) -> np.ndarray:
    gray = np.repeat(_LUMA[:, None], 3, axis=1)
    saturated = np.array([[0.886, -0.114, -0.114], [-0.587, 0.413, -0.587], [-0.299, -0.299, 0.701]])
    matrix = saturated.astype(np.float32) * np.float32(factor) + gray.astype(np.float32)
    return _to_table(np.matmul(image, matrix))


def _sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0 or min(image.shape[:2]) < 3:
        return image
    wide = image.astype(np.int64)
    box = sum(
        wide[row : row + wide.shape[0] - 2, column : column + wide.shape[1] - 2]
        for row in range(3)
        for column in range(3)
    )
    inner = wide[1:-1, 1:-1]
    # multiples of 1/13 are never halfway between integers, so rounding does not depend on the order of the sum
    blurred = np.rint((box + 4 * inner) / 13).astype(np.float32)
    result = image.copy()
    sharper = blurred + np.float32(factor) * (inner.astype(np.float32) - blurred)
    # parity: no clipping, so that overshoot wraps around
    result[1:-1, 1:-1] = sharper.astype(np.int32).astype(np.uint8)
    return result


def _shear_x(image: np.ndarray, factor: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(image, np.array([[1, factor, 0], [0, 1, 0]], dtype=np.float32), fill)


def _shear_y(image: np.ndarray, factor: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(image, np.array([[1, 0, 0], [factor, 1, 0]], dtype=np.float32), fill)


def _translate_x(image: np.ndarray, offset: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(image, np.array([[1, 0, -offset], [0, 1, 0]], dtype=np.float32), fill)


def _translate_y(image: np.ndarray, offset: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(image, np.array([[1, 0, 0], [0, 1, -offset]], dtype=np.float32), fill)


def _rotate(image: np.ndarray, degrees: float, fill: Sequence[int]) -> np.ndarray:
    # parity: rotates about (W/2, H/2), half a pixel off the true center
    x, y = image.shape[1] / 2, image.shape[0] / 2
    angle = degrees * math.pi / 180
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = [[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y]]
    return warp_affine(image, np.array(matrix), fill)


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "Identity": _identity,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Rotate": _rotate,
    "Solarize": _solarize,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Posterize": _posterize,
}


__all__ = [
    "GRAY",
    "MAX_LEVEL",
    "OPERATIONS",
    "TRANSLATE_PIXELS",
    "Draws",
    "Operation",
    "TorchDraws",
    "apply_operation",
    "apply_operations",
    "check_operations",
    "draw_arguments",
    "draw_operations",
    "warp_affine",
]
