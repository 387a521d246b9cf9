# SPDX-License-Identifier: Apache-2.0
"""New models put together from a pretrained image encoder and a pretrained text encoder, in any language.

    model, processor = from_pretrained_parts(
        "LavisBlipForConditionalGeneration", "deit_base_patch16_224", "dccuchile/bert-base-spanish-wwm-cased"
    )

Models that this package or transformers' BLIP and BLIP-2 have saved load by `from_pretrained`; checkpoints of LAVIS
load after `modeling-lavis convert`.
"""

import copy
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.utils import logging

import modeling_lavis
from modeling_lavis.models.momentum import init_momentum_modules
from modeling_lavis.training.recipe_options import HEADS_OF_TASKS
from modeling_lavis.training.text_parts import TextPart, fill_head, fill_text, load_tokenizer, read_text_part
from modeling_lavis.training.transfers import Transfer
from modeling_lavis.training.vision_parts import fill_vision, read_vision_part, vision_config
from modeling_lavis.training.vocabularies import set_language_tokens

logger = logging.get_logger(__name__)

_PROCESSORS = {
    "albef": "AlbefProcessor",
    "alpro": "AlproProcessor",
    "lavis_blip": "LavisBlipProcessor",
    "lavis_blip_2": "LavisBlip2Processor",
}
_IMAGE_OPTIONS = ("image_mean", "image_std", "background")
#: layers of BERT from which those of the family's text encoder with fusion layers start
_FUSION_FAMILIES = ("albef", "alpro")


def find_head(name: Any, task: str | None = None) -> Any:
    """
    Find a model class.

    Args:
        name (`type` or `str`): a class, its name, or the model type of a family with `task`.
        task (`str`, *optional*): a task, if `name` is a model type.

    Raises:
        ValueError: there is no such class.
    """
    if isinstance(name, type):
        return name
    if name in _PROCESSORS:
        heads = [head for head in HEADS_OF_TASKS.get(task or "", ()) if _family_of(head) == name]
        if not heads:
            tasks = [known for known, heads in HEADS_OF_TASKS.items() if any(_family_of(h) == name for h in heads)]
            raise ValueError(
                f"The family {name} has no head for the task {task!r}; expected one of {', '.join(tasks)}."
            )
        return getattr(modeling_lavis, heads[0])
    if not hasattr(modeling_lavis, str(name)) or not hasattr(getattr(modeling_lavis, name), "config_class"):
        raise ValueError(f"There is no model class {name!r}. Give one of {', '.join(_all_heads())}, or a model type.")
    return getattr(modeling_lavis, name)


def _all_heads() -> list[str]:
    return list(dict.fromkeys(head for heads in HEADS_OF_TASKS.values() for head in heads))


def _family_of(head: str) -> str:
    kind: str = getattr(modeling_lavis, head).config_class.model_type
    return kind


def from_pretrained_parts(
    head_class: Any,
    vision: Any = None,
    text: Any = None,
    *,
    task: str | None = None,
    tokenizer: Any = None,
    image_size: int | None = None,
    language_model: Any = None,
    image_statistics: Literal["clip", "vision"] = "clip",
    processor_options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    **config: Any,
) -> tuple[Any, Any]:
    """
    Make a new model from parts: a pretrained image encoder, a pretrained text encoder, and new weights for the rest.

    Features of images and of texts alone equal those of the parts, if the image size is theirs. Every weight of a part
    is used or dropped for a known reason; the account is logged at level INFO.

    Args:
        head_class (`type` or `str`): model class or its name; or the model type of a family, such as `"lavis_blip"`,
            together with `task`.
        vision (`str`, `os.PathLike` or `nn.Module`, *optional*): image encoder: name of a ViT or EVA of timm, a model
            of timm, a folder of a model of this package, such a model, or `"embedded"` for the small one that is part
            of the package. BLIP-2 leaves out the last block of encoders of other families, as published, unless
            `vision_config` has `num_hidden_layers`. By default new, by `vision_config`.
        text (`str`, `os.PathLike` or `PreTrainedModel`, *optional*): text encoder: folder or Hub id of a BERT or
            RoBERTa in any language, or of a BLIP of this package, `"embedded"` for the one that is part of it; or such
            a model with `tokenizer`. By default new, by `text_config` (BLIP-2: `qformer_config`) and `tokenizer`.
        task (`str`, *optional*): task, if `head_class` is a model type.
        tokenizer (`str`, `os.PathLike` or `PreTrainedTokenizerBase`, *optional*): by default that of `text`, or of
            `language_model`. A new language model begins and ends texts with the `[CLS]` and `[SEP]` of `text`. An
            uncased tokenizer of BERT strips accents, and the marks of voiced kana, unless it was made with
            `strip_accents=False`; texts are then generated without them.
        image_size (`int`, *optional*): side length of images in pixels, by default that of `vision`; position
            embeddings of other sizes are interpolated.
        language_model (`str`, `os.PathLike` or `PreTrainedModel`, *optional*): language model of BLIP-2's second stage,
            with its weights. By default new, by `text_config`.
        image_statistics (`str`, *optional*, defaults to `"clip"`): mean and standard deviation of pixel values: those
            of CLIP, as in all published models, or with `"vision"` those that the image encoder of timm was trained
            with.
        processor_options (`Mapping[str, Any]`, *optional*): options of the processor, such as `prompt` and
            `max_text_length`, and `background`, `image_mean` and `image_std` of its image processor. `cleaning` is
            `None` by default if the tokenizer distinguishes upper and lower case, and `join_ideographs` is `True` if it
            splits Chinese or Japanese characters that it decodes with spaces between them.
        pretrained (`bool`, *optional*, defaults to `True`): whether to load timm's weights if `vision` is a name.
        config: fields of the configuration; dictionaries for parts have those that differ from the source. In
            `text_config` (or `qformer_config`), fewer layers than those of the source use its first ones.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        ValueError: a part does not fit, or the tokenizer is missing.
        OSError: a part cannot be read.
        ImportError: timm is not installed.
    """
    head = find_head(head_class, task)
    family = head.config_class.model_type
    has_language_model = issubclass(head, modeling_lavis.LavisBlip2ForConditionalGeneration)
    if language_model is not None and not has_language_model:
        raise ValueError(f"{head.__name__} has no language model; leave out language_model.")
    account = Transfer()
    fields = {name: copy.deepcopy(value) for name, value in config.items()}

    vision_part = None if vision is None else read_vision_part(vision, pretrained)
    changes = dict(fields.get("vision_config") or {})
    if image_size is not None:
        changes["image_size"] = image_size
    if vision_part is not None:
        changes = vision_config(vision_part, family, changes)
    if changes:
        fields["vision_config"] = changes

    text_part = None if text is None else read_text_part(text)
    section = "qformer_config" if family == "lavis_blip_2" else "text_config"
    if text_part is not None:
        fields[section] = {**text_part.config, **(fields.get(section) or {})}
        if family == "lavis_blip_2":
            for name in ("vocab_size", "pad_token_id") if has_language_model else ():
                fields[section].pop(name, None)
    if has_language_model:
        fields[section] = {**(fields.get(section) or {}), "use_text": False}
        if language_model is not None:
            fields["text_config"] = _language_model_config(language_model, fields.get("text_config"))

    if tokenizer is None:
        tokenizer = text if language_model is None else language_model
    is_of_text = has_language_model and language_model is None and tokenizer is text
    if not isinstance(tokenizer, (str, os.PathLike)) and not hasattr(tokenizer, "get_vocab"):
        raise ValueError("The tokenizer is missing. Give tokenizer=, a tokenizer, or a folder or Hub id that has one.")
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(tokenizer)
    if is_of_text:
        set_language_tokens(tokenizer)
    statistics = {}
    if image_statistics not in ("clip", "vision"):
        raise ValueError(f"image_statistics is {image_statistics!r}; expected 'clip' or 'vision'.")
    if image_statistics == "vision":
        if vision_part is None or vision_part.image_mean is None:
            raise ValueError("image_statistics is 'vision', but the image encoder states none; give 'clip'.")
        statistics = {"image_mean": vision_part.image_mean, "image_std": vision_part.image_std}
    options = {**statistics, **_text_options(tokenizer, has_language_model), **(processor_options or {})}
    seq2seq = has_language_model and bool(_is_seq2seq(fields.get("text_config")))
    if has_language_model:
        options.setdefault("language_model", "seq2seq" if seq2seq else "causal")
    processor = make_processor(family, tokenizer, fields.get("vision_config") or {}, options)

    model = _build(head, processor, fields, section, text_part)
    if vision_part is not None:
        account.add(fill_vision(model.vision_model, vision_part), "vision_model.")
    if text_part is not None:
        _fill_texts(model, text_part, account)
    if isinstance(language_model, (str, os.PathLike)):
        auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
        language_model = auto.from_pretrained(language_model)
    if language_model is not None:
        model.language_model.load_state_dict(language_model.state_dict())
        model.language_model.generation_config = language_model.generation_config
    init_momentum_modules(getattr(model, "momentum_pairs", []))
    model.tie_weights()
    logger.info(f"{head.__name__}: {account}. New: {_summary(account.new)}. Dropped: {_summary(account.dropped)}.")
    return model.eval(), processor


def make_processor(
    family: str, tokenizer: Any, vision: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Any:
    """
    The processor of a family for a tokenizer and the sizes of an image or video encoder.

    Args:
        family (`str`): model type.
        tokenizer (`PreTrainedTokenizerBase`): tokenizer; special tokens of the family are added in-place.
        vision (`Mapping[str, Any]`): fields of the vision configuration, of which `image_size` and `num_frames` count.
        options (`Mapping[str, Any]`, *optional*): options of the processor, and of its image processor.
    """
    options = dict(options or {})
    images = {name: options.pop(name) for name in _IMAGE_OPTIONS if name in options}
    size = vision.get("image_size", 224)
    if family == "alpro":
        visual = modeling_lavis.LavisVideoProcessor(size=size, num_frames=vision.get("num_frames", 8), **images)
    else:
        visual = modeling_lavis.LavisImageProcessor(size={"height": size, "width": size}, **images)
    return getattr(modeling_lavis, _PROCESSORS[family])(visual, tokenizer, **options)


def _text_options(tokenizer: Any, has_language_model: bool) -> dict[str, Any]:
    """Options of a processor that follow from the language of a tokenizer."""
    options: dict[str, Any] = {}
    if has_language_model:
        return options

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if ids("A") != ids("a"):
        options["cleaning"] = None
    # BERT's tokenizers split Chinese characters, not kana
    sample = "".join([token for token in sorted(tokenizer.get_vocab()) if re.fullmatch("[\u4e00-\u9fff]", token)][:2])
    if len(sample) == 2 and tokenizer.decode(ids(sample), skip_special_tokens=True) == " ".join(sample):
        options["join_ideographs"] = True
    return options


def _language_model_config(language_model: Any, changes: Any) -> dict[str, Any]:
    if isinstance(language_model, (str, os.PathLike)):
        config = AutoConfig.from_pretrained(language_model)
    else:
        config = language_model.config
    return {**config.to_dict(), **(changes or {})}


def _is_seq2seq(text: Any) -> bool:
    if not isinstance(text, Mapping):
        raise ValueError("The second stage of BLIP-2 needs a language_model, or text_config for a new one.")
    values = {name: value for name, value in text.items() if name != "model_type"}
    return bool(AutoConfig.for_model(text.get("model_type", "opt"), **values).is_encoder_decoder)


def _build(head: Any, processor: Any, fields: dict[str, Any], section: str, part: TextPart | None) -> Any:
    """The new model, with the special tokens of the processor's tokenizer and the vocabulary of the larger of both."""
    if part is not None and "vocab_size" in fields.get(section, {}):
        tokens = processor.tokenizer.get_vocab()
        size = max(len(tokens), max(tokens.values()) + 1)
        fields[section]["vocab_size"] = max(part.config["vocab_size"], size)
    made = head.config_class.from_tokenizer(processor, **fields)
    made.architectures = [head.__name__]
    if hasattr(head, "double_images"):
        made = head.double_images(made)
    return head(made)


def _fill_texts(model: Any, part: TextPart, account: Transfer) -> None:
    """Fill every module of a new model that starts from BERT."""
    config = model.config
    if hasattr(model, "qformer"):
        layers = list(range(model.qformer.config.num_hidden_layers))
        account.add(fill_text(model.qformer, part, layers), "qformer.")
    text = config.get_text_config()
    fusion = text.fusion_layer if getattr(text, "fusion_layer", None) is not None else 0
    if hasattr(model, "text_encoder"):
        layers = list(range(text.num_hidden_layers))
        if text.pair_image_layers:  # both layers of a pair start from the same one
            layers = [layer if layer < fusion else fusion + (layer - fusion) // 2 for layer in layers]
        account.add(fill_text(model.text_encoder, part, layers), "text_encoder.")
    if hasattr(model, "text_decoder"):
        # as in the original, ALBEF's answer decoder starts from the fusion layers
        count = model.text_decoder.bert.config.num_hidden_layers
        first = fusion if config.model_type in _FUSION_FAMILIES else 0
        account.add(
            fill_text(model.text_decoder, part, [first + i for i in range(count)], is_decoder=True), "text_decoder."
        )
    for name in ("mlm_head", "cls"):
        if isinstance(getattr(model, name, None), nn.Module):
            account.add(fill_head(getattr(model, name), part), f"{name}.")


def _summary(names: Mapping[str, str]) -> str:
    reasons: dict[str, int] = {}
    for reason in names.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    return "; ".join(f"{count} ({reason})" for reason, count in reasons.items()) or "none"


__all__ = ["find_head", "from_pretrained_parts", "make_processor"]
