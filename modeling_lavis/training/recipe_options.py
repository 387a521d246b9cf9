# SPDX-License-Identifier: Apache-2.0
"""The sections of a training recipe, with the checks of each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Schedule = Literal["cosine", "step", "constant"]
Precision = Literal["float32", "float16", "bfloat16"]
TransformName = Literal["blip_image_train", "blip2_image_train", "timm_image_train", "alpro_video_train"]

#: Heads by task; the tasks are those of data, training and evaluation.
HEADS_OF_TASKS: dict[str, tuple[str, ...]] = {
    "captioning": (
        "LavisBlipForConditionalGeneration",
        "LavisBlipForPreTraining",
        "LavisBlip2ForConditionalGeneration",
    ),
    "retrieval": (
        "AlbefForImageTextRetrieval",
        "LavisBlipForImageTextRetrieval",
        "LavisBlipForPreTraining",
        "LavisBlip2ForImageTextRetrieval",
        "LavisBlip2ForPreTraining",
    ),
    "vqa": ("AlbefForQuestionAnswering", "LavisBlipForQuestionAnswering", "LavisBlip2ForConditionalGeneration"),
    "nlvr": ("AlbefForImagesAndTextClassification", "LavisBlipForImagesAndTextClassification"),
    "classification": ("AlbefForImageAndTextClassification", "LavisBlipForImageAndTextClassification"),
    "video-qa": ("AlproForVideoQuestionAnswering",),
    "video-retrieval": ("AlproForVideoTextRetrieval",),
    "pretraining": ("AlbefForPreTraining", "LavisBlipForPreTraining", "LavisBlip2ForPreTraining"),
    "generative-pretraining": ("LavisBlip2ForConditionalGeneration",),
}
VIDEO_TASKS = ("video-qa", "video-retrieval")
#: Heads with momentum distillation, whose weight is ramped up.
DISTILLED_HEADS = (
    "AlbefForImageTextRetrieval",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefForImageAndTextClassification",
    "AlbefForImagesAndTextClassification",
    "LavisBlipForImageTextRetrieval",
    "LavisBlipForPreTraining",
    "LavisBlipForImageAndTextClassification",
)


def require_that(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raise `ValueError` that names a field, its value and what was expected."""
    if not condition:
        raise ValueError(f"{name} is {value!r:.80}; expected {expected}.")


def _positive(name: str, value: float | None, optional: bool = False) -> None:
    is_right = value is None if optional and value is None else value is not None and 0 < value < math.inf
    require_that(is_right, name, value, "a number above 0" + (", or null" if optional else ""))


@dataclass(frozen=True)
class StartOptions:
    """
    What a recipe starts from if the user names no model.

    Args:
        model (`str`, *optional*): checkpoint: the URL or path of a LAVIS checkpoint, a folder, or a Hub id.
        architecture (`str`, *optional*): architecture of LAVIS to convert a LAVIS checkpoint to.
        vision (`str`, *optional*): image encoder of a new model: a name of timm, a folder of one of our models, or
            `"embedded"` for the small one that is part of the package.
        text (`str`, *optional*): text encoder and tokenizer of a new model: Hub id or folder of a BERT, or
            `"embedded"`.
        language_model (`str`, *optional*): language model of BLIP-2's second stage: Hub id or folder.
        vocabulary_size (`int`, *optional*): size of a vocabulary that is made from the texts of the training data, for
            a new model without pretrained text encoder.
        smooth_positions (`bool`, *optional*, defaults to `False`): whether positions and times of a new image or video
            encoder start from vectors of which neighbours are alike, see `smooth_positions`.
    """

    model: str | None = None
    architecture: str | None = None
    vision: str | None = None
    text: str | None = None
    language_model: str | None = None
    vocabulary_size: int | None = None
    smooth_positions: bool = False

    def __post_init__(self) -> None:
        _positive("start.vocabulary_size", self.vocabulary_size, optional=True)
        parts = self.vision is not None or self.text is not None or self.vocabulary_size is not None
        require_that(not (self.model and parts), "start.model", self.model, "null beside parts of a new model")
        require_that(
            self.text is None or self.vocabulary_size is None,
            "start.vocabulary_size",
            self.vocabulary_size,
            "null beside start.text, whose tokenizer has a vocabulary",
        )

        require_that(
            not self.smooth_positions or (self.is_new_model and self.vision is None),
            "start.smooth_positions",
            self.smooth_positions,
            "false but for a new image encoder",
        )

    @property
    def is_new_model(self) -> bool:
        """Whether a new model is put together from parts."""
        return self.model is None and (
            self.vision is not None or self.text is not None or self.vocabulary_size is not None
        )


@dataclass(frozen=True)
class ModelOptions:
    """
    How the model is built.

    Args:
        image_size (`int`): side length of images or frames in pixels; position embeddings of another size are
            interpolated.
        config (`Mapping[str, Any]`, *optional*, defaults to `{}`): fields of the configuration, for instance
            `queue_size`; those of parts in `vision_config` and `text_config`.
        num_frames (`int`, *optional*): frames of a clip; only for videos.
        frozen (`tuple[str, ...]`, *optional*, defaults to `()`): top-level modules that are not trained.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`): recompute layers in the backward pass.
        distillation_ramp_epochs (`float`, *optional*): epochs over which the weight of the soft targets grows to
            `alpha`; only for heads with momentum distillation.
        lora (`Mapping[str, Any]`, *optional*): arguments of peft's `LoraConfig`; without `target_modules`, those of
            `lora_target_modules`.
    """

    image_size: int
    config: Mapping[str, Any] = field(default_factory=dict)
    num_frames: int | None = None
    frozen: tuple[str, ...] = ()
    gradient_checkpointing: bool = False
    distillation_ramp_epochs: float | None = None
    lora: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _positive("model.image_size", self.image_size)
        _positive("model.num_frames", self.num_frames, optional=True)
        _positive("model.distillation_ramp_epochs", self.distillation_ramp_epochs, optional=True)


@dataclass(frozen=True)
class DataOptions:
    """
    How rows become batches.

    Args:
        datasets (`tuple[str, ...]`, *optional*, defaults to `()`): data sets of the published run.
        transform (`str`, *optional*): training transform of images or videos, a function of `modeling_lavis.data`; by
            default the evaluation transform of the processor.
        transform_options (`Mapping[str, Any]`, *optional*, defaults to `{}`): its options, apart from the size.
        processor (`Mapping[str, Any]`, *optional*, defaults to `{}`): options of the processor, for instance `prompt`,
            `max_text_length`, `cleaning`, `background`; saved with it.
        collator (`Mapping[str, Any]`, *optional*, defaults to `{}`): options of the task's collator in training.
        row_changes (`Mapping[str, Any]`, *optional*, defaults to `{}`): options of
            [`~modeling_lavis.data.row_changes.RowChanges`]: mirrored images and other colors, with the words of texts.
        num_labels (`int`, *optional*): number of classes of the published run. The labels are those of the training
            data; of answers to questions about videos, the most frequent ones, and others give no loss.
    """

    datasets: tuple[str, ...] = ()
    transform: TransformName | None = None
    transform_options: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    collator: Mapping[str, Any] = field(default_factory=dict)
    row_changes: Mapping[str, Any] = field(default_factory=dict)
    num_labels: int | None = None

    def __post_init__(self) -> None:
        _positive("data.num_labels", self.num_labels, optional=True)
        require_that(
            self.transform is not None or not self.transform_options,
            "data.transform_options",
            dict(self.transform_options),
            "{} without data.transform",
        )


@dataclass(frozen=True)
class OptimizerOptions:
    """
    AdamW and its learning rate, constant within an epoch as in LAVIS but for the warm-up of the first.

    Args:
        learning_rate (`float`): highest learning rate.
        schedule (`str`): `"cosine"`, `"step"` (times `decay_rate` per epoch) or `"constant"`.
        min_learning_rate (`float`, *optional*, defaults to 0.0): lowest learning rate.
        warmup_steps (`int`, *optional*, defaults to 0): steps of the linear warm-up, at most those of the first epoch.
        warmup_learning_rate (`float`, *optional*): where the warm-up starts.
        decay_rate (`float`, *optional*): factor per epoch of `"step"`.
        weight_decay (`float`, *optional*, defaults to 0.05): weight decay, without biases and norms.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`): averages of AdamW.
        layer_decay (`float`, *optional*): factor per layer of the image encoder's learning rate, counted from its end.
        max_grad_norm (`float`, *optional*, defaults to 0.0): largest norm of the gradient; 0 does not clip.
    """

    learning_rate: float
    schedule: Schedule
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    warmup_learning_rate: float | None = None
    decay_rate: float | None = None
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = None
    max_grad_norm: float = 0.0

    def __post_init__(self) -> None:
        _positive("optimizer.learning_rate", self.learning_rate)
        low = self.min_learning_rate
        require_that(
            0 <= low <= self.learning_rate, "optimizer.min_learning_rate", low, "a number from 0 to learning_rate"
        )
        require_that(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "an integer from 0")
        start = self.warmup_learning_rate
        require_that(
            (start is None) == (self.warmup_steps == 0) and (start is None or 0 <= start <= self.learning_rate),
            "optimizer.warmup_learning_rate",
            start,
            "a number from 0 to learning_rate with warmup_steps, and null without",
        )
        rate = self.decay_rate
        require_that(
            (rate is not None and 0 < rate <= 1) if self.schedule == "step" else rate is None,
            "optimizer.decay_rate",
            rate,
            "a number above 0 and up to 1 with the schedule 'step', and null with others",
        )
        require_that(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, "a number from 0")
        require_that(
            all(0 <= beta < 1 for beta in self.betas), "optimizer.betas", self.betas, "two numbers from 0 and below 1"
        )
        decay = self.layer_decay
        require_that(
            decay is None or 0 < decay <= 1, "optimizer.layer_decay", decay, "a number above 0 and up to 1, or null"
        )
        require_that(
            0 <= self.max_grad_norm < math.inf, "optimizer.max_grad_norm", self.max_grad_norm, "a number from 0"
        )


@dataclass(frozen=True)
class RunOptions:
    """
    Length, batch sizes and precision.

    Args:
        train_batch_size (`int`): rows per device and step.
        eval_batch_size (`int`): rows per device in evaluation.
        num_devices (`int`, *optional*, defaults to 1): devices of the published run.
        epochs (`float`, *optional*): passes over the training data.
        steps (`int`, *optional*): steps of the optimizer, instead of `epochs`.
        steps_per_epoch (`int`, *optional*): with `steps`, how many of them the schedule counts as an epoch.
        precision (`str`, *optional*, defaults to `"float32"`): `"float16"` or `"bfloat16"` for automatic mixed
            precision on an accelerator.
        seed (`int`, *optional*, defaults to 42): seed of new weights, order and augmentation.
    """

    train_batch_size: int
    eval_batch_size: int
    num_devices: int = 1
    epochs: float | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    precision: Precision = "float32"
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "eval_batch_size", "num_devices"):
            _positive(f"run.{name}", getattr(self, name))
        for name in ("epochs", "steps", "steps_per_epoch"):
            _positive(f"run.{name}", getattr(self, name), optional=True)
        require_that(
            (self.epochs is None) != (self.steps is None), "run.epochs", self.epochs, "a number, or null with run.steps"
        )
        require_that(
            (self.steps_per_epoch is None) == (self.steps is None),
            "run.steps_per_epoch",
            self.steps_per_epoch,
            "an integer with run.steps, and null without",
        )


@dataclass(frozen=True)
class EvaluationOptions:
    """
    Evaluation after every epoch.

    Args:
        metric (`tuple[str, ...]`, *optional*, defaults to `()`): metrics whose sum selects the best model; none for
            runs that keep the last one.
        split (`str`, *optional*): split of the published run.
        options (`Mapping[str, Any]`, *optional*, defaults to `{}`): arguments of the task's evaluation, for instance
            `k` candidates to re-rank, or `generation_options`.
        ranks_answers (`bool`, *optional*, defaults to `False`): for questions, rank a closed list of answers, by
            default those of the training data, instead of generating them.
        keeps_last (`bool`, *optional*, defaults to `False`): evaluate, but keep the last model and not the best, where
            differences between epochs are chance.
    """

    metric: tuple[str, ...] = ()
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ranks_answers: bool = False
    keeps_last: bool = False

    def __post_init__(self) -> None:
        require_that(bool(self.metric) or not self.keeps_last, "evaluation.keeps_last", True, "false without metric")
        require_that(
            bool(self.metric) or not self.options, "evaluation.options", dict(self.options), "{} without metric"
        )


__all__ = [
    "DISTILLED_HEADS",
    "HEADS_OF_TASKS",
    "VIDEO_TASKS",
    "DataOptions",
    "EvaluationOptions",
    "ModelOptions",
    "OptimizerOptions",
    "RunOptions",
    "StartOptions",
    "require_that",
]
