# SPDX-License-Identifier: Apache-2.0
"""LAVIS's image evaluation transform as image processors.

`LavisImageProcessor` (PIL backend) is bit-exact with the original. `LavisImageProcessorTorchvision` is faster: it
resizes batches of uint8 tensors, optionally on an accelerator, and differs from the exact one by up to about 0.03 in
normalized units (2 of 255 gray levels).

Both convert every input to 8-bit RGB first, see `image_conversion`. The EXIF orientation is applied, so that a path, an
opened file and the loaders of transformers' pipelines give the same result. The original ignores it:
`do_exif_transpose=False` is the parity setting.

Shapes: B batch size, C channels (3), H height, W width, S side length after resizing.
"""

import difflib
import logging
import math
import os
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any
from weakref import WeakSet

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ChannelDimension, PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torchvision_available

from .configuration_base import check_names
from .image_conversion import (
    DROP,
    apply_exif_orientation,
    open_image,
    parse_background,
    to_numpy,
    to_rgb,
    to_rgb_array,
    to_uint8,
)

logger = logging.getLogger(__name__)

_FLAGS = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_exif_transpose",
    "do_center_crop",
    "do_pad",
    "do_sample_frames",
    "default_to_square",
    "disable_grouping",
)
#: options that a step cannot do without
_NEEDED = {
    "do_resize": ("size", "resample"),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}
_SIZES = ("size", "crop_size", "pad_size")
_SIDES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
#: largest side of an image after resizing; a larger one is a mistake that would end in a failed allocation
MAX_SIDE = 2**13
_NESTED = "processor_config.json"
_FILES = {
    "image_processor": ("preprocessor_config.json",),
    "video_processor": ("video_preprocessor_config.json", "preprocessor_config.json"),
}

# Processors that have warned of transparency. Kept here, because attributes of a processor are saved with it.
_WARNED: WeakSet[Any] = WeakSet()


class LavisImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    Options of the image processors, in addition to those of transformers:

    do_exif_transpose (`bool`, *optional*, defaults to `True`): whether to apply the EXIF orientation.
    background (`str` or `Sequence[int]`, *optional*, defaults to `"drop"`): color behind transparent images.
    """

    do_exif_transpose: bool | None
    background: Any


def flatten_images(images: Any) -> tuple[list[Any], bool]:
    """
    Flatten an image, a list, a nested list of pairs, or a batched array into one list.

    Args:
        images: an image (see [`open_image`]); a list of images; an array of shape `(B, C, H, W)` or `(B, H, W, C)`; for
            pairs, a list of lists of two images or an array with five dimensions `(B, 2, ...)`.

    Returns:
        `tuple[list, bool]`: the images in order, not yet opened, and whether they are pairs.

    Raises:
        ValueError: the list is empty, or nested in another way.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim <= 3:
            return [images], False
        images = list(images)
    if not isinstance(images, (list, tuple)):
        return [images], False
    if not images:
        raise ValueError("The list of images is empty; expected at least one image.")
    rows = [list(row) if isinstance(row, (np.ndarray, torch.Tensor)) and row.ndim > 3 else row for row in images]
    nested = [isinstance(row, (list, tuple)) for row in rows]
    if not any(nested):
        return rows, False
    lengths = {len(row) if is_row else 1 for row, is_row in zip(rows, nested)}
    if not all(nested) or lengths not in ({1}, {2}):
        raise ValueError(
            f"Got a nested list of images with rows of {sorted(lengths)}; expected a flat list of images, or a list of"
            " pairs, e.g. [[left, right], [left, right]]."
        )
    return [image for row in rows for image in row], lengths == {2}


class _LavisImageProcessorMixin:
    """Defaults of both image processors, and their handling of inputs: opening, RGB conversion, pairs of images."""

    valid_kwargs = LavisImagesKwargs
    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 384, "width": 384}
    default_to_square = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_exif_transpose = True
    background = DROP

    def __init__(self, **kwargs: Any) -> None:
        check_stored_options(kwargs)
        super().__init__(**kwargs)
        self.background = DROP if self.background is None else self._check_background(self.background)

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """
        transformers' method of the same name, which reads the options of a file.

        Raises:
            OSError: there is no file, or it is not valid JSON.
            ValueError: an option has a wrong value; the message names file, option, value and what was expected.
        """

        def check(options: Mapping[str, Any]) -> None:
            check_names(cls, options)
            check_file_options(options)

        read: Any = super().get_image_processor_dict  # type: ignore[misc]
        return read_options(read, check, "image_processor", pretrained_model_name_or_path, kwargs)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """
        Preprocess images.

        Args:
            images: an image, a list of images, or a list of pairs of images. An image is a path, a URL, a PIL image of
                any mode, a NumPy array or a tensor; see [`open_image`] and [`to_rgb_array`]. An array may also hold a
                batch of images, or of pairs.
            return_tensors (`str`, *optional*): `"pt"`, `"np"`, or `None` for a list of arrays or tensors.
            kwargs: options of the class, for this call only.

        Returns:
            `BatchFeature` with `pixel_values` of shape `(B, C, S, S)`, or `(B, 2, C, S, S)` for pairs, float32.

        Raises:
            FileNotFoundError, OSError: a file cannot be read; the message contains its name.
            TypeError: an image has an unsupported type, or an option is unknown.
            ValueError: an image has an unsupported shape or range of values, or an option has an unsupported value.
        """
        reject_unknown(type(self).__name__, kwargs, self.valid_kwargs.__annotations__)
        check_image_options(kwargs)
        return super().__call__(images, *args, **kwargs)  # type: ignore[misc]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths and URLs with [`open_image`], keeping the nesting of lists."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(entry) for entry in image_url_or_urls]
        return open_image(image_url_or_urls)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        do_exif_transpose: bool | None = None,
        do_rescale: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        background: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Open an image and convert it to the backend's type: channels first, 8-bit RGB."""
        image = open_image(image)
        color = parse_background(self.background if background is None else background)
        on_drop = self._warn_of_transparency if color is None else None
        if isinstance(image, PIL.Image.Image):
            if do_exif_transpose:
                image = apply_exif_orientation(image)
            if do_convert_rgb:
                image = np.array(self._resized(to_rgb(image, color, on_drop), **kwargs))
                input_data_format = ChannelDimension.LAST
        else:
            image = to_numpy(image)
            # with do_rescale=False, floats are already in the range that the caller wants
            if do_rescale or image.dtype.kind != "f":
                if do_convert_rgb:
                    image = to_rgb_array(image, input_data_format, background=color, on_drop=on_drop)
                    input_data_format = ChannelDimension.LAST
                else:
                    image = to_uint8(image)
        return super().process_image(  # type: ignore[misc]
            image, do_convert_rgb=False, input_data_format=input_data_format, **kwargs
        )

    def _resized(self, image: PIL.Image.Image, **kwargs: Any) -> PIL.Image.Image:
        """Hook for a backend that resizes PIL images before their pixels become an array."""
        return image

    def _preprocess_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        return_tensors = kwargs.pop("return_tensors", None)
        if kwargs.get("do_rescale"):
            images = one_range(images)
        flat_images, in_pairs = flatten_images(images)
        values = self._to_pixel_values(flat_images, **kwargs)
        if in_pairs:
            stack = torch.stack if isinstance(values[0], torch.Tensor) else np.stack
            values = [stack(values[first : first + 2]) for first in range(0, len(values), 2)]
        return BatchFeature({"pixel_values": values}, tensor_type=return_tensors)

    def _to_pixel_values(self, images: list[Any], **kwargs: Any) -> list[Any]:
        """Preprocess a flat list of images; returns one array or tensor of shape (C, S, S) for each."""
        raise NotImplementedError

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:
        if kwargs.get("background") is not None:
            self._check_background(kwargs["background"])
        super()._validate_preprocess_kwargs(**kwargs)  # type: ignore[misc]

    def _check_background(self, value: Any) -> Any:
        """The option `background`, a color in numbers as a tuple; `ValueError` names class and option."""
        try:
            color = parse_background(value)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from None
        return value if isinstance(value, str) else color

    def _warn_of_transparency(self) -> None:
        if self not in _WARNED:
            _WARNED.add(self)
            logger.warning(
                "An image has transparent pixels. With background='drop' they show the colors that are stored under"
                " them, as in the original. To compose transparent images on a color, pass for example"
                " background='white' to the image processor."
            )


class LavisImageProcessor(_LavisImageProcessorMixin, PilBackend):
    """
    LAVIS's evaluation transform, bit-exact: bicubic resize to (S, S) with PIL, rescaling to 0..1, normalization.

    The aspect ratio is not kept and nothing is cropped. Images may have any mode; a list of pairs of images gives
    `pixel_values` of shape `(B, 2, C, S, S)` instead of `(B, C, S, S)`.

    All options are keyword arguments, are saved with the processor, and can be changed for a single call.

    Args:
        size (`int` or `dict`, *optional*, defaults to 384): S in pixels, or `{"height": ..., "width": ...}`.
        image_mean (`Sequence[float]`, *optional*, defaults to CLIP's): mean of each channel.
        image_std (`Sequence[float]`, *optional*, defaults to CLIP's): standard deviation of each channel.
        resample (`PILImageResampling`, *optional*, defaults to bicubic): resampling filter.
        do_resize (`bool`, *optional*, defaults to `True`): whether to resize.
        do_rescale (`bool`, *optional*, defaults to `True`): whether to rescale from 0..255 to 0..1.
        do_normalize (`bool`, *optional*, defaults to `True`): whether to normalize by mean and standard deviation.
        do_convert_rgb (`bool`, *optional*, defaults to `True`): whether to convert to RGB.
        do_exif_transpose (`bool`, *optional*, defaults to `True`):
            whether to apply the EXIF orientation. `False` ignores it, as the original does.
        background (`str` or `Sequence[int]`, *optional*, defaults to `"drop"`):
            color on which transparent images are composed: a name or code (`"white"`, `"#ffffff"`), or red, green and
            blue from 0 to 255. `"drop"` ignores transparency, as the original does: transparent pixels show the color
            that is stored under them, often black, and the first image with such pixels is reported by a warning. This
            applies to all images with an alpha channel or a transparent color: RGBA, LA, PA and palette images, the
            transparent color of a PNG or GIF file, and arrays with two or four channels.

    The dtype and the range of an array say what its values mean:

    | dtype | values | white |
    | --- | --- | --- |
    | bool | `False`, `True` | `True` |
    | uint8 | 0 to 255 | 255 |
    | other integers | 0 to 255 | 255 |
    | other integers, except int16 | 0 to at least 512, at most 65535 | 65535 |
    | floats | 0 to 1 | 1 |
    | floats | 0 to at least 2, at most 255 | 255 |
    | floats | 0 to at least 512, at most 65535 | 65535 |

    Other values are refused: negative ones, and those that could mean two things (int16 above 255, a largest value
    between 1 and 2 or between 255 and 512). A PIL image of mode `I;16`, for example from a 16-bit PNG file, always has
    16 bits. An array that holds a batch has one range for all its images; the images of a list are independent. With
    `do_rescale=False`, floats are not converted.

    Raises:
        ValueError: `background` is not a color.
    """

    def _resized(self, image: PIL.Image.Image, **kwargs: Any) -> PIL.Image.Image:
        # The same pixels as of an array that is resized later, which would have to be made of the whole photo, and made
        # an image again; then resizing to the size that it has changes nothing.
        size, resample = kwargs.get("size"), kwargs.get("resample")
        if not kwargs.get("do_resize") or not isinstance(resample, (int, PILImageResampling)):
            return image
        height, width = getattr(size, "height", None), getattr(size, "width", None)
        if not height or not width or getattr(size, "shortest_edge", None):
            return image
        return image.resize((width, height), resample=resample)

    def _to_pixel_values(self, images: list[Any], **kwargs: Any) -> list[np.ndarray]:
        # one at a time, so that at most one full-size image is in memory
        pixel_values = []
        for image in images:
            values = self.process_image(image, **kwargs)
            pixel_values.append(self._preprocess([values], return_tensors=None, **kwargs)["pixel_values"][0])
        return pixel_values


class LavisImageProcessorTorchvision(_LavisImageProcessorMixin, TorchvisionBackend):
    """
    Faster variant of [`LavisImageProcessor`] with the same options and shapes; its values differ slightly.

    Images of equal size are resized together as uint8 tensors, on `device` if the call gives one.

    Raises:
        ImportError: torchvision is not installed.
    """

    def __init__(self, **kwargs: Any) -> None:
        if not is_torchvision_available():
            raise ImportError(
                "LavisImageProcessorTorchvision needs torchvision: install it with pip install 'modeling-lavis[train]',"
                " or use LavisImageProcessor, which needs PIL only and is exact."
            )
        super().__init__(**kwargs)

    def _to_pixel_values(self, images: list[Any], **kwargs: Any) -> list[torch.Tensor]:
        values = [self.process_image(image, **kwargs) for image in images]
        return list(self._preprocess(values, return_tensors=None, **kwargs)["pixel_values"])


def one_range(images: Any) -> Any:
    """
    Convert arrays that hold several images to 8 bits, so that one range applies to all images of an array.

    Args:
        images: what [`flatten_images`] takes.

    Returns:
        The same, with the values of each array of more than three dimensions in 0..255.

    Raises:
        ValueError: see `white_value`.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return to_uint8(to_numpy(images)) if images.ndim > 3 else images
    if isinstance(images, (list, tuple)):
        return [one_range(entry) if isinstance(entry, (np.ndarray, torch.Tensor)) else entry for entry in images]
    return images


def reject_unknown(owner: str, given: Collection[str], known: Collection[str]) -> None:
    """
    Check the names of options.

    Args:
        owner (`str`): name of the class that takes the options, for the message.
        given (`Collection[str]`): names to check.
        known (`Collection[str]`): names that the class takes.

    Raises:
        TypeError: a name is unknown; the message contains it, and the closest known name.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            names = sorted(known) if isinstance(known, Set) else list(known)
            listed = names[:20] + ["..."] * (len(names) > 20)
            hint = f" Did you mean {close[0]!r}?" if close else f" It takes {', '.join(listed)}."
            raise TypeError(f"{owner} got an unexpected option {name!r}.{hint}")


def check_image_options(options: Mapping[str, Any]) -> None:
    """
    Check the values of options of an image or video processor; unknown names and `None` are left alone.

    Args:
        options (`Mapping[str, Any]`): options by name.

    Raises:
        ValueError: a value has the wrong type or is out of its range. The message names option and value.
    """
    for name, value in options.items():
        if value is None:
            continue
        if name in _FLAGS and not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} is {value!r:.80}; expected true or false.")
        if name in _SIZES and not _is_size(value):
            raise ValueError(
                f"{name} is {value!r:.80}; expected a positive int up to {MAX_SIDE}, or a dict of them with 'height' "
                "and 'width'."
            )
        if name in ("image_mean", "image_std"):
            numbers = (
                [value] if is_number(value) else list(value) if isinstance(value, (list, tuple, np.ndarray)) else []
            )
            # arrays that are not converted to RGB may have another number of channels
            counts = (1, 3) if options.get("do_convert_rgb") is not False else (1, 2, 3, 4)
            if len(numbers) not in counts or not all(is_number(number) for number in numbers):
                channels = "3 channels" if len(counts) == 2 else "channels"
                raise ValueError(f"{name} is {value!r:.80}; expected a number, or one for each of the {channels}.")
            if name == "image_std" and min(numbers) <= 0:
                raise ValueError(f"{name} is {value!r:.80}; expected positive numbers.")
        if name == "rescale_factor" and not (is_number(value) and value):
            raise ValueError(f"{name} is {value!r:.80}; expected a number other than 0, such as 1 / 255.")
        if name == "resample" and (isinstance(value, bool) or not _is_one_of(value, PILImageResampling)):
            names = ", ".join(f"{int(kind)} ({kind.name.lower()})" for kind in PILImageResampling)
            raise ValueError(f"{name} is {value!r:.80}; expected one of {names}.")
        if name in ("data_format", "input_data_format") and value != "none" and not _is_one_of(value, ChannelDimension):
            raise ValueError(f"{name} is {value!r:.80}; expected 'channels_first' or 'channels_last'.")
        if name in ("image_processor_type", "video_processor_type") and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r:.80}; expected the name of a class.")
        if name == "auto_map" and not isinstance(value, Mapping):
            raise ValueError(f"{name} is {value!r:.80}; expected classes by the name of an Auto class.")


def check_stored_options(options: Mapping[str, Any]) -> None:
    """As [`check_image_options`], for options of a constructor, in which `None` has no value to stand for."""
    check_image_options(options)
    for flag, names in _NEEDED.items():
        for name in names:
            if name in options and options[name] is None and options.get(flag, True):
                raise ValueError(f"{name} is None; expected a value, or {flag} to be false.")


def check_file_options(options: Mapping[str, Any]) -> None:
    """As [`check_stored_options`], for the options of a file, which has the background, too."""
    check_stored_options(options)
    if options.get("background") is not None:
        parse_background(options["background"])


def read_options(
    read: Callable[..., tuple[Any, dict]],
    check: Callable[[Mapping[str, Any]], None],
    part: str | None,
    source: Any,
    kwargs: Mapping[str, Any],
) -> tuple[dict, dict]:
    """
    Read the options of a processor and check them.

    Args:
        read (`Callable`): transformers' method for it, called with `source` and `kwargs`.
        check (`Callable`): raises `ValueError` or `TypeError` for wrong options.
        part (`str`, *optional*): entry of `processor_config.json` that has the options of an image or video processor.
        source (`str` or `os.PathLike`): folder, file or Hub id.
        kwargs (`Mapping[str, Any]`): Hub options, and options that override those of the file.

    Returns:
        `tuple[dict, dict]`: the options, and the `kwargs` that are not Hub options.

    Raises:
        OSError: there is no file, or it is not valid JSON.
        ValueError: an option is wrong, or the file contains anything other than options. The message names the file.
    """
    error: Exception | None = None
    try:
        stored, unused = read(source, **kwargs)
    except (TypeError, AttributeError, KeyError) as reason:
        stored, unused, error = None, {}, reason
    if not isinstance(stored, dict):
        found = "" if part is None else f" for {part}"
        raise ValueError(
            f"{_file_of(source, part)} cannot be used: expected a JSON object of options{found}. Save the processor "
            "again, or correct the file."
        ) from error
    try:
        check({name: value for name, value in stored.items() if name not in kwargs})
    except (TypeError, ValueError) as reason:
        raise ValueError(f"{_file_of(source, part)} cannot be used: {reason} Correct it.") from reason
    return stored, unused


def _file_of(source: Any, part: str | None) -> str:
    """The file that has the options of a processor, or of a part of it."""
    source = os.fspath(source)
    if os.path.isfile(source):
        return source
    if part is None:
        return os.path.join(source, _NESTED) if os.path.isdir(source) else f"{_NESTED} of {source}"
    if not os.path.isdir(source):
        return f"{_NESTED} or {_FILES[part][0]} of {source}"
    alone = next((path for name in _FILES[part] if os.path.isfile(path := os.path.join(source, name))), None)
    nested = os.path.join(source, _NESTED)
    if alone is not None and os.path.isfile(nested):
        with open(nested, encoding="utf-8", errors="replace") as file:
            return nested if f'"{part}"' in file.read() else alone
    return alone or nested


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and not a Boolean."""
    is_real = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    return is_real and -(2**63) < value < 2**63 and math.isfinite(value)


def _is_size(value: Any) -> bool:
    sides = list(value.values()) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and (not value or not set(value) <= set(_SIDES)):
        return False
    if hasattr(value, "height"):  # transformers' SizeDict
        sides = [side for name in _SIDES if (side := getattr(value, name, None)) is not None]
    sides = list(sides) if isinstance(sides, (list, tuple)) else [sides]
    whole = [side for side in sides if isinstance(side, (int, np.integer)) and not isinstance(side, bool)]
    return 0 < len(whole) == len(sides) <= 2 and all(0 < side <= MAX_SIDE for side in whole)


def _is_one_of(value: Any, kind: Any) -> bool:
    try:
        kind(value)
    except (ValueError, TypeError):
        return False
    return True


__all__ = [
    "MAX_SIDE",
    "LavisImageProcessor",
    "LavisImageProcessorTorchvision",
    "LavisImagesKwargs",
    "apply_exif_orientation",
    "check_file_options",
    "check_image_options",
    "check_stored_options",
    "flatten_images",
    "is_number",
    "one_range",
    "open_image",
    "read_options",
    "reject_unknown",
    "to_rgb",
    "to_rgb_array",
]
