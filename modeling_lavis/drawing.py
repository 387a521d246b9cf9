# SPDX-License-Identifier: Apache-2.0
"""What drawings with Pillow share."""

from typing import Any

from PIL import ImageFont


def load_font(size: int) -> Any:
    """
    Load Pillow's own font.

    Args:
        size (`int`): height in pixels.
    """
    try:
        return ImageFont.load_default(size=size)
    except (OSError, ImportError):  # Pillow without FreeType has only a bitmap font of one size
        return ImageFont.load_default()


__all__ = ["load_font"]
