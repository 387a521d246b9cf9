# SPDX-License-Identifier: Apache-2.0
"""`load_model` and `load_model_and_preprocess` by the names of LAVIS, as a bridge to the Auto classes.

They return models of this package, whose methods docs/from-lavis.md compares with LAVIS's.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Transform = Callable[[Any], Any]

# What LAVIS's configurations of model types say about preprocessing. Architectures whose training (evaluation) they
# leave out get functions that return their argument, as there.
_NO_TRAINING = ("albef_feature_extractor", "blip_feature_extractor", "blip_image_text_matching")
_NO_EVALUATION = ("albef_pretrain", "blip_pretrain")
_QUESTIONS = ("albef_vqa", "blip_vqa")
_TRAINED_ON_VIDEOS = (("alpro_retrieval", "msrvtt"), ("alpro_qa", "msrvtt"), ("alpro_qa", "msvd"))
# sizes in training that are not those of the checkpoint
_TRAINING_SIZES = {"albef_pretrain": 256}


def load_model(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: "str | torch.device" = "cpu",
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    repositories: str | os.PathLike[str] | None = None,
    dtype: "str | torch.dtype | None" = None,
    **kwargs: Any,
) -> Any:
    """
    Load a published model by its names in LAVIS.

    Args:
        name (`str`): architecture, for example `"blip_caption"`.
        model_type (`str`): model type, for example `"base_coco"`. `modeling-lavis zoo` lists all.
        is_eval (`bool`, *optional*, defaults to `False`): whether to return the model in evaluation mode. Models come
            in training mode otherwise, as from LAVIS.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): device to move the model to.
        checkpoint (`str` or `os.PathLike`, *optional*): other weights for this model: a checkpoint of LAVIS (a file or
            URL), which is converted once and kept, or a folder or Hub id in the format of this package.
        repositories (`str` or `os.PathLike`, *optional*): a folder of converted repositories, as `modeling-lavis
            convert --all` writes it, or the name of an organization on the Hub that has them. Defaults to the
            environment variable `MODELING_LAVIS_REPOSITORIES`. If neither is given, the published checkpoint is
            downloaded and converted on first use, and kept below `HF_HOME`.
        dtype (`str` or `torch.dtype`, *optional*): dtype of the weights. Defaults to float32 on the CPU, as in LAVIS,
            and to the stored dtypes on other devices.
        kwargs: further options of `from_pretrained`. With `device_map`, `device` is not used.

    Returns:
        `PreTrainedModel`: A model of this package, of the class that the README's table lists for the architecture.
        `AutoProcessor.from_pretrained(model.name_or_path)` gives its processor.

    Raises:
        ValueError: If there is no such architecture or model type, or the checkpoint is of another one.
        OSError: If a file cannot be found, read or downloaded.
    """
    from modeling_lavis.hub.repositories import repository_of

    repository = repository_of(_entry(name, model_type), checkpoint, repositories)
    return _load(repository, name, is_eval, device, dtype, kwargs)


def load_model_and_preprocess(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: "str | torch.device" = "cpu",
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    repositories: str | os.PathLike[str] | None = None,
    dtype: "str | torch.dtype | None" = None,
    **kwargs: Any,
) -> tuple[Any, dict[str, Transform], dict[str, Transform]]:
    """
    Load a published model by its names in LAVIS, and its transforms of images (or videos) and texts.

    Args:
        name (`str`): see [`load_model`].
        model_type (`str`): see [`load_model`].
        is_eval (`bool`, *optional*, defaults to `False`): see [`load_model`].
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): see [`load_model`].
        checkpoint (`str` or `os.PathLike`, *optional*): see [`load_model`].
        repositories (`str` or `os.PathLike`, *optional*): see [`load_model`].
        dtype (`str` or `torch.dtype`, *optional*): see [`load_model`].
        kwargs: see [`load_model`].

    Returns:
        `tuple`: The model, the transforms of images or videos, and those of texts. Transforms are dictionaries with the
        keys `"train"` and `"eval"`. Those of an image return float32 of shape `(3, S, S)`, those of a video `(F, 3, S,
        S)`, which is the layout of the model (LAVIS has the channels first); those of a text return a cleaned string.
        A transform that LAVIS does not define for a model type returns its argument, as there.

    Raises:
        ValueError: See [`load_model`].
        OSError: See [`load_model`].
    """
    from transformers import AutoProcessor

    model = load_model(name, model_type, is_eval, device, checkpoint, repositories=repositories, dtype=dtype, **kwargs)
    processor = AutoProcessor.from_pretrained(model.name_or_path)
    return model, _visual_transforms(name, model_type, processor, model.config), _text_transforms(name, model_type)


def _entry(name: str, model_type: str) -> Any:
    from modeling_lavis.hub import zoo

    zoo.model_class_of(name)  # raises an error with all architectures for an unknown one
    return zoo.get(name, model_type)


def _load(repository: str, name: str, is_eval: bool, device: Any, dtype: Any, kwargs: dict[str, Any]) -> Any:
    import torch

    import modeling_lavis
    from modeling_lavis.hub.zoo import model_class_of

    on_cpu = "device_map" not in kwargs and torch.device(device).type == "cpu"
    model_class = getattr(modeling_lavis, model_class_of(name))
    chosen = (torch.float32 if on_cpu else "auto") if dtype is None else dtype
    model = model_class.from_pretrained(repository, dtype=chosen, **kwargs)
    if "device_map" not in kwargs:
        model = model.to(device)
    return model.train(not is_eval)


def _visual_transforms(name: str, model_type: str, processor: Any, config: Any) -> dict[str, Transform]:
    from modeling_lavis.data.transforms import blip_image_train
    from modeling_lavis.data.video_transforms import alpro_video_train

    side = config.vision_config.image_size
    if name.startswith("alpro_"):
        evaluate: Transform = _VideoTransform(processor.video_processor)
        train: Transform = alpro_video_train(side, config.vision_config.num_frames)
        if (name, model_type) not in _TRAINED_ON_VIDEOS:
            train = _unchanged
        return {"train": train, "eval": evaluate}
    evaluate = _unchanged if name in _NO_EVALUATION else _ImageTransform(processor.image_processor)
    # parity: LAVIS's model types of BLIP-2 name this transform as well; its recipes train with `blip2_image_train`
    train = _unchanged if name in _NO_TRAINING else blip_image_train(_TRAINING_SIZES.get(name, side))
    return {"train": train, "eval": evaluate}


def _text_transforms(name: str, model_type: str) -> dict[str, Transform]:
    from modeling_lavis.models.tokenization_lavis import clean_caption, clean_question

    clean: Transform = clean_question if name in _QUESTIONS else clean_caption
    train, evaluate = clean, clean
    if name == "blip_caption":
        train = _PromptedCaption("a picture of ")
    if name in _NO_TRAINING or (name == "alpro_retrieval" and (name, model_type) not in _TRAINED_ON_VIDEOS):
        train = _unchanged
    if name in _NO_EVALUATION:
        evaluate = _unchanged
    return {"train": train, "eval": evaluate}


def _unchanged(item: Any) -> Any:
    """The transform of what LAVIS defines none for."""
    return item


class _ImageTransform:
    """From an image to float32 of shape `(3, S, S)`, by an image processor."""

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor

    def __call__(self, image: Any) -> Any:
        return self.image_processor([image], return_tensors="pt")["pixel_values"][0]


class _VideoTransform:
    """From a video to float32 of shape `(F, 3, S, S)`, by a video processor."""

    def __init__(self, video_processor: Any) -> None:
        self.video_processor = video_processor

    def __call__(self, video: Any) -> Any:
        return self.video_processor([video], return_tensors="pt")["pixel_values_videos"][0]


class _PromptedCaption:
    """From a caption to a cleaned one with a prompt before it."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    def __call__(self, caption: str) -> str:
        from modeling_lavis.models.tokenization_lavis import clean_caption

        return clean_caption(caption, prompt=self.prompt)


__all__ = ["load_model", "load_model_and_preprocess"]
