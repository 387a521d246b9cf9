# SPDX-License-Identifier: Apache-2.0
"""Base of the heads with an image (or video) encoder and a BERT text encoder, and feature extraction.

A head lists a task mixin, a momentum mixin if it has momentum encoders, and its family's base class last. Calls go one
way: head -> task mixin -> momentum mixin -> family base.

Shapes: B text rows, N image tokens, T text tokens, D hidden size, P projection dimension.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPooling

from .forward_options import head_forward
from .modeling_base import (
    LavisPreTrainedModel,
    mask_padding,
    project_features,
    set_first_token,
    temperature_parameter,
)
from .outputs import LavisFeaturesOutput, recorded_fields, vision_fields
from .text_bert import BertLMPredictionHead, LavisBertModel
from .vision_vit import LavisViTModel


class ImageTextModel(Protocol):
    """What task mixins need from the family's base class."""

    config: Any
    training: bool

    @property
    def fuses_text_states(self) -> bool:
        """Whether fusion starts from the hidden states of the text encoder, not from token ids."""

    def image_encoder_outputs(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Output of the image encoder, with `last_hidden_state` `(B, N, D)`."""

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Hidden states `(B, N, D)` of the image encoder."""

    def text_encoder_outputs(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Output of the text encoder, with `last_hidden_state` `(B, T, D)`."""

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states `(B, T, D)` of the text encoder."""

    def project_images(self, image_embeds: Tensor, **kwargs: Any) -> Tensor:
        """Normalized features of image hidden states: `(B, P)`, or `(B, Q, P)` with Q query tokens."""

    def project_texts(self, text_embeds: Tensor) -> Tensor:
        """Normalized features `(B, P)` of text hidden states."""

    def compare_features(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine similarities `(images, texts)`."""

    def fuse(self, *args: Any, **kwargs: Any) -> Any:
        """Output of the multimodal encoder for texts and their images."""

    def build_encoders(self, *args: Any, **kwargs: Any) -> None:
        """Create the encoders."""

    def build_projections(self, *args: Any, **kwargs: Any) -> None:
        """Create the projections into the shared embedding space."""


class ImageTextPreTrainedModel(LavisPreTrainedModel):
    """
    Encoders, projections and initialization of all heads with an image encoder and a BERT text encoder.

    The configuration has `vision_config`, `text_config`, `projection_dim` and the special tokens; with
    `enc_token_id=None` the first token of an image-grounded text is kept.
    """

    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("image", "text")
    # The temperature divides cosine similarities and the queues hold past features: both stay exact in half precision.
    _keep_in_fp32_modules_strict = ["^temp$", "^image_queue$", "^text_queue$"]
    _keys_to_ignore_on_load_unexpected = [r"position_ids"]
    #: class of the vision encoder
    vision_model_class: type[LavisPreTrainedModel] = LavisViTModel

    def build_encoders(self, config: PreTrainedConfig, momentum: bool) -> None:
        """Create the vision and text encoders and, with `momentum`, their momentum encoders."""
        for suffix in ("", "_m") if momentum else ("",):
            setattr(self, f"vision_model{suffix}", self.vision_model_class._from_config(config.vision_config))
            setattr(self, f"text_encoder{suffix}", LavisBertModel._from_config(config.text_config))

    def build_projections(self, config: PreTrainedConfig, momentum: bool) -> None:
        """Create the projections into the shared embedding space, their momentum copies, and the temperature."""
        for suffix in ("", "_m") if momentum else ("",):
            image = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
            setattr(self, f"vision_proj{suffix}", image)
            setattr(self, f"text_proj{suffix}", nn.Linear(config.text_config.hidden_size, config.projection_dim))

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
        if module is self and hasattr(self, "temp"):
            init.constant_(self.temp, self.config.logit_temperature)
        if module is self:
            for name, source in self.copied_weights().items():
                init.copy_(self.get_parameter(name), self.get_parameter(source))

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The vision encoder, or the text encoder with `modality="text"`."""
        return self.text_encoder if modality == "text" and hasattr(self, "text_encoder") else self.vision_model

    def get_input_embeddings(self) -> nn.Embedding:
        """Word embeddings of the text encoder, or of the decoder if there is no text encoder."""
        module = self.text_encoder if hasattr(self, "text_encoder") else self.text_decoder
        return module.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        module = self.text_encoder if hasattr(self, "text_encoder") else self.text_decoder
        module.set_input_embeddings(value)

    def image_encoder_outputs(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Output of the vision encoder for `(B, C, H, W)`, with what `kwargs` ask to record."""
        return self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Hidden states of the vision encoder: `(B, C, H, W)` to `(B, N, D)`."""
        return self.image_encoder_outputs(pixel_values, interpolate_pos_encoding).last_hidden_state

    def text_encoder_outputs(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Output of the text encoder for texts `(B, T)`, whose first token becomes `[CLS]`, without images."""
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        input_ids = set_first_token(input_ids, self.config.cls_token_id)
        return self.text_encoder(input_ids, attention_mask, mode="text", **kwargs)

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states of the text encoder, with `[CLS]` as first token: `(B, T)` to `(B, T, D)`."""
        return self.text_encoder_outputs(input_ids, attention_mask).last_hidden_state

    def project_images(self, image_embeds: Tensor, **kwargs: Any) -> Tensor:
        """Normalized features `(B, P)` of image hidden states `(B, N, D)`, as returned by [`encode_images`]."""
        return project_features(image_embeds[:, 0], self.vision_proj)

    def project_texts(self, text_embeds: Tensor) -> Tensor:
        """Normalized features `(B, P)` of text hidden states `(B, T, D)`, as returned by [`encode_texts`]."""
        return project_features(text_embeds[:, 0], self.text_proj)

    def encode_for_itc(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Text hidden states, image features, and the text encoder's output, which records what `kwargs` ask for."""
        text = self.text_encoder_outputs(input_ids, attention_mask, **kwargs)
        return text.last_hidden_state, self.project_images(image_embeds), text

    @staticmethod
    def compare_features(image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine similarities `(images, texts)` of image features `(images, P)` and text features `(texts, P)`."""
        return image_features @ text_features.T

    @property
    def fuses_text_states(self) -> bool:
        """Whether fusion starts from the hidden states of the text encoder (the model has a `fusion_layer`)."""
        return self.config.text_config.fusion_layer is not None

    def fuse(
        self,
        image_embeds: Tensor | tuple[Tensor, Tensor],
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        text_index: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Encode texts that cross-attend to images.

        Args:
            image_embeds (`Tensor` of shape `(images, N, D)`, or a pair of them): hidden states of the images.
            input_ids (`Tensor` of shape `(B, T)`, *optional*): token ids; the first is replaced by `[ENC]` in families
                that have it.
            attention_mask (`Tensor` of shape `(B, T)`, *optional*): 1 for tokens, 0 for padding; by default 0 for pad
                tokens of `input_ids`.
            text_embeds (`Tensor` of shape `(B, T, D)`, *optional*): hidden states from [`encode_texts`], from which the
                fusion layers start if `fuses_text_states`; ignored otherwise.
            text_index (`Tensor` of shape `(R,)`, *optional*): text of each row, for texts paired with several images.
            kwargs: further arguments of [`LavisBertModel`], such as `encoder_index` and `first_token_only`.
        """
        if input_ids is not None:
            attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        if text_embeds is not None and self.fuses_text_states:
            texts: dict[str, Any] = {"text_embeds": text_embeds, "mode": "fusion"}
        elif input_ids is None:
            raise ValueError("Texts are needed as input_ids; this model cannot start from text hidden states.")
        else:
            texts = {"input_ids": set_first_token(input_ids, self.config.enc_token_id)}
        texts["attention_mask"] = attention_mask
        if text_index is not None:
            texts = {name: rows[text_index] if isinstance(rows, Tensor) else rows for name, rows in texts.items()}
        return self.text_encoder(**texts, encoder_hidden_states=image_embeds, **kwargs)


# ---- features of single images and texts; assigned to the classes of all families that have projections ----


@head_forward
def get_image_features(
    self: ImageTextModel, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
) -> BaseModelOutputWithPooling:
    r"""
    Image features in the embedding space shared with texts, with gradient.

    Returns:
        [`BaseModelOutputWithPooling`]: `pooler_output` of shape `(batch_size, projection_dim)`, projected and
        normalized in float32, or for BLIP-2 `(batch_size, num_query_tokens, projection_dim)`, of which the most similar
        query token counts (see `compare_features`); `last_hidden_state` of the image encoder, and its `hidden_states`
        and `attentions` if they are requested.
    """
    output = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
    return BaseModelOutputWithPooling(**{**output, "pooler_output": self.project_images(output.last_hidden_state)})


@head_forward
def get_text_features(
    self: ImageTextModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    **kwargs: Any,
) -> BaseModelOutputWithPooling:
    r"""
    Text features in the embedding space shared with images, with gradient.

    Returns:
        [`BaseModelOutputWithPooling`]: `pooler_output` of shape `(batch_size, projection_dim)`, projected and
        normalized in float32; `last_hidden_state` of the text encoder, and its `hidden_states` and `attentions` if they
        are requested.
    """
    output = self.text_encoder_outputs(input_ids, attention_mask, **kwargs)
    return BaseModelOutputWithPooling(
        last_hidden_state=output.last_hidden_state,
        pooler_output=self.project_texts(output.last_hidden_state),
        hidden_states=output.hidden_states,
        attentions=output.attentions,
    )


class FeatureExtractionMixin(ImageTextPreTrainedModel):
    """Feature extraction from images, texts and pairs."""

    get_text_features = get_text_features

    def build_feature_extractor(self, config: PreTrainedConfig) -> None:
        """Create encoders, projections and temperature."""
        self.build_encoders(config, momentum=False)
        self.build_projections(config, momentum=False)
        self.temp = temperature_parameter(config.logit_temperature)

    @head_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisFeaturesOutput:
        r"""
        Returns:
            [`LavisFeaturesOutput`]: image features if images are given, text features if texts are given, and
            multimodal hidden states if both are. `hidden_states` and `attentions` are those of the multimodal pass, or
            of the text encoder without images.
        """
        return LavisFeaturesOutput(
            **self.extract_features(pixel_values, input_ids, attention_mask, interpolate_pos_encoding, **kwargs)
        )

    def extract_features(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        interpolate_pos_encoding: bool,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Fields of the output; see [`forward`]."""
        if pixel_values is None and input_ids is None:
            raise ValueError(f"Got neither {self.main_input_name} nor input_ids; pass one of them, or both.")
        fields: dict[str, Any] = {}
        recorded: Any = None
        if pixel_values is not None:
            vision = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
            image_embeds = vision.last_hidden_state
            fields.update(
                image_embeds=image_embeds,
                image_features=project_features(image_embeds, self.vision_proj),
                **vision_fields(vision),
            )
        if input_ids is not None:
            recorded = self.text_encoder_outputs(input_ids, attention_mask, **(kwargs if pixel_values is None else {}))
            text_embeds = recorded.last_hidden_state
            fields.update(text_embeds=text_embeds, text_features=project_features(text_embeds, self.text_proj))
        if pixel_values is not None and input_ids is not None:
            recorded = self.fuse(
                fields["image_embeds"], input_ids, attention_mask, text_embeds=fields["text_embeds"], **kwargs
            )
            fields["multimodal_embeds"] = recorded.last_hidden_state
        return fields if recorded is None else {**fields, **recorded_fields(recorded)}


__all__ = [
    "FeatureExtractionMixin",
    "ImageTextModel",
    "ImageTextPreTrainedModel",
    "get_image_features",
    "get_text_features",
]
