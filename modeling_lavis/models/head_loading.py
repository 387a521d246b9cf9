# SPDX-License-Identifier: Apache-2.0
"""Loading a head from the checkpoint of another head of its family, and checks of what was loaded.

A head takes the weights that it shares with the head that a checkpoint was saved from. Weights that the checkpoint has
under other names are renamed ([`HeadStart.key_mapping`]) or copied (`copied_weights` of the head). The rest would be
initialized at random, which is an error unless `allow_new_weights` asks for a start for training.
"""

import copy
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig
from transformers.modeling_utils import load_state_dict
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

from .configuration_base import check_names, estimated_parameters
from .transformers_compat import with_pinned_revision

#: options of `from_pretrained` that select and access a repository; loading a configuration accepts them, too
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# The temperature is a number that training starts from, and queues hold features of past batches.
_SET_BY_CONFIGURATION = frozenset({"temp", "image_queue", "text_queue", "idx_queue", "queue_ptr"})
_MOMENTUM_SUFFIX = "_m"
#: configuration of the head that an adapter was trained in, beside the adapter. Not `config.json`: transformers would
#: take the folder for that of a whole model.
HEAD_CONFIG_NAME = "head_config.json"
# How large a model may be for its weights: more parameters per byte than any quantization has, and room for tiny ones.
_PARAMETERS_PER_BYTE = 16
_SMALL_MODEL = 10**8
_MAX_INDEX_BYTES = 2**26


@dataclass(frozen=True)
class HeadStart:
    """
    How a head starts from the checkpoint of another head.

    Args:
        key_mapping (`Mapping[str, str]`, *optional*, defaults to `{}`): patterns of the checkpoint's keys with their
            replacements.
        copies_are_complete (`bool`, *optional*, defaults to `False`): whether what `copied_weights` copies was trained
            in its new place, too, so that nothing is new.
        differs (`str`, *optional*): why weights of the same name have another purpose. Such a checkpoint is only a
            start for training.
    """

    key_mapping: Mapping[str, str] = field(default_factory=dict)
    copies_are_complete: bool = False
    differs: str | None = None


def head_of(config: Any) -> str | None:
    """
    Name of the head that a repository was saved from, `None` if it is not known.

    Args:
        config (`PreTrainedConfig` or `dict`): configuration. Names of transformers' own BLIP classes are translated.
    """
    names = config.get("architectures") if isinstance(config, Mapping) else getattr(config, "architectures", None)
    if not isinstance(names, (list, tuple)) or not names or not isinstance(names[0], str):
        return None
    return f"Lavis{names[0]}" if names[0].startswith("Blip") else names[0]


def read_head(source: Any, options: Mapping[str, Any]) -> str | None:
    """
    Name of the head that a repository was saved from, `None` if it is not known.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id.
        options (`Mapping[str, Any]`): arguments of `from_pretrained`, `config` among them.
    """
    config = options.get("config")
    if isinstance(config, PreTrainedConfig) and config.architectures:
        return head_of(config)
    place = source if config is None or isinstance(config, PreTrainedConfig) else config
    access = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        stored, _ = PreTrainedConfig.get_config_dict(place, **access)
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # loading names what is wrong
    return head_of(stored)


@dataclass(frozen=True)
class Adapter:
    """
    An adapter of peft.

    Args:
        base (`str`): folder or Hub id of the model that it was trained on.
        revision (`str`, *optional*): branch, tag or commit of that model.
        modules_to_save (`tuple[str, ...]`): modules of which it has all weights.
    """

    base: str
    revision: str | None
    modules_to_save: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether it has a weight of the model."""
        return any(f".{module}." in f".{name}" for module in self.modules_to_save)


def read_adapter(source: Any, access: Mapping[str, Any]) -> Adapter | None:
    """
    The adapter of a repository that has no model of its own, `None` for others.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id.
        access (`Mapping[str, Any]`): those of `HUB_OPTIONS` that are given.

    Raises:
        ValueError: the file of the adapter names no model.
    """
    try:
        if cached_file(source, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **access) is not None:
            return None
        found = cached_file(source, ADAPTER_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **access)
    except (OSError, ValueError):
        return None  # loading says what is wrong
    if found is None:
        return None
    try:
        values = json.loads(Path(found).read_text(encoding="utf-8"))
        base, revision = values.get("base_model_name_or_path"), values.get("revision")
        modules = tuple(map(str, values.get("modules_to_save") or ()))
        if not isinstance(base, str) or not base:
            raise ValueError(f"base_model_name_or_path is {base!r:.80}; expected a folder or a Hub id")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{ADAPTER_CONFIG_NAME} of {source} cannot be used: {error}. Correct it, or load the model that the "
            "adapter was trained on, and the adapter by its load_adapter."
        ) from error
    return Adapter(base, revision if isinstance(revision, str) else None, modules)


def load_saved_modules(model: nn.Module, source: Any, access: Mapping[str, Any]) -> None:
    """
    Load the modules that an adapter stores completely. Early versions of transformers load only its other weights.

    Args:
        model (`nn.Module`): model with the adapter.
        source (`str` or `os.PathLike`): folder or Hub id of the adapter.
        access (`Mapping[str, Any]`): those of `HUB_OPTIONS` that are given.
    """
    found = cached_file(source, ADAPTER_SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False, **access)
    if found is None:
        return
    saved = {name.removeprefix("base_model.model."): value for name, value in load_state_dict(found).items()}
    for name, parameter in model.named_parameters():
        stored = saved.get(re.sub(r"modules_to_save\.[^.]+\.", "", name)) if "modules_to_save." in name else None
        if stored is not None and not parameter.is_meta:
            parameter.data.copy_(stored)


def read_weights(source: Any, access: Mapping[str, Any]) -> dict[str, Tensor]:
    """
    All tensors of a repository, memory-mapped from its files.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id.
        access (`Mapping[str, Any]`): those of `HUB_OPTIONS` that are given.
    """
    access = with_pinned_revision(source, access)
    for single, index in ((SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME), (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
        found = cached_file(source, index, _raise_exceptions_for_missing_entries=False, **access)
        if found is not None:
            check_index(found)
            files, _ = get_checkpoint_shard_files(source, found, **access)
            return {name: tensor for file in files for name, tensor in load_state_dict(file).items()}
        found = cached_file(source, single, _raise_exceptions_for_missing_entries=False, **access)
        if found is not None:
            return dict(load_state_dict(found))
    raise OSError(
        f"{source} has no weights ({SAFE_WEIGHTS_NAME} or {WEIGHTS_NAME}). Give a folder written by save_pretrained, "
        "or a Hub id."
    )


def check_local_files(model_class: Any, source: Any, options: Mapping[str, Any]) -> None:
    """
    Check the files of a local folder before their weights are read.

    Args:
        model_class (`type`): class that is loaded.
        source (`str` or `os.PathLike`): folder, or Hub id, which is not checked.
        options (`Mapping[str, Any]`): arguments of `from_pretrained`.

    Raises:
        ValueError: an index of shards names files outside of the folder, or the configuration describes a model far
            larger than the weights, whose rest would be initialized in memory.
    """
    if not isinstance(source, (str, os.PathLike)) or not os.path.isdir(source) or options.get("state_dict") is not None:
        return
    folder = Path(source) / (options.get("subfolder") or "")
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if (folder / name).is_file():
            check_index(folder / name)
    stored = sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
    try:
        config = load_config(model_class, source, dict(options))
    except (OSError, ValueError):
        return  # loading says what is wrong
    if not stored or getattr(config, "frozen_parts", None) or options.get("frozen_parts"):
        return
    needed = estimated_parameters(config)
    if needed > _PARAMETERS_PER_BYTE * stored + _SMALL_MODEL:
        raise ValueError(
            f"{CONFIG_NAME} of {source} describes a model of about {needed:.1e} parameters, but its weights have only "
            f"{stored:,} bytes. Give the configuration that belongs to the weights."
        )


def check_index(path: str | os.PathLike) -> None:
    """Raise `ValueError` unless an index of shards names files of its own folder only."""
    try:
        if os.path.getsize(path) > _MAX_INDEX_BYTES:
            raise ValueError(f"it has more than {_MAX_INDEX_BYTES:,} bytes")
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        names = set(content["weight_map"].values())
        if not isinstance(content["metadata"], dict):
            raise ValueError("its metadata are not an object")
        wrong = [name for name in names if not name or name in (".", "..") or os.path.basename(name) != name]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be used: it is not an index of weights ({error}). Save the model again."
        ) from error
    if wrong:
        raise ValueError(f"{path} names the file {wrong[0]!r:.80}; expected files of its own folder. Do not use it.")


def load_config(model_class: Any, source: Any, options: dict[str, Any]) -> Any:
    """
    A copy of the configuration that `from_pretrained` would use. Its fields are taken out of `options`.

    Args:
        model_class (`type`): class that is loaded.
        source (`str` or `os.PathLike`): folder or Hub id.
        options (`dict[str, Any]`): arguments of `from_pretrained`.
    """
    config = options.get("config")
    if isinstance(config, PreTrainedConfig):
        return copy.deepcopy(config)
    names = {entry.name for entry in fields(model_class.config_class)} | {"num_labels"}
    given = {name: options.pop(name) for name in names & options.keys() - {"dtype"}}
    access = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    return model_class.config_class.from_pretrained(source if config is None else config, **access, **given)


def with_truncated_mlp(model_class: Any, source: Any, options: dict[str, Any]) -> Any:
    """
    The configuration with the MLP size that earlier versions built, or `None` if it is the same.

    They cut off `hidden_size * mlp_ratio`, which rounding can put just below an integer, so that an image encoder may
    have been trained with an MLP that is one short.

    Args:
        model_class (`type`): class that is loaded.
        source (`str` or `os.PathLike`): folder or Hub id.
        options (`dict[str, Any]`): arguments of `from_pretrained`; see [`load_config`].
    """
    access = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        stored, _ = PreTrainedConfig.get_config_dict(source, **access)
    except (OSError, ValueError, TypeError):
        return None
    vision = stored.get("vision_config", stored) if isinstance(stored, Mapping) else None
    if not isinstance(vision, Mapping) or not {"hidden_size", "mlp_ratio"} <= vision.keys():
        return None
    size = int(vision["hidden_size"] * vision["mlp_ratio"])
    config = load_config(model_class, source, options)
    part = getattr(config, "vision_config", config)
    if part.intermediate_size == size:
        return None
    part.intermediate_size = size
    return config


def new_weights(model: Any, missing: Iterable[str], start: HeadStart) -> list[str]:
    """
    Names of the learned weights that a checkpoint did not fill.

    Momentum weights are copies of the online weights, and the temperature and the queues are set by the configuration.

    Args:
        model (`PreTrainedModel`): the loaded model.
        missing (`Iterable[str]`): `missing_keys` of the loading info.
        start ([`HeadStart`]): how the model was loaded.
    """
    missing = set(missing)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(value) for name, value in parameters.items() if name not in missing}  # also under other names
    copies = model.copied_weights() if start.copies_are_complete else {}
    filled |= {id(parameters[name]) for name, source in copies.items() if id(parameters[source]) in filled}
    return [
        name
        for name, value in parameters.items()
        if id(value) not in filled
        and name not in _SET_BY_CONFIGURATION
        and not name.partition(".")[0].endswith(_MOMENTUM_SUFFIX)
    ]


def check_new_weights(
    model: nn.Module, source: Any, saved: str | None, missing: Iterable[str], start: HeadStart
) -> None:
    """Raise `ValueError` that names the weights which are new, or why the checkpoint has another purpose."""
    name = type(model).__name__
    new = new_weights(model, missing, start)
    if not new and start.differs is None:
        return
    what = f"{source} is a checkpoint of {saved}, " if saved not in (None, name) else f"{source} "
    reason = f"has no weights for {_by_module(model, new)}" if new else str(start.differs)
    if saved in (None, name):
        advice = f"Give a complete checkpoint of {name}"
        layers = {int(part) + 1 for key in new for part in key.split(".") if part.isdecimal()}
        counts = [field for field in _fields_with(layers, model.config) if "num_hidden_layers" in field]
        if counts:
            advice += f" with as many layers as the configuration says ({', '.join(counts)})"
    else:
        advice = f"Give a checkpoint of {name}, load this one by AutoModel (as {saved})"
        what += "which "
    raise ValueError(
        f"{what}{reason}. {advice}, or pass allow_new_weights=True to initialize what is missing and train it."
    )


def check_shapes(config: Any, source: Any, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """
    Raise `ValueError` if weights have other shapes than the configuration says.

    Args:
        config (`PreTrainedConfig`): configuration of the model.
        source (`str` or `os.PathLike`): folder or Hub id.
        mismatched (`Iterable[tuple]`): `mismatched_keys` of the loading info: key, shape in the checkpoint, shape in
            the model.
    """
    wrong = sorted((name, tuple(stored), tuple(built)) for name, stored, built in mismatched)
    if not wrong:
        return
    name, stored, built = wrong[0]
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    suspects = _fields_with({size for _, *shapes in wrong for size in _different_sizes(*shapes)}, config)
    hint = f" The sizes that differ are those of {', '.join(suspects)}." if suspects else ""
    raise ValueError(
        f"{source} does not fit its configuration: weights have other shapes than config.json says ({name} is {stored} "
        f"in the checkpoint and {built} by the configuration{more}).{hint} Correct the configuration, give the "
        "repository that the weights belong to, or pass ignore_mismatched_sizes=True to initialize these weights."
    )


def check_generation_config(values: Any, source: Any) -> None:
    """
    Raise `ValueError` for a wrong value of `generation_config.json`, which transformers does not check.

    Args:
        values (`dict` or `GenerationConfig`): the file's content, or what was made of it.
        source (`str` or `os.PathLike`): folder or Hub id.
    """
    where = f"{GENERATION_CONFIG_NAME} of {source}"
    is_loaded = isinstance(values, GenerationConfig)
    if is_loaded:
        values = vars(values)
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} cannot be used: it contains a {type(values).__name__}, expected a JSON object.")
    if not is_loaded:
        try:
            check_names(GenerationConfig, values)
        except ValueError as error:
            raise ValueError(f"{where} cannot be used: {error}.") from error
    for name, value in values.items():
        if name not in _GENERATION_OPTIONS or value is None:
            continue
        expected, is_right = _GENERATION_OPTIONS[name]
        if not is_right(value):
            raise ValueError(f"{where} cannot be used: {name} is {value!r:.80}; expected {expected}. Correct it.")


def _number(low: float, high: float, whole: bool = True) -> tuple[str, Callable[[Any], bool]]:
    kinds = int if whole else (int, float)
    text = f"{'an int' if whole else 'a number'} from {low} to {high}"
    return text, lambda value: isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


_TOKEN = _number(0, 2**24)
_TOKENS = (
    "a token id from 0 or a list of them",
    lambda value: all(map(_TOKEN[1], value)) if isinstance(value, list) else _TOKEN[1](value),
)
# what is expected of an option, and whether a value is that
_GENERATION_OPTIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("max_length", "max_new_tokens"), _number(1, 2**24)),
    **dict.fromkeys(("min_length", "min_new_tokens", "top_k"), _number(0, 2**24)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), _number(0, 2**24)),
    **dict.fromkeys(("num_beams", "num_return_sequences", "num_beam_groups"), _number(1, 4096)),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id"), _TOKEN),
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id"), _TOKENS),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _TOKENS),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"), _number(0, 1, whole=False)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), _number(1e-6, 1e6, whole=False)),
    **dict.fromkeys(("length_penalty", "diversity_penalty"), _number(-1e6, 1e6, whole=False)),
    **dict.fromkeys(("temperature", "guidance_scale", "max_time"), _number(0, 1e9, whole=False)),
    **dict.fromkeys(
        (
            "do_sample",
            "use_cache",
            "renormalize_logits",
            "remove_invalid_values",
            "low_memory",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "output_logits",
            "return_dict_in_generate",
        ),
        ("true or false", lambda value: isinstance(value, bool)),
    ),
    "early_stopping": ('true, false or "never"', lambda value: isinstance(value, bool) or value == "never"),
    "stop_strings": (
        "a string or a list of them",
        lambda value: isinstance(value, str) or isinstance(value, list) and all(isinstance(x, str) for x in value),
    ),
    "bad_words_ids": (
        "a list of lists of token ids",
        lambda value: isinstance(value, list) and all(isinstance(row, list) and _TOKENS[1](row) for row in value),
    ),
}


def read_generation_config(source: Any, options: Mapping[str, Any]) -> Any:
    """The content of `generation_config.json`, `{}` if there is none that can be read."""
    access = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        found = cached_file(source, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **access)
        return {} if found is None else json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _different_sizes(stored: tuple[int, ...], built: tuple[int, ...]) -> set[int]:
    """Sizes of a built weight that differ from those of the stored one."""
    if len(stored) != len(built):
        return set(built) - set(stored)
    return {new for old, new in zip(stored, built) if new != old}


def _fields_with(sizes: set[int], config: Any, prefix: str = "") -> list[str]:
    """Fields of a configuration and its parts with one of the values."""
    found = []
    values = dict(vars(config))
    if isinstance(patches := getattr(config, "num_patches", None), int) and patches + 1 in sizes:
        found.append(f"{prefix}image_size {config.image_size} and {prefix}patch_size {config.patch_size}")
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            found += _fields_with(sizes, value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and value in sizes and "token_id" not in name:
            found.append(f"{prefix}{name} {value}")
    return found


def _by_module(model: nn.Module, names: list[str]) -> str:
    """Whole modules by name, single weights in full."""
    total: dict[str, set[int]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        total.setdefault(name.partition(".")[0], set()).add(id(value))
    left: dict[str, list[str]] = {}
    for name in names:
        left.setdefault(name.partition(".")[0], []).append(name)
    parts = []
    for module, weights in left.items():
        if len({id(model.get_parameter(name)) for name in weights}) == len(total[module]):
            parts.append(module)
        else:
            more = f" and {len(weights) - 2} more of {module}" if len(weights) > 2 else ""
            parts.append(f"{', '.join(weights[:2])}{more}")
    return ", ".join(parts)


__all__ = [
    "HEAD_CONFIG_NAME",
    "HUB_OPTIONS",
    "Adapter",
    "HeadStart",
    "check_generation_config",
    "check_index",
    "check_local_files",
    "check_new_weights",
    "check_shapes",
    "head_of",
    "load_config",
    "load_saved_modules",
    "new_weights",
    "read_adapter",
    "read_generation_config",
    "read_head",
    "read_weights",
    "with_truncated_mlp",
]
