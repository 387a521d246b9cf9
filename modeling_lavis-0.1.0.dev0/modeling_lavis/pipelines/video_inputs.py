# SPDX-License-Identifier: Apache-2.0
"""Videos as inputs of pipelines.

Shapes: F frames, C channels, H height, W width.
"""

import os
from typing import Any

from torch import Tensor

from modeling_lavis.pipelines.base import LavisPipeline
from modeling_lavis.pipelines.inputs import is_video


def get_video_pixel_values(pipe: LavisPipeline, row: dict[str, Any], name: str = "video") -> Tensor:
    """Pixel values `(1, F, C, H, W)` of the video in a row, in the time range of its `start` and `end`, if any."""
    if row.get(name) is None:
        raise ValueError(
            f"{pipe.task or type(pipe).__name__} got no video; expected '{name}' in the row, but it has "
            f"{', '.join(sorted(row)) or 'no keys'}."
        )
    time_range = {key: row[key] for key in ("start", "end") if row.get(key) is not None}
    video = row[name]
    if not isinstance(video, (str, os.PathLike, list, tuple)) and getattr(video, "ndim", None) == 3:
        video = list(video)  # grayscale frames; the processor would take the array for a single image
    return pipe.processor.video_processor([video], return_tensors="pt", **time_range)["pixel_values_videos"]


class VideoInputMixin(LavisPipeline):
    """Inputs are videos: paths, URLs, arrays (F, H, W, C), (F, C, H, W) or (F, H, W), or lists of frames."""

    modality = "video"
    is_single_input = staticmethod(is_video)

    def get_pixel_values(self, row: dict[str, Any], name: str = "video") -> Tensor:
        """Pixel values `(1, F, C, H, W)` of the video in a row, in the time range of its `start` and `end`, if any."""
        return get_video_pixel_values(self, row, name)
