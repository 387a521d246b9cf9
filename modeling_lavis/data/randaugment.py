# SPDX-License-Identifier: Apache-2.0
"""The image augmentation that BLIP and ALBEF were trained with, on NumPy arrays, without OpenCV.

Every operation is a plain function of an 8-bit picture and its arguments; the draws are made elsewhere
(`draw_operations`), so that recorded draws can be replayed. The results equal those of the original, which called
OpenCV, in every bit: the affine warps follow OpenCV's fixed-point arithmetic (coordinates in 1/32 of a pixel, bilinear
weights in 1/32768).

Letters: H height, W width, N pictures' operations drawn.
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
"""Names that LAVIS draws from, in its order."""

MAX_LEVEL = 10
TRANSLATE_PIXELS = 10
GREY = (128, 128, 128)

_LEVELS = np.arange(256)


class Operation(NamedTuple):
    """One operation with its arguments, as `apply_operation` takes it."""

    name: str
    arguments: tuple[Any, ...] = ()


class Draws(Protocol):
    """Source of randomness; `numpy.random.RandomState` is one, `TorchDraws` another."""

    def random(self) -> float: ...
    def choice(self, a: Sequence[str], size: int) -> Sequence[str]: ...


class TorchDraws:
    """Draws from a `torch.Generator`, by default the global one, which data loaders seed for each worker."""

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def random(self) -> float:
        """One number, uniform in [0, 1)."""
        return torch.rand((), generator=self.generator, dtype=torch.float64).item()

    def choice(self, a: Sequence[str], size: int) -> list[str]:
        """`size` entries of `a`, with replacement."""
        return [a[number] for number in torch.randint(len(a), (size,), generator=self.generator).tolist()]


def draw_operations(
    draws: Draws,
    count: int = 2,
    level: int = 5,
    names: Sequence[str] = OPERATIONS,
    probability: float = 0.5,
) -> list[Operation]:
    """Draw the operations for one picture.

    With `numpy.random.RandomState(seed)` as `draws` they are those that the original draws after
    `numpy.random.seed(seed)`.

    Args:
        draws: source of randomness.
        count: names drawn, with replacement.
        level: strength, 0 to 10.
        names: what is drawn from.
        probability: how likely each drawn operation is applied at all.

    Returns:
        The operations to apply, in order; at most `count`, often none.
    """
    operations = []
    for name in draws.choice(list(names), count):
        if draws.random() > probability:
            continue
        operations.append(Operation(str(name), arguments_of(str(name), level, draws)))
    return operations


def arguments_of(name: str, level: int, draws: Draws) -> tuple[Any, ...]:
    """Arguments of an operation at a strength of 0 to 10; the sign of a warp is drawn."""
    if name not in _FUNCTIONS:
        raise ValueError(f"No operation {name!r}; known are {', '.join(_FUNCTIONS)}.")
    if name in ("Identity", "AutoContrast", "Equalize"):
        return ()
    share = level / MAX_LEVEL
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return (share * 1.8 + 0.1,)
    if name == "Solarize":
        return (int(share * 256),)
    if name == "Posterize":
        return (int(share * 4),)
    if name == "Rotate":
        # parity: a rotation is negative below a half, the other warps above
        return (-share * 30 if draws.random() < 0.5 else share * 30, GREY)
    size = share * (0.3 if name.startswith("Shear") else TRANSLATE_PIXELS)
    return (-size if draws.random() > 0.5 else size, GREY)


def apply_operation(picture: np.ndarray, operation: Operation | Sequence[Any]) -> np.ndarray:
    """Apply one operation, an `Operation` or a pair of name and arguments, to an 8-bit picture (H, W, 3)."""
    name, arguments = operation
    if name not in _FUNCTIONS:
        raise ValueError(f"No operation {name!r}; known are {', '.join(_FUNCTIONS)}.")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"A picture is {picture.dtype} {picture.shape}; expected uint8 of shape (H, W, 3).")
    return _FUNCTIONS[name](picture, *arguments)


def apply_operations(picture: np.ndarray, operations: Sequence[Operation | Sequence[Any]]) -> np.ndarray:
    """Apply operations one after the other to an 8-bit picture (H, W, 3)."""
    for operation in operations:
        picture = apply_operation(picture, operation)
    return picture


def warp_affine(picture: np.ndarray, matrix: np.ndarray, fill: Sequence[int]) -> np.ndarray:
    """Warp an 8-bit picture (H, W, 3) with bilinear interpolation, equal to OpenCV's `warpAffine`.

    Args:
        picture: uint8 (H, W, 3).
        matrix: (2, 3), maps a place (x, y, 1) of the input to its place in the result.
        fill: colour of what lies outside.
    """
    height, width = picture.shape[:2]
    inverse = _inverted(np.asarray(matrix, dtype=np.float64))
    # 10 fractional bits while adding up, 5 of them kept, rounded to the nearest
    columns = np.rint(inverse[:, :1] * np.arange(width) * 1024).astype(np.int64)
    rows = np.rint((inverse[:, 1:2] * np.arange(height) + inverse[:, 2:]) * 1024).astype(np.int64) + 16
    x, y = (rows[:, :, None] + columns[:, None, :]) >> 5
    left, top = x >> 5, y >> 5
    across, down = (x & 31)[..., None], (y & 31)[..., None]

    padded = np.empty((height + 2, width + 2, 3), dtype=np.int64)
    padded[:] = fill
    padded[1:-1, 1:-1] = picture

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return padded[np.clip(row + 1, 0, height + 1), np.clip(column + 1, 0, width + 1)]

    upper = at(top, left) * (32 - across) + at(top, left + 1) * across
    lower = at(top + 1, left) * (32 - across) + at(top + 1, left + 1) * across
    # the four weights are multiples of 32 / 32768, so rounding at 1 / 1024 is the same
    return ((upper * (32 - down) + lower * down + 512) >> 10).astype(np.uint8)


def _inverted(matrix: np.ndarray) -> np.ndarray:
    (a, b, tx), (c, d, ty) = matrix
    # the order of these operations decides the last bit, and with it some roundings
    scale = 1.0 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    return np.array([[a, b, -a * tx - b * ty], [c, d, -c * tx - d * ty]])


def _identity(picture: np.ndarray) -> np.ndarray:
    return picture


def _per_channel(picture: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray | None]) -> np.ndarray:
    result = picture.copy()
    for channel in range(3):
        table = table_of(picture[..., channel])
        if table is not None:
            result[..., channel] = table[picture[..., channel]]
    return result


def _to_table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _auto_contrast(picture: np.ndarray) -> np.ndarray:
    def table_of(channel: np.ndarray) -> np.ndarray | None:
        low, high = int(channel.min()), int(channel.max())
        if high <= low:
            return None
        scale = 255 / (high - low)
        # parity: the original negates `low` as a byte, so a channel whose darkest value is not 0 becomes all white
        return _to_table(_LEVELS * scale + -low % 256 * scale)

    return _per_channel(picture, table_of)


def _equalize(picture: np.ndarray) -> np.ndarray:
    def table_of(channel: np.ndarray) -> np.ndarray | None:
        counts = np.bincount(channel.ravel(), minlength=256)
        step = int(counts[counts != 0][:-1].sum()) // 255
        if step == 0:
            return None
        starts = np.concatenate([[step // 2], counts[:-1]]).cumsum()
        return _to_table(starts // step)

    return _per_channel(picture, table_of)


def _solarize(picture: np.ndarray, threshold: int) -> np.ndarray:
    return np.where(_LEVELS < threshold, _LEVELS, 255 - _LEVELS).astype(np.uint8)[picture]


def _posterize(picture: np.ndarray, bits: int) -> np.ndarray:
    return picture & np.uint8(255 << (8 - bits) & 255)


def _brightness(picture: np.ndarray, factor: float) -> np.ndarray:
    return _to_table(_LEVELS.astype(np.float32) * np.float32(factor))[picture]


# parity: the weights of blue, green and red are used on red, green and blue
_LUMA = np.array([0.114, 0.587, 0.299])


def _contrast(picture: np.ndarray, factor: float) -> np.ndarray:
    mean = (picture.mean(axis=(0, 1)) * _LUMA).sum()
    return _to_table((_LEVELS - mean) * factor + mean)[picture]


def _color(picture: np.ndarray, factor: float) -> np.ndarray:
    grey = np.repeat(_LUMA[:, None], 3, axis=1)
    saturated = np.array([[0.886, -0.114, -0.114], [-0.587, 0.413, -0.587], [-0.299, -0.299, 0.701]])
    matrix = saturated.astype(np.float32) * np.float32(factor) + grey.astype(np.float32)
    return _to_table(np.matmul(picture, matrix))


def _sharpness(picture: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0 or min(picture.shape[:2]) < 3:
        return picture
    wide = picture.astype(np.int64)
    box = sum(
        wide[row : row + wide.shape[0] - 2, column : column + wide.shape[1] - 2]
        for row in range(3)
        for column in range(3)
    )
    inner = wide[1:-1, 1:-1]
    # thirteenths never lie half way, so any order of adding gives the same rounded value
    blurred = np.rint((box + 4 * inner) / 13).astype(np.float32)
    result = picture.copy()
    sharper = blurred + np.float32(factor) * (inner.astype(np.float32) - blurred)
    # parity: no clipping, so that overshoot wraps round
    result[1:-1, 1:-1] = sharper.astype(np.int32).astype(np.uint8)
    return result


def _shear_x(picture: np.ndarray, factor: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(picture, np.array([[1, factor, 0], [0, 1, 0]], dtype=np.float32), fill)


def _shear_y(picture: np.ndarray, factor: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(picture, np.array([[1, 0, 0], [factor, 1, 0]], dtype=np.float32), fill)


def _translate_x(picture: np.ndarray, offset: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(picture, np.array([[1, 0, -offset], [0, 1, 0]], dtype=np.float32), fill)


def _translate_y(picture: np.ndarray, offset: float, fill: Sequence[int]) -> np.ndarray:
    return warp_affine(picture, np.array([[1, 0, 0], [0, 1, -offset]], dtype=np.float32), fill)


def _rotate(picture: np.ndarray, degrees: float, fill: Sequence[int]) -> np.ndarray:
    # parity: about (W/2, H/2), half a pixel off the true centre
    x, y = picture.shape[1] / 2, picture.shape[0] / 2
    angle = degrees * math.pi / 180
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = [[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y]]
    return warp_affine(picture, np.array(matrix), fill)


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
