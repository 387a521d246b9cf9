# SPDX-License-Identifier: Apache-2.0
"""Key names of repositories in transformers' own BLIP and BLIP-2 formats, as conversion rules of `from_pretrained`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

KeyRules = Sequence[tuple[str, str]]

#: (pattern, replacement) within the image encoder of BLIP; the text modules have the same names in both formats. The
#: patterns end without `$`, which saving in the original format would write into the names.
VIT_KEYS: KeyRules = [
    (r"^embeddings\.class_embedding", r"cls_token"),
    (r"^embeddings\.position_embedding", r"pos_embed"),
    (r"^embeddings\.patch_embedding\.", r"patch_embed.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm1\.", r"blocks.\1.norm1."),
    (r"^encoder\.layers\.(\d+)\.layer_norm2\.", r"blocks.\1.norm2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"blocks.\1.attn.qkv."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.projection\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"^post_layernorm\.", r"norm."),
]
#: (pattern, replacement) within the image encoder of BLIP-2; the query-key-value bias is split afterwards
EVA_KEYS: KeyRules = [
    *((pattern, key) for pattern, key in VIT_KEYS if "qkv" not in pattern and "post_layernorm" not in pattern),
    (r"^encoder\.layers\.(\d+)\.self_attn\.qkv\.weight", r"blocks.\1.attn.qkv.weight"),
    (r"^encoder\.layers\.(\d+)\.self_attn\.qkv\.bias", r"blocks.\1.attn.qkv_bias"),
]
#: (pattern, replacement) within the Q-Former
QFORMER_KEYS: KeyRules = [
    (r"^layernorm\.", r"embeddings.LayerNorm."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.", r"encoder.layer.\1.attention.self."),
    (r"^encoder\.layer\.(\d+)\.crossattention\.attention\.", r"encoder.layer.\1.crossattention.self."),
]
#: (pattern, replacement) of BLIP-2 outside the image encoder and the Q-Former
BLIP_2_KEYS: KeyRules = [
    (r"^embeddings\.word_embeddings\.", r"qformer.embeddings.word_embeddings."),
    (r"^embeddings\.position_embeddings\.", r"qformer.embeddings.position_embeddings."),
    (r"^vision_model\.post_layernorm\.", r"ln_vision."),
    (r"^vision_projection\.", r"vision_proj."),
    (r"^text_projection\.", r"text_proj."),
]


class SplitBias(ConversionOps):
    """Split a query-key-value bias into those of queries and values; a bias of the keys has no effect in softmax."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Take the first and the last third."""
        (value,) = input_dict.values()
        query, _, last = (value[0] if isinstance(value, list) else value).chunk(3)
        return dict(zip(target_patterns, (query.contiguous(), last.contiguous()), strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        """The inverse operation."""
        return JoinBias()


class JoinBias(ConversionOps):
    """Join the biases of queries and values to a query-key-value bias, with zeros for the keys."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Put zeros between the two."""
        given = (input_dict[name] for name in source_patterns)
        query, value = (part[0] if isinstance(part, list) else part for part in given)
        return {target_patterns[0]: torch.cat([query, torch.zeros_like(query), value])}

    @property
    def reverse_op(self) -> ConversionOps:
        """The inverse operation."""
        return SplitBias()


class ScalarToVector(ConversionOps):
    """Shape `(1,)` for a parameter that files store as a scalar; tensors of shape `(1,)` pass."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Reshape to `(1,)`."""
        (value,) = input_dict.values()
        return {target_patterns[0]: (value[0] if isinstance(value, list) else value).reshape(1)}

    @property
    def reverse_op(self) -> ConversionOps:
        """The inverse operation."""
        return VectorToScalar()


class VectorToScalar(ConversionOps):
    """The inverse of [`ScalarToVector`]."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Reshape to `()`."""
        (value,) = input_dict.values()
        return {target_patterns[0]: (value[0] if isinstance(value, list) else value).reshape(())}

    @property
    def reverse_op(self) -> ConversionOps:
        """The inverse operation."""
        return ScalarToVector()


def register_keys(
    model_type: str, rules: KeyRules = (), split_qkv_bias: bool = False, scalar_temperature: bool = False
) -> None:
    """
    Let models of a type load other key names and shapes; may be called repeatedly.

    Args:
        model_type (`str`): model type of a model or a submodel.
        rules (sequence of `(pattern, replacement)`): renaming rules, from the names of transformers' own classes.
        split_qkv_bias (`bool`, *optional*, defaults to `False`): split the query-key-value bias of attention layers.
        scalar_temperature (`bool`, *optional*, defaults to `False`): read the temperature from a scalar.
    """
    operations: list[Any] = [WeightRenaming(pattern, replacement) for pattern, replacement in rules]
    if split_qkv_bias:
        operations.append(WeightConverter("attn.qkv_bias", ["attn.q_bias", "attn.v_bias"], operations=[SplitBias()]))
    if scalar_temperature:
        operations.append(WeightConverter("^temp", ["temp"], operations=[ScalarToVector()]))
    register_checkpoint_conversion_mapping(model_type, operations, overwrite=True)


__all__ = ["BLIP_2_KEYS", "EVA_KEYS", "QFORMER_KEYS", "VIT_KEYS", "register_keys"]
