# SPDX-License-Identifier: Apache-2.0
"""Frame sampling and ALPRO's video evaluation transform.

Given decoded frames, the results are bit-exact with the evaluation transform of LAVIS 1.0.2.

Shapes: B batch size, F frames of a clip, C channels (3), H height, W width, S side length after resizing.
"""

import logging
import os
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, ChannelDimension, PILImageResampling
from transformers.processing_utils import VideosKwargs

from .image_conversion import (
    apply_exif_orientation,
    check_regular_file,
    open_image,
    to_numpy,
    to_rgb,
    to_rgb_array,
    to_uint8,
    value_range,
    white_value,
)
from .image_processing_lavis import (
    MAX_SIDE,
    check_image_options,
    check_stored_options,
    is_number,
    read_options,
    reject_unknown,
)
from .transformers_compat import VideoProcessorMixin
from .video_decoding import read_frames

logger = logging.getLogger(__name__)

# Processors that have warned of transparency. Kept here, because attributes of a processor are saved with it.
_WARNED: WeakSet[Any] = WeakSet()

SAMPLINGS = ("uniform", "headtail", "random")
_MAX_FRAMES = 2**15
#: Largest number of pixels of all frames of a clip together. A clip takes up to 27 bytes of memory for each.
MAX_CLIP_PIXELS = 2**29

_ARRAY_TYPES = (np.ndarray, torch.Tensor)
_CALL_OPTIONS = ("start", "end", "rng", "on_error", "input_data_format", "return_tensors")
_FLAGS = ("do_normalize", "do_sample_frames", "do_resize", "do_rescale")
# Options of transformers' video processors that have one value here, with what to do for another one.
_FIXED_OPTIONS: dict[str, tuple[Any, str]] = {
    "do_convert_rgb": (True, "Frames are always converted to RGB."),
    "default_to_square": (True, "An integer `size` is height and width; pass a dict for another shape."),
    "resample": (
        PILImageResampling.BICUBIC,
        "Frames are resized with the bicubic filter. To use another one, resize them first and pass do_resize=False.",
    ),
    "do_center_crop": (False, "Crop the frames before they are passed."),
    "crop_size": (None, "Crop the frames before they are passed."),
    "do_pad": (False, "Pad the frames before they are passed."),
    "data_format": (ChannelDimension.FIRST, "The channels come first; permute the result."),
    "device": ("cpu", "Frames are processed on the CPU; move the result with `.to(device)`."),
    "fps": (None, "Pass num_frames, and start and end for a part of a file."),
    "video_metadata": (None, "Frames are sampled by their number; the timestamps of files are read from them."),
    "return_metadata": (False, "Metadata is not returned."),
}


# ---- frame sampling ----


def uniform_indices(length: int, count: int) -> list[int]:
    """
    Indices of evenly spaced frames, starting with the first; fewer than `count` if the video is shorter.

    The indices are those of a floating-point range. For a few pairs of numbers (length 15 and count 13, for example) it
    has one entry too many, as in the original.
    """
    count = min(count, length)
    return np.arange(0, length, length / count).astype(int).tolist()


def headtail_indices(length: int, count: int, rng: Any = random) -> list[int]:
    """Ascending indices of random frames, half of them from each half of the video; one fewer if `count` is odd."""
    half, count = length // 2, min(count, length)
    head = rng.sample(range(half), count // 2)
    tail = rng.sample(range(half, length), count // 2)
    return sorted(head) + sorted(tail)


def random_indices(length: int, count: int, rng: Any = random) -> list[int]:
    """Ascending indices of random frames without repetition; fewer than `count` if the video is shorter."""
    return sorted(rng.sample(range(length), min(count, length)))


def fit_count(indices: list[int], count: int) -> list[int]:
    """Exactly `count` indices: repeated evenly if there are too few, truncated if there are too many."""
    if len(indices) >= count:
        return indices[:count]
    return [indices[place * len(indices) // count] for place in range(count)]


def sample_frame_indices(
    length: int, count: int, sampling: str = "uniform", rng: Any = random, first: int = 0, last: int | None = None
) -> list[int]:
    """
    Sample the indices of exactly `count` frames of a video.

    Args:
        length (`int`): number of frames of the video.
        count (`int`): number of frames to sample.
        sampling (`str`, *optional*, defaults to `"uniform"`): `"uniform"`, `"headtail"` or `"random"`.
        rng (`random.Random`, *optional*): source of randomness; defaults to the global one of `random`.
        first (`int`, *optional*, defaults to 0): first index that may be sampled.
        last (`int`, *optional*): end (exclusive) of the indices that may be sampled; defaults to `length`.

    Returns:
        `list[int]`: `count` indices in ascending order, repeated evenly if there are fewer frames.

    Raises:
        ValueError: there is no frame between `first` and `last`, `count` is less than 1, or `sampling` is unknown.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}.")
    if count < 1:
        raise ValueError(f"num_frames is {count}; expected at least one.")
    last = length if last is None else min(last, length)
    if last <= first:
        raise ValueError(f"There are no frames from index {first} to {last}; the video has {length} frames.")
    available = last - first
    if sampling == "uniform" or available == 1:
        indices = uniform_indices(available, count)
    elif sampling == "headtail" and min(available, count) > 1:
        indices = headtail_indices(available, count, rng)
    else:
        indices = random_indices(available, count, rng)
    return [first + index for index in fit_count(indices, count)]


# ---- processor ----


class LavisVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """
    Options of the video processor, in addition to those of transformers:

    sampling (`str`, *optional*, defaults to `"uniform"`): how frames are sampled, see [`sample_frame_indices`].
    start (`float` or `list[float]`, *optional*): time in seconds from which frames are sampled.
    end (`float` or `list[float]`, *optional*): time in seconds before which frames are sampled.
    rng (`random.Random`, *optional*): source of randomness.
    on_error (`str`, *optional*, defaults to `"raise"`): `"raise"` or `"skip"`.
    """

    sampling: str | None
    start: Any
    end: Any
    rng: Any
    on_error: str | None


class LavisVideoProcessor(VideoProcessorMixin):
    """
    Samples frames of videos, resizes them to (S, S), and normalizes them.

    A video is a path or a URL (mp4, mkv, webm, avi, gif, ...), an array or a tensor of shape `(F, H, W, C)` or
    `(F, C, H, W)`, or a list of frames (PIL images, arrays, paths of images). Several videos are a list, or one array
    with five dimensions. The aspect ratio is not kept and nothing is cropped. A video with fewer than `num_frames`
    frames repeats them evenly.

    The values of arrays, tensors and frames mean what they mean for [`LavisImageProcessor`], by the table in its
    docstring; the dtype and the range of the whole video decide, not those of each frame. Transparency is dropped, as
    in the original.

    Video files need PyAV, which reads the timestamps. Frames are decoded by torchcodec if it is installed and finds
    FFmpeg's libraries, otherwise by PyAV; the result is the same.

    Args:
        size (`int` or `dict`, *optional*, defaults to 224): S in pixels, or `{"height": ..., "width": ...}`.
        num_frames (`int`, *optional*, defaults to 8): number of frames F to sample.
        sampling (`str`, *optional*, defaults to `"uniform"`):
            `"uniform"` (evenly spaced frames), `"headtail"` (random frames of both halves) or `"random"`; see
            [`sample_frame_indices`].
        image_mean (`float` or `Sequence[float]`, *optional*, defaults to CLIP's): mean of each channel.
        image_std (`float` or `Sequence[float]`, *optional*, defaults to CLIP's): standard deviation of each channel.
        do_normalize (`bool`, *optional*, defaults to `True`): whether to normalize by mean and standard deviation.
        do_sample_frames (`bool`, *optional*, defaults to `True`):
            whether to sample `num_frames` frames; `False` keeps all frames.
        do_resize (`bool`, *optional*, defaults to `True`): whether to resize.
        do_rescale (`bool`, *optional*, defaults to `True`): whether to multiply by `rescale_factor`.
        rescale_factor (`float`, *optional*, defaults to `1 / 255`): factor, by default from 0..255 to 0..1.
        kwargs:
            other options of transformers' video processors, which have a single value here, for example
            `do_convert_rgb=True`.

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has an unsupported value; the message says what to do instead.
    """

    model_input_names = ["pixel_values_videos"]
    valid_kwargs = LavisVideoProcessorKwargs
    do_convert_rgb = True
    # transformers saves `None` only where the class has another default
    do_normalize: bool | None = True
    do_sample_frames: bool | None = True
    do_resize: bool | None = True
    do_rescale: bool | None = True

    # Options that are saved, each of which a call can override.
    options: Collection[str] = (
        "size",
        "num_frames",
        "sampling",
        "image_mean",
        "image_std",
        "do_normalize",
        "do_sample_frames",
        "do_resize",
        "do_rescale",
        "rescale_factor",
    )
    # All options of a call.
    call_options: Collection[str] = (*options, *_FIXED_OPTIONS, *_CALL_OPTIONS)

    def __init__(
        self,
        size: Any = 224,
        num_frames: int = 8,
        sampling: str = "uniform",
        image_mean: float | Sequence[float] = OPENAI_CLIP_MEAN,
        image_std: float | Sequence[float] = OPENAI_CLIP_STD,
        do_normalize: bool | None = True,
        do_sample_frames: bool | None = True,
        do_resize: bool | None = True,
        do_rescale: bool | None = True,
        rescale_factor: float = 1 / 255,
        **kwargs: Any,
    ) -> None:
        metadata = {name: kwargs.pop(name) for name in list(kwargs) if name in ("processor_class", "auto_map")}
        kwargs.pop("video_processor_type", None)
        reject_unknown(type(self).__name__, kwargs, (*self.options, *_FIXED_OPTIONS))
        _check_fixed_options(kwargs)
        flags = {"do_normalize": do_normalize, "do_sample_frames": do_sample_frames, "do_resize": do_resize}
        check_stored_options({**flags, "do_rescale": do_rescale, "rescale_factor": rescale_factor})
        super().__init__(**metadata)
        self.size = _height_and_width(size)
        self.num_frames = num_frames
        self.sampling = sampling
        self.image_mean = _of_channels(image_mean, "image_mean")
        self.image_std = _of_channels(image_std, "image_std")
        self.do_normalize = do_normalize
        self.do_sample_frames = do_sample_frames
        self.do_resize = do_resize
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        _check_sampling(num_frames, sampling)
        if do_sample_frames and do_resize:
            _check_clip(num_frames, **self.size)

    @classmethod
    def get_video_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """
        transformers' method of the same name, which reads the options of a file.

        Raises:
            OSError: there is no file, or it is not valid JSON.
            ValueError: an option has a wrong value; the message names file, option, value and what was expected.
        """

        def check(options: Mapping[str, Any]) -> None:
            check_image_options({name: options.get(name) for name in ("video_processor_type", "auto_map")})
            cls(**options)

        read = super().get_video_processor_dict
        return read_options(read, check, "video_processor", pretrained_model_name_or_path, kwargs)

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """
        Preprocess videos.

        Args:
            videos: one video or several; see the class.
            start (`float` or `list[float]`, *optional*):
                time in seconds from which frames are sampled, one for all videos or one per video; for files only.
            end (`float` or `list[float]`, *optional*):
                time in seconds before which frames are sampled, one for all videos or one per video; for files only.
            rng (`random.Random`, *optional*):
                source of randomness of `"headtail"` and `"random"`; defaults to the global one of `random`.
            on_error (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves out videos that cannot be read.
            input_data_format (`str`, *optional*):
                `"channels_first"` or `"channels_last"`, for arrays; inferred from the shape by default.
            return_tensors (`str`, *optional*): `"pt"`, `"np"`, or `None` for a NumPy array.
            kwargs: options of the class, for this call only.

        Returns:
            `BatchFeature` with `pixel_values_videos` of shape `(B, F, C, S, S)`, float32. With `on_error="skip"` it
            has the attribute `skipped`, a list of `(index of the video, error message)`.

        Raises:
            FileNotFoundError, OSError: a file cannot be read; the message contains its name.
            TypeError: a video has an unsupported type, or an option is unknown.
            ValueError: a video has no frames between `start` and `end`, an option has an unsupported value, or no video
                is left.
        """
        reject_unknown(type(self).__name__, kwargs, self.call_options)
        _check_fixed_options({name: kwargs.pop(name) for name in list(kwargs) if name in _FIXED_OPTIONS})
        entries = list_of_videos(videos)
        input_data_format = kwargs.pop("input_data_format", None)
        entries = [_channels_first(video, input_data_format) for video in entries]
        on_error = kwargs.pop("on_error", None) or "raise"
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'skip'.")
        return_tensors, rng = kwargs.pop("return_tensors", None), kwargs.pop("rng", None) or random
        starts, ends = (_one_per_video(kwargs.pop(name, None), len(entries), name) for name in ("start", "end"))
        options = {name: getattr(self, name) if kwargs.get(name) is None else kwargs[name] for name in self.options}
        _check_sampling(options["num_frames"], options["sampling"])
        check_image_options({name: kwargs.get(name) for name in (*_FLAGS, "rescale_factor")})
        clips, skipped = [], []
        for index, (video, start, end) in enumerate(zip(entries, starts, ends, strict=True)):
            try:
                clips.append(self._preprocess_video(video, start, end, rng, **options))
            except (OSError, ValueError) as error:
                if on_error == "raise":
                    raise
                skipped.append((index, str(error)))
        if not clips:
            messages = "".join(f"\n{message}" for _, message in skipped[:5])
            raise ValueError(f"None of {len(entries)} videos can be read.{messages}")
        shapes = {clip.shape for clip in clips}
        if len(shapes) > 1:
            raise ValueError(
                f"The videos have the shapes {sorted(shapes)} (frames, channels, height, width) and cannot be stacked."
                " Pass them one at a time, or with do_sample_frames=True and do_resize=True."
            )
        batch = BatchFeature({"pixel_values_videos": np.stack(clips)}, tensor_type=return_tensors)
        if on_error == "skip":
            batch.skipped = skipped
        return batch

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Same as calling the processor."""
        return self(videos, **kwargs)

    def _preprocess_video(
        self,
        video: Any,
        start: float | None,
        end: float | None,
        rng: Any,
        size: Any,
        num_frames: int,
        sampling: str,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        do_normalize: bool | None,
        do_sample_frames: bool | None,
        do_resize: bool | None,
        do_rescale: bool | None,
        rescale_factor: float,
    ) -> np.ndarray:
        """A video as an array of shape (F, C, S, S)."""
        size = _height_and_width(size) if do_resize else {"height": 0, "width": 0}
        if not is_number(rescale_factor):
            raise ValueError(f"rescale_factor is {rescale_factor!r}; expected a number.")

        def sample(length: int, first: int, last: int | None) -> list[int]:
            indices = (
                sample_frame_indices(length, num_frames, sampling, rng, first, last)
                if do_sample_frames
                else list(range(first, length if last is None else min(last, length)))
            )
            if do_resize:
                _check_clip(len(indices), **size)
            return indices

        clip = load_video_frames(
            video, sample, size["height"], size["width"], start, end, on_drop=self._warn_of_transparency
        )
        values = clip.transpose(0, 3, 1, 2).astype(np.float32)
        if do_rescale:
            # the original divides, which rounds differently
            values = values / np.float32(255) if rescale_factor == 1 / 255 else values * np.float32(rescale_factor)
        if do_normalize:
            numbers = _of_channels(image_mean, "image_mean"), _of_channels(image_std, "image_std")
            mean, std = (np.array(given, np.float32)[..., None, None] for given in numbers)
            values = (values - mean) / std
        return values

    def _warn_of_transparency(self) -> None:
        if self not in _WARNED:
            _WARNED.add(self)
            logger.warning(
                "A frame of a video has transparent pixels. They show the colors that are stored under them. To show"
                " another background, compose the frames on it before they are passed to the video processor."
            )


# ---- inputs ----


def list_of_videos(videos: Any) -> list[Any]:
    """
    Convert one video or several to a list of videos.

    Args:
        videos: see [`LavisVideoProcessor`]. A list of images or arrays of up to three dimensions is one video; a list
            of anything else, paths included, is a list of videos.

    Returns:
        `list`: the videos.

    Raises:
        TypeError: `videos` has an unsupported type.
        ValueError: the list is empty, or the array has an unsupported number of dimensions.
    """
    if isinstance(videos, _ARRAY_TYPES):
        if videos.ndim not in (4, 5):
            raise ValueError(
                f"Got a video of shape {tuple(videos.shape)}; expected (frames, height, width, channels) or (frames, "
                "channels, height, width), or one more dimension for several videos."
            )
        # parity: truncated, like a single video; one array has one range
        return list(to_uint8(to_numpy(videos), truncate=True)) if videos.ndim == 5 else [videos]
    if isinstance(videos, (str, os.PathLike)):
        return [videos]
    if not isinstance(videos, (list, tuple)):
        raise TypeError(
            f"Got a video of type {type(videos).__name__}; expected a path, an array, a list of frames, or a list of "
            "videos."
        )
    if not videos:
        raise ValueError("The list of videos is empty; expected at least one video or one frame.")
    if all(is_frame(entry) for entry in videos):
        return [list(videos)]
    return list(videos)


def is_frame(entry: Any) -> bool:
    """Whether an entry of a list is a frame, so that the list is one video; a path in a list is a video."""
    return isinstance(entry, PIL.Image.Image) or (isinstance(entry, _ARRAY_TYPES) and entry.ndim <= 3)


def load_video_frames(
    video: Any,
    sample: Callable[[int, int, int | None], Sequence[int]],
    height: int,
    width: int,
    start: float | None = None,
    end: float | None = None,
    on_drop: Callable[[], None] | None = None,
) -> np.ndarray:
    """
    Load the sampled frames of one video, resized.

    Args:
        video: a path or a URL, an array, or a list of frames; see [`LavisVideoProcessor`].
        sample (`Callable`):
            called with the number of frames, the first index that may be sampled, and the end (exclusive) of the
            indices or `None`; returns ascending indices.
        height (`int`): height of the result in pixels.
        width (`int`): width of the result in pixels.
        start (`float`, *optional*): time in seconds from which frames are sampled; for files only.
        end (`float`, *optional*): time in seconds before which frames are sampled; for files only.
        on_drop (`Callable`, *optional*): called if transparency is dropped from a frame in memory.

    Returns:
        `np.ndarray` of shape `(F, height, width, 3)`: 8-bit RGB.

    Raises:
        FileNotFoundError, OSError: the file cannot be read; the message contains its name.
        ValueError: there are no frames between `start` and `end`, or the video is not a file and they are given.
    """
    is_file = isinstance(video, (str, os.PathLike))
    has_range = start is not None or end is not None
    if not is_file and has_range:
        raise ValueError(
            "start and end are times in seconds of a file; of an array or a list of frames, pass the frames to use."
        )

    def select(length: int, index_at: Callable[[float], int]) -> Sequence[int]:
        first = 0 if start is None else index_at(start)
        last = None if end is None else index_at(end)
        try:
            if has_range and (first >= length or (last is not None and last <= first)):
                raise ValueError(
                    f"None of its {length} frames is shown between start={start} and end={end} (seconds). Give a start "
                    "before the end of the video, and an end after the start."
                )
            return sample(length, first, last)
        except ValueError as error:
            raise ValueError(f"{video if is_file else 'The video'}: {error}") from error

    if is_file and not os.fspath(video).startswith(("http://", "https://")):
        check_regular_file(video, "video")
    frames = read_frames(video, select) if is_file else _frames_in_memory(video, select, on_drop)
    # One frame at a time, so that at most one full-size frame of a file is in memory.
    clip: list[np.ndarray] = []
    for frame in frames:
        clip.append(resize_frame(frame, height, width))
        _check_clip(len(clip), *clip[-1].shape[:2])
    return np.stack(clip)


def _frames_in_memory(
    video: Any, select: Callable[..., Sequence[int]], on_drop: Callable[[], None] | None = None
) -> Iterable[np.ndarray]:
    """Selected frames of an array or of a list of frames, as 8-bit RGB of shape (H, W, 3)."""

    def no_timestamps(seconds: float) -> int:
        raise ValueError("The video has no timestamps.")

    if isinstance(video, _ARRAY_TYPES):
        values = to_numpy(video)
        if values.ndim != 4:
            raise ValueError(f"Got a video of shape {tuple(values.shape)}; expected four dimensions, frames first.")
        indices = list(select(len(values), no_timestamps))
        # All frames have one range: dark frames of a video in 0..255 must not be taken for frames in 0..1.
        white = 255 if values.dtype == np.uint8 else white_value(values.dtype, *value_range(values))
        frames = to_uint8(values[indices], white, truncate=True)  # parity: the original truncates
        return [to_rgb_array(frame, on_drop=on_drop) for frame in frames]
    if not isinstance(video, (list, tuple)) or not video:
        raise ValueError(
            f"Got a video of type {type(video).__name__}; expected a path, an array, or a list of at least one frame."
        )
    indices = list(select(len(video), no_timestamps))
    whites = _white_values(video)
    return (_to_frame(video[index], whites, on_drop) for index in indices)


def _white_values(frames: Sequence[Any]) -> dict[np.dtype, int]:
    """White of the arrays in a list of frames, by their dtype: the frames of a dtype have one range."""
    ranges: dict[np.dtype, tuple[Any, Any]] = {}
    for frame in frames:
        if isinstance(frame, _ARRAY_TYPES):
            values = to_numpy(frame)
            if values.dtype != np.uint8:
                low, high = value_range(values)
                known = ranges.get(values.dtype, (low, high))
                # NumPy's functions keep NaN, which is refused
                ranges[values.dtype] = np.minimum(known[0], low), np.maximum(known[1], high)
    return {dtype: white_value(dtype, *found) for dtype, found in ranges.items()}


def _to_frame(frame: Any, whites: Mapping[np.dtype, int], on_drop: Callable[[], None] | None = None) -> np.ndarray:
    """A frame of a list as 8-bit RGB of shape (H, W, 3)."""
    image = open_image(frame)
    if isinstance(image, PIL.Image.Image):
        return np.array(to_rgb(apply_exif_orientation(image), on_drop=on_drop))
    values = to_numpy(image)
    # parity: the original truncates
    return to_rgb_array(to_uint8(values, whites.get(values.dtype), truncate=True), on_drop=on_drop)


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an 8-bit RGB frame of shape (H, W, 3) to (height, width, 3), bicubic; size 0 keeps its own."""
    if frame.shape[:2] == (height, width) or (height, width) == (0, 0):
        return frame
    return np.asarray(PIL.Image.fromarray(frame).resize((width, height), PIL.Image.Resampling.BICUBIC))


def _height_and_width(size: Any) -> dict[str, int]:
    try:
        sides = [size, size] if isinstance(size, int) else [size["height"], size["width"]]
    except (TypeError, KeyError, IndexError):
        sides = []
    if not sides or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise ValueError(f"size is {size!r:.80}; expected a positive int, or a dict of them with 'height' and 'width'.")
    if max(sides) > MAX_SIDE:
        raise ValueError(f"size is {size!r:.80}; expected at most {MAX_SIDE}.")
    return {"height": sides[0], "width": sides[1]}


def _check_fixed_options(given: Mapping[str, Any]) -> None:
    """Raise `ValueError` for values other than those of `_FIXED_OPTIONS`; `None` is always accepted."""
    for name, value in given.items():
        fixed, advice = _FIXED_OPTIONS[name]
        value = str(value) if name == "device" and value is not None else value
        if value is not None and value != fixed:
            raise ValueError(f"LavisVideoProcessor does not support {name}={value!r}. {advice}")


def _check_sampling(num_frames: Any, sampling: Any) -> None:
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise ValueError(f"num_frames is {num_frames!r:.80}; expected at least one, as an int.")
    if num_frames > _MAX_FRAMES:
        raise ValueError(f"num_frames is {num_frames!r:.80}; expected at most {_MAX_FRAMES}.")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling is {sampling!r}; expected one of {', '.join(SAMPLINGS)}.")


def _check_clip(num_frames: int, height: int, width: int) -> None:
    if num_frames * height * width > MAX_CLIP_PIXELS:
        raise ValueError(
            f"A clip has num_frames {num_frames} of size {width} x {height}, more than {MAX_CLIP_PIXELS:,} pixels. "
            "Sample fewer frames (num_frames, start, end), or resize them to a smaller size."
        )


def _of_channels(value: Any, name: str) -> float | list[float]:
    """A mean or a standard deviation: one number, or a list of three."""
    check_image_options({name: value})
    if is_number(value):
        return value
    numbers = list(value) if isinstance(value, (list, tuple, np.ndarray)) else []
    if len(numbers) != 3 or not all(map(is_number, numbers)):
        raise ValueError(f"{name} is {value!r}; expected a number, or one for each of the 3 channels.")
    return [float(number) for number in numbers]


def _channels_first(video: Any, input_data_format: Any) -> Any:
    """Arrays of a video with the channels before height and width, where their order is given."""
    if input_data_format is None:
        return video
    try:
        last = ChannelDimension(input_data_format) == ChannelDimension.LAST
    except ValueError as error:
        raise ValueError(
            f"input_data_format is {input_data_format!r}; expected 'channels_first' or 'channels_last'."
        ) from error
    if not last:
        return video
    if isinstance(video, (list, tuple)):
        return [_channels_first(frame, input_data_format) for frame in video]
    if isinstance(video, _ARRAY_TYPES) and video.ndim in (3, 4):
        return np.moveaxis(video, -1, -3) if isinstance(video, np.ndarray) else video.movedim(-1, -3)
    return video


def _one_per_video(value: Any, count: int, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"Got {len(value)} values of {name} for {count} videos; expected one, or one per video.")
    return list(value)


__all__ = [
    "SAMPLINGS",
    "LavisVideoProcessor",
    "fit_count",
    "headtail_indices",
    "is_frame",
    "list_of_videos",
    "load_video_frames",
    "random_indices",
    "resize_frame",
    "sample_frame_indices",
    "uniform_indices",
]
