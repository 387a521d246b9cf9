"""Tiny BLIP-2 models and batches for the tests.

Shapes: B batch size, T text tokens.
"""

from typing import Any

import torch
from torch import Tensor, nn

from modeling_lavis import (
    LavisBlip2Config,
    LavisBlip2ForConditionalGeneration,
    LavisBlip2ForImageTextRetrieval,
    LavisBlip2ForPreTraining,
    LavisBlip2Model,
)
from tests.models.contract import Case, perturb

PAD, CLS, SEP, DEC, VOCAB = 0, 2, 3, 59, 60
SIZE, PATCH, QUERIES = 32, 16, 4
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "dropout_rate": 0.0}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "opt": {
        "model_type": "opt",
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "dropout": 0.0,
    },
    "t5": {
        "model_type": "t5",
        "vocab_size": VOCAB,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
    },
    "llama": {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": VOCAB,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 40,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
    },
    "bart": {
        "model_type": "bart",
        "vocab_size": VOCAB,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 40,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
        "dropout": 0.0,
    },
}
#: hidden sizes that the quantization methods support
_QUANTIZABLE: dict[str, dict[str, int]] = {
    "opt": {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128},
    "t5": {"d_model": 64, "d_kv": 32, "d_ff": 128},
}


def blip_2_config(
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    language_model: str | None = None,
    **options: Any,
) -> Any:
    """A configuration with hidden size 24 for images and 16 for the Q-Former."""
    ids = {"pad_token_id": PAD, "cls_token_id": CLS, "eos_token_id": SEP, "bos_token_id": DEC}
    return LavisBlip2Config(
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_ratio": 2.0,
            **(vision or {}),
        },
        qformer_config={
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 40,
            "num_query_tokens": QUERIES,
            "use_text": language_model is None,
            **(text or {}),
        },
        text_config=None if language_model is None else dict(LANGUAGE_MODELS[language_model]),
        **{"projection_dim": 8, **ids, **options},
    )


def second_stage(kind: str, quantizable: bool = False, **options: Any) -> LavisBlip2ForConditionalGeneration:
    """A model with a language model; `quantizable` gives it hidden sizes that quantization methods support."""
    torch.manual_seed(0)
    config = blip_2_config(language_model=kind, vision={"hidden_size": 64} if quantizable else None, **options)
    if quantizable:
        config.text_config = type(config.text_config)(**{**LANGUAGE_MODELS[kind], **_QUANTIZABLE[kind]})
    model = LavisBlip2ForConditionalGeneration(config).eval()
    perturb(model)
    return model


def trainable_modules(model: nn.Module) -> set[str]:
    """Names of the top-level modules with trainable parameters."""
    return {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


def pixels(batch: int, seed: int = 0) -> Tensor:
    """Normal noise of shape `(batch, 3, SIZE, SIZE)`."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def texts(batch: int, length: int = 6, padded: bool = True, seed: int = 1) -> dict[str, Tensor]:
    """`[CLS] tokens [SEP]`; in a padded batch, every second row is two tokens shorter."""
    ids = torch.randint(5, DEC, (batch, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = CLS, SEP
    mask = torch.ones_like(ids)
    if padded:
        ids[1::2, -3], ids[1::2, -2:], mask[1::2, -2:] = SEP, PAD, 0
    return {"input_ids": ids, "attention_mask": mask}


def prompts(batch: int, length: int = 5, side: str = "left", pad: int = 1) -> dict[str, Tensor]:
    """Prompts of a language model, padded on `side`; every second row is two tokens shorter."""
    ids = torch.randint(5, VOCAB, (batch, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    short = slice(0, 2) if side == "left" else slice(-2, None)
    ids[1::2, short], mask[1::2, short] = pad, 0
    return {"input_ids": ids, "attention_mask": mask}


def one_image(batch: int, padded: bool = True) -> dict[str, Tensor]:
    return {"pixel_values": pixels(batch), **texts(batch, padded=padded)}


def contrastive_inputs(batch: int) -> dict[str, Any]:
    return {"image_ids": torch.arange(batch) + 7, "return_loss": True}


def language_model_labels(batch: int) -> dict[str, Tensor]:
    text = texts(batch)
    return {"labels": text["input_ids"].masked_fill(text["attention_mask"] == 0, -100)}


def with_language_model(kind: str) -> Any:
    return lambda **options: blip_2_config(language_model=kind, **options)


_MATCHING = {name: {"match_head": name} for name in ("itc", "itm", "both")}
# Five tokens: with the four query tokens, four would give eight keys. On a CPU with AVX2, torch's flex attention with a
# mask is wrong for as many keys as a vector register has floats.
_DECODER = {"decoder_input_ids": torch.tensor([[DEC, 5, 6, 7, 8], [DEC, 8, 9, 10, 11], [DEC, 11, 12, 13, 14]])}
_OBJECTIVES = {"1.0.2": {"objective": "1.0.2"}, "trained image encoder": {"freeze_vision": False}}

_FLOAT32_MODULES = (
    "query_tokens",
    "ln_vision",
    "qformer",
    "temp",
    "vision_proj",
    "text_proj",
    "itm_head",
    "cls",
    "language_projection",
)
_FROZEN = ("vision_model", "language_model")

FEATURES = Case(
    LavisBlip2Model,
    blip_2_config,
    one_image,
    lambda batch: {},
    modes={"both": {}, "image": {"input_ids": None, "attention_mask": None}, "text": {"pixel_values": None}},
    required=(),
    returns_image_tokens=False,
    frozen=_FROZEN,
    float32_modules=_FLOAT32_MODULES,
)
RETRIEVAL = Case(
    LavisBlip2ForImageTextRetrieval,
    blip_2_config,
    one_image,
    contrastive_inputs,
    modes=_MATCHING,
    variants=_OBJECTIVES,
    auto_classes=("AutoModelForZeroShotImageClassification", "AutoModelForImageTextRetrieval"),
    frozen=_FROZEN,
    float32_modules=_FLOAT32_MODULES,
)
PRETRAINING = Case(
    LavisBlip2ForPreTraining,
    blip_2_config,
    one_image,
    contrastive_inputs,
    modes={**_MATCHING, "decoder": _DECODER},
    variants=_OBJECTIVES,
    auto_classes=("AutoModelForPreTraining",),
    frozen=_FROZEN,
    float32_modules=_FLOAT32_MODULES,
)
OPT = Case(
    LavisBlip2ForConditionalGeneration,
    with_language_model("opt"),
    one_image,
    language_model_labels,
    required=("pixel_values",),
    variants={"trained language model": {"freeze_language_model": False}},
    auto_classes=("AutoModelForImageTextToText",),
    returns_image_tokens=False,
    frozen=_FROZEN,
    float32_modules=_FLOAT32_MODULES,
)
FIRST_STAGE = (FEATURES, RETRIEVAL, PRETRAINING)
SECOND_STAGE = (OPT,)
CASES = (*FIRST_STAGE, *SECOND_STAGE)

__all__ = [
    "CASES",
    "FIRST_STAGE",
    "LANGUAGE_MODELS",
    "SECOND_STAGE",
    "blip_2_config",
    "one_image",
    "pixels",
    "prompts",
    "second_stage",
    "texts",
    "trainable_modules",
]
