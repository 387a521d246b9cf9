# SPDX-License-Identifier: Apache-2.0
"""Which frames of a file are wanted, and who decodes them: torchcodec where it works, PyAV else; the same frames."""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .video_decoding import VideoFile
from .video_decoding_torchcodec import TorchcodecFile, torchcodec_decoder

Picker = Callable[[int, Callable[[float], int]], Sequence[int]]


def read_frames(source: str | os.PathLike[str], pick: Picker) -> Iterator[np.ndarray]:
    """
    Frames of a video file.

    Args:
        source: path or URL.
        pick (callable): gets the number of frames and a function from seconds to a frame's number; returns the numbers
            that are wanted, ascending.

    Yields:
        Arrays (H, W, 3) of 8-bit RGB.

    Raises:
        FileNotFoundError: no such file. OSError: it is broken. Both name it. ImportError: nothing can decode videos.
    """
    name = os.fspath(source)
    numbers: Sequence[int] | None = None
    given = 0
    if torchcodec_decoder() is not None:
        try:
            with TorchcodecFile(name) as video:
                numbers = pick(video.length, video.number_at)
                for frame in video.frames(numbers):
                    yield frame
                    given += 1
            return
        except FileNotFoundError:
            raise
        except OSError:
            pass  # PyAV passes over damage that stops torchcodec; what it cannot read either, it names
    with VideoFile(name) as video:
        wanted = pick(video.length, video.number_at) if numbers is None else numbers[given:]
        yield from video.frames(wanted)


__all__ = ["read_frames"]
