# SPDX-License-Identifier: Apache-2.0
"""Base of the BLIP-2 heads: image encoder, its layer norm, query tokens and Q-Former.

Shapes: B images, R text rows, N image tokens, Q query tokens, T text tokens, E hidden size of the image encoder, D
hidden size of the Q-Former, P projection dimension.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPooling

from .checkpoint_formats import BLIP_2_KEYS, register_keys
from .configuration_lavis_blip_2 import LavisBlip2Config
from .configuration_vision import LavisClipVisionConfig
from .frozen_parts import FrozenPartsMixin
from .modeling_base import mask_padding, project_features, set_first_token, temperature_parameter
from .qformer import LavisQFormerModel
from .text_bert import BertLMPredictionHead
from .transformers_compat import parameter_outside_forward
from .vision_vit import LavisClipVisionModel, LavisEvaModel


class LavisBlip2PreTrainedModel(FrozenPartsMixin):
    """Base of the BLIP-2 heads: an image encoder, frozen by default, and a Q-Former (https://arxiv.org/abs/2301.12597)."""

    config: LavisBlip2Config
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("image", "text")
    # what is trained stays in float32 beside an image encoder and a language model in half precision
    _keep_in_fp32_modules_strict = [
        "query_tokens",
        "qformer",
        "ln_vision",
        "^temp$",
        "vision_proj",
        "text_proj",
        "itm_head",
        "predictions",
        "language_projection",
    ]
    _keys_to_ignore_on_load_unexpected = [r"position_ids"]
    needed_parameters = ("query_tokens",)

    @property
    def fuses_text_states(self) -> bool:
        """`False`: texts are encoded together with the query tokens, not from their hidden states."""
        return False

    def build_encoders(self, config: LavisBlip2Config) -> None:
        """Create image encoder, layer norm, query tokens and Q-Former."""
        is_clip = isinstance(config.vision_config, LavisClipVisionConfig)
        vision_class = LavisClipVisionModel if is_clip else LavisEvaModel
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.vision_model = vision_class._from_config(config.vision_config)
        self.ln_vision = nn.LayerNorm(config.vision_config.hidden_size, eps=config.ln_vision_eps)
        self.qformer = LavisQFormerModel._from_config(config.qformer_config)

    def build_projections(self, config: LavisBlip2Config) -> None:
        """Create the projections into the shared embedding space and the temperature."""
        if not config.qformer_config.use_text:
            raise ValueError(
                f"{type(self).__name__} compares images with texts, but its Q-Former belongs to a language model and "
                "does not encode text (use_text=False). Use a first-stage or matching checkpoint."
            )
        hidden_size = config.qformer_config.hidden_size
        self.vision_proj = nn.Linear(hidden_size, config.projection_dim)
        self.text_proj = nn.Linear(hidden_size, config.projection_dim)
        self.temp = temperature_parameter(config.logit_temperature)

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

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The image encoder, or the Q-Former with `modality="text"`."""
        return self.qformer if modality == "text" else self.vision_model

    def get_input_embeddings(self) -> nn.Embedding | None:  # type: ignore[override]
        """Word embeddings of the Q-Former; `None` if it does not encode text."""
        return self.qformer.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings of the Q-Former."""
        self.qformer.set_input_embeddings(value)

    def image_encoder_outputs(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Output of the image encoder for `(B, C, H, W)`, with `ln_vision` on its last hidden states `(B, N, E)`."""
        output = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        states = self.ln_vision(output.last_hidden_state.to(self.ln_vision.weight.dtype))
        return BaseModelOutputWithPooling(**{**output, "last_hidden_state": states, "pooler_output": states[:, 0]})

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Hidden states of the image encoder after `ln_vision`: `(B, C, H, W)` to `(B, N, E)`."""
        return self.image_encoder_outputs(pixel_values, interpolate_pos_encoding).last_hidden_state

    def query_images(
        self,
        image_embeds: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Run the Q-Former on images, or on images and texts together.

        Args:
            image_embeds (`Tensor` of shape `(B, N, E)`): hidden states from [`encode_images`].
            input_ids, attention_mask (`Tensor` of shape `(R, T)`, *optional*): texts, with R a multiple of B (see
                [`LavisQFormerModel`]).
            past_key_values (`Cache`, *optional*): key/value cache to fill (see [`LavisQFormerModel`]).
            kwargs: further arguments of [`LavisQFormerModel`].
        """
        rows = image_embeds.shape[0] if input_ids is None else input_ids.shape[0]
        return self.qformer(
            query_embeds=parameter_outside_forward(self, "query_tokens").expand(rows, -1, -1),
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=image_embeds.to(self.query_tokens.dtype),
            past_key_values=past_key_values,
            **kwargs,
        )

    # ---- image-text comparison, for heads whose Q-Former encodes text and that have projections ----

    def text_encoder_outputs(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Output of the Q-Former for texts `(R, T)`, whose first token becomes `[CLS]`, without query tokens."""
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        input_ids = set_first_token(input_ids, self.config.cls_token_id)
        return self.qformer(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def encode_texts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states of the texts, with `[CLS]` as first token: `(R, T)` to `(R, T, D)`."""
        return self.text_encoder_outputs(input_ids, attention_mask).last_hidden_state

    def project_images(self, image_embeds: Tensor, **kwargs: Any) -> Tensor:
        """Normalized features `(B, Q, P)` of image hidden states `(B, N, E)`; `kwargs` as for [`query_images`]."""
        return project_features(self.query_images(image_embeds, **kwargs).last_hidden_state, self.vision_proj)

    def project_texts(self, text_embeds: Tensor) -> Tensor:
        """Normalized features `(R, P)` of text hidden states `(R, T, D)`."""
        return project_features(text_embeds[:, 0], self.text_proj)

    @staticmethod
    def compare_features(image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine similarities `(B, R)`: that of the best query token `(B, Q, P)` for each text `(R, P)`."""
        return torch.einsum("bqp,rp->bqr", image_features, text_features).amax(dim=1)

    def encode_for_itc(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Text hidden states, image features, and the output of the image pass, which records what `kwargs` ask for."""
        output = self.query_images(image_embeds, **kwargs)
        image_features = project_features(output.last_hidden_state, self.vision_proj)
        return self.encode_texts(input_ids, attention_mask), image_features, output

    def fuse(
        self,
        image_embeds: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Run the Q-Former on images and texts together, with bidirectional attention.

        Args:
            image_embeds (`Tensor` of shape `(B, N, E)`): hidden states from [`encode_images`].
            input_ids, attention_mask (`Tensor` of shape `(R, T)`): texts, `R / B` for each image in order, or any
                number with `encoder_index` `(R,)`, the image of each; without a mask, pad tokens are padding.
            text_embeds: ignored; texts are encoded together with the query tokens.
            kwargs: further arguments of [`LavisQFormerModel`]; with `queries_only=True` the last layer computes only
                the query tokens.
        """
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        input_ids = set_first_token(input_ids, self.config.cls_token_id)
        return self.query_images(image_embeds, input_ids, attention_mask, **kwargs)


register_keys(LavisBlip2Config.model_type, BLIP_2_KEYS, scalar_temperature=True)


__all__ = ["LavisBlip2PreTrainedModel"]
