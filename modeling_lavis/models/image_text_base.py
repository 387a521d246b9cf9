# SPDX-License-Identifier: Apache-2.0
"""What the heads over an image tower and a text encoder have in common.

Letters: B rows, N image tokens, T text tokens, D width, P width of the common space.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .generation import with_first_token
from .heads import project
from .modeling_base import LavisPreTrainedModel
from .text_bert import BertLMPredictionHead, LavisBertModel
from .vision_vit import LavisViTModel


class ImageTextPreTrainedModel(LavisPreTrainedModel):
    """
    Initialisation, towers and features of all heads with an image tower and a text encoder.

    The configuration has `vision_config`, `text_config`, `projection_dim` and the ids of the special tokens; with
    `enc_token_id=None` slot 0 of a text that reads an image is left as it comes.
    """

    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _no_split_modules = ["ViTBlock", "BertLayer", "BertEmbeddings"]
    # The temperature divides cosines and the queues hold history: both stay exact in half precision.
    _keep_in_fp32_modules_strict = ["temp", "image_queue", "text_queue"]
    _keys_to_ignore_on_load_unexpected = [r"position_ids"]
    #: class of the tower that sees
    vision_class: type[LavisPreTrainedModel] = LavisViTModel

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)
            if isinstance(module, BertLMPredictionHead):
                init.zeros_(module.bias)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The image tower, or the text encoder for `modality="text"`."""
        return self.text_encoder if modality == "text" and hasattr(self, "text_encoder") else self.vision_model

    def get_input_embeddings(self) -> nn.Embedding:
        """Word embeddings of the text encoder or, where there is none, of the decoder."""
        module = self.text_encoder if hasattr(self, "text_encoder") else self.text_decoder
        return module.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        module = self.text_encoder if hasattr(self, "text_encoder") else self.text_decoder
        module.set_input_embeddings(value)

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Tensor:
        """States of the image tower: (B, C, H, W) to (B, N, D)."""
        return self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
        ).last_hidden_state

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """States of the texts alone, with `[CLS]` in slot 0: (B, T) to (B, T, D)."""
        input_ids = with_first_token(input_ids, self.config.cls_token_id)
        return self.text_encoder(input_ids, attention_mask, mode="text").last_hidden_state

    @property
    def fuses_text_states(self) -> bool:
        """Whether the layers that read images start from the states of the texts alone (a `fusion_layer` is set)."""
        return self.config.text_config.fusion_layer is not None

    def read_images(
        self,
        image_embeds: Tensor | tuple[Tensor, Tensor],
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Let texts read images.

        Args:
            image_embeds (`Tensor` of shape `(images, N, D)`, or a pair of them): states of the image tower.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): texts; `[ENC]` is put in slot 0 if the family has it.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens.
            text_embeds (`Tensor` of shape `(B, T, D)`, *optional*): what [`encode_texts`] has made of the texts; where
                `fuses_text_states` is true they save the layers of the text encoder, else they are not looked at.
            kwargs: other options of [`LavisBertModel`].
        """
        if text_embeds is not None and self.fuses_text_states:
            texts: dict[str, Any] = {"text_embeds": text_embeds, "mode": "fusion"}
        elif input_ids is None:
            raise ValueError("Texts are needed as input_ids; this model cannot start from states of texts alone.")
        else:
            texts = {"input_ids": with_first_token(input_ids, self.config.enc_token_id)}
        return self.text_encoder(**texts, attention_mask=attention_mask, encoder_hidden_states=image_embeds, **kwargs)


class FeaturesMixin(ImageTextPreTrainedModel):
    """Features of single images and texts, for heads with both projections."""

    @torch.no_grad()
    def get_image_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(batch_size, channels, height, width)`): images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.

        Returns:
            `Tensor` of shape `(batch_size, projection_dim)`: projected and normalised features.
        """
        return self.project_images(self.encode_images(pixel_values, interpolate_pos_encoding))

    def project_images(self, image_embeds: Tensor) -> Tensor:
        """Projected and normalised features (B, P) of image states (B, N, D) that [`encode_images`] has made."""
        return project(image_embeds[:, 0], self.vision_proj)

    @torch.no_grad()
    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        r"""
        Args:
            input_ids (`Tensor` of shape `(batch_size, sequence_length)`): texts.
            attention_mask (`Tensor` of shape `(batch_size, sequence_length)`, *optional*): 1 for tokens.

        Returns:
            `Tensor` of shape `(batch_size, projection_dim)`: projected and normalised features.
        """
        return self.project_texts(self.encode_texts(input_ids, attention_mask))

    @staticmethod
    def compare_features(image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine (I, S) of the features (I, P) of images and (S, P) of texts."""
        return image_features @ text_features.T

    def project_texts(self, text_embeds: Tensor) -> Tensor:
        """Projected and normalised features (B, P) of text states (B, T, D) that [`encode_texts`] has made."""
        return project(text_embeds[:, 0], self.text_proj)


def build_encoders(model: ImageTextPreTrainedModel, config: PreTrainedConfig, twins: bool) -> None:
    """Give a head its image tower and text encoder, and their momentum twins."""
    for suffix in ("", "_m") if twins else ("",):
        setattr(model, f"vision_model{suffix}", model.vision_class._from_config(config.vision_config))
        setattr(model, f"text_encoder{suffix}", LavisBertModel._from_config(config.text_config))


def build_projections(model: nn.Module, config: PreTrainedConfig, twins: bool) -> None:
    """Give a head its maps into the common space, and their momentum twins."""
    for suffix in ("", "_m") if twins else ("",):
        image = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
        setattr(model, f"vision_proj{suffix}", image)
        setattr(model, f"text_proj{suffix}", nn.Linear(config.text_config.hidden_size, config.projection_dim))


__all__ = [
    "FeaturesMixin",
    "ImageTextPreTrainedModel",
    "build_encoders",
    "build_projections",
]
