# SPDX-License-Identifier: Apache-2.0
"""Key names of repositories in transformers' own BLIP format, as rules that `from_pretrained` follows."""

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

#: (pattern, replacement) within the image tower; the text parts have the same names in both formats. Without `$`, which
#: the way back would write into the names.
TRANSFORMERS_VIT_KEYS = [
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


def register_transformers_vit_keys(model_type: str) -> None:
    """Let towers of this type load the key names of transformers' BLIP; may be called any number of times."""
    rules = [WeightRenaming(pattern, replacement) for pattern, replacement in TRANSFORMERS_VIT_KEYS]
    register_checkpoint_conversion_mapping(model_type, rules, overwrite=True)


__all__ = ["TRANSFORMERS_VIT_KEYS", "register_transformers_vit_keys"]
