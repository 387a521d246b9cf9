# SPDX-License-Identifier: Apache-2.0
"""Opening images, and converting them to 8-bit RGB.

Arrays do not say what their values mean. [`white_value`] infers it from the dtype and from the smallest and largest
value, by the table in the docstring of `LavisImageProcessor`. The values of one array are one range, also if it holds a
batch of images or the frames of a video.

Shapes: C channels, H height, W width.
"""

import base64
import os
import stat
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageFile
import PIL.ImageOps
import torch
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from .transformers_compat import httpx

_URL_TIMEOUT = 60.0  # seconds without an answer; without a limit, a silent server would block the caller for ever
_ROUNDING = 1e-3  # share of white by which floats may exceed their range
#: Largest number of pixels of an image file, above PIL's own limit of 179 million. Reading takes up to 20 bytes each.
MAX_PIXELS = 2**28
_MAX_DOWNLOAD_BYTES = 2**28
_PROGRAMS = ("EPS",)  # formats that PIL lets another program run: PostScript is a programming language

DROP = "drop"


# ---- opening ----


def open_image(source: Any) -> Any:
    """
    Open an image given by its path or URL; images, arrays and tensors are returned unchanged.

    Args:
        source (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            a path, a URL (`http://`, `https://`), a `data:image/` URI, or an image.

    Returns:
        A fully decoded `PIL.Image.Image` for a path or URL, otherwise `source`.

    Raises:
        FileNotFoundError: the file does not exist; the message contains its name.
        OSError: the file is corrupted, truncated, not an image, or not a regular file; the message contains its name.
        TypeError: `source` has another type.
    """
    if isinstance(source, PIL.Image.Image):
        return load_image(source, getattr(source, "filename", "") or "given as a PIL image")
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"Got an image of type {type(source).__name__}; expected a path, a URL, a PIL image, a NumPy array or a"
            " tensor, or a list of them. To pass a row of a dataset, select its image first, e.g. row['image']."
        )
    path = os.fspath(source)
    content: Any = path
    if isinstance(path, str) and path.startswith(("http://", "https://", "data:image/")):
        try:
            content = BytesIO(download(path))
        except Exception as error:  # the HTTP client and base64 raise unrelated types
            raise OSError(f"Cannot read an image from {_shorten(path)}: {error}") from error
    else:
        check_regular_file(path, "image")
    try:
        image = PIL.Image.open(content)
    except Exception as error:  # decoders raise unrelated types for corrupted files
        is_known = content is path or isinstance(error, PIL.Image.DecompressionBombError)
        reason = str(error) if is_known else "the content is not an image"
        raise OSError(f"Cannot read the image {_shorten(path)}: {reason}") from error
    try:
        return load_image(image, path)
    except (OSError, ValueError):
        image.close()
        raise


def check_regular_file(path: Any, kind: str) -> None:
    """
    Check that a path leads to something that can be opened without blocking.

    Args:
        path (`str`, `bytes` or `os.PathLike`): a path. Folders pass: opening one fails with a clear error.
        kind (`str`): what the path should contain, for the messages.

    Raises:
        FileNotFoundError: there is nothing at this path.
        OSError: it is a FIFO, a socket or a device, on which reading may wait for ever.
    """
    name = _shorten(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        shown = name if name.strip() else repr(name)
        raise FileNotFoundError(f"No such {kind}: {shown}. Check the path, or the folder it is relative to.") from None
    except ValueError as error:  # a null character in the path
        raise OSError(f"Cannot read the {kind} {name!r}: {error}") from error
    except OSError as error:  # a name that is too long, or no permission
        raise OSError(f"Cannot read the {kind} {name}: {error.strerror}.") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(
            f"Cannot read the {kind} {name}: it is a FIFO, a socket or a device, not a regular file. Save its content "
            "to a file first."
        )


def apply_exif_orientation(image: PIL.Image.Image) -> PIL.Image.Image:
    """Rotate or mirror an image as its EXIF orientation says; unreadable EXIF data is ignored."""
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # PIL raises unrelated types on corrupted EXIF data
        return image


# ---- background of transparent images ----


def parse_background(value: Any) -> tuple[int, int, int] | None:
    """
    Check the value of the option `background`.

    Args:
        value (`str` or `Sequence[int]`): `"drop"`, a color that PIL knows (`"white"`, `"#ffffff"`, `"rgb(255, 0, 0)"`),
            or three integers from 0 to 255.

    Returns:
        The color as red, green and blue, or `None` for `"drop"`.

    Raises:
        ValueError: `value` is none of these.
    """
    color: tuple[Any, ...]
    if isinstance(value, str):
        if value == DROP:
            return None
        try:
            color = PIL.ImageColor.getrgb(value)
        except (ValueError, IndexError, TypeError):
            color = ()
        if len(color) == 4 and color[3] == 255:
            color = color[:3]
    else:
        color = tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else ()
    are_integers = all(isinstance(part, (int, np.integer)) and not isinstance(part, bool) for part in color)
    if len(color) != 3 or not are_integers or not all(0 <= part <= 255 for part in color):
        raise ValueError(
            f"background is {value!r:.80}; expected {DROP!r}, an opaque color such as 'white' or '#ffffff', or three"
            " integers from 0 to 255, such as (255, 255, 255)."
        )
    red, green, blue = map(int, color)
    return red, green, blue


def with_transparency(image: PIL.Image.Image) -> PIL.Image.Image | None:
    """The RGBA version of an image, or `None` if all its pixels are opaque."""
    if not image.has_transparency_data:
        return None
    try:
        if image.mode == "1" or image.mode.startswith("I"):
            # a PNG with a transparent value, which PIL's own conversion ignores: of 16 bits, or of one bit in Pillow 11
            value = image.info["transparency"]
            transparent = np.asarray(image) == (bool(int(value)) if image.mode == "1" else value)
            alpha = np.where(transparent, 0, 255).astype(np.uint8)
            rgba = to_rgb(image)
            rgba.putalpha(PIL.Image.fromarray(alpha))
        else:
            straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
            rgba = (image.convert(straight) if straight else image).convert("RGBA")
    except (TypeError, ValueError, SystemError, LookupError, OverflowError):
        return None  # the entry "transparency" does not fit the mode: it is left over from another image
    lowest, _ = rgba.getchannel("A").getextrema()
    return rgba if isinstance(lowest, (int, float)) and lowest < 255 else None


def compose(rgba: PIL.Image.Image, background: tuple[int, int, int]) -> PIL.Image.Image:
    """Blend an RGBA image with a background color; opaque pixels keep their values."""
    ground = PIL.Image.new("RGBA", rgba.size, (*background, 255))
    return PIL.Image.alpha_composite(ground, rgba).convert("RGB")


# ---- conversion ----


def to_rgb(
    image: PIL.Image.Image,
    background: tuple[int, int, int] | None = None,
    on_drop: Callable[[], None] | None = None,
) -> PIL.Image.Image:
    """
    Convert a PIL image of any mode to 8-bit RGB.

    Args:
        image (`PIL.Image.Image`): the image.
        background (`tuple[int, int, int]`, *optional*):
            color on which transparent images are composed, from [`parse_background`]. By default transparency is
            dropped, as by `convert("RGB")`: transparent pixels show the color that is stored under them.
        on_drop (`Callable`, *optional*): called if transparency is dropped from an image with a pixel that is not
            opaque.

    Returns:
        `PIL.Image.Image`: an RGB image.
    """
    if background is not None or on_drop is not None:
        rgba = with_transparency(image)
        if rgba is not None and background is not None:
            return compose(rgba, background)
        if rgba is not None and on_drop is not None:
            on_drop()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return PIL.Image.fromarray(to_rgb_array(np.asarray(image), white=_white_of_mode(image.mode)))
    if image.mode in ("RGBa", "La"):
        return image.convert("RGBA" if image.mode == "RGBa" else "LA").convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # the same values, without PIL's advice to convert to RGBA
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
        return image if converted is None else converted  # None is returned for in-place conversion only
    return image.convert("RGB")


def to_rgb_array(
    values: np.ndarray,
    input_data_format: str | ChannelDimension | None = None,
    white: int | None = None,
    background: tuple[int, int, int] | None = None,
    on_drop: Callable[[], None] | None = None,
) -> np.ndarray:
    """
    Convert an array to 8-bit RGB.

    Args:
        values (`np.ndarray` of shape `(H, W)`, `(H, W, channels)` or `(channels, H, W)`):
            image with 1 (grayscale), 2 (grayscale, alpha), 3 or 4 (RGB, alpha) channels, of a dtype and range in the
            table of `LavisImageProcessor`.
        input_data_format (`str`, *optional*):
            `"channels_first"` or `"channels_last"`; inferred from the shape by default.
        white (`int`, *optional*): value of white; inferred from the dtype and the values by default.
        background (`tuple[int, int, int]`, *optional*), on_drop (`Callable`, *optional*): as for [`to_rgb`].

    Returns:
        `np.ndarray` of shape `(H, W, 3)`: 8-bit RGB.

    Raises:
        ValueError: the shape, the dtype or the range of values is none of the above.
    """
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"Got an image of shape {tuple(values.shape)}; expected (H, W), (H, W, channels) or (channels, H, W)."
        )
    if values.ndim == 2:
        values = values[..., None]
    else:
        if input_data_format is None:
            try:
                input_data_format = infer_channel_dimension_format(values, num_channels=(1, 2, 3, 4))
            except ValueError:
                raise ValueError(
                    f"Got an image of shape {tuple(values.shape)}; expected 1, 2, 3 or 4 channels in the first or the"
                    " last dimension."
                ) from None
        if ChannelDimension(input_data_format) == ChannelDimension.FIRST:
            values = np.moveaxis(values, 0, -1)
    values = to_uint8(values, white)
    has_alpha = values.shape[-1] in (2, 4)
    colors = values[..., :-1] if has_alpha else values
    if colors.shape[-1] == 1:
        colors = np.repeat(colors, 3, axis=-1)
    if has_alpha and (background is not None or on_drop is not None) and values[..., -1].min() < 255:
        if background is not None:
            rgba = PIL.Image.fromarray(np.ascontiguousarray(np.concatenate([colors, values[..., -1:]], axis=-1)))
            return np.array(compose(rgba, background))
        if on_drop is not None:
            on_drop()
    return np.ascontiguousarray(colors)


def to_numpy(values: Any) -> np.ndarray:
    """
    A tensor as an array; floats of fewer than 32 bits, which NumPy lacks, become float32. Arrays are returned as is.

    Raises:
        ValueError: the tensor has no values in memory (sparse, quantized or meta tensors).
    """
    if not isinstance(values, torch.Tensor):
        return values
    try:
        values = values.detach().cpu()
        if values.is_floating_point() and values.dtype not in (torch.float32, torch.float64):
            values = values.float()
        return values.numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"Got an image as a tensor of {values.dtype} with the layout {values.layout} on {values.device}, which"
            f" cannot be read ({error}). Pass a dense tensor of integers or floats."
        ) from error


def white_value(dtype: np.dtype, low: Any, high: Any) -> int:
    """
    The value that stands for white in images of a dtype; black is 0.

    Args:
        dtype (`np.dtype`): dtype of the values.
        low (`int` or `float`): smallest value of all images that have the same range.
        high (`int` or `float`): largest value.

    Returns:
        `int`: 1, 255 or 65535; see the table in the docstring of `LavisImageProcessor`.

    Raises:
        ValueError: the dtype or the range is not in the table, or it is ambiguous.
    """
    if dtype.kind == "b":
        return 1
    if dtype.kind not in "iuf":
        raise ValueError(f"Got an image as an array of {dtype}; expected booleans, integers or floats.")
    is_float = dtype.kind == "f"
    given = f"Got an image of {dtype} with values from {low} to {high}"
    for white in (1, 255, 65535) if is_float else (255, 65535):
        slack = white * _ROUNDING if is_float else 0
        if not low >= -slack:
            break
        if high <= white + slack:
            if dtype == np.int16 and white == 65535:
                raise ValueError(
                    f"{given}, which is ambiguous: white may be 32767 or 65535. Convert the image to uint8 (0..255) or"
                    " to uint16 (0..65535)."
                )
            return white
        if high < (2 if white == 1 else 512) and white < 65535:
            expected = "0..1, 0..255 or 0..65535" if is_float else "0..255 or 0..65535"
            raise ValueError(
                f"{given}, which is ambiguous: it may exceed 0..{white} slightly, or be a dark image of the next range."
                f" Clip the image to 0..{white}, or pass uint8 (0..255) or uint16 (0..65535); expected {expected}."
            )
    raise ValueError(
        f"{given}; expected 0..1 (floats only), 0..255 or 0..65535. Pass an image that is already normalized to the"
        " model directly, not through the processor."
    )


def to_uint8(values: np.ndarray, white: int | None = None, truncate: bool = False) -> np.ndarray:
    """
    Convert the values of an array of any shape to 0..255.

    Args:
        values (`np.ndarray`): values; one range for the whole array.
        white (`int`, *optional*): value of white; by default [`white_value`] infers it.
        truncate (`bool`, *optional*, defaults to `False`): truncate floats of 0..255 instead of rounding them.

    Returns:
        `np.ndarray`: uint8, of the same shape. Integers of 16 bits keep their high byte, floats are rounded.

    Raises:
        ValueError: see [`white_value`].
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * 255
    if white is None:
        white = white_value(values.dtype, *value_range(values))
    if values.dtype.kind != "f":
        return (values >> 8 if white == 65535 else values).astype(np.uint8)
    if white == 255 and truncate:
        return np.clip(values, 0, 255).astype(np.uint8)
    # float32 is exact for 8 bits, and float16 would overflow
    wide = values if values.dtype.itemsize >= 4 else values.astype(np.float32)
    return np.clip(np.rint(wide * (1 / 257 if white == 65535 else 255 / white)), 0, 255).astype(np.uint8)


def value_range(values: np.ndarray) -> tuple[Any, Any]:
    """Smallest and largest value; (0, 0) for an empty array and for dtypes that cannot be compared."""
    if values.size == 0 or values.dtype.kind not in "iuf":
        return 0, 0
    return values.min(), values.max()


def _white_of_mode(mode: str) -> int | None:
    """White of a PIL mode, `None` if the mode does not say it: values of "I" and "F" follow the table."""
    return 65535 if mode.startswith("I;16") else None


def download(url: str) -> bytes:
    """The content behind a URL or in a data URI; errors are those of the HTTP client and of base64."""
    if url.startswith("data:"):
        _, separator, encoded = url.partition(",")
        if not separator:
            raise ValueError("a data URI has a comma between its type and its content")
        return base64.b64decode(encoded)
    content = bytearray()
    with httpx.stream("GET", url, timeout=_URL_TIMEOUT, follow_redirects=True) as response:
        response.raise_for_status()
        for block in response.iter_bytes():
            content += block
            if len(content) > _MAX_DOWNLOAD_BYTES:
                raise ValueError(f"it has more than {_MAX_DOWNLOAD_BYTES:,} bytes")
    return bytes(content)


def load_image(image: PIL.Image.Image, name: Any) -> PIL.Image.Image:
    """
    Decode an image that PIL has opened.

    Args:
        image (`PIL.Image.Image`): the image.
        name (`str` or `os.PathLike`): its name, for the messages.

    Raises:
        OSError: it is corrupted, has more than `MAX_PIXELS` pixels, or is a program (PostScript).
        ValueError: it has no pixels.
    """
    if isinstance(image, PIL.ImageFile.ImageFile):
        if image.format in _PROGRAMS and image.tile:
            raise OSError(
                f"Cannot read the image {_shorten(name)}: it is PostScript, a program that would be run to draw it. "
                "Save it in another format, such as PNG, if you trust it."
            )
        if image.width * image.height > MAX_PIXELS:
            raise OSError(
                f"Cannot read the image {_shorten(name)}: it has {image.width} x {image.height} pixels; expected at "
                f"most {MAX_PIXELS:,}. Make a smaller copy of it."
            )
    try:
        image.load()
    except Exception as error:  # decoders raise unrelated types for corrupted files
        raise OSError(f"Cannot read the image {_shorten(name)}: {error}") from error
    if 0 in image.size:
        raise ValueError(f"The image {_shorten(name)} has size {image.size}; expected at least one pixel.")
    return image


def _shorten(name: Any) -> str:
    text = os.fsdecode(name) if isinstance(name, (bytes, os.PathLike)) else str(name)
    return text if len(text) <= 200 else text[:197] + "..."


__all__ = [
    "DROP",
    "MAX_PIXELS",
    "apply_exif_orientation",
    "check_regular_file",
    "compose",
    "download",
    "load_image",
    "open_image",
    "parse_background",
    "to_numpy",
    "to_rgb",
    "to_rgb_array",
    "to_uint8",
    "value_range",
    "white_value",
    "with_transparency",
]
