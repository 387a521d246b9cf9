# SPDX-License-Identifier: Apache-2.0
"""Pictures to normalised pixels, exactly as LAVIS's evaluation transform does it.

`LavisImageProcessor` (PIL) gives the same floats as the original, bit for bit. `LavisImageProcessorTorchvision`
is the faster one, for people who choose it: it resizes batches of uint8 tensors, also on an accelerator, and
differs from the exact one by up to about 0.03 in normalised units (two of 255 grey levels).

Letters: B batch, C channels (3), H height, W width, S side after resizing.

What becomes of each kind of picture:

* transparency (RGBA, LA, palettes with a transparent entry) is dropped, not blended, as `convert("RGB")` does;
* 16-bit grey keeps its high byte (PIL would clip everything above 255 to white);
* floats are taken as 0..1, 0..255 or 0..65535, whichever their largest value fits;
* the EXIF orientation is applied, so that a photo is seen upright and a path, an opened file and the loaders of
  transformers' pipelines agree. The original ignored it: `do_exif_transpose=False` is the parity setting.
"""

import difflib
import os
import struct
from collections.abc import Collection, Set
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    infer_channel_dimension_format,
    load_image,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torchvision_available


class LavisImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Options of the image processors: those of transformers, and `do_exif_transpose` (default True)."""

    do_exif_transpose: bool | None


def open_picture(source: Any) -> Any:
    """Open a picture that is given by its address; pictures and arrays are returned as they are.

    Args:
        source: a path, a URL (`http://`, `https://`), a `data:image/` URI, a `PIL.Image.Image`, a NumPy array or
            a tensor. A URL is fetched by transformers' own loader, which always applies the EXIF orientation.

    Returns:
        A fully decoded `PIL.Image.Image` for an address, otherwise `source`.

    Raises:
        FileNotFoundError: no such file. OSError: the file is broken, truncated or no picture. Both name it.
    """
    if isinstance(source, PIL.Image.Image):
        return _decoded(source, getattr(source, "filename", "") or "given as a PIL image")
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"A picture is given as {type(source).__name__}; expected a path, a URL, a PIL image, a NumPy array or a"
            " tensor, alone or in a list. A row of a dataset has to be indexed first, e.g. row['image']."
        )
    address = os.fspath(source)
    if isinstance(address, str) and address.startswith(("http://", "https://", "data:image/")):
        try:
            return load_image(address)
        except Exception as error:  # the HTTP client, base64 and PIL each raise kinds of their own
            raise OSError(f"Cannot read a picture from {_short(address)}: {error}") from error
    if not os.path.exists(address):
        raise FileNotFoundError(f"No such picture: {_short(address)}. Check the path, or the folder it is relative to.")
    try:
        picture = PIL.Image.open(address)
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise OSError(f"Cannot read the picture {_short(address)}: {error}") from error
    try:
        return _decoded(picture, address)
    except (OSError, ValueError):
        picture.close()
        raise


def upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Turn a picture as its EXIF orientation says; unreadable EXIF data counts as none."""
    try:
        return PIL.ImageOps.exif_transpose(picture)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):  # what PIL raises on damaged EXIF blocks
        return picture


def to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Convert a PIL picture of any mode to 8-bit RGB; transparency is dropped (see the head of this file)."""
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I") or picture.mode == "F":
        return PIL.Image.fromarray(rgb_array(np.asarray(picture)))
    if picture.mode in ("RGBa", "La"):
        return picture.convert("RGBA" if picture.mode == "RGBa" else "LA").convert("RGB")
    if picture.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
        return picture if converted is None else converted  # None is returned for work in place only
    return picture.convert("RGB")


def rgb_array(values: np.ndarray, input_data_format: str | ChannelDimension | None = None) -> np.ndarray:
    """Convert an array to 8-bit RGB of shape (H, W, 3).

    Args:
        values: (H, W), (H, W, c) or (c, H, W) with c = 1 (grey), 2 (grey, alpha), 3 or 4 (alpha is dropped);
            bool, integers of 8 or 16 bits, or floats in 0..1, 0..255 or 0..65535.
        input_data_format: "channels_first" or "channels_last" where the shape leaves it open.
    """
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise ValueError(
            f"A picture has shape {tuple(values.shape)}; expected (H, W), (H, W, channels) or (channels, H, W)."
        )
    if values.ndim == 2:
        values = values[..., None]
    else:
        if input_data_format is None:
            try:
                input_data_format = infer_channel_dimension_format(values, num_channels=(1, 2, 3, 4))
            except ValueError:
                raise ValueError(
                    f"A picture has shape {tuple(values.shape)}; expected 1, 2, 3 or 4 channels in the first or the"
                    " last place."
                ) from None
        if ChannelDimension(input_data_format) == ChannelDimension.FIRST:
            values = np.moveaxis(values, 0, -1)
    values = _to_8_bit(values)
    if values.shape[-1] <= 2:
        return np.repeat(values[..., :1], 3, axis=-1)
    return np.ascontiguousarray(values[..., :3])


def rows_of_pictures(images: Any) -> tuple[list[Any], bool]:
    """Bring one picture, a list, a nested list of pairs, or a batched array into one flat list.

    Args:
        images: a picture (see `open_picture`); a list of them; an array (B, C, H, W) or (B, H, W, C); for pairs a
            list of two-element lists or an array with five dimensions (B, 2, ...).

    Returns:
        The pictures in order, not yet opened, and whether they come in pairs.
    """
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim <= 3:
            return [images], False
        images = list(images)
    if not isinstance(images, (list, tuple)):
        return [images], False
    if not images:
        raise ValueError("The list of pictures is empty; expected at least one picture.")
    rows = [list(row) if isinstance(row, (np.ndarray, torch.Tensor)) and row.ndim > 3 else row for row in images]
    nested = [isinstance(row, (list, tuple)) for row in rows]
    if not any(nested):
        return rows, False
    lengths = {len(row) if is_row else 1 for row, is_row in zip(rows, nested)}
    if not all(nested) or lengths not in ({1}, {2}):
        raise ValueError(
            f"Pictures are nested in rows of {sorted(lengths)}; expected a flat list of pictures, or a list in which"
            " every entry is a pair of two, e.g. [[left, right], [left, right]]."
        )
    return [picture for row in rows for picture in row], lengths == {2}


class _AnyPictures:
    """What both processors share: opening, conversion to 8-bit RGB, and the pairing of pictures."""

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

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Prepare pictures; see the class for what they may be. `return_tensors`: "pt", "np", or None for a list."""
        reject_unknown(type(self).__name__, kwargs, self.valid_kwargs.__annotations__)
        return super().__call__(images, *args, **kwargs)  # type: ignore[misc]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open addresses (`open_picture`), keeping the nesting of lists."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(entry) for entry in image_url_or_urls]
        return open_picture(image_url_or_urls)

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        do_exif_transpose: bool | None = None,
        do_rescale: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open one picture and bring it to the backend's form, channels first, 8-bit RGB."""
        image = open_picture(image)
        if isinstance(image, PIL.Image.Image):
            if do_exif_transpose:
                image = upright(image)
            if do_convert_rgb:
                image = np.array(to_rgb(image))
                input_data_format = ChannelDimension.LAST
        else:
            if isinstance(image, torch.Tensor):
                image = image.detach().cpu()
                image = (image.float() if image.dtype in (torch.bfloat16, torch.float16) else image).numpy()
            # floats that the caller does not want rescaled have to stay what they are
            if do_convert_rgb and (do_rescale or image.dtype.kind != "f"):
                image = rgb_array(image, input_data_format)
                input_data_format = ChannelDimension.LAST
        return super().process_image(  # type: ignore[misc]
            image, do_convert_rgb=False, input_data_format=input_data_format, **kwargs
        )

    def _preprocess_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        return_tensors = kwargs.pop("return_tensors", None)
        pictures, in_pairs = rows_of_pictures(images)
        values = self._pixels(pictures, **kwargs)
        if in_pairs:
            stack = torch.stack if isinstance(values[0], torch.Tensor) else np.stack
            values = [stack(values[first : first + 2]) for first in range(0, len(values), 2)]
        return BatchFeature({"pixel_values": values}, tensor_type=return_tensors)

    def _pixels(self, pictures: list[Any], **kwargs: Any) -> list[Any]:
        raise NotImplementedError


class LavisImageProcessor(_AnyPictures, PilBackend):
    """LAVIS's evaluation transform, exact: bicubic resize to (S, S) with PIL, to 0..1, normalised with CLIP's values.

    Takes whatever `open_picture` and `rows_of_pictures` take, of any mode; returns `pixel_values` of shape
    (B, C, S, S), or (B, 2, C, S, S) for pairs, float32. The aspect ratio is not kept and nothing is cropped.

    Args (all keyword arguments, stored in the file that is saved; each can be changed in one call):
        size (default 384): an int S, or {"height": ..., "width": ...}.
        image_mean, image_std: default those of CLIP.
        resample (default bicubic), do_resize, do_rescale, do_normalize, do_convert_rgb (default True).
        do_exif_transpose (default True): False ignores the EXIF orientation as the original did.
    """

    def _pixels(self, pictures: list[Any], **kwargs: Any) -> list[np.ndarray]:
        # one at a time, so that no more than one picture of full size is held
        pixels = []
        for picture in pictures:
            values = self.process_image(picture, **kwargs)
            pixels.append(self._preprocess([values], return_tensors=None, **kwargs)["pixel_values"][0])
        return pixels


class LavisImageProcessorTorchvision(_AnyPictures, TorchvisionBackend):
    """The faster variant of `LavisImageProcessor`: same options, same shapes, not the same floats.

    Pictures of one size are resized together as uint8 tensors, on `device` if one is given. Needs torchvision.
    """

    def __init__(self, **kwargs: Any) -> None:
        if not is_torchvision_available():
            raise ImportError(
                "LavisImageProcessorTorchvision needs torchvision: pip install 'modeling-lavis[train]' brings it, or"
                " use LavisImageProcessor, which needs PIL only and is exact."
            )
        super().__init__(**kwargs)

    def _pixels(self, pictures: list[Any], **kwargs: Any) -> list[torch.Tensor]:
        values = [self.process_image(picture, **kwargs) for picture in pictures]
        return list(self._preprocess(values, return_tensors=None, **kwargs)["pixel_values"])


def reject_unknown(what: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise a TypeError that names the first option that `what` does not take, and the closest that it does."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            names = sorted(known) if isinstance(known, Set) else list(known)
            few = names[:20] + ["..."] * (len(names) > 20)
            hint = f" Did you mean {close[0]!r}?" if close else f" It takes {', '.join(few)}."
            raise TypeError(f"{what} got an unexpected option {name!r}.{hint}")


def _decoded(picture: PIL.Image.Image, name: Any) -> PIL.Image.Image:
    try:
        picture.load()
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise OSError(f"Cannot read the picture {_short(name)}: {error}") from error
    if 0 in picture.size:
        raise ValueError(f"The picture {_short(name)} has size {picture.size}; expected at least one pixel.")
    return picture


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype.kind not in "iuf":
        raise ValueError(f"A picture is an array of {values.dtype}; expected whole numbers or floats.")
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu" and low >= 0:
        if values.dtype.itemsize == 2 or 255 < high <= 65535:
            return (values >> 8).astype(np.uint8)
        if high <= 255:
            return values.astype(np.uint8)
    if values.dtype.kind == "f" and low >= 0 and high <= 65535:
        scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
        return np.rint(values * scale).astype(np.uint8)
    raise ValueError(
        f"A picture of {values.dtype} holds values from {low} to {high}; expected 0..1, 0..255 or 0..65535. A picture"
        " that is normalised already goes to the model directly, not through the image processor."
    )


def _short(name: Any) -> str:
    text = os.fsdecode(name) if isinstance(name, (bytes, os.PathLike)) else str(name)
    return text if len(text) <= 200 else text[:197] + "..."
