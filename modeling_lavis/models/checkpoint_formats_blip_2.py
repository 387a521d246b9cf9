# SPDX-License-Identifier: Apache-2.0
"""Key names of repositories in transformers' own BLIP-2 format, as rules that `from_pretrained` follows."""

from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from .checkpoint_formats import TRANSFORMERS_VIT_KEYS

#: (pattern, replacement) within the image tower; the bias of queries, keys and values is split afterwards
EVA_KEYS = [
    *(
        (pattern, replacement)
        for pattern, replacement in TRANSFORMERS_VIT_KEYS
        if "qkv" not in pattern and "post_layernorm" not in pattern
    ),
    (r"^encoder\.layers\.(\d+)\.self_attn\.qkv\.weight", r"blocks.\1.attn.qkv.weight"),
    (r"^encoder\.layers\.(\d+)\.self_attn\.qkv\.bias", r"blocks.\1.attn.qkv_bias"),
]
#: (pattern, replacement) within the Q-Former
QFORMER_KEYS = [
    (r"^layernorm\.", r"embeddings.LayerNorm."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.", r"encoder.layer.\1.attention.self."),
    (r"^encoder\.layer\.(\d+)\.crossattention\.attention\.", r"encoder.layer.\1.crossattention.self."),
]
#: (pattern, replacement) for what lies outside both
TOP_KEYS = [
    (r"^embeddings\.word_embeddings\.", r"qformer.embeddings.word_embeddings."),
    (r"^embeddings\.position_embeddings\.", r"qformer.embeddings.position_embeddings."),
    (r"^vision_model\.post_layernorm\.", r"ln_vision."),
    (r"^vision_projection\.", r"vision_proj."),
    (r"^text_projection\.", r"text_proj."),
]


class SplitBias(ConversionOps):
    """One bias of queries, keys and values to those of queries and values: that of the keys has no effect."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Take the first and the last third."""
        (value,) = input_dict.values()
        query, _, last = (value[0] if isinstance(value, list) else value).chunk(3)
        return dict(zip(target_patterns, (query.contiguous(), last.contiguous()), strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        """The way back."""
        return JoinBias()


class JoinBias(ConversionOps):
    """Biases of queries and values to one of queries, keys and values, with zeros for the keys."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Put zeros between the two."""
        given = (input_dict[name] for name in source_patterns)
        query, value = (part[0] if isinstance(part, list) else part for part in given)
        return {target_patterns[0]: torch.cat([query, torch.zeros_like(query), value])}

    @property
    def reverse_op(self) -> ConversionOps:
        """The way back."""
        return SplitBias()


def _renamings(rules: list[tuple[str, str]]) -> list[WeightRenaming]:
    return [WeightRenaming(pattern, replacement) for pattern, replacement in rules]


def register_transformers_eva_keys(model_type: str) -> None:
    """Let towers of this type load the key names of transformers' BLIP-2; may be called any number of times."""
    split = WeightConverter("attn.qkv_bias", ["attn.q_bias", "attn.v_bias"], operations=[SplitBias()])
    register_checkpoint_conversion_mapping(model_type, [*_renamings(EVA_KEYS), split], overwrite=True)


def register_transformers_qformer_keys(model_type: str) -> None:
    """Let Q-Formers of this type load the key names of transformers' BLIP-2; may be called any number of times."""
    register_checkpoint_conversion_mapping(model_type, _renamings(QFORMER_KEYS), overwrite=True)


def register_transformers_blip_2_keys(model_type: str) -> None:
    """Let models of this type load the key names of transformers' BLIP-2; may be called any number of times."""
    register_checkpoint_conversion_mapping(model_type, _renamings(TOP_KEYS), overwrite=True)


__all__ = [
    "register_transformers_blip_2_keys",
    "register_transformers_eva_keys",
    "register_transformers_qformer_keys",
]
