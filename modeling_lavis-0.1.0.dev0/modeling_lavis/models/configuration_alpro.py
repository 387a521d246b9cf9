# SPDX-License-Identifier: Apache-2.0
"""Configuration of the ALPRO models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_base import LavisVocabularyConfig
from .configuration_text import KEYS_TO_IGNORE_AT_INFERENCE, LavisBertConfig
from .configuration_vision import LavisTimesformerConfig


@strict
class AlproConfig(LavisVocabularyConfig):
    r"""
    Configuration of the ALPRO models (Li et al., 2022, https://arxiv.org/abs/2112.09583): a video encoder, a text
    encoder, and multimodal layers above it that self-attend over the concatenated text and video tokens.

    Args:
        vision_config (`LavisTimesformerConfig` or `dict`, *optional*): video encoder; 8 frames of 224 px by
            default.
        text_config (`LavisBertConfig` or `dict`, *optional*): text encoder and multimodal layers; by default
            BERT-base with `fusion_layer` 6. It never has cross-attention, and the embedding of token type 0 is added to
            every token.
        projection_dim (`int`, *optional*, defaults to 256): dimension of the embedding space shared by videos and
            texts.
        logit_temperature (`float`, *optional*, defaults to 0.07): initial temperature of the contrastive loss.
        pad_token_id, cls_token_id, eos_token_id (`int`): `[PAD]`, `[CLS]` and `[SEP]`.
        enc_token_id (`int`, *optional*): first token of video-grounded texts, if it differs; ALPRO has none.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation for new projections and heads.
    """

    model_type = "alpro"
    sub_configs_defaults = {"vision_config": LavisTimesformerConfig, "text_config": LavisBertConfig}
    keys_to_ignore_at_inference = KEYS_TO_IGNORE_AT_INFERENCE

    vision_config: Any = None
    text_config: Any = None
    projection_dim: int = 256
    logit_temperature: float | int = 0.07
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    enc_token_id: int | None = None
    initializer_range: float | int = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        stored = kwargs.pop("_stored_fields", frozenset())
        super().__post_init__(**kwargs)
        if self.id2label is not None and getattr(self, "label2id", None) is None:
            self.label2id = {name: index for index, name in self.id2label.items()}
        text = self.text_config
        if text.fusion_layer is None:
            # half of the layers, as in the published models
            text.fusion_layer = text.num_hidden_layers // 2
        text.add_cross_attention = False
        text.type_vocab_size = text.type_vocab_size or 2
        text.implicit_token_type = True
        if self.vision_config.hidden_size != text.hidden_size:
            raise ValueError(
                f"vision_config.hidden_size is {self.vision_config.hidden_size}, but text_config.hidden_size is "
                f"{text.hidden_size}; both have to be equal, because tokens of both encoders are concatenated."
            )
        self.check_token_ids(stored)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text configuration."""
        return self.text_config


__all__ = ["AlproConfig"]
