# SPDX-License-Identifier: Apache-2.0
"""The model and the processor that a recipe trains: loaded, or new, with the options of the recipe."""

import copy
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel

import modeling_lavis
from modeling_lavis.data.collators import ENTAILMENT_LABELS, PAIR_LABELS
from modeling_lavis.data.columns import class_names
from modeling_lavis.data.folders import load_label2id
from modeling_lavis.models.head_loading import HeadStart, head_of, new_weights
from modeling_lavis.models.momentum import init_momentum_modules
from modeling_lavis.training.recipes import Recipe
from modeling_lavis.training.resizing import resize_images, resize_queue
from modeling_lavis.training.smooth_positions import smooth_positions
from modeling_lavis.training.starting_points import from_pretrained_parts, load_tokenizer, make_processor
from modeling_lavis.training.vocabularies import set_language_tokens, train_tokenizer

_LAVIS_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".tar")
#: fields of parts that can be changed in a model that is loaded; the others are sizes
_RATES = ("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob")
_SIZES = ("projection_dim", "initializer_range")
_PARTS = ("vision_config", "text_config", "qformer_config", "answer_config")
#: model types of transformers that heads of a family load, too
_OF_TRANSFORMERS = {"lavis_blip": "blip", "lavis_blip_2": "blip-2"}
#: column with the classes of the tasks that have some
LABEL_COLUMNS = {"classification": "label", "nlvr": "label", "video-qa": "answer"}
_TEXT_COLUMNS = ("caption", "question", "answer", "sentence")
#: modules of the heads whose outputs are the classes
_CLASSIFIERS = ("cls_head", "classifier")
_IMAGE_OPTIONS = ("background", "image_mean", "image_std")


class Start(NamedTuple):
    """
    What a recipe trains.

    Args:
        model (`PreTrainedModel`): the model.
        processor (`ProcessorMixin`): its processor.
        new_weights (`list[str]`): names of the weights that the repository does not have, or has for other classes,
            without those that are copies of others.
    """

    model: Any
    processor: Any
    new_weights: list[str]


def find_labels(recipe: Recipe, rows: Any, given: Any = None, model: Any = None) -> dict[str, int] | None:
    """
    Class indices of a task.

    Args:
        recipe ([`Recipe`]): the recipe.
        rows: rows of the training data.
        given (`Mapping[str, int]`, `Sequence[str]`, `str` or `os.PathLike`, *optional*): indices by name, names in
            order, or a file with one of them. By default those of NLVR2 and SNLI-VE if the data have their names, else
            the names of the training data in alphabetical order, and of answers to questions about videos the most
            frequent `data.num_labels` of the recipe, the most frequent first.
        model (`PreTrainedModel`, *optional*): a model of the recipe's head that is trained as it is: the indices are
            those of its `config.label2id`, unless that has only the names that classes without names get. Anything else
            that training starts from is ignored.

    Returns:
        `dict[str, int]`, or `None` for a task without classes.

    Raises:
        ValueError: the rows have no labels, or their classes, or those that are given, are not those of the model.
    """
    found = _find_labels(recipe, rows, given)
    if found is None or not isinstance(model, getattr(modeling_lavis, recipe.head)):
        return found
    return _labels_of_model(recipe, rows, given, found, model.config)


def _labels_of_model(
    recipe: Recipe, rows: Any, given: Any, found: dict[str, int], config: PreTrainedConfig
) -> dict[str, int]:
    """The class indices of a model for those that were found; `ValueError` if they do not fit."""
    own = dict(config.label2id or {})
    is_by_number = given is None and found == {str(index): index for index in range(len(found))}
    if is_by_number:
        fits = len(found) <= (config.num_labels or 0)
    elif _is_unnamed(config):
        fits = len(found) == config.num_labels
    elif given is not None:
        fits = found == own
    elif class_names(rows, LABEL_COLUMNS[recipe.task]) is not None:
        fits = found.items() <= own.items()
    elif recipe.task == "video-qa":
        fits = not own.keys().isdisjoint(found)  # training ignores other answers
    else:
        fits = found.keys() <= own.keys()
    if not fits:
        where = "labels" if given is not None else "data"
        raise ValueError(
            f"The model has the {len(own)} classes {_shortened(own)}, but the {where} have the {len(found)} classes"
            f" {_shortened(found)}. Give the folder or Hub id of the model instead of the"
            " model, so that it gets a new classifier of these classes, or a model whose config.label2id has them."
        )
    return found if _is_unnamed(config) else own


def _shortened(label2id: Mapping[str, int]) -> str:
    more = f", and {len(label2id) - 10} more" if len(label2id) > 10 else ""
    return f"{dict(list(label2id.items())[:10])}{more}"


def _is_unnamed(config: Any) -> bool:
    """Whether classes have only the names that transformers gives to classes without names."""
    return dict(config.id2label or {}) == {index: f"LABEL_{index}" for index in range(config.num_labels or 0)}


def _find_labels(recipe: Recipe, rows: Any, given: Any) -> dict[str, int] | None:
    column = LABEL_COLUMNS.get(recipe.task)
    if column is None:
        if given is not None:
            raise ValueError(f"labels are given, but the task {recipe.task} has no classes; leave them out.")
        return None
    if isinstance(given, (str, os.PathLike)):
        return load_label2id(given)
    if given is not None:
        return dict(given) if isinstance(given, Mapping) else {str(name): index for index, name in enumerate(given)}
    if recipe.task == "nlvr":
        return dict(PAIR_LABELS)
    names = class_names(rows, column)
    if names is not None:
        return {name: index for index, name in enumerate(names)}
    counts = Counter(column_values(rows, column))
    counts.pop(None, None)
    if not counts:
        raise ValueError(f"The rows have no column {column!r} with labels; give labels=, or rows that have them.")
    if all(isinstance(value, int) and not isinstance(value, bool) for value in counts):
        return {str(index): index for index in range(max(counts) + 1)}
    if recipe.task == "video-qa":
        common = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))[: recipe.data.num_labels]
        return {str(name): index for index, (name, _) in enumerate(common)}
    if {str(name) for name in counts} <= ENTAILMENT_LABELS.keys():
        return dict(ENTAILMENT_LABELS)
    return {name: index for index, name in enumerate(sorted(map(str, counts)))}


def frequent_answers(rows: Any) -> list[str]:
    """The answers of rows, each once, the most frequent first."""
    counts: Counter[str] = Counter()
    for value in column_values(rows, "answer"):
        counts.update([value] if isinstance(value, str) else value or [])
    return [answer for answer, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))]


def column_values(rows: Any, name: str) -> Iterable[Any]:
    """The values of a column of rows; none if a data set has no such column."""
    if hasattr(rows, "column_names") and hasattr(rows, "__len__"):
        return rows[name] if name in rows.column_names else []
    return (row.get(name) for row in rows)


def prepare_start(
    recipe: Recipe,
    model: Any,
    processor: Any,
    rows: Any,
    label2id: Mapping[str, int] | None,
    language_model: Any = None,
) -> Start:
    """
    The model and the processor that a recipe trains.

    Args:
        recipe ([`Recipe`]): the recipe.
        model (`str`, `os.PathLike` or `PreTrainedModel`, *optional*): folder or Hub id of a model of this package, or
            of transformers' BLIP or BLIP-2, of any head of the family; or a model of the recipe's head or of a
            subclass, which is trained as it is. By default what the recipe starts from: parts, or its own checkpoint.
        processor (`ProcessorMixin`, *optional*): processor of a model; by default that of the repository.
        rows: rows of the training data, for the vocabulary of a new model.
        label2id (`Mapping[str, int]`, *optional*): classes; a model whose classes have no names gets these names.
        language_model (`str` or `os.PathLike`, *optional*): language model for BLIP-2's second stage.

    Raises:
        ValueError: the model does not fit the recipe.
        OSError: a repository cannot be read.
    """
    if isinstance(model, PreTrainedModel):
        if not isinstance(model, getattr(modeling_lavis, recipe.head)):
            raise ValueError(
                f"The model is a {type(model).__name__}, but the recipe {recipe.name} trains {recipe.head}."
            )
        if processor is None:
            raise ValueError("A model without its processor cannot be trained; pass processor=, too.")
        if label2id is not None and _is_unnamed(model.config) and len(label2id) == model.config.num_labels:
            model.config.id2label = {index: name for name, index in label2id.items()}
            model.config.label2id = dict(label2id)
        return Start(model, processor, [])
    language_model = language_model if language_model is not None else recipe.start.language_model
    if model is None and recipe.start.is_new_model:
        if recipe.model.lora is not None:
            raise ValueError(
                f"The recipe {recipe.name} starts a new model and has model.lora, but adapters are saved without the"
                " weights that they adapt. Give a model, or leave model.lora out."
            )
        return Start(*_new_model(recipe, processor, rows, label2id, language_model), [])
    source = recipe.start.model if model is None else os.fspath(model)
    if source is None:
        raise ValueError(f"The recipe {recipe.name} names nothing to start from; give a model.")
    _refuse_original(source, recipe)
    return _load(recipe, source, processor, label2id, language_model)


def _refuse_original(source: str, recipe: Recipe) -> None:
    """Raise `ValueError` for a checkpoint of LAVIS, with the command that converts it."""
    if not source.lower().endswith(_LAVIS_SUFFIXES) or os.path.isdir(source):
        return
    architecture = recipe.start.architecture or "ARCHITECTURE"
    extra = "--language-model DIR_OR_ID --vision-checkpoint FILE " if recipe.family == "lavis_blip_2" else ""
    stem = Path(source).stem
    raise ValueError(
        f"{source} is a checkpoint of LAVIS. Convert it once: modeling-lavis convert {architecture} {source} {stem} "
        f"{extra}and give the folder {stem} as the model."
    )


@contextmanager
def options_of(field: str) -> Iterator[None]:
    """Context manager that names the field of a recipe whose options a function does not take."""
    try:
        yield
    except TypeError as error:
        raise ValueError(f"{field} of the recipe has an option that does not exist: {error}") from error


def _check_config(recipe: Recipe, fields: Mapping[str, Any]) -> None:
    """Raise `ValueError` for fields that the configuration of the head, or of one of its parts, does not have."""
    default = getattr(modeling_lavis, recipe.head).config_class()
    for name, value in fields.items():
        part = getattr(default, name, None)
        unknown = [] if hasattr(default, name) else [name]
        if isinstance(part, PreTrainedConfig) and isinstance(value, Mapping):
            unknown = [f"{name}.{key}" for key in value if not hasattr(part, key)]
        if unknown:
            raise ValueError(
                f"model.config of the recipe {recipe.name} has {', '.join(unknown)}, which a {type(default).__name__} "
                "does not have."
            )


def _check_family(recipe: Recipe, source: str) -> None:
    """Raise `ValueError` for a model of another family than that of the recipe."""
    kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    known = (recipe.family, _OF_TRANSFORMERS.get(recipe.family))
    if kind is not None and kind not in known:
        names = " or ".join(repr(name) for name in known if name is not None)
        raise ValueError(
            f"{source} has the model type {kind!r}; the recipe {recipe.name} trains a {recipe.head} and expects"
            f" {names}. Give such a model, or a recipe of its family (modeling-lavis recipes)."
        )


def _settings(recipe: Recipe, label2id: Mapping[str, int] | None, is_new: bool) -> dict[str, Any]:
    """Fields of the configuration by the recipe; those of a loaded model are not sizes."""
    fields = copy.deepcopy(dict(recipe.model.config))
    _check_config(recipe, fields)
    if recipe.model.distillation_ramp_epochs is not None:
        fields.setdefault("use_momentum", True)  # soft targets, even if the model was saved without momentum encoders
    if not is_new:
        for name in _SIZES:
            fields.pop(name, None)
        for name in _PARTS:
            rates = {key: value for key, value in (fields.pop(name, None) or {}).items() if key in _RATES}
            if rates:
                fields[name] = rates
    if recipe.family == "lavis_blip_2":
        fields["freeze_vision"] = "vision_model" in recipe.model.frozen
        fields["freeze_language_model"] = "language_model" in recipe.model.frozen
    if label2id is not None:
        fields["id2label"] = {index: name for name, index in label2id.items()}
        fields["label2id"] = dict(label2id)
    return fields


def _new_model(
    recipe: Recipe, processor: Any, rows: Any, label2id: Mapping[str, int] | None, language_model: Any
) -> tuple[Any, Any]:
    start, fields = recipe.start, _settings(recipe, label2id, is_new=True)
    options = dict(recipe.data.processor)
    tokenizer = None if processor is None else processor.tokenizer
    if start.vocabulary_size is not None and tokenizer is None:
        tokenizer = _own_tokenizer(recipe, rows)
    if recipe.model.num_frames is not None:
        fields["vision_config"] = {**(fields.get("vision_config") or {}), "num_frames": recipe.model.num_frames}
    with options_of("data.processor"):
        model, processor = from_pretrained_parts(
            recipe.head,
            start.vision,
            start.text,
            tokenizer=tokenizer,
            image_size=recipe.model.image_size,
            language_model=language_model,
            processor_options=options,
            **fields,
        )
    if start.smooth_positions:
        smooth_positions(model.vision_model)
        init_momentum_modules(getattr(model, "momentum_pairs", []))  # copies of the changed encoder
    return model, processor


def _own_tokenizer(recipe: Recipe, rows: Any) -> Any:
    """A tokenizer made from the texts of the training data."""
    texts: list[str] = [str(recipe.data.processor.get("prompt", ""))]
    names = [name for name in _TEXT_COLUMNS if not (name == "answer" and recipe.task == "video-qa")]
    for name in names:
        for value in column_values(rows, name):
            texts += [value] if isinstance(value, str) else [text for text in value or () if isinstance(text, str)]
    if not any(text.strip() for text in texts):
        texts = [str(value) for value in column_values(rows, LABEL_COLUMNS.get(recipe.task, "label"))]  # images alone
    is_cased = "cleaning" in recipe.data.processor and recipe.data.processor["cleaning"] is None
    tokenizer = train_tokenizer(texts, recipe.start.vocabulary_size or 1000, lowercase=not is_cased)
    if recipe.head == "LavisBlip2ForConditionalGeneration":
        set_language_tokens(tokenizer)
    return tokenizer


def _load(
    recipe: Recipe, source: str, processor: Any, label2id: Mapping[str, int] | None, language_model: Any
) -> Start:
    head = getattr(modeling_lavis, recipe.head)
    fields = _settings(recipe, label2id, is_new=False)
    try:
        stored = head.config_class.from_pretrained(source)
    except ValueError:
        _check_family(recipe, source)
        raise
    queue_size = fields.pop("queue_size", None)
    has_other_classes = label2id is not None and _has_other_classes(stored, fields["id2label"])
    if has_other_classes:
        fields["ignore_mismatched_sizes"] = True
    if recipe.family == "lavis_blip_2" and stored.text_config is None and recipe.head.endswith("Generation"):
        if language_model is None:
            raise ValueError(
                f"{source} is a first-stage model ({head_of(stored)}); give a language_model to train the second stage."
            )
        fields["frozen_parts"] = {**(stored.frozen_parts or {}), "language_model": os.fspath(language_model)}
    frozen = {"vision_model", "language_model"} & set(recipe.model.frozen)
    options: dict[str, Any] = {"dtype": "auto" if recipe.family == "lavis_blip_2" and frozen else torch.float32}
    model, info = head.from_pretrained(source, allow_new_weights=True, output_loading_info=True, **options, **fields)
    missing = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if has_other_classes:
        missing |= _renew_classifier(model)
    if queue_size is not None:
        resize_queue(model, queue_size)
    resize_images(model, recipe.model.image_size, recipe.model.num_frames)
    if processor is None and "frozen_parts" in fields and stored.text_config is None:
        processor = make_processor(
            "lavis_blip_2",
            load_tokenizer(language_model),
            {"image_size": recipe.model.image_size},
            {"language_model": "seq2seq" if model.config.is_encoder_decoder else "causal"},
        )
    elif processor is None:
        processor = AutoProcessor.from_pretrained(source)
    _set_options(processor, recipe)
    # copies are made again whenever the repository is loaded
    return Start(model, processor, new_weights(model, missing, HeadStart(copies_are_complete=True)))


def _has_other_classes(stored: Any, id2label: Mapping[int, str]) -> bool:
    """Whether a configuration has other classes, or another order of them. Classes without names may be any."""
    return stored.num_labels != len(id2label) if _is_unnamed(stored) else stored.id2label != dict(id2label)


def _renew_classifier(model: Any) -> set[str]:
    """Initialize the classifier of a loaded model, and its momentum copy, as those of a new model; names of weights."""
    renewed: set[str] = set()
    for name, classifier in [(name, child) for name, child in model.named_children() if name in _CLASSIFIERS]:
        for module in classifier.modules():
            for key, weight in list(module.named_parameters(recurse=False)):
                # transformers leaves weights as they are that it has marked as loaded
                setattr(module, key, nn.Parameter(torch.empty_like(weight)))
            model._init_weights(module)
        if (momentum := getattr(model, f"{name}_m", None)) is not None:
            momentum.load_state_dict(classifier.state_dict())
        renewed |= {f"{name}.{key}" for key, _ in classifier.named_parameters()}
    return renewed


def _set_options(processor: Any, recipe: Recipe) -> None:
    """Set the size and the options of the recipe in a processor that was loaded."""
    options, size = dict(recipe.data.processor), recipe.model.image_size
    visual = getattr(processor, "video_processor", None) or processor.image_processor
    visual.size = {"height": size, "width": size}
    if recipe.model.num_frames is not None:
        visual.num_frames = recipe.model.num_frames
    for name in _IMAGE_OPTIONS:
        if name in options:
            setattr(visual, name, options.pop(name))
    processor.check_options(options)
    for name, value in options.items():
        if not hasattr(processor, name):
            raise ValueError(
                f"data.processor has the option {name!r}, which a {type(processor).__name__} does not have."
            )
        setattr(processor, name, value)


__all__ = ["LABEL_COLUMNS", "Start", "column_values", "find_labels", "frequent_answers", "options_of", "prepare_start"]
