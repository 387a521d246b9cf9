# SPDX-License-Identifier: Apache-2.0
"""Configurations of the text transformers: BERT with optional cross-attention, and the Q-Former."""

from huggingface_hub.dataclasses import strict

from .configuration_base import LavisPreTrainedConfig

#: Outputs of all heads that a Trainer does not collect as predictions: what is left are logits and features, in the
#: order in which `compute_metrics` gets them.
KEYS_TO_IGNORE_AT_INFERENCE = [
    "cache",
    "past_key_values",
    "encoder_last_hidden_state",
    *(f"loss_{name}" for name in ("itc", "itm", "mlm", "lm", "vtc", "vtm")),
    "lm_logits",
    *(f"{name}_embeds" for name in ("image", "text", "video", "multimodal")),
    *(f"{prefix}{name}" for prefix in ("", "decoder_", "vision_") for name in ("hidden_states", "attentions")),
    "cross_attentions",
    "intermediates",
]


@strict
class LavisBertConfig(LavisPreTrainedConfig):
    r"""
    Configuration of [`LavisBertModel`], BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805) whose layers can
    cross-attend to the hidden states of an encoder, as in the "mixture of encoder-decoder" of BLIP (Li et al., 2022,
    https://arxiv.org/abs/2201.12086) and the fusion layers of ALBEF (Li et al., 2021,
    https://arxiv.org/abs/2107.07651).

    Args:
        vocab_size (`int`, *optional*, defaults to 30522): vocabulary size, including added tokens.
        hidden_size (`int`, *optional*, defaults to 768): hidden size.
        num_hidden_layers (`int`, *optional*, defaults to 12): number of layers.
        num_attention_heads (`int`, *optional*, defaults to 12): attention heads per layer.
        intermediate_size (`int`, *optional*, defaults to 3072): size of the feed-forward layer.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the feed-forward layer (exact GELU).
        layer_norm_eps (`float`, *optional*, defaults to 1e-12): epsilon of the layer norms.
        max_position_embeddings (`int`, *optional*, defaults to 512): maximum number of tokens of a text.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1): dropout of the hidden states.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1): dropout of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation of the normal distribution for new
            weights.
        pad_token_id (`int`, *optional*, defaults to 0): padding token; its embedding is initialized to zero.
        type_vocab_size (`int`, *optional*, defaults to 0): number of token types; 0 for no token type embeddings.
        implicit_token_type (`bool`, *optional*, defaults to `False`): whether a text without token types gets the
            embedding of type 0 (as in BERT and in ALBEF by its authors) or none (parity: as in LAVIS).
        add_cross_attention (`bool`, *optional*, defaults to `True`): whether layers have cross-attention.
        encoder_hidden_size (`int`, *optional*): hidden size of the encoder that is attended to; `hidden_size` by
            default.
        fusion_layer (`int`, *optional*): first layer with cross-attention (ALBEF: 6); the layers below it form the text
            encoder. By default every layer has cross-attention and all layers form the text encoder (BLIP).
        num_image_streams (`int`, *optional*, defaults to 1): 2 for two cross-attentions per layer, one for each image
            of a pair (BLIP on NLVR2).
        merge_from_layer (`int`, *optional*, defaults to 6): with two image streams, first layer that merges them by a
            learned projection; the layers below average them.
        pair_image_layers (`bool`, *optional*, defaults to `False`): whether every two consecutive layers with
            cross-attention share their key and value projections and attend to one image of a pair each (ALBEF on
            NLVR2).
        tie_word_embeddings (`bool`, *optional*, defaults to `True`): whether the language modeling head is tied to the
            word embeddings.
        use_cache (`bool`, *optional*, defaults to `True`): whether a decoder returns its key/value cache.
    """

    model_type = "lavis_bert"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-12
    max_position_embeddings: int = 512
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float | int = 0.02
    pad_token_id: int | None = 0
    type_vocab_size: int = 0
    implicit_token_type: bool = False
    add_cross_attention: bool = True
    encoder_hidden_size: int | None = None
    fusion_layer: int | None = None
    num_image_streams: int = 1
    merge_from_layer: int = 6
    pair_image_layers: bool = False
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def validate_bert(self) -> None:
        """Raise `ValueError` when sizes do not divide, or a layer or the padding token does not exist."""
        self.check_ranges()
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}; expected a token id from 0 to {self.vocab_size - 1} "
                "(vocab_size - 1)."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}; "
                "change one of them in the text configuration."
            )
        if self.fusion_layer is not None and not 0 <= self.fusion_layer <= self.num_hidden_layers:
            raise ValueError(
                f"fusion_layer {self.fusion_layer} is out of range for {self.num_hidden_layers} layers; expected a "
                "value from 0 to num_hidden_layers."
            )
        if self.num_image_streams not in (1, 2):
            raise ValueError(f"num_image_streams is {self.num_image_streams}; expected 1 or 2.")
        if self.num_image_streams == 2 and self.pair_image_layers:
            raise ValueError(
                "pair_image_layers is True, but num_image_streams is 2; expected one of the two for pairs of images: "
                "two streams as in BLIP, or pairs of layers as in ALBEF."
            )

    def has_cross_attention(self, layer: int) -> bool:
        """Whether layer number `layer` (from 0) has cross-attention."""
        return self.add_cross_attention and layer >= (self.fusion_layer or 0)

    @property
    def num_text_layers(self) -> int:
        """Number of layers of the text encoder: those below `fusion_layer`, or all."""
        return self.num_hidden_layers if self.fusion_layer is None else self.fusion_layer


@strict
class LavisQFormerConfig(LavisBertConfig):
    r"""
    Configuration of [`LavisQFormerModel`], the querying transformer of BLIP-2 (Li et al., 2023,
    https://arxiv.org/abs/2301.12597): BERT with learned query tokens in front of the text. Fields are those of
    [`LavisBertConfig`], except those of other families (`fusion_layer`, token types, two image streams), and:

    Args:
        vocab_size (`int`, *optional*, defaults to 30523): vocabulary size, including `[DEC]`.
        num_query_tokens (`int`, *optional*, defaults to 32): number of learned query tokens.
        cross_attention_frequency (`int`, *optional*, defaults to 2): query tokens cross-attend to the image in every
            layer whose number (from 0) is a multiple of it.
        use_text (`bool`, *optional*, defaults to `True`): whether the Q-Former also encodes text. That of a language
            model does not: it has neither word embeddings nor a feed-forward layer for text.
    """

    model_type = "lavis_qformer"
    base_config_key = "qformer_config"

    vocab_size: int = 30523
    num_query_tokens: int = 32
    cross_attention_frequency: int = 2
    use_text: bool = True

    def validate_qformer(self) -> None:
        """Raise `ValueError` for sizes out of range and for options of other families."""
        self.check_ranges()
        if self.fusion_layer is not None or self.num_image_streams != 1 or self.type_vocab_size:
            raise ValueError(
                "A Q-Former has no fusion_layer, no second image stream and no token types; leave fusion_layer, "
                "num_image_streams and type_vocab_size at their defaults."
            )

    def has_cross_attention(self, layer: int) -> bool:
        """Whether the query tokens cross-attend to the image in layer number `layer` (from 0)."""
        return layer % self.cross_attention_frequency == 0


__all__ = ["LavisBertConfig", "LavisQFormerConfig"]
