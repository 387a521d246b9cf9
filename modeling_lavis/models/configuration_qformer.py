# SPDX-License-Identifier: Apache-2.0
"""Configuration of the Q-Former of BLIP-2."""

from huggingface_hub.dataclasses import strict

from .configuration_text_bert import LavisBertConfig


@strict
class LavisQFormerConfig(LavisBertConfig):
    r"""
    Configuration of [`LavisQFormerModel`], the querying transformer of BLIP-2 (Li et al., 2023,
    https://arxiv.org/abs/2301.12597): BERT with learned queries in front of the text. Fields are those of
    [`LavisBertConfig`], of which those of other families (`fusion_layer`, token types, two image streams) cannot be
    used, and:

    Args:
        vocab_size (`int`, *optional*, defaults to 30523): word pieces, `[DEC]` included.
        num_query_tokens (`int`, *optional*, defaults to 32): learned queries.
        cross_attention_frequency (`int`, *optional*, defaults to 2): the queries attend to the image in every layer
            whose number (from 0) is a multiple of it.
        use_text (`bool`, *optional*, defaults to `True`): whether it reads text as well; a language model's Q-Former
            does not, and has neither word embeddings nor a feed-forward part for text.
    """

    model_type = "lavis_qformer"
    base_config_key = "qformer_config"

    vocab_size: int = 30523
    num_query_tokens: int = 32
    cross_attention_frequency: int = 2
    use_text: bool = True

    def validate_qformer(self) -> None:
        """Raise `ValueError` for sizes below one and for options of other families."""
        for name in ("num_query_tokens", "cross_attention_frequency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if self.fusion_layer is not None or self.num_image_streams != 1 or self.type_vocab_size:
            raise ValueError(
                "A Q-Former has no fusion_layer, no second image stream and no token types; leave fusion_layer, "
                "num_image_streams and type_vocab_size at their defaults."
            )

    def has_cross_attention(self, layer: int) -> bool:
        """Whether the queries attend to the image in layer number `layer` (from 0)."""
        return layer % self.cross_attention_frequency == 0


__all__ = ["LavisQFormerConfig"]
