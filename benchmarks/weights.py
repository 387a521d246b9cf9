# SPDX-License-Identifier: Apache-2.0
"""Equal random weights for all peers, without files: the seed of each tensor is derived from its name in LAVIS.

Peers with other parameter names rename them, so that all peers draw equal values, independently of the order of their
parameters.
"""

import hashlib
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

# large enough to avoid near-ties in beam search and ranking, in which rounding errors would decide
_STANDARD_DEVIATION = 0.05
_NORM_WEIGHT = re.compile(r"(?:norm\d?|LayerNorm)\.weight$")

Rename = Callable[[str], str]


def draw(name: str, shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Draw the float32 tensor of a parameter name in LAVIS."""
    if _NORM_WEIGHT.search(name):
        return torch.ones(tuple(shape))
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator) * _STANDARD_DEVIATION


@torch.no_grad()
def fill(model: nn.Module, rename: Rename = str, seed: int = 0) -> None:
    """Overwrite all parameters of a model.

    Args:
        model: model of a peer; tied parameters are drawn under their first name.
        rename: name of a parameter in the model -> name in LAVIS.
        seed: changes all values.
    """
    for name, parameter in model.named_parameters():
        parameter.copy_(draw(rename(name), parameter.shape, seed))


def rename_by(rules: Sequence[tuple[str, str]]) -> Rename:
    """Rename with regular expressions and their replacements, applied in order."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


# the output bias has two names
_TIED_BIAS = (r"cls\.predictions\.decoder\.bias$", "cls.predictions.bias")

FROM_LAVIS = rename_by([_TIED_BIAS])
FROM_OURS = rename_by([(r"^vision_model(_m)?\.", r"visual_encoder\1."), _TIED_BIAS])
FROM_TRANSFORMERS_BLIP = rename_by(
    [
        (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
        (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
        (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
        (r"^vision_model\.post_layernorm\.", "visual_encoder.norm."),
        (r"^vision_model\.encoder\.layers\.", "visual_encoder.blocks."),
        (r"(visual_encoder\.blocks\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
        (r"(visual_encoder\.blocks\.\d+)\.self_attn\.qkv\.", r"\1.attn.qkv."),
        (r"(visual_encoder\.blocks\.\d+)\.self_attn\.projection\.", r"\1.attn.proj."),
        _TIED_BIAS,
    ]
)
