# SPDX-License-Identifier: Apache-2.0
"""Images and videos that a visitor sends, and small pictures in results.

Pictures are put into the page itself as `data:` addresses, so that a result leaves no file behind.
"""

import base64
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL.Image

from modeling_lavis.models.image_conversion import open_image, to_rgb
from modeling_lavis.models.video_decoding import read_frames

THUMBNAIL = 256  # pixels of the longer side


def read_media(path: str | None, modality: str) -> Any:
    """
    An uploaded image, decoded, or the path of an uploaded video.

    Args:
        path (`str`, *optional*): the uploaded file.
        modality (`str`): `"image"` or `"video"`.

    Raises:
        ValueError: there is none. OSError: it cannot be read; the message has the name of the file, without its folder.
    """
    if not path:
        raise ValueError(
            f"There is no {modality}. Upload one{', or choose an example' if modality == 'image' else ''}."
        )
    if not os.path.exists(path):
        raise FileNotFoundError(f"The {modality} is not kept any longer. Upload it again.")
    try:
        if modality == "image":
            return open_image(Path(path))
        next(iter(read_frames(path, lambda length, _: [0])))
    except (OSError, ValueError) as error:
        raise OSError(str(error).replace(str(path), Path(path).name)) from error
    return path


def picture(image: PIL.Image.Image, longest: int = THUMBNAIL) -> str:
    """
    A picture as a `data:` address.

    Args:
        image (`PIL.Image.Image`): the image; transparent ones get a white background.
        longest (`int`, *optional*, defaults to 256): longer side in pixels; smaller images stay as they are.
    """
    small = to_rgb(image, (255, 255, 255)).copy()
    small.thumbnail((longest, longest))
    content = BytesIO()
    small.save(content, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def preview(path: str, modality: str) -> PIL.Image.Image:
    """
    The image of a file, or the frame in the middle of a video.

    Raises:
        OSError: it cannot be read.
    """
    if modality == "image":
        return open_image(Path(path))
    return PIL.Image.fromarray(next(iter(read_frames(path, lambda length, _: [length // 2]))))


__all__ = ["THUMBNAIL", "picture", "preview", "read_media"]
