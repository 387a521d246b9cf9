# SPDX-License-Identifier: Apache-2.0
"""Configuration of the BERT text transformer with optional cross-attention that all families share."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class LavisBertConfig(PreTrainedConfig):
    r"""
    Configuration of [`LavisBertModel`], BERT (Devlin et al., 2019, https://arxiv.org/abs/1810.04805) whose layers may
    attend to the states of an encoder, as the "mixture of encoder-decoder" of BLIP (Li et al., 2022,
    https://arxiv.org/abs/2201.12086) and the fusion layers of ALBEF (Li et al., 2021,
    https://arxiv.org/abs/2107.07651) do.

    Args:
        vocab_size (`int`, *optional*, defaults to 30522): number of word pieces, added tokens included.
        hidden_size (`int`, *optional*, defaults to 768): width.
        num_hidden_layers (`int`, *optional*, defaults to 12): number of layers.
        num_attention_heads (`int`, *optional*, defaults to 12): heads per layer.
        intermediate_size (`int`, *optional*, defaults to 3072): width of the feed-forward part.
        hidden_act (`str`, *optional*, defaults to `"gelu"`): activation of the feed-forward part (exact GELU).
        layer_norm_eps (`float`, *optional*, defaults to 1e-12): epsilon of every layer norm.
        max_position_embeddings (`int`, *optional*, defaults to 512): longest text in tokens.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.1): dropout of states.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.1): dropout of attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): deviation of the normal for new weights.
        pad_token_id (`int`, *optional*, defaults to 0): id whose embedding stays zero at initialisation.
        type_vocab_size (`int`, *optional*, defaults to 0): token types; 0 means that there is no such table.
        implicit_token_type (`bool`, *optional*, defaults to `False`): whether a text without token types counts as
            type 0 (as BERT and the authors of ALBEF do) or gets no type embedding at all (parity: as LAVIS does).
        add_cross_attention (`bool`, *optional*, defaults to `True`): whether layers attend to encoder states.
        encoder_hidden_size (`int`, *optional*): width of the encoder states; `hidden_size` when not given.
        fusion_layer (`int`, *optional*): first layer with cross-attention (ALBEF: 6). Layers below it are the text
            encoder. When not given, every layer has cross-attention and all layers are the text encoder (BLIP).
        num_image_streams (`int`, *optional*, defaults to 1): 2 doubles the cross-attention for pairs of images
            (BLIP on NLVR2).
        merge_from_layer (`int`, *optional*, defaults to 6): with two streams, the first layer that merges them by a
            learned map; layers below average them.
        pair_image_layers (`bool`, *optional*, defaults to `False`): whether layers with cross-attention share their
            keys and values two by two, one for each image of a pair (ALBEF on NLVR2).
        tie_word_embeddings (`bool`, *optional*, defaults to `True`): whether a language-model head reuses the word
            embeddings.
        use_cache (`bool`, *optional*, defaults to `True`): whether a decoder returns its keys and values.
    """

    model_type = "lavis_bert"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 512
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    initializer_range: float = 0.02
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
        """Raise `ValueError` when sizes do not divide or a layer index is outside the stack."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} attention heads; "
                "change one of them in the text configuration."
            )
        if self.fusion_layer is not None and not 0 <= self.fusion_layer <= self.num_hidden_layers:
            raise ValueError(
                f"fusion_layer {self.fusion_layer} is outside the {self.num_hidden_layers} layers of the text "
                "transformer; give a value between 0 and num_hidden_layers."
            )
        if self.num_image_streams not in (1, 2):
            raise ValueError(f"num_image_streams is {self.num_image_streams}; one or two images can be attended to.")

    def has_cross_attention(self, layer: int) -> bool:
        """Whether layer number `layer` (from 0) attends to encoder states."""
        return self.add_cross_attention and layer >= (self.fusion_layer or 0)

    @property
    def num_text_layers(self) -> int:
        """Layers that make up the text encoder: those below `fusion_layer`, or all."""
        return self.num_hidden_layers if self.fusion_layer is None else self.fusion_layer


__all__ = ["LavisBertConfig"]
