# SPDX-License-Identifier: Apache-2.0
"""Configuration of the ALPRO models."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_text_bert import LavisBertConfig
from .configuration_vision_timesformer import LavisTimesformerConfig


@strict
class AlproConfig(PreTrainedConfig):
    r"""
    Configuration of the ALPRO models (Li et al., 2022, https://arxiv.org/abs/2112.09583): a video tower, a text
    encoder, and above it layers that attend over the states of text and video in one row.

    Args:
        vision_config (`LavisTimesformerConfig` or `dict`, *optional*): video tower; 8 frames of 224 px by default.
        text_config (`LavisBertConfig` or `dict`, *optional*): text encoder and joint layers; by default BERT-base
            whose layers from `fusion_layer` 6 on read text and video. It never has cross-attention, and the first
            token type is added to every word.
        projection_dim (`int`, *optional*, defaults to 256): width of the space in which videos and texts are compared.
        logit_temperature (`float`, *optional*, defaults to 0.07): initial temperature of the contrastive loss.
        pad_token_id, cls_token_id, eos_token_id (`int`): `[PAD]`, `[CLS]` and `[SEP]`.
        enc_token_id (`int`, *optional*): another token for slot 0 of texts that read videos; ALPRO has none.
        initializer_range (`float`, *optional*, defaults to 0.02): deviation for new projections and heads.
    """

    model_type = "alpro"
    sub_configs_defaults = {"vision_config": LavisTimesformerConfig, "text_config": LavisBertConfig}
    keys_to_ignore_at_inference = ["intermediates"]

    # The family has no momentum twins; the parts that it shares with others ask.
    use_momentum: ClassVar[bool] = False
    momentum: ClassVar[float] = 1.0

    vision_config: Any = None
    text_config: Any = None
    projection_dim: int = 256
    logit_temperature: float = 0.07
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    enc_token_id: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.id2label is not None and getattr(self, "label2id", None) is None:
            self.label2id = {name: index for index, name in self.id2label.items()}
        text = self.text_config
        if text.fusion_layer is None:
            # half of the layers, as published
            text.fusion_layer = text.num_hidden_layers // 2
        text.add_cross_attention = False
        text.type_vocab_size = text.type_vocab_size or 2
        text.implicit_token_type = True
        if self.vision_config.hidden_size != text.hidden_size:
            raise ValueError(
                f"The video tower has width {self.vision_config.hidden_size} and the text transformer "
                f"{text.hidden_size}; their states stand in one row, so both have to be the same."
            )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text configuration."""
        return self.text_config


__all__ = ["AlproConfig"]
