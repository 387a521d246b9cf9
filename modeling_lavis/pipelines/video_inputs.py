# SPDX-License-Identifier: Apache-2.0
"""Videos as inputs of pipelines.

Letters: F frames, C channels, H height, W width.
"""

import os
from typing import Any

from torch import Tensor

from modeling_lavis.pipelines.base import LavisPipeline
from modeling_lavis.pipelines.inputs import is_video


def video_pixels(pipe: LavisPipeline, row: dict[str, Any], name: str = "video") -> Tensor:
    """The clip (1, F, C, H, W) of the video in a row, between its `start` and `end` if it has them."""
    if row.get(name) is None:
        raise ValueError(
            f"{pipe.task or type(pipe).__name__} got no video; a row needs '{name}', it has "
            f"{', '.join(sorted(row)) or 'nothing'}."
        )
    part = {side: row[side] for side in ("start", "end") if row.get(side) is not None}
    video = row[name]
    if not isinstance(video, (str, os.PathLike, list, tuple)) and video.ndim == 3:
        video = list(video)  # grey frames; a processor would take the array for one picture
    return pipe.processor.video_processor([video], return_tensors="pt", **part)["pixel_values_videos"]


class VideoInputMixin(LavisPipeline):
    """Inputs are videos: paths, URLs, arrays (F, H, W, C), (F, C, H, W) or (F, H, W), or lists of frames."""

    is_one = staticmethod(is_video)

    def pixels(self, row: dict[str, Any], name: str = "video") -> Tensor:
        """The clip (1, F, C, H, W) of the video in a row, between its `start` and `end` if it has them."""
        return video_pixels(self, row, name)
