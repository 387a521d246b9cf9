# SPDX-License-Identifier: Apache-2.0
"""The processor of a pipeline: given, loaded from a repository, or built from its parts."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

from modeling_lavis.model_card import is_repo_id
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.pipelines.loading import hub_options_of, unwrap_adapters

_PARTS = ("image_processor", "video_processor", "tokenizer")
#: transformers' image processors of BLIP, whose options are those of ours
_BLIP_IMAGE_PROCESSORS = ("BlipImageProcessor", "BlipImageProcessorFast", "BlipImageProcessorPil")


def is_lavis_processor(processor: Any) -> bool:
    """Whether a processor has the interface of this package, also as code that was loaded with a repository."""
    return any(base.__name__ == "LavisProcessorMixin" for base in type(processor).__mro__)


def resolve_processor(model: Any, processor: Any = None, **parts: Any) -> Any:
    """
    Return the processor of a pipeline.

    Args:
        model: the model, possibly with adapters.
        processor (*optional*): a processor of this package, or the folder or Hub id of one. Of a processor of
            transformers only the parts are used, if the model was not loaded from a repository.
        parts (*optional*): `image_processor` (`feature_extractor` is its former name), `video_processor` and
            `tokenizer`, as objects, folders or Hub ids. They replace those of the processor.

    Raises:
        TypeError: an argument has an unsupported type.
        ValueError: the processor cannot be loaded, parts are missing, or they do not fit the model.
    """
    given = {name: part for name, part in parts.items() if part is not None}
    if "feature_extractor" in given:
        given.setdefault("image_processor", given.pop("feature_extractor"))
        given.pop("feature_extractor", None)
    if isinstance(processor, (str, os.PathLike, tuple)):
        processor = _load(processor, model)
    if processor is not None and not is_lavis_processor(processor):
        if not hasattr(processor, "tokenizer"):
            raise TypeError(
                f"processor is a {type(processor).__name__}; expected a processor of this package, for example from"
                " AutoProcessor.from_pretrained. Pass parts of one as tokenizer= and image_processor=."
            )
        found = {name: getattr(processor, name) for name in _PARTS if getattr(processor, name, None) is not None}
        # with a repository, its own processor is better: it has the options of the checkpoint
        given, processor = (given if _has_repository(model) else {**found, **given}), None
    if processor is None and (not given or _has_repository(model)):
        try:
            processor = load_processor(model)
        except (OSError, ValueError):
            if len(given) < len(_part_names(unwrap_adapters(model))):
                raise
    return build_processor(model, given, processor) if given else processor


def load_processor(model: Any) -> Any:
    """
    Load the processor of a model from the repository that the model was loaded from.

    Raises:
        ValueError: If the model was not loaded from a repository, or there is no processor for its class.
    """
    inner = unwrap_adapters(model)
    if not getattr(inner, "name_or_path", "") or _class_for(inner) is None:
        raise ValueError(
            f"A pipeline with {type(inner).__name__} needs a processor of this package; pass processor=, loaded by"
            " AutoProcessor.from_pretrained from a repository with a processor, or its parts,"
            f" {' and '.join(f'{name}=' for name in _part_names(inner))}."
        )
    return _load(inner.name_or_path, model)


def build_processor(model: Any, parts: Mapping[str, Any], template: Any = None) -> Any:
    """
    Build the processor of a model from its parts.

    Args:
        model: the model, possibly with adapters.
        parts (`Mapping`): `image_processor`, `video_processor` and `tokenizer`; objects, folders or Hub ids.
        template (*optional*): processor whose options and missing parts are used; by default the options of the
            processor's class.

    Raises:
        TypeError: a part has an unsupported type.
        ValueError: a part is missing, or does not fit the model.
    """
    inner = unwrap_adapters(model)
    processor_class = _class_for(inner) if template is None else type(template)
    if processor_class is None:
        raise ValueError(f"There is no processor for {type(inner).__name__}; pass one of this package as processor=.")
    names = _part_names(inner)
    if unused := sorted(set(parts) - set(names)):
        raise ValueError(f"{type(inner).__name__} takes no {' and no '.join(unused)}; expected {' and '.join(names)}.")
    loaded = {name: _load_part(name, part, model) for name, part in parts.items()}
    if template is not None:
        loaded = {name: loaded.get(name, getattr(template, name, None)) for name in names}
    if missing := [name for name in names if loaded.get(name) is None]:
        raise ValueError(
            f"A pipeline with {type(inner).__name__} needs {' and '.join(missing)}, too; pass"
            f" {' and '.join(f'{name}=' for name in missing)}, or a processor."
        )
    options = _options_for(inner, processor_class)
    if template is not None:
        options = {name: getattr(template, name) for name in _option_names(processor_class) if hasattr(template, name)}
    processor = processor_class(*(loaded[name] for name in names), **options)
    _check_vocabulary(inner, processor)
    return processor


def _load(source: Any, model: Any) -> Any:
    """A processor of this package, from a folder or a Hub id."""
    from transformers import AutoProcessor

    processor_class = _class_for(unwrap_adapters(model)) or AutoProcessor
    options = hub_options_of(model)
    if not isinstance(source, tuple) and os.fspath(source) != getattr(unwrap_adapters(model), "name_or_path", None):
        # the revision is that of the model's repository
        options = {name: value for name, value in options.items() if name not in ("revision", "subfolder")}
    if isinstance(source, tuple):
        source, options = source[0], {**options, **source[1]}
    if processor_class is not AutoProcessor:
        options.pop("trust_remote_code", None)
    return processor_class.from_pretrained(os.fspath(source), **options)


def _load_part(name: str, part: Any, model: Any) -> Any:
    """A part of a processor, loaded if it is a folder, a Hub id, or one of them with options."""
    import transformers

    auto_class = {
        "image_processor": transformers.AutoImageProcessor,
        "video_processor": transformers.AutoVideoProcessor,
        "tokenizer": transformers.AutoTokenizer,
    }[name]
    if isinstance(part, (str, os.PathLike, tuple)):
        source, options = part if isinstance(part, tuple) else (part, {})
        try:
            part = auto_class.from_pretrained(os.fspath(source), **options)
        except (OSError, ValueError) as error:  # what it says does not always name the source
            reason = f"The {name} of {os.fspath(source)} cannot be loaded: {error}"
            raise (OSError if isinstance(error, OSError) else ValueError)(reason) from error
    if name == "image_processor" and type(part).__name__ in _BLIP_IMAGE_PROCESSORS:
        known = LavisImageProcessor.valid_kwargs.__annotations__
        return LavisImageProcessor(**{key: value for key, value in part.to_dict().items() if key in known})
    method = "decode" if name == "tokenizer" else "preprocess"
    if not hasattr(part, method):
        raise TypeError(
            f"{name} is a {type(part).__name__}; expected what {auto_class.__name__}.from_pretrained returns, or the"
            " folder or Hub id to load it from."
        )
    return part


def _class_for(model: Any) -> Any:
    """The class of a model's processor, `None` if there is none."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    return PROCESSOR_MAPPING[type(model.config)] if type(model.config) in PROCESSOR_MAPPING else None


def _has_repository(model: Any) -> bool:
    """Whether a model was loaded from a folder or the Hub, and has a processor there."""
    inner = unwrap_adapters(model)
    name = getattr(inner, "name_or_path", "")
    if not name or _class_for(inner) is None:
        return False
    if os.path.isdir(name):
        files = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
        return any(os.path.isfile(os.path.join(name, file)) for file in files)
    return is_repo_id(name)


def _part_names(model: Any) -> tuple[str, ...]:
    """Names of the parts of a model's processor, in the order of its arguments."""
    processor_class = _class_for(model)
    arguments = inspect.signature(processor_class.__init__).parameters if processor_class else ()
    return tuple(name for name in arguments if name in _PARTS) or ("image_processor", "tokenizer")


def _option_names(processor_class: Any) -> list[str]:
    return [name for name in inspect.signature(processor_class.__init__).parameters if name not in ("self", *_PARTS)]


def _options_for(model: Any, processor_class: Any) -> dict[str, Any]:
    """Options of a new processor that follow from the model."""
    if "language_model" not in _option_names(processor_class) or not hasattr(model, "language_model"):
        return {}
    return {"language_model": "seq2seq" if model.config.is_encoder_decoder else "causal"}


def _check_vocabulary(model: Any, processor: Any) -> None:
    """`ValueError` if the tokenizer has tokens that the model lacks; the tokenizer of a language model may have."""
    if getattr(processor, "language_model", None) is not None:
        return
    size, embeddings = len(processor.tokenizer), model.get_input_embeddings()
    if embeddings is not None and size > embeddings.num_embeddings:
        raise ValueError(
            f"The tokenizer has {size} tokens, but the vocabulary of {type(model).__name__} has"
            f" {embeddings.num_embeddings}. Pass the tokenizer that the model was trained with."
        )
