# SPDX-License-Identifier: Apache-2.0
"""Videos to normalised clips, exactly as ALPRO's evaluation transform of LAVIS 1.0.2 does it once they are decoded.

Letters: B batch, F frames, C channels (3), H height, W width, S side after resizing.
"""

import os
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.video_processing_utils import VideoProcessorMixin

from .image_processing_lavis import apply_exif_orientation, open_image, reject_unknown, to_rgb, to_rgb_array
from .video_reading import read_frames
from .video_sampling import SAMPLINGS, frame_indices

_ARRAYS = (np.ndarray, torch.Tensor)
_PER_CALL = ("start", "end", "rng", "on_error", "return_tensors")


class LavisVideoProcessor(VideoProcessorMixin):
    """
    Picks frames of videos, resizes them to (S, S), and normalises them with CLIP's values.

    A video is a path or a URL (mp4, mkv, webm, avi, gif, ...), an array or a tensor (F, H, W, C) or
    (F, C, H, W), or a list of frames (PIL images, arrays, paths of pictures). Several are given as a list or as one
    array with five dimensions. The aspect ratio is not kept and nothing is cropped. A video with fewer frames than
    wanted repeats them evenly.

    Files need PyAV, which tells when frames are shown. They are decoded by torchcodec where it is installed and finds
    FFmpeg's libraries, by PyAV else; the frames are the same.

    Args:
        size (default 224): an int S, or {"height": ..., "width": ...}.
        num_frames (default 8): F.
        sampling (default "uniform"): "uniform", "headtail" or "random"; see `video_sampling`.
        image_mean, image_std: default those of CLIP.
        do_normalize (default True).
    """

    model_input_names = ["pixel_values_videos"]

    def __init__(
        self,
        size: Any = 224,
        num_frames: int = 8,
        sampling: str = "uniform",
        image_mean: Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: Sequence[float] = OPENAI_CLIP_STD,
        do_normalize: bool = True,
        **kwargs: Any,
    ) -> None:
        kept = {name: kwargs.pop(name) for name in list(kwargs) if name in ("processor_class", "auto_map")}
        kwargs.pop("video_processor_type", None)
        reject_unknown(type(self).__name__, kwargs, self.options)
        super().__init__(**kept)
        self.size = _sides(size)
        self.num_frames = num_frames
        self.sampling = sampling
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.do_normalize = do_normalize
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}.")

    #: options that are stored, each of which a call can change
    options: Collection[str] = ("size", "num_frames", "sampling", "image_mean", "image_std", "do_normalize")

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """
        Prepare videos.

        Args:
            videos: one video or several; see the class.
            start, end (`float`, or a list with one per video, *optional*): seconds between which frames are taken;
                only of files, which know their times.
            rng (`random.Random`, *optional*): source of randomness of "headtail" and "random".
            on_error (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves unreadable videos out.
            return_tensors: "pt", "np", or None for a list.
            kwargs: options of the class.

        Returns:
            `pixel_values_videos` (B, F, C, S, S), float32. With `on_error="skip"` it has an attribute `skipped`, a list
            of (place among the videos, message).

        Raises:
            FileNotFoundError, OSError: a file cannot be read; they name it. ValueError: no video is left.
        """
        reject_unknown(type(self).__name__, kwargs, (*self.options, *_PER_CALL))
        entries = list_of_videos(videos)
        on_error = kwargs.pop("on_error", "raise")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'skip'.")
        return_tensors, rng = kwargs.pop("return_tensors", None), kwargs.pop("rng", None) or random
        starts, ends = (_one_each(kwargs.pop(name, None), len(entries), name) for name in ("start", "end"))
        options = {name: kwargs.get(name, getattr(self, name)) for name in self.options}
        clips, skipped = [], []
        for place, (video, start, end) in enumerate(zip(entries, starts, ends, strict=True)):
            try:
                clips.append(self._clip(video, start, end, rng, **options))
            except (OSError, ValueError) as error:
                if on_error == "raise":
                    raise
                skipped.append((place, str(error)))
        if not clips:
            reasons = "".join(f"\n{message}" for _, message in skipped[:5])
            raise ValueError(f"None of {len(entries)} videos can be read.{reasons}")
        batch = BatchFeature({"pixel_values_videos": np.stack(clips)}, tensor_type=return_tensors)
        if on_error == "skip":
            batch.skipped = skipped
        return batch

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """The same as a call."""
        return self(videos, **kwargs)

    def _clip(
        self,
        video: Any,
        start: float | None,
        end: float | None,
        rng: Any,
        size: Any,
        num_frames: int,
        sampling: str,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        do_normalize: bool,
    ) -> np.ndarray:
        sides = _sides(size)

        def choose(length: int, first: int, last: int | None) -> list[int]:
            return frame_indices(length, num_frames, sampling, rng, first, last)

        clip = video_frames(video, choose, sides["height"], sides["width"], start, end)
        values = clip.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        if do_normalize:
            mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (image_mean, image_std))
            values = (values - mean) / std
        return values


def list_of_videos(videos: Any) -> list[Any]:
    """Bring one video or several into a list of videos; see [`LavisVideoProcessor`]."""
    if isinstance(videos, _ARRAYS):
        if videos.ndim not in (4, 5):
            raise ValueError(
                f"A video has shape {tuple(videos.shape)}; expected (frames, height, width, channels) or (frames, "
                "channels, height, width), or one dimension more for several videos."
            )
        return list(videos) if videos.ndim == 5 else [videos]
    if isinstance(videos, (str, os.PathLike)):
        return [videos]
    if not isinstance(videos, (list, tuple)):
        raise TypeError(
            f"A video is given as {type(videos).__name__}; expected a path, an array, a list of frames, or a list of "
            "videos."
        )
    if not videos:
        raise ValueError("The list of videos is empty; expected at least one video or one frame.")
    if all(is_frame(entry) for entry in videos):
        return [list(videos)]
    return list(videos)


def is_frame(entry: Any) -> bool:
    """Whether an entry of a list is a frame, so that the list is one video; a path in a list is a video."""
    return isinstance(entry, PIL.Image.Image) or (isinstance(entry, _ARRAYS) and entry.ndim <= 3)


def video_frames(
    video: Any,
    choose: Callable[[int, int, int | None], Sequence[int]],
    height: int,
    width: int,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """
    Frames of one video, resized.

    Args:
        video: a path or a URL, an array, or a list of frames; see [`LavisVideoProcessor`].
        choose (callable): gets the number of frames, the first number that may be taken and the one before which they
            end (`None` for the last); returns numbers, ascending.
        height, width: of the result, in pixels.
        start, end (`float`, *optional*): seconds between which frames are taken; only of files.

    Returns:
        8-bit RGB (F, height, width, 3).
    """

    def pick(length: int, number_at: Callable[[float], int]) -> Sequence[int]:
        first = 0 if start is None else number_at(start)
        last = None if end is None else number_at(end)
        try:
            part_given = start is not None or end is not None
            if part_given and (first >= length or (last is not None and last <= first)):
                raise ValueError(
                    f"None of its {length} frames is shown between start={start} and end={end} (seconds). Give a start "
                    "before its end, and an end after the start."
                )
            return choose(length, first, last)
        except ValueError as error:
            name = video if isinstance(video, (str, os.PathLike)) else "The video"
            raise ValueError(f"{name}: {error}") from error

    if not isinstance(video, (str, os.PathLike)) and (start is not None or end is not None):
        raise ValueError("start and end are seconds of a file; of an array or a list of frames, cut out the part.")
    # One frame at a time, so that no more than one of full size is held.
    frames: Iterable[np.ndarray]
    if isinstance(video, (str, os.PathLike)):
        frames = read_frames(video, pick)
    else:
        frames = given_frames(video, pick)
    return np.stack([resize_frame(frame, height, width) for frame in frames])


def given_frames(video: Any, pick: Callable[..., Sequence[int]]) -> Iterable[np.ndarray]:
    """The frames that are wanted of an array or of a list of frames, as 8-bit RGB (H, W, 3)."""

    def no_times(seconds: float) -> int:
        raise ValueError("The video has no times.")

    if isinstance(video, _ARRAYS):
        values = video.detach().cpu().numpy() if isinstance(video, torch.Tensor) else video
        if values.ndim != 4:
            raise ValueError(f"A video has shape {tuple(values.shape)}; expected four dimensions, frames first.")
        numbers = pick(len(values), no_times)
        # Together, so that dark frames of a video in 0..255 are not taken for one in 0..1.
        chosen = _stretch(values, numbers)
        return [to_rgb_array(frame) for frame in chosen]
    if not isinstance(video, (list, tuple)) or not video:
        raise ValueError(
            f"A video is given as {type(video).__name__}; expected a path, an array, or a list of at least one frame."
        )
    numbers = pick(len(video), no_times)
    return (_rgb(video[number]) for number in numbers)


def _stretch(values: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """The chosen frames, floats in 0..255 rounded to 8 bits by the whole video's range."""
    chosen = values[list(numbers)]
    if values.dtype.kind == "f" and 1 < values.max() <= 255 and values.min() >= 0:
        chosen = chosen.astype(np.uint8)  # parity: the original cuts the fraction off
    return chosen


def _rgb(frame: Any) -> np.ndarray:
    picture = open_image(frame)
    if isinstance(picture, PIL.Image.Image):
        return np.array(to_rgb(apply_exif_orientation(picture)))
    return to_rgb_array(picture.detach().cpu().numpy() if isinstance(picture, torch.Tensor) else picture)


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """8-bit RGB of any size to (height, width, 3), bicubic."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(PIL.Image.fromarray(frame).resize((width, height), PIL.Image.Resampling.BICUBIC))


def _sides(size: Any) -> dict[str, int]:
    if isinstance(size, int):
        return {"height": size, "width": size}
    try:
        return {"height": int(size["height"]), "width": int(size["width"])}
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"size is {size!r}; expected an int, or a dict with 'height' and 'width'.") from error


def _one_each(value: Any, count: int, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{len(value)} values of {name} are given for {count} videos; give one, or one for each.")
    return list(value)


__all__ = ["LavisVideoProcessor", "given_frames", "list_of_videos", "resize_frame", "video_frames"]
