# SPDX-License-Identifier: Apache-2.0
"""Classifying a text together with one image or with two, with or without momentum distillation.

Letters: B rows, N image tokens, T text tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.utils import can_return_tuple

from .contrastive import soft_cross_entropy
from .generation import with_first_token
from .heads import classification_head
from .image_text_base import ImageTextPreTrainedModel, build_encoders
from .modeling_base import HUB_OPTIONS, check_labels, image_and_text
from .momentum import update_twins
from .momentum_contrast import MomentumContrastMixin
from .outputs import LavisClassificationOutput


class ClassificationMixin(MomentumContrastMixin, ImageTextPreTrainedModel):
    """Towers, head and forward pass of classifiers over one image and a text (ALBEF, section 4, visual entailment)."""

    #: whether momentum twins give soft targets
    distils: bool = False
    #: whether the twin of the text encoder reads the images of the twin tower, or the text encoder itself does
    twin_reads: bool = True

    def build_classifier(self, config: PreTrainedConfig, distils: bool) -> None:
        """Give the head its towers and classification head, and their momentum twins."""
        self.num_labels = config.num_labels
        self.distils = distils
        build_encoders(self, config, distils)
        for suffix in ("", "_m") if distils else ("",):
            setattr(self, f"cls_head{suffix}", classification_head(config.text_config.hidden_size, config.num_labels))

    def check_pixels(self, pixel_values: Tensor) -> None:
        """Raise `ValueError` when images do not have the shape that this head takes."""

    def encode_inputs(self, tower: Any, pixel_values: Tensor, interpolate_pos_encoding: bool) -> Tensor:
        """Image states as they are returned: (B, N, D)."""
        return tower(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding).last_hidden_state

    def states_to_read(self, image_embeds: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What the text encoder attends to."""
        return image_embeds

    @property
    def first_token_id(self) -> int | None:
        """What slot 0 of a text is set to."""
        return self.config.cls_token_id

    def _read(
        self,
        suffix: str,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        interpolate: bool,
        **kwargs: Any,
    ) -> tuple[Tensor, Any, Tensor]:
        """Image states, output of the text encoder and logits of the online modules or, with `"_m"`, the twins."""
        reader = self.text_encoder_m if suffix and self.twin_reads else self.text_encoder
        image_embeds = self.encode_inputs(getattr(self, f"vision_model{suffix}"), pixel_values, interpolate)
        states = self.states_to_read(image_embeds)
        output = reader(input_ids, attention_mask, encoder_hidden_states=states, **kwargs)
        return image_embeds, output, getattr(self, f"cls_head{suffix}")(output.last_hidden_state[:, 0])

    @can_return_tuple
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
            pixel_values (`Tensor` of shape `(B, channels, height, width)`, or `(B, 2, channels, height, width)` for
                pairs of images): images.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts; slot 0 is set to what the head needs.
            labels (`Tensor` of shape `(B,)`, *optional*): classes.
            alpha (`float`, *optional*): weight of the twins' soft targets; `distill_alpha`, then the configuration's.
            update_state (`bool`, *optional*): whether the twins move; only while training by default.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return what the twins gave.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisClassificationOutput`].
        """
        pixel_values, input_ids = image_and_text(pixel_values, input_ids)
        self.check_pixels(pixel_values)
        if labels is not None and labels.shape != input_ids.shape[:1]:
            raise ValueError(
                f"Got labels of shape {tuple(labels.shape)} for {input_ids.shape[0]} texts; give one class for each."
            )
        if labels is not None:
            labels = check_labels(labels, self.config.num_labels)
        input_ids = with_first_token(input_ids, self.first_token_id)
        image_embeds, output, logits = self._read(
            "", pixel_values, input_ids, attention_mask, interpolate_pos_encoding, **kwargs
        )
        loss, intermediates = None, None
        if labels is not None:
            loss = F.cross_entropy(logits.float(), labels)
            if self.distils:
                if self.training if update_state is None else update_state:
                    update_twins(self.momentum_pairs, self.config.momentum)
                with torch.no_grad():
                    image_m, output_m, logits_m = self._read(
                        "_m", pixel_values, input_ids, attention_mask, interpolate_pos_encoding
                    )
                weight = self.soft_target_weight(alpha)
                soft = soft_cross_entropy(logits.float(), logits_m.float().softmax(dim=-1))
                loss = (1 - weight) * loss + weight * soft
                if output_intermediates:
                    intermediates = {
                        "image_embeds_m": image_m,
                        "multimodal_embeds_m": output_m.last_hidden_state,
                        "logits_m": logits_m,
                    }
        return LavisClassificationOutput(
            loss=loss,
            logits=logits,
            image_embeds=image_embeds,
            multimodal_embeds=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.cross_attentions,
            intermediates=intermediates,
        )


class ImagePairClassificationMixin(ClassificationMixin):
    """The same for a text about two images, as in NLVR2."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """
        As transformers' `from_pretrained`, from repositories of models for two images.

        Raises:
            ValueError: the repository is one of a model for one image. Its layers would have to be doubled, which is
                left to conversion: loaded by name, the parts that read images would start anew or not belong together.
        """
        if pretrained_model_name_or_path is not None:
            source = config
            if not isinstance(source, PreTrainedConfig):
                options = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
                source = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **options)
            text, made_for = source.text_config, source.architectures or [cls.__name__]
            if cls.__name__ not in made_for and text.num_image_streams != 2 and not text.pair_image_layers:
                raise ValueError(
                    f"{pretrained_model_name_or_path} is a model for one image ({made_for[0]}), and {cls.__name__} "
                    "reads two. "
                    "Make a start for it from the original's checkpoint, by `modeling-lavis convert`, which doubles "
                    "the layers that read images as the original does; or give a repository of this class."
                )
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    def check_pixels(self, pixel_values: Tensor) -> None:
        """Raise `ValueError` for anything but pairs."""
        if pixel_values.ndim != 5 or pixel_values.shape[1] != 2:
            raise ValueError(
                f"Got pixel_values of shape {tuple(pixel_values.shape)}, expected (batch, 2, channels, height, width): "
                "two images for each text. The processor pairs pictures that are given as a list of pairs."
            )

    def encode_inputs(self, tower: Any, pixel_values: Tensor, interpolate_pos_encoding: bool) -> Tensor:
        """States of the pairs: (B, 2, N, D)."""
        # One pass for all first and all second images, in the original's order.
        images = super().encode_inputs(tower, pixel_values.transpose(0, 1).flatten(0, 1), interpolate_pos_encoding)
        return torch.stack(images.chunk(2), dim=1)

    def states_to_read(self, image_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """First and second images, (B, N, D) each."""
        first, second = image_embeds.unbind(dim=1)
        return first, second


__all__ = ["ClassificationMixin", "ImagePairClassificationMixin"]
