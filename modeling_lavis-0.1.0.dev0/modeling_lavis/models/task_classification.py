# SPDX-License-Identifier: Apache-2.0
"""Classification of a text together with one image (visual entailment) or two (NLVR2), with momentum distillation.

Shapes: B batch size, N image tokens, T text tokens, D hidden size.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from .forward_options import head_forward
from .losses import at_least_float32, soft_cross_entropy
from .modeling_base import (
    check_labels,
    classification_head,
    mask_padding,
    require_image_and_text,
    set_first_token,
)
from .momentum import schedule_update
from .outputs import LavisClassificationOutput, recorded_fields, vision_fields
from .task_base import ImageTextModel

if TYPE_CHECKING:

    class _ClassificationModel(ImageTextModel, Protocol):
        """What the mixin needs from the head and its other bases."""

        num_labels: int
        vision_model: nn.Module
        text_encoder: nn.Module
        cls_head: nn.Module

        def momentum_autocast(self) -> AbstractContextManager[Any]: ...
        def soft_target_weight(self, alpha: float | None) -> float: ...
else:
    _ClassificationModel = object


class ClassificationMixin(_ClassificationModel):
    """Encoders, classification head and forward pass of classifiers of a text with one or two images."""

    #: images per text
    num_images = 1
    #: whether soft targets come from the momentum text encoder, or from the text encoder on the momentum image encoder
    use_momentum_text_encoder = True

    def build_classifier(self, config: PreTrainedConfig, momentum: bool) -> None:
        """Create the encoders and the classification head and, with `momentum`, their momentum copies."""
        self.num_labels = config.num_labels
        self.build_encoders(config, momentum)
        for suffix in ("", "_m") if momentum else ("",):
            setattr(self, f"cls_head{suffix}", classification_head(config.text_config.hidden_size, config.num_labels))

    @classmethod
    def adapt_config(cls, config: Any, source: Any, saved: str, allow_new_weights: bool) -> Any:
        """
        The configuration for the checkpoint of another head.

        Raises:
            ValueError: a head for two images is loaded from a repository of a head for one image, whose cross-attention
                has to be doubled, and no start for training is asked for.
        """
        text = config.text_config
        if cls.num_images == 1 or text.num_image_streams == 2 or text.pair_image_layers:
            return config
        if not allow_new_weights:
            raise ValueError(
                f"{source} is a model for one image ({saved}), but {cls.__name__} needs one for two images. Give a "
                "repository of this class, convert the original's checkpoint with `modeling-lavis convert`, or start "
                "training by allow_new_weights=True, which doubles the cross-attention as the original does and "
                "initializes what is missing."
            )
        return cls.double_images(config)

    @classmethod
    def double_images(cls, config: Any) -> Any:
        """The configuration of a text encoder for two images that starts from one for one image."""
        return config

    @property
    def first_token_id(self) -> int | None:
        """The token that replaces the first token of a text."""
        return self.config.cls_token_id

    def _classify(
        self,
        momentum: bool,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        interpolate_pos_encoding: bool,
        **kwargs: Any,
    ) -> tuple[Any, Any, Tensor]:
        """Output of the image encoder, multimodal output and logits, of the online or of the momentum modules."""
        suffix = "_m" if momentum else ""
        vision_model, classifier = getattr(self, f"vision_model{suffix}"), getattr(self, f"cls_head{suffix}")
        text_encoder = getattr(self, f"text_encoder{suffix}") if self.use_momentum_text_encoder else self.text_encoder
        if self.num_images == 2:
            # parity: one pass over all first and all second images, in the original's order
            pixel_values = pixel_values.transpose(0, 1).flatten(0, 1)
        vision = vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        attended: Tensor | tuple[Tensor, Tensor] = vision.last_hidden_state
        if self.num_images == 2:
            first, second = vision.last_hidden_state.chunk(2)
            attended = (first, second)
            vision = _stack_pairs(vision)
        output = text_encoder(input_ids, attention_mask, encoder_hidden_states=attended, **kwargs)
        return vision, output, classifier(output.last_hidden_state[:, 0])

    @head_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        alpha: float | None = None,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisClassificationOutput:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(batch_size, num_channels, height, width)`, or `(batch_size, 2,
                num_channels, height, width)` for two images): Normalized images, as the processor makes them.

        Returns:
            [`LavisClassificationOutput`].
        """
        pixel_values, input_ids = require_image_and_text(pixel_values, input_ids)
        if self.num_images == 2 and (pixel_values.ndim != 5 or pixel_values.shape[1] != 2):
            raise ValueError(
                f"Got pixel_values of shape {tuple(pixel_values.shape)}, expected (batch, 2, channels, height, width): "
                "two images per text. The processor takes images as a list of pairs."
            )
        if labels is not None and labels.shape != input_ids.shape[:1]:
            raise ValueError(
                f"Got labels of shape {tuple(labels.shape)} for {input_ids.shape[0]} texts; pass one class per text."
            )
        if labels is not None:
            labels = check_labels(labels, self.config.num_labels)
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        input_ids = set_first_token(input_ids, self.first_token_id)
        inputs = (pixel_values, input_ids, attention_mask, interpolate_pos_encoding)
        vision, output, logits = self._classify(False, *inputs, **kwargs)
        loss, intermediates = None, None
        if labels is not None:
            loss = F.cross_entropy(at_least_float32(logits), labels)
            if hasattr(self, "vision_model_m"):
                schedule_update(self, update_state)
                with torch.no_grad(), self.momentum_autocast():
                    vision_m, output_m, logits_m = self._classify(True, *inputs)
                weight = self.soft_target_weight(alpha)
                soft = soft_cross_entropy(at_least_float32(logits), at_least_float32(logits_m).softmax(dim=-1))
                loss = (1 - weight) * loss + weight * soft
                if output_intermediates:
                    intermediates = {
                        "image_embeds_m": vision_m.last_hidden_state,
                        "multimodal_embeds_m": output_m.last_hidden_state,
                        "logits_m": logits_m,
                    }
        return LavisClassificationOutput(
            loss=loss,
            logits=logits,
            image_embeds=vision.last_hidden_state,
            multimodal_embeds=output.last_hidden_state,
            intermediates=intermediates,
            **recorded_fields(output),
            **vision_fields(vision),
        )


def _stack_pairs(vision: Any) -> BaseModelOutput:
    """The output of one pass over all first and all second images, with `(B, 2, ...)` instead of `(2 * B, ...)`."""

    def stack(states: Tensor | None) -> Any:
        return None if states is None else torch.stack(states.chunk(2), dim=1)

    return BaseModelOutput(
        last_hidden_state=stack(vision.last_hidden_state),
        hidden_states=None if vision.hidden_states is None else tuple(stack(states) for states in vision.hidden_states),
        attentions=None if vision.attentions is None else tuple(stack(weights) for weights in vision.attentions),
    )


__all__ = ["ClassificationMixin"]
