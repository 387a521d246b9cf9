# SPDX-License-Identifier: Apache-2.0
"""The modules to adapt with LoRA: `LoraConfig(target_modules=...)` of peft."""

import re
from collections import Counter
from typing import Any

# Queries, keys and values of the image encoder (one layer for all three), of the text encoder and of the answer or
# caption decoder. Momentum encoders have other names: they follow the adapted weights.
_ENCODERS = r"vision_model\..*attn\.qkv|text_(encoder|decoder)\..*attention\.self[01]?\.(query|key|value)"
_LLAMA = r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj)"

#: Modules to adapt with LoRA (https://arxiv.org/abs/2106.09685): the projections of attention. By model type of the
#: family, and for BLIP-2 by part and by model type of the language model. Regular expressions for whole names, so that
#: modules of the same name in other parts do not match; join several by `|`.
LORA_TARGET_MODULES: dict[str, str] = {
    "albef": _ENCODERS,
    "alpro": _ENCODERS,
    "lavis_blip": _ENCODERS,
    "lavis_blip_2": r"qformer\..*\.(query|key|value)",
    "qformer": r"qformer\..*\.(query|key|value)",
    "vision": r"vision_model\..*\.attn\.(qkv|proj)",
    "opt": r"language_model\..*\.(q_proj|k_proj|v_proj|out_proj)",
    "t5": r"language_model\..*\.(q|k|v|o)",
    "bart": r"language_model\..*\.(q_proj|k_proj|v_proj|out_proj)",
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gpt2": r"language_model\..*\.(c_attn|c_proj)",
}


def lora_target_modules(model: Any) -> str:
    """
    The entry of [`LORA_TARGET_MODULES`] for a model: that of its family, or of its language model for BLIP-2's second
    stage; without layers that share their weights with others.

    Two layers with one weight would get two adapters, and merged into it they would give another model than the trained
    one. BLIP's encoder and decoder share their cross-attention in pretraining, and ALBEF's layers for the two images of
    a pair share keys and values.

    Args:
        model (`PreTrainedModel`): any head of this package.

    Returns:
        `str`: regular expression for `LoraConfig(target_modules=...)`.

    Raises:
        ValueError: There is no entry for the model or its language model.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind == "lavis_blip_2" and hasattr(model, "language_model"):
        kind = model.language_model.config.model_type
    if kind not in LORA_TARGET_MODULES:
        raise ValueError(
            f"There is no entry for {type(model).__name__} with the model type {kind!r}; expected one of"
            f" {', '.join(LORA_TARGET_MODULES)}. Pass the names of its linear layers to LoraConfig(target_modules=...)."
        )
    target = LORA_TARGET_MODULES[kind]
    weights = {name: getattr(module, "weight", None) for name, module in model.named_modules(remove_duplicate=False)}
    uses = Counter(id(weight) for weight in weights.values() if weight is not None)
    shared = [name for name, weight in weights.items() if uses[id(weight)] > 1 and re.fullmatch(target, name)]
    # One alternative for the layers of a stack, to keep adapter_config.json short.
    excluded = sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in shared})
    return f"(?!({'|'.join(excluded)})$)({target})" if excluded else target


__all__ = ["LORA_TARGET_MODULES", "lora_target_modules"]
