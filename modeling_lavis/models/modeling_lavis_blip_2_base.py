# SPDX-License-Identifier: Apache-2.0
"""The base of all BLIP-2 heads: the frozen tower, its norm, the queries and the Q-Former.

Letters: B images, R rows, N image tokens, Q queries, T text tokens, E width of the image tower, D width of the
Q-Former, P width of the common space.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .checkpoint_formats_blip_2 import register_transformers_blip_2_keys
from .configuration_lavis_blip_2 import LavisBlip2Config
from .configuration_vision_clip import LavisClipVisionConfig
from .frozen_parts import FrozenPartsMixin
from .generation import with_first_token
from .heads import project
from .qformer import LavisQFormerModel
from .text_bert import BertLMPredictionHead
from .vision_clip import LavisClipVisionModel
from .vision_eva import LavisEvaModel
from .vision_vit import LavisViTModel


def build_tower(config: PreTrainedConfig) -> LavisViTModel:
    """The image tower that a configuration describes."""
    tower = LavisClipVisionModel if isinstance(config, LavisClipVisionConfig) else LavisEvaModel
    return tower._from_config(config)


class LavisBlip2PreTrainedModel(FrozenPartsMixin):
    """An image tower, mostly frozen, and a Q-Former that reads it (https://arxiv.org/abs/2301.12597)."""

    config: LavisBlip2Config
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _no_split_modules = ["EvaBlock", "ClipBlock", "QFormerLayer", "QFormerEmbeddings"]
    # What is trained stays in float32 beside a tower and a language model in half precision.
    _keep_in_fp32_modules_strict = [
        "query_tokens",
        "qformer",
        "ln_vision",
        "temp",
        "vision_proj",
        "text_proj",
        "itm_head",
        "predictions",
        "language_projection",
    ]
    _keys_to_ignore_on_load_unexpected = [r"position_ids"]
    needed_parameters = ("query_tokens",)

    def build_trunk(self, config: LavisBlip2Config) -> None:
        """Give the head its tower, norm, queries and Q-Former."""
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.vision_model = build_tower(config.vision_config)
        self.ln_vision = nn.LayerNorm(config.vision_config.hidden_size, eps=config.ln_vision_eps)
        self.qformer = LavisQFormerModel._from_config(config.qformer_config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, BertLMPredictionHead):
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)
        if module is self:
            init.normal_(self.query_tokens, std=self.config.initializer_range)
            if hasattr(self, "temp"):
                init.constant_(self.temp, self.config.logit_temperature)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that was asked for: that of the image tower, for what is trained is in float32 in any case."""
        # transformers writes it into config.json and loads with it again.
        return next(value.dtype for value in self.vision_model.parameters() if value.is_floating_point())

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The image tower, or the Q-Former for `modality="text"`."""
        return self.qformer if modality == "text" else self.vision_model

    def get_input_embeddings(self) -> nn.Embedding | None:  # type: ignore[override]
        """Word embeddings of the Q-Former."""
        return self.qformer.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings of the Q-Former."""
        self.qformer.set_input_embeddings(value)

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any) -> Tensor:
        """Normalised states of the image tower: (B, C, H, W) to (B, N, E)."""
        states = self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
        ).last_hidden_state
        return self.ln_vision(states.to(self.ln_vision.weight.dtype))

    def query_images(
        self,
        image_embeds: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Let the queries read images, alone or together with texts.

        Args:
            image_embeds (`Tensor` of shape `(B, N, E)`): what [`encode_images`] has made of the images.
            input_ids, attention_mask (`Tensor` of shape `(R, T)`, *optional*): texts, a multiple of the images (see
                [`LavisQFormerModel`]).
            past_key_values (`Cache`, *optional*): takes in keys and values (see [`LavisQFormerModel`]).
            kwargs: other options of [`LavisQFormerModel`].
        """
        rows = image_embeds.shape[0] if input_ids is None else input_ids.shape[0]
        return self.qformer(
            query_embeds=self.query_tokens.expand(rows, -1, -1),
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=image_embeds.to(self.query_tokens.dtype),
            past_key_values=past_key_values,
            **kwargs,
        )


class QFormerFeaturesMixin(LavisBlip2PreTrainedModel):
    """Features of single images and texts, for heads whose Q-Former reads text and that have both projections."""

    #: texts that read an image are read anew, together with the queries
    fuses_text_states = False

    def build_projections(self, config: LavisBlip2Config) -> None:
        """Give the head its maps into the common space and the temperature of their comparison."""
        if not config.qformer_config.use_text:
            raise ValueError(
                f"{type(self).__name__} compares images with texts, but its Q-Former was made for a language model "
                "(use_text=False) and reads none. Use a first-stage or matching checkpoint."
            )
        width = config.qformer_config.hidden_size
        self.vision_proj = nn.Linear(width, config.projection_dim)
        self.text_proj = nn.Linear(width, config.projection_dim)
        self.temp = nn.Parameter(torch.tensor(config.logit_temperature))

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """States of the texts alone, with `[CLS]` in slot 0: (R, T) to (R, T, D)."""
        input_ids = with_first_token(input_ids, self.config.cls_token_id)
        return self.qformer(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state

    def project_images(self, image_embeds: Tensor) -> Tensor:
        """Projected and normalised features (B, Q, P) of image states (B, N, E) that [`encode_images`] has made."""
        return project(self.query_images(image_embeds).last_hidden_state, self.vision_proj)

    def project_texts(self, text_embeds: Tensor) -> Tensor:
        """Projected and normalised features (R, P) of text states (R, T, D) that [`encode_texts`] has made."""
        return project(text_embeds[:, 0], self.text_proj)

    @staticmethod
    def compare_features(image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine (B, R) of the best query (B, Q, P) for each text (R, P)."""
        return torch.einsum("bqp,rp->bqr", image_features, text_features).amax(dim=1)

    @torch.no_grad()
    def get_image_features(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        r"""
        Args:
            pixel_values (`Tensor` of shape `(batch_size, channels, height, width)`): images.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.

        Returns:
            `Tensor` of shape `(batch_size, num_query_tokens, projection_dim)`: features of each query, projected and
            normalised. An image is as similar to a text as its most similar query ([`compare_features`]).
        """
        return self.project_images(self.encode_images(pixel_values, interpolate_pos_encoding))

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


register_transformers_blip_2_keys(LavisBlip2Config.model_type)


__all__ = ["LavisBlip2PreTrainedModel", "QFormerFeaturesMixin", "build_tower"]
