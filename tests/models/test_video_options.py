"""Options that callers of transformers pass to a video processor: honored, or refused with what to do instead."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoVideoProcessor

from modeling_lavis import AlproConfig, AlproProcessor, LavisVideoProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from tests.models.video_clips import frame_number, numbered_frame, write_clip

FRAMES = np.stack([numbered_frame(number) for number in range(6)])
GOLDEN_TOKENIZER = Path(__file__).parents[1] / "goldens" / "tokenizer"


@pytest.fixture
def processor() -> LavisVideoProcessor:
    return LavisVideoProcessor(size=16, num_frames=3)


@pytest.fixture
def alpro(processor: LavisVideoProcessor) -> AlproProcessor:
    return AlproProcessor(processor, bert_tokenizer(str(GOLDEN_TOKENIZER)))


def values(processor: Any, videos: Any = FRAMES, **options: Any) -> torch.Tensor:
    return processor(videos, return_tensors="pt", **options)["pixel_values_videos"]


def test_all_frames(processor: LavisVideoProcessor, tmp_path: Path) -> None:
    whole = values(processor, num_frames=6)
    assert torch.equal(values(processor, do_sample_frames=False), whole)
    assert torch.equal(values(processor, do_sample_frames=False, num_frames=2), whole)
    processor.do_sample_frames = False
    assert torch.equal(values(processor), whole)
    assert values(processor, do_sample_frames=True).shape[1] == 3
    clip = write_clip(tmp_path / "clip.mp4", frames=12)
    part = processor(clip, start=0.5, end=1.0, do_normalize=False, size={"height": 64, "width": 96})
    shown = [frame_number(frame.transpose(1, 2, 0) * 255) for frame in part["pixel_values_videos"][0]]
    assert shown == [5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="cannot be stacked.*do_sample_frames=True"):
        processor([FRAMES, FRAMES[:4]])


def test_rescaling(processor: LavisVideoProcessor) -> None:
    plain = values(processor, do_normalize=False)
    raw = values(processor, do_normalize=False, do_rescale=False)
    assert raw.max() > 1 and torch.equal(raw, raw.round())
    assert torch.equal(plain, raw / 255)
    torch.testing.assert_close(values(processor, do_normalize=False, rescale_factor=-2.0), raw * -2)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (processor.image_mean, processor.image_std))
    torch.testing.assert_close(values(processor, do_rescale=False), (raw - mean) / std)
    assert torch.equal(values(processor, do_rescale=None), values(processor))


def test_mean_and_standard_deviation_of_all_channels(processor: LavisVideoProcessor) -> None:
    one = values(processor, image_mean=0.5, image_std=0.25)
    assert torch.equal(one, values(processor, image_mean=[0.5] * 3, image_std=(0.25, 0.25, 0.25)))
    assert torch.equal(one, values(LavisVideoProcessor(size=16, num_frames=3, image_mean=0.5, image_std=0.25)))


def test_resizing(processor: LavisVideoProcessor) -> None:
    assert values(processor, do_resize=False).shape == (1, 3, 3, *FRAMES.shape[1:3])
    small = FRAMES[:, :16, :16]
    assert torch.equal(values(processor, small, do_resize=False), values(processor, small))
    with pytest.raises(ValueError, match="cannot be stacked.*do_resize=True"):
        processor([FRAMES, small], do_resize=False)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_format_of_channels(processor: LavisVideoProcessor, kind: Any) -> None:
    """Three rows of pixels are not to be taken for three channels."""
    flat = np.ascontiguousarray(FRAMES[:, :3, :5])
    expected = values(processor, [PIL.Image.fromarray(frame) for frame in flat])
    first = np.ascontiguousarray(flat.transpose(0, 3, 1, 2))
    for given, order in ((flat, "channels_last"), (first, "channels_first")):
        assert torch.equal(values(processor, kind(given), input_data_format=order), expected)
        frames = [kind(frame) for frame in given]
        assert torch.equal(values(processor, frames, input_data_format=order), expected)
        both = values(processor, [kind(given)] * 2, input_data_format=order)
        assert torch.equal(both, torch.cat([expected] * 2))
    images = [PIL.Image.fromarray(frame) for frame in flat]
    assert torch.equal(values(processor, images, input_data_format="channels_first"), expected)
    with pytest.raises(ValueError, match="input_data_format is 'last'; expected 'channels_first' or 'channels_last'"):
        values(processor, input_data_format="last")


SUPPORTED = {
    "do_convert_rgb": True,
    "default_to_square": True,
    "resample": 3,
    "do_center_crop": False,
    "do_pad": False,
    "data_format": "channels_first",
    "device": torch.device("cpu"),
    "return_metadata": False,
    **dict.fromkeys(("crop_size", "fps", "video_metadata", "device", "resample"), None),
}
REFUSED = {
    "do_convert_rgb": (False, "always converted to RGB"),
    "default_to_square": (False, "pass a dict"),
    "resample": (2, "do_resize=False"),
    "do_center_crop": (True, "Crop the frames"),
    "crop_size": (8, "Crop the frames"),
    "do_pad": (True, "Pad the frames"),
    "data_format": ("channels_last", "permute"),
    "device": ("cuda", r"\.to\(device\)"),
    "fps": (2, "Pass num_frames"),
    "video_metadata": ([{"fps": 2}], "timestamps"),
    "return_metadata": (True, "not returned"),
}


def test_options_with_one_value(processor: LavisVideoProcessor) -> None:
    for name, value in SUPPORTED.items():
        assert torch.equal(values(processor, **{name: value}), values(processor)), name
        LavisVideoProcessor(**{name: value})
    for name, (value, advice) in REFUSED.items():
        for call in (lambda option: values(processor, **option), lambda option: LavisVideoProcessor(**option)):
            with pytest.raises(ValueError, match=f"does not support {name}=.*{advice}"):
                call({name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames is 0; expected at least one"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"num_frames": True}, "num_frames is True"),
        ({"num_frames": "8"}, "num_frames is '8'"),
        ({"sampling": "middle"}, "uniform, headtail, random"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is .*one for each of the 3 channels"),
        ({"image_std": "big"}, "image_std is 'big'"),
        ({"image_mean": [0.5, "x", 0.5]}, "image_mean is "),
        ({"size": {"shortest_edge": 20}}, "'height' and 'width'"),
        ({"size": {"height": 16.7, "width": 16}}, "size is .*positive int"),
        ({"size": 0}, "size is 0"),
        ({"size": (16, 16)}, "size is "),
    ],
)
def test_values_are_checked_when_made_and_when_called(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LavisVideoProcessor(**options)
    with pytest.raises(ValueError, match=message):
        LavisVideoProcessor()(FRAMES, **options)
    with pytest.raises(ValueError, match="rescale_factor is 'x'"):
        LavisVideoProcessor()(FRAMES, rescale_factor="x")


def test_options_are_saved(tmp_path: Path) -> None:
    options = {"do_sample_frames": False, "do_resize": False, "do_rescale": None, "rescale_factor": 0.5}
    made = LavisVideoProcessor(size=16, **options)
    made.save_pretrained(tmp_path)
    AlproConfig().save_pretrained(tmp_path)
    for again in (LavisVideoProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)):
        assert again.to_dict() == made.to_dict()
        assert {name: getattr(again, name) for name in options} == options
    changed = LavisVideoProcessor.from_pretrained(tmp_path, sampling="random", do_rescale=True)
    assert changed.sampling == "random" and changed.do_rescale is True


# ---- through ALPRO's processor ----


def test_options_by_name_and_in_dicts(alpro: AlproProcessor) -> None:
    expected = values(alpro.video_processor, num_frames=2, do_rescale=False)
    by_name = alpro(videos=FRAMES, num_frames=2, do_rescale=False, return_tensors="pt")
    in_dict = alpro(videos=FRAMES, videos_kwargs={"num_frames": 2, "do_rescale": False, "return_tensors": "pt"})
    common = alpro(videos=FRAMES, num_frames=2, do_rescale=False, common_kwargs={"return_tensors": "pt"})
    for batch in (by_name, in_dict, common):
        assert torch.equal(batch["pixel_values_videos"], expected)
    one, other = (alpro(videos=FRAMES, sampling="random", rng=random.Random(7)) for _ in range(2))
    assert np.array_equal(one["pixel_values_videos"], other["pixel_values_videos"])
    rng = random.Random(7)
    drawn = [alpro(videos=FRAMES, sampling="random", rng=rng)["pixel_values_videos"] for _ in range(8)]
    assert any(not np.array_equal(drawn[0], again) for again in drawn[1:]), "the caller's source is not advanced"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"videos_kwargs": {"num_frames": 2}, "num_frames": 4}, ValueError, "num_frames: given by name and in"),
        ({"videos_kwargs": {"num_frames": 2}, "num_frames": 2}, ValueError, "num_frames: given by name and in"),
        ({"videos_kwargs": {"start": 0.0}, "start": 0.0}, ValueError, "start: given by name"),
        ({"text_kwargs": {"padding": False}, "padding": True}, ValueError, "padding"),
        ({"videos_kwargs": {"num_frame": 2}}, TypeError, "'num_frame'. Did you mean 'num_frames'"),
        ({"videos_kwargs": 5}, TypeError, "videos_kwargs is 5; expected a dict"),
        ({"text_kwargs": "x"}, TypeError, "text_kwargs is 'x'; expected a dict"),
        ({"text_kwargs": {"paddding": True}}, TypeError, "'paddding'. Did you mean 'padding'"),
        ({"images_kwargs": {"size": 4}}, TypeError, "'images_kwargs'"),
        ({"pad_size": 4}, TypeError, "'pad_size'"),
    ],
)
def test_options_given_twice_or_unknown(
    alpro: AlproProcessor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        alpro(videos=FRAMES, text="a dog", **options)


@pytest.mark.parametrize("answers", [[1.7], ["run"], [None], "run", 3, [[1]], [True]])
def test_answers_are_class_indices(alpro: AlproProcessor, answers: Any) -> None:
    with pytest.raises(ValueError, match="answers is .*answer_labels"):
        alpro(text="what?", answers=answers)
    assert alpro(text="what?", answers=[3])["labels"].tolist() == [3]
    with pytest.raises(ValueError, match="answers is"):
        alpro.answer_labels(["yes"], {"yes": 1.5})
