# SPDX-License-Identifier: Apache-2.0
"""Configuration, processor and generation defaults of BLIP-2, from the shapes of a checkpoint and a few settings.

Settings have the form of `tests/goldens/*/config.json`: sections `vision` and `qformer`, and entries such as
`vit_model`, `embed_dim`, `prompt` and `max_txt_len`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modeling_lavis.hub import settings as shared
from modeling_lavis.hub.shapes import (
    BLOCK_NUMBER,
    Shapes,
    count_blocks,
    merge_sizes,
    num_heads,
    size_of,
    with_intermediate_size,
)
from modeling_lavis.hub.zoo import model_class_of

LANGUAGE_DEFAULTS = {"num_beams": 5, "max_new_tokens": 30, "min_length": 1}
MAX_TEXT_LENGTH = 32
_PREFIX = "visual_encoder."


@dataclass(frozen=True)
class ImageEncoderKind:
    """
    One of the two kinds of image encoders.

    Args:
        model_type (`str`): model type of our configuration.
        block_prefix (`str`): prefix of the blocks' keys in the encoder's own checkpoint.
        unused (`tuple[str, ...]`): prefixes of keys in that checkpoint that the original does not use.
        depths (`Mapping[int, int]`): number of blocks that the original uses, by the hidden size of the published
            encoder.
        heads (`Mapping[int, int]`): number of attention heads, by the hidden size of the published encoder.
        published (`str`): URL of the published checkpoint.
    """

    model_type: str
    block_prefix: str
    unused: tuple[str, ...]
    depths: Mapping[int, int]
    heads: Mapping[int, int]
    published: str


_SITE = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
EVA = ImageEncoderKind(
    "lavis_eva", "blocks.", ("norm.", "fc_norm.", "head."), {1408: 39}, {1408: 16}, f"{_SITE}eva_vit_g.pth"
)
# parity: 23 blocks as in LAVIS's main branch. LAVIS 1.0.2 builds 21; set `vision.depth` to 21 for those.
CLIP = ImageEncoderKind(
    "lavis_clip_vision",
    "transformer.resblocks.",
    ("ln_post.", "proj"),
    {1024: 23},
    {1024: 16},
    f"{_SITE}clip_vit_L.pth",
)
_IMAGE_ENCODERS = {"eva_clip_g": EVA, "clip_L": CLIP}

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


def image_encoder_kind(settings: Mapping[str, Any]) -> ImageEncoderKind:
    """
    Return the kind of image encoder that the settings request, EVA by default.

    Raises:
        ValueError: If `vit_model` is unknown.
    """
    name = settings.get("vit_model") or "eva_clip_g"
    if name not in _IMAGE_ENCODERS:
        raise ValueError(f"Unknown vit_model {name!r}; expected one of {', '.join(_IMAGE_ENCODERS)}.")
    return _IMAGE_ENCODERS[name]


def language_model_config(architecture: str, source: str | Path) -> Any:
    """
    Load the configuration of a language model, with the changes that the original makes to it.

    Args:
        architecture (`str`): the architecture to convert to.
        source (`str` or `Path`): folder or Hub id of the language model.

    Raises:
        OSError: If there is no configuration that can be read.
        ValueError: If the model is causal but the architecture needs a sequence-to-sequence model, or vice versa.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise OSError(
            f"The configuration of the language model {str(source)!r} cannot be read: {str(error).splitlines()[0]} "
            "Use --language-model with the folder of a model or a Hub id."
        ) from error
    needs_encoder = architecture == "blip2_t5"
    if bool(config.is_encoder_decoder) != needs_encoder:
        kind = "sequence-to-sequence" if needs_encoder else "causal"
        raise ValueError(f"{architecture} needs a {kind} language model, but {source} is a {config.model_type}.")
    if config.model_type == "t5":
        config.dense_act_fn = "gelu"  # parity: the exact GELU, whichever activation the model was trained with
    config.dtype = None
    return config


def meta_language_model(config: Any) -> torch.nn.Module:
    """Build the language model on the meta device."""
    from modeling_lavis.models.modeling_lavis_blip_2_generation import build_language_model

    with torch.device("meta"):
        return build_language_model(config, has_untied_head(config))


def has_untied_head(config: Any) -> bool:
    """Return whether the language modeling head has weights of its own, as in T5 1.1 and FLAN-T5."""
    # transformers overrides `tie_word_embeddings` of T5; this flag is all that is left of its value in the file.
    return getattr(config, "scale_decoder_outputs", True) is False


def build_config(
    architecture: str, source_architecture: str, shapes: Shapes, settings: Mapping[str, Any], tokenizer: Any
) -> Any:
    """
    Build a `LavisBlip2Config`.

    Args:
        architecture (`str`): the architecture to convert to.
        source_architecture (`str`): the architecture of the checkpoint.
        shapes (`Mapping[str, tuple[int, ...]]`): shapes of the weights, separate parts included, by the original keys.
        settings (`Mapping[str, Any]`): what cannot be inferred from shapes. Sizes must be those of the checkpoint,
            except `vision.image_size` (position embeddings are resized).
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the Q-Former's tokenizer. `None` if a language model
            processes the text.

    Raises:
        ValueError: If settings are unknown or do not fit the checkpoint, or the tokenizer has another vocabulary size.
    """
    from modeling_lavis.models.configuration_lavis_blip_2 import LavisBlip2Config

    vision = _vision_config(shapes, shared.section(settings, "vision", _KNOWN_VISION), settings)
    language_model = settings.get("language_model_config")
    qformer = _qformer_config(shapes, settings, use_text=language_model is None)
    fields = shared.options_of(settings, _TOP_OPTIONS)
    if language_model is None:
        shared.check_tokenizer(tokenizer, qformer["vocab_size"])
        inferred = {"embed_dim": size_of(shapes, "vision_proj.weight", 0)}
        fields["projection_dim"] = merge_sizes("top", inferred, settings, overridable=frozenset())["embed_dim"]
        qformer["pad_token_id"] = tokenizer.pad_token_id
        fields |= {
            "pad_token_id": tokenizer.pad_token_id,
            "cls_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }
    if size_of(shapes, "ln_vision.weight", 0) != vision["hidden_size"]:
        raise ValueError(
            "The checkpoint was trained with an image encoder of hidden size "
            f"{size_of(shapes, 'ln_vision.weight', 0)}, but the given one has hidden size {vision['hidden_size']}. "
            "Give the right one with --vision-checkpoint."
        )
    return LavisBlip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=language_model,
        untied_language_head=language_model is not None and has_untied_head(language_model),
        freeze_vision=bool(settings.get("freeze_vit", True)),
        architectures=[model_class_of(architecture)],
        **fields,
    )


def _vision_config(shapes: Shapes, requested: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    is_clip = f"{_PREFIX}conv1.weight" in shapes
    kind, patch, positions, block, first = EVA, "patch_embed.proj.weight", "pos_embed", "blocks.", "mlp.fc1.weight"
    if is_clip:
        kind, patch, positions = CLIP, "conv1.weight", "positional_embedding"
        block, first = "transformer.resblocks.", "mlp.c_fc.weight"
    if settings.get("vit_model") and image_encoder_kind(settings) is not kind:
        raise ValueError(
            f"vit_model is {settings['vit_model']!r}, but the image encoder is of the other kind. Correct one of them."
        )
    hidden_size, patch_size = size_of(shapes, _PREFIX + positions, -1), size_of(shapes, _PREFIX + patch, 3)
    side = math.isqrt(max(size_of(shapes, _PREFIX + positions, -2) - 1, 0))
    inferred = {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "intermediate_size": size_of(shapes, f"{_PREFIX}{block}0.{first}", 0),
        "depth": count_blocks(shapes, _PREFIX + block),
    }
    requested = with_intermediate_size(requested, hidden_size)
    sizes = merge_sizes("vision", inferred, requested, overridable=frozenset({"image_size"}))
    config = {
        "model_type": kind.model_type,
        "image_size": sizes["image_size"],
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": inferred["depth"],
        "num_attention_heads": num_heads(
            hidden_size, requested.get("num_heads") or kind.heads.get(hidden_size), "vision", "num_heads"
        ),
        "intermediate_size": inferred["intermediate_size"],
    }
    return config | shared.options_of(requested, shared.VISION_OPTIONS)


def _qformer_config(shapes: Shapes, settings: Mapping[str, Any], use_text: bool) -> dict[str, Any]:
    requested = shared.section(settings, "qformer", _KNOWN_QFORMER)
    prefix = "Qformer.bert."
    layers = f"{prefix}encoder.layer."
    inferred = {
        "hidden_size": size_of(shapes, "query_tokens", 2),
        "num_hidden_layers": count_blocks(shapes, layers),
        "intermediate_size": size_of(shapes, f"{layers}0.intermediate_query.dense.weight", 0),
    }
    if use_text:
        inferred["max_position_embeddings"] = size_of(shapes, f"{prefix}embeddings.position_embeddings.weight", 0)
        inferred["vocab_size"] = size_of(shapes, f"{prefix}embeddings.word_embeddings.weight", 0)
        if (requested.get("vocab_size") or 0) < inferred["vocab_size"]:
            requested.pop("vocab_size", None)  # the original gives the size before it adds its token
    sizes = merge_sizes("qformer", inferred, requested, overridable=frozenset())
    pattern = re.compile(re.escape(layers) + BLOCK_NUMBER + r"\.crossattention\.")
    cross_attention_layers = {int(match[1]) for name in shapes if (match := pattern.match(name))}
    top = {
        "num_query_token": size_of(shapes, "query_tokens", 1),
        "cross_attention_freq": min(cross_attention_layers - {0}, default=inferred["num_hidden_layers"]),
    }
    top = merge_sizes("top", top, settings, overridable=frozenset())
    encoder_hidden_size = size_of(shapes, f"{layers}0.crossattention.self.key.weight", 1)
    if encoder_hidden_size != size_of(shapes, "ln_vision.weight", 0):
        raise ValueError(
            f"The Q-Former attends to hidden states of size {encoder_hidden_size}, but ln_vision has size "
            f"{size_of(shapes, 'ln_vision.weight', 0)}. The checkpoint mixes parts of different models."
        )
    config = {
        **{name: sizes[name] for name in inferred},
        "num_attention_heads": num_heads(
            sizes["hidden_size"], requested.get("num_attention_heads"), "qformer", "num_attention_heads"
        ),
        "num_query_tokens": top["num_query_token"],
        "cross_attention_frequency": top["cross_attention_freq"],
        "use_text": use_text,
    }
    return config | shared.options_of(requested, shared.TEXT_OPTIONS)


def build_processor(architecture: str, settings: Mapping[str, Any], config: Any, tokenizer: Any) -> Any:
    """
    Build the `LavisBlip2Processor` that preprocesses images and texts as the original does for this architecture.

    Raises:
        OSError: If the tokenizer of the language model cannot be read.
    """
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
        except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
            raise OSError(
                f"The tokenizer of the language model {settings['language_model']!r} cannot be read: "
                f"{(str(error).splitlines() or ['damaged'])[0]} Use --language-model with a complete folder."
            ) from error
    return LavisBlip2Processor(
        LavisImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        language_model=kind,
        prompt=settings.get("prompt") or "",
        max_text_length=length,
    )


def build_generation_config(architecture: str, settings: Mapping[str, Any], config: Any) -> Any:
    """Build the `GenerationConfig` with the original's defaults, or return `None` if the model does not generate."""
    from transformers import AutoTokenizer, GenerationConfig

    from modeling_lavis.models.processing_lavis_blip_2 import find_newline_token

    if config.text_config is None:
        return shared.generation_config(shared.CAPTION_DEFAULTS if architecture == "blip2" else None, config)
    text = config.text_config
    ids = {"pad_token_id": text.pad_token_id, "eos_token_id": text.eos_token_id}
    if text.is_encoder_decoder:
        start = getattr(text, "decoder_start_token_id", None)
        ids["decoder_start_token_id"] = text.pad_token_id if start is None else start
    else:
        # parity: the original stops a causal language model at the first newline
        newline = find_newline_token(AutoTokenizer.from_pretrained(settings["language_model"]))
        ids["eos_token_id"] = text.eos_token_id if newline is None else newline
        ids["bos_token_id"] = text.bos_token_id
    return GenerationConfig(**LANGUAGE_DEFAULTS, **ids)
