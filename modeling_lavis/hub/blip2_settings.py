# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of BLIP-2, from a checkpoint's shapes and a few settings.

Settings have the form of a golden set's `config.json`: sections `vision` and `qformer`, and names such as `vit_model`,
`embed_dim`, `prompt`, `max_txt_len`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import Shapes, agree, count, heads, size_of

CAPTION_DEFAULTS = {"num_beams": 3, "max_length": 30, "min_length": 10}
LANGUAGE_DEFAULTS = {"num_beams": 5, "max_new_tokens": 30, "min_length": 1}
MAX_TEXT_LENGTH = 32
_PREFIX = "visual_encoder."


@dataclass(frozen=True)
class TowerKind:
    """
    One of the two image towers.

    Args:
        model_type: of our configuration.
        block: what the names of its blocks begin with in its own file.
        leftovers: beginnings of names in its file that the original does not use.
        depths: blocks that the original uses, by the width of the published tower.
        heads: attention heads, by the same.
        published: address of the published file.
    """

    model_type: str
    block: str
    leftovers: tuple[str, ...]
    depths: Mapping[int, int]
    heads: Mapping[int, int]
    published: str


_SITE = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
EVA = TowerKind("lavis_eva", "blocks.", ("norm.", "fc_norm.", "head."), {1408: 39}, {1408: 16}, f"{_SITE}eva_vit_g.pth")
# parity: 23 blocks as in LAVIS's main branch; 1.0.2 builds 21, which `vision.depth` asks for
CLIP = TowerKind(
    "lavis_clip_vision",
    "transformer.resblocks.",
    ("ln_post.", "proj"),
    {1024: 23},
    {1024: 16},
    f"{_SITE}clip_vit_L.pth",
)
_TOWERS = {"eva_clip_g": EVA, "clip_L": CLIP}

_KNOWN_VISION = shared.KNOWN_VISION | {"checkpoint_image_size"}
_KNOWN_QFORMER = shared.KNOWN_TEXT | {"type_vocab_size"}
_TOP_OPTIONS = {"label_smoothing": "label_smoothing", "temp": "logit_temperature", "objective": "objective"}
KNOWN_SETTINGS = frozenset(
    {
        *_TOP_OPTIONS,
        "arch",
        "family",
        "vision",
        "qformer",
        "vit_model",
        "vit_precision",
        "freeze_vit",
        "num_query_token",
        "cross_attention_freq",
        "embed_dim",
        "max_txt_len",
        "prompt",
        "language_model",
    }
)


def tower_kind(settings: Mapping[str, Any]) -> TowerKind:
    """The image tower that settings ask for, EVA by default; `ValueError` for an unknown one."""
    name = settings.get("vit_model") or "eva_clip_g"
    if name not in _TOWERS:
        raise ValueError(f"vit_model is {name!r}; known are {', '.join(_TOWERS)}.")
    return _TOWERS[name]


def language_model_config(architecture: str, source: str | Path) -> Any:
    """The configuration of a language model, with what the original changes in it.

    Raises:
        OSError: there is none. ValueError: it is of another kind than the architecture needs.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise OSError(
            f"The language model {str(source)!r} has no configuration that can be read: {str(error).splitlines()[0]} "
            "Give the folder of a model or a Hub id with --language-model."
        ) from error
    wants_encoder = architecture == "blip2_t5"
    if bool(config.is_encoder_decoder) != wants_encoder:
        kind = "sequence-to-sequence" if wants_encoder else "causal"
        raise ValueError(f"{architecture} needs a {kind} language model, but {source} is a {config.model_type}.")
    if config.model_type == "t5":
        config.dense_act_fn = "gelu"  # parity: the exact GELU, whatever the model was trained with
    config.dtype = None
    return config


def language_model_on_meta(config: Any) -> torch.nn.Module:
    """The language model without memory."""
    from modeling_lavis.models.modeling_lavis_blip_2_generation import build_language_model

    with torch.device("meta"):
        return build_language_model(config, has_own_head(config))


def has_own_head(config: Any) -> bool:
    """Whether a language model's map to the vocabulary is not its word embeddings, which transformers' T5 forgets."""
    return getattr(config, "scale_decoder_outputs", True) is False


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """Make a `LavisBlip2Config`.

    Args:
        architecture: what is made.
        source_architecture: what the checkpoint is.
        shapes: shapes of the weights, separate parts included, by the original's names.
        settings: what shapes cannot say; sizes in it must be those of the checkpoint, except `vision.image_size`
            (positions are resized).
        tokenizer: the Q-Former's; `None` where a language model reads the text.

    Raises:
        ValueError: settings that do not fit the checkpoint or are unknown, or a tokenizer of another size.
    """
    from modeling_lavis.hub.families import family_of
    from modeling_lavis.models.configuration_lavis_blip_2 import LavisBlip2Config

    vision = _vision_config(shapes, shared.section(settings, "vision", _KNOWN_VISION), settings)
    language_model = settings.get("language_model_config")
    qformer = _qformer_config(shapes, settings, use_text=language_model is None)
    fields = {ours: settings[name] for name, ours in _TOP_OPTIONS.items() if settings.get(name) is not None}
    if language_model is None:
        shared.check_tokenizer(tokenizer, qformer["vocab_size"])
        measured = {"embed_dim": size_of(shapes, "vision_proj.weight", 0)}
        fields["projection_dim"] = agree("top", measured, settings, free=frozenset())["embed_dim"]
        qformer["pad_token_id"] = tokenizer.pad_token_id
        fields |= {
            "pad_token_id": tokenizer.pad_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }
    if size_of(shapes, "ln_vision.weight", 0) != vision["hidden_size"]:
        raise ValueError(
            f"The checkpoint was trained with an image tower {size_of(shapes, 'ln_vision.weight', 0)} wide, but "
            f"the one given is {vision['hidden_size']} wide. Give the right one with --vision-checkpoint."
        )
    model_class = family_of(architecture).architectures[architecture].model_class
    return LavisBlip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=language_model,
        untied_language_head=language_model is not None and has_own_head(language_model),
        freeze_vision=bool(settings.get("freeze_vit", True)),
        architectures=[model_class],
        **fields,
    )


def _vision_config(shapes: Shapes, asked: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    is_clip = f"{_PREFIX}conv1.weight" in shapes
    kind, patch, positions, block, first = EVA, "patch_embed.proj.weight", "pos_embed", "blocks.", "mlp.fc1.weight"
    if is_clip:
        kind, patch, positions = CLIP, "conv1.weight", "positional_embedding"
        block, first = "transformer.resblocks.", "mlp.c_fc.weight"
    if settings.get("vit_model") and tower_kind(settings) is not kind:
        raise ValueError(
            f"vit_model is {settings['vit_model']!r}, but the image tower is another. Correct one of them."
        )
    width, patch_size = size_of(shapes, _PREFIX + positions, -1), size_of(shapes, _PREFIX + patch, 3)
    side = math.isqrt(size_of(shapes, _PREFIX + positions, -2) - 1)
    inner = size_of(shapes, f"{_PREFIX}{block}0.{first}", 0)
    measured = {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "hidden_size": width,
        "depth": count(shapes, _PREFIX + block),
    }
    sizes = agree("vision", measured, asked, free=frozenset({"image_size"}))
    ratio = asked.get("mlp_ratio")
    if ratio is not None and int(width * ratio) != inner:
        raise ValueError(f"vision.mlp_ratio {ratio} makes {int(width * ratio)} inner units, the tower has {inner}.")
    config = {
        "model_type": kind.model_type,
        "image_size": sizes["image_size"],
        "patch_size": patch_size,
        "hidden_size": width,
        "num_hidden_layers": measured["depth"],
        "num_attention_heads": heads(width, asked.get("num_heads") or kind.heads.get(width), "vision", "num_heads"),
        # half a unit more than the exact ratio, which may come out just below the whole number
        "mlp_ratio": (inner + 0.5) / width if ratio is None else ratio,
    }
    options = ("layer_norm_eps", "drop_path_rate")
    return config | {name: asked[name] for name in options if asked.get(name) is not None}


def _qformer_config(shapes: Shapes, settings: Mapping[str, Any], use_text: bool) -> dict[str, Any]:
    asked = shared.section(settings, "qformer", _KNOWN_QFORMER)
    prefix = "Qformer.bert."
    layers = f"{prefix}encoder.layer."
    measured = {
        "hidden_size": size_of(shapes, "query_tokens", 2),
        "num_hidden_layers": count(shapes, layers),
        "intermediate_size": size_of(shapes, f"{layers}0.intermediate_query.dense.weight", 0),
    }
    if use_text:
        words = f"{prefix}embeddings.word_embeddings.weight"
        measured["max_position_embeddings"] = size_of(shapes, f"{prefix}embeddings.position_embeddings.weight", 0)
        measured["vocab_size"] = size_of(shapes, words, 0)
        if (asked.get("vocab_size") or 0) < measured["vocab_size"]:
            asked.pop("vocab_size", None)  # named before the original adds its token
    sizes = agree("qformer", measured, asked, free=frozenset())
    readers = {int(m[1]) for name in shapes if (m := re.match(re.escape(layers) + r"(\d+)\.crossattention\.", name))}
    top = {
        "num_query_token": size_of(shapes, "query_tokens", 1),
        "cross_attention_freq": min(readers - {0}, default=measured["num_hidden_layers"]),
    }
    top = agree("top", top, settings, free=frozenset())
    width = size_of(shapes, f"{layers}0.crossattention.self.key.weight", 1)
    if width != size_of(shapes, "ln_vision.weight", 0):
        raise ValueError(f"The Q-Former reads states of width {width}, but ln_vision gives others.")
    config = {
        **{name: sizes[name] for name in measured},
        "num_attention_heads": heads(
            sizes["hidden_size"], asked.get("num_attention_heads"), "qformer", "num_attention_heads"
        ),
        "num_query_tokens": top["num_query_token"],
        "cross_attention_frequency": top["cross_attention_freq"],
        "use_text": use_text,
    }
    return config | {name: asked[name] for name in shared.TEXT_OPTIONS if asked.get(name) is not None}


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """Make the `LavisBlip2Processor` that prepares images and texts as the original does for this architecture."""
    from transformers import AutoTokenizer

    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
    from modeling_lavis.models.processing_lavis_blip_2 import LavisBlip2Processor

    side = config.vision_config.image_size
    kind, length = None, settings.get("max_txt_len") or MAX_TEXT_LENGTH
    if config.text_config is None:
        length = min(length, config.qformer_config.max_position_embeddings)
    else:
        kind = "seq2seq" if config.text_config.is_encoder_decoder else "causal"
        try:
            tokenizer = AutoTokenizer.from_pretrained(settings["language_model"])
        except Exception as error:  # tokenizers raises bare exceptions for damaged files
            raise OSError(
                f"The tokenizer of the language model {settings['language_model']!r} cannot be read: "
                f"{(str(error).splitlines() or ['damaged'])[0]} Give a complete folder with --language-model."
            ) from error
    return LavisBlip2Processor(
        LavisImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        language_model=kind,
        prompt=settings.get("prompt") or "",
        max_text_length=length,
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> Any:
    """Make the `GenerationConfig` with the original's defaults; `None` where nothing is generated."""
    from transformers import AutoTokenizer, GenerationConfig

    if config.text_config is None:
        return shared.generation_config(CAPTION_DEFAULTS if architecture == "blip2" else None, config)
    text = config.text_config
    ids = {"pad_token_id": text.pad_token_id, "eos_token_id": text.eos_token_id}
    if text.is_encoder_decoder:
        start = text.decoder_start_token_id
        ids["decoder_start_token_id"] = text.pad_token_id if start is None else start
    else:
        # parity: what a causal language model writes ends with the line
        tokenizer = AutoTokenizer.from_pretrained(settings["language_model"])
        ids["eos_token_id"] = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
        ids["bos_token_id"] = text.bos_token_id
    return GenerationConfig(**LANGUAGE_DEFAULTS, **ids)
