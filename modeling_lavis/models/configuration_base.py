# SPDX-License-Identifier: Apache-2.0
"""Base classes of all configurations: ranges of values, errors that name file, field and value, special tokens, and the
place of parts that a repository leaves out.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import CONFIG_NAME, logging

try:
    from transformers.configuration_utils import SubConfigSpec

    HAS_SUB_CONFIG_SPECS = True
except ImportError:  # an entry of VERSION_DIFFERENCES in transformers_compat.py
    HAS_SUB_CONFIG_SPECS = False

    class SubConfigSpec(NamedTuple):  # type: ignore[no-redef]
        """
        How a part of a configuration is built, for versions of transformers that have no such class.

        Args:
            config_class (`type`): class of the part, or `AutoConfig` for the one that `model_type` names.
            model_type (`str`, *optional*): model type of a part that names none.
            optional (`bool`, *optional*, defaults to `False`): whether the part may be `None`.
        """

        config_class: Any
        model_type: str | None = None
        optional: bool = False

        def create_subconfig(self, key: str, subconfig: dict[str, Any]) -> tuple[PreTrainedConfig, dict[str, Any]]:
            """The part for its values, and the options that are left, as the class of transformers returns them."""
            if issubclass(self.config_class, PreTrainedConfig):
                return self.config_class(**subconfig), {}
            return CONFIG_MAPPING[subconfig.get("model_type", self.model_type)](**subconfig), {}


#: Smallest and largest value by name of a field. The upper bounds are far above every published model: a larger value
#: is a mistake that would end in a failed allocation or in a loop over millions of layers.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("hidden_size", "encoder_hidden_size", "projection_dim"), (1, 2**17)),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_channels", "num_query_tokens"), (1, 4096)),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings"), (1, 2**20)),
    **dict.fromkeys(("image_size", "patch_size", "num_frames", "cross_attention_frequency"), (1, 2**15)),
    **dict.fromkeys(("vocab_size", "queue_size"), (1, 2**24)),
    **dict.fromkeys(("fusion_layer", "merge_from_layer", "type_vocab_size"), (0, 4096)),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "mlm_probability"), (0, 1)),
    **dict.fromkeys(("momentum", "alpha", "label_smoothing"), (0, 1)),
    "drop_path_rate": (0, 0.999),  # at 1 the last block would be dropped always, and its scale infinite
    **dict.fromkeys(("layer_norm_eps", "ln_vision_eps"), (0, 1)),
    "initializer_range": (0, 1000),
    "logit_temperature": (1e-6, 1e6),
}
#: Activations without parameters in `transformers.activations`, which imports torch.
ACTIVATIONS = (
    "gelu",
    "gelu_10",
    "gelu_accurate",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_pytorch_tanh",
    "hardswish",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "sqrtsoftplus",
    "swish",
    "tanh",
)
#: Largest number of parameters of a configuration, by the estimate of [`estimated_parameters`]. Each size may be in its
#: range, and their product still ask for more memory than any machine has.
MAX_PARAMETERS = 10**12
#: start of the name of a folder in another one, for files that are moved there together
UNFINISHED = ".partial-"
_MAX_FILE_BYTES = 2**26
# Entries of a file that name the implementation of a layer, which can be code of a Hub repository.
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
# What a file may not replace, in addition to methods.
_RESERVED = frozenset({"attribute_map", "sub_configs", "sub_configs_defaults", "vocabulary_parts", "tokenizer_fields"})
_DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
_MAX_LABELS = 2**20
# what constructors raise for wrong values
_ERRORS = (
    StrictDataclassError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
# keyword arguments that transformers' `from_dict` handles itself
_NOT_MERGED = frozenset({"num_labels", "attn_implementation", "dtype", "torch_dtype", "name_or_path"})
# two tables that say the same: given, one of them replaces both of a file
_LABEL_TABLES = frozenset({"id2label", "label2id"})
# Fields of the configurations, and the attribute of a tokenizer that has the same id.
_FROM_TOKENIZER = {
    "pad_token_id": "pad_token_id",
    "cls_token_id": "cls_token_id",
    "eos_token_id": "sep_token_id",
    "mask_token_id": "mask_token_id",
    "bos_token_id": "bos_token_id",
}
_ENC_TOKEN = "[ENC]"
# Key of the dictionary by which `from_dict` tells the constructor which fields a file has.
_STORED = "_stored_fields"
_PART_ENTRIES = ("source", "revision", "subfolder")

logger = logging.get_logger(__name__)


@strict
class LavisPreTrainedConfig(PreTrainedConfig):
    """
    Base of all configurations. A value of the wrong type or out of its range raises an error at construction that names
    the field, and the file if the value was read from one.
    """

    sub_configs_defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        parts = vars(cls).get("sub_configs_defaults")
        if parts is not None:
            specs = {k: v if isinstance(v, SubConfigSpec) else SubConfigSpec(v) for k, v in parts.items()}
            cls.sub_configs_defaults = specs
            if not HAS_SUB_CONFIG_SPECS:
                cls.sub_configs = {name: spec.config_class for name, spec in specs.items()}
        super().__init_subclass__(*args, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("model_type", "") is None:
            del kwargs["model_type"]
        check_names(type(self), kwargs)
        _check_common_fields(self, kwargs)
        _complete_label_tables(self)
        for name, spec in self.sub_configs_defaults.items():
            value = getattr(self, name)
            if value is None and not spec.optional:
                value = {}
            if value is not None and not isinstance(value, (dict, PreTrainedConfig)):
                raise ValueError(
                    f"{name} is {value!r:.80}; expected a dictionary or a configuration ({spec.config_class.__name__})."
                )
            if isinstance(value, dict):
                setattr(self, name, self._build_part(name, value))
        super().__post_init__(**kwargs)

    def _build_part(self, name: str, values: dict[str, Any]) -> PreTrainedConfig:
        """The configuration of a part; errors name the part."""
        return build_part(
            name, lambda **fields: self.sub_configs_defaults[name].create_subconfig(name, fields)[0], values
        )

    def validate_ranges(self) -> None:
        """Raise `ValueError` for a number that is out of its range, and for an unknown activation."""
        self.check_ranges()

    def validate_total(self) -> None:
        """Raise `ValueError` when the sizes together make a model of more than `MAX_PARAMETERS` parameters."""
        self.check_ranges()
        count = estimated_parameters(self)
        if count > MAX_PARAMETERS:
            sizes = [
                f"{name} {value}" for name in RANGES if isinstance(value := getattr(self, name, None), int) and value
            ]
            raise ValueError(
                f"the sizes together make a model of about {count:.1e} parameters, expected at most "
                f"{MAX_PARAMETERS:.0e}: {', '.join(sizes) or 'those of its parts'}"
            )

    def check_ranges(self) -> None:
        """As [`validate_ranges`]; other validators call it first, because they divide by sizes."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in RANGES and value is not None:
                check_range(field.name, value, *RANGES[field.name])
            elif field.name == "hidden_act" and value not in ACTIVATIONS:
                raise ValueError(f"hidden_act is {value!r}; expected one of {', '.join(ACTIVATIONS)}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        transformers' `from_pretrained`.

        Raises:
            OSError: there is no configuration, or it is not valid JSON.
            ValueError: a value has the wrong type or is out of its range. The message names file, field and value.
        """
        _check_file_size(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except ConfigurationError as error:
            raise error.located(pretrained_model_name_or_path) from error.__cause__
        except (TypeError, AttributeError, LookupError, RecursionError) as error:
            raise _not_a_configuration(cls, pretrained_model_name_or_path, error) from error

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """
        transformers' method of the same name, for which a folder without a file is one with the defaults.

        Raises:
            OSError: there is no configuration.
        """
        values, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not values and not isinstance(values, list):
            raise OSError(
                f"{pretrained_model_name_or_path} has no {CONFIG_NAME}, or an empty one. Give a folder or repository "
                "that save_pretrained wrote; if it was interrupted, save again."
            )
        return values, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Build the configuration from a dictionary. Keyword arguments replace its values; a dictionary for a part
        replaces only the values that it has. Of `id2label` and `label2id` one is enough, and replaces both.

        Raises:
            ValueError: a value has the wrong type or is out of its range. The message names field and value.
        """
        if not isinstance(config_dict, Mapping):
            raise ConfigurationError(f"it contains a {type(config_dict).__name__}, expected a JSON object")
        source = kwargs.get("name_or_path")
        values = dict(config_dict)
        try:
            check_implementations(values)
            values = cls.translate_dict(values)
            given = frozenset(field.name for field in fields(cls)) & kwargs.keys() - _NOT_MERGED
            for name in _LABEL_TABLES if given & _LABEL_TABLES else ():
                values.pop(name, None)
            for name in given:
                values[name] = _merge(values.get(name), kwargs.pop(name))
            return super().from_dict(cls.prepare_dict(values, given), **kwargs)
        except ConfigurationError as error:
            raise error.located(source) from error.__cause__
        except _ERRORS as error:
            raise ConfigurationError(describe_error(error, values)).located(source) from error

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """
        transformers' `save_pretrained`. `auto_map` is stored without code that the folder does not have.

        Who trains a model of a repository with code and saves it elsewhere saves no code, and without this package
        `trust_remote_code=True` would ask for files that do not exist.

        Args:
            save_directory (`str` or `os.PathLike`): folder.
            args, kwargs: as for transformers.
        """
        known = self.__dict__.get("auto_map")
        if self._auto_class is None and isinstance(known, dict):
            # files that are saved together come from a folder inside of their own
            parent, name = os.path.split(os.fspath(save_directory))
            target = parent if name.startswith(UNFINISHED) else save_directory
            kept = {name: place for name, place in known.items() if _has_code(target, place)}
            if kept:
                self.auto_map = kept
            else:
                del self.auto_map
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if known is not None:
                self.auto_map = known

    @classmethod
    def translate_dict(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Hook for families: the fields of this class for a file in another format."""
        return values

    @classmethod
    def prepare_dict(cls, values: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
        """Hook for families: the arguments of the constructor for the fields of a file, `given` ones replaced."""
        return values


def _has_code(folder: str | os.PathLike[str], place: Any) -> bool:
    """Whether an entry of `auto_map` names code of another repository, or a file of a folder."""
    # the place of a tokenizer may be a pair
    names = [name for name in (place if isinstance(place, (list, tuple)) else [place]) if isinstance(name, str)]
    return all("--" in name or os.path.isfile(os.path.join(folder, f"{name.partition('.')[0]}.py")) for name in names)


def build_part(name: str, make: Callable[..., PreTrainedConfig], values: dict[str, Any]) -> PreTrainedConfig:
    """`make(**values)`; errors name the part."""
    try:
        # a language model of older versions of transformers takes any
        _check_dtypes(values.get("dtype"), values.get("torch_dtype"))
        return make(**values)
    except _ERRORS as error:
        raise ValueError(f"{name}: {describe_error(error, values)}") from error


class ConfigurationError(ValueError):
    """A configuration that cannot be used; `located` adds where it was read from."""

    def __init__(self, reason: str, source: Any = None) -> None:
        self.reason, self.source = reason, source
        where = "The configuration" if source is None else _file_of(source)
        super().__init__(f"{where} cannot be used: {reason.rstrip('.')}. Correct it.")

    def located(self, source: Any) -> "ConfigurationError":
        """The same error with the source, if it has none yet."""
        return self if source in (None, "") or self.source is not None else type(self)(self.reason, source)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.source)


def _check_file_size(source: Any) -> None:
    """Raise [`ConfigurationError`] for a local file that is too large to be a configuration."""
    path = _file_of(source) if isinstance(source, (str, os.PathLike)) else ""
    if os.path.isfile(path) and os.path.getsize(path) > _MAX_FILE_BYTES:
        size = os.path.getsize(path)
        raise ConfigurationError(f"it has {size:,} bytes; expected at most {_MAX_FILE_BYTES:,}", source)


def _file_of(source: Any) -> str:
    source = os.fspath(source)
    if os.path.isdir(source):
        return os.path.join(source, CONFIG_NAME)
    return source if os.path.isfile(source) else f"{CONFIG_NAME} of {source}"


def _not_a_configuration(cls: type, source: Any, error: Exception) -> ValueError:
    return ConfigurationError(f"it is not a {cls.__name__} ({type(error).__name__}: {error})", source)


def section_of(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of a part of a file, empty if there is none; `ValueError` unless it is a dictionary."""
    part = values.get(name)
    if part is not None and not isinstance(part, Mapping):
        raise ValueError(f"{name} is {part!r:.80}; expected a dictionary.")
    return dict(part or {})


def _merge(stored: Any, given: Any) -> Any:
    """The value of a field: `given`, or, for two dictionaries of a part, `stored` with the entries of `given`."""
    if not isinstance(stored, dict) or not isinstance(given, dict):
        return given
    if given.get("model_type", stored.get("model_type")) != stored.get("model_type"):
        return given  # another kind of model, to which the stored values do not belong
    stored = dict(stored)
    if "mlp_ratio" in given:
        stored.pop("intermediate_size", None)  # the ratio says the same
    return {**stored, **given}


def describe_error(error: Exception, values: Mapping[str, Any]) -> str:
    """
    One line about an error that a configuration raised.

    Args:
        error (`Exception`): an error of the constructor.
        values (`Mapping[str, Any]`): arguments of the constructor.
    """
    found = re.match(r"Validation error for field '(\w+)'", str(error))
    if found and found[1] in values:
        reason = str(error.__cause__ or error)
        kinds = re.search(r"expected (.+?), got ", reason)
        expected = [kinds[1]] if kinds else []
        if "doesn't match any type" in reason:
            expected = re.findall(r"expected (\w+), got", reason)
        if expected:
            return f"{found[1]} is {values[found[1]]!r:.80}; expected {' or '.join(dict.fromkeys(expected))}"
        return f"{found[1]} is {values[found[1]]!r:.80}; {' '.join(reason.split())}"
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        return str(error.__cause__)
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def check_implementations(values: Any, place: str = "") -> None:
    """
    Raise `ValueError` if a file asks for an implementation of attention from a Hub repository: transformers would load
    and run its code. Given as an argument of `from_pretrained`, such a name is the wish of the user.
    """
    if isinstance(values, (list, tuple)):
        for entry in values:
            check_implementations(entry, place)
    if not isinstance(values, Mapping):
        return
    for name, value in values.items():
        if str(name).strip("_").removesuffix("_internal") in _IMPLEMENTATIONS:
            names = list(value.values()) if isinstance(value, Mapping) else [value]
            if not all(
                entry is None or isinstance(entry, str) and re.fullmatch(r"[\w|]{1,64}", entry) for entry in names
            ):
                raise ValueError(
                    f"{place}{name} is {value!r:.80}; expected the name of an implementation, such as sdpa. Kernels of "
                    "the Hub are code: remove the entry, and pass attn_implementation=... to from_pretrained if you "
                    "trust it"
                )
        else:
            check_implementations(value, f"{place}{name:.80}." if isinstance(name, str) else place)


def check_names(kind: type, values: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an entry of a file that would replace a method or a table of the class."""
    for name in values:
        if name.startswith("__") or name in _RESERVED or callable(getattr(kind, name, None)):
            raise ValueError(f"{name!r:.80} is not an entry of a {kind.__name__}, but part of its code. Remove it")


def estimated_parameters(config: Any) -> int:
    """
    Approximate number of parameters of a model with a configuration, without momentum encoders.

    Args:
        config (`PreTrainedConfig`): one of this package, with its parts, or that of a language model.
    """

    def size(*names: str) -> int:
        values = (getattr(config, name, None) for name in names)
        return next((value for value in values if isinstance(value, int) and value > 0), 0)

    hidden = size("hidden_size", "d_model", "n_embd")
    layers = size("num_hidden_layers", "num_layers", "n_layer", "encoder_layers")
    layers += size("decoder_layers", "num_decoder_layers")
    inner = size("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim") or 4 * hidden
    patches = (size("image_size") // size("patch_size")) ** 2 if size("patch_size") else 0
    patches += size("patch_size") ** 2 * size("num_channels")
    tokens = size("vocab_size") + patches + size("num_query_tokens")
    if "max_position_embeddings" in getattr(config, "__dict__", {}) and isinstance(config, LavisPreTrainedConfig):
        tokens += size("max_position_embeddings")
    count = layers * hidden * (4 * hidden + 2 * inner + 2 * size("encoder_hidden_size")) + tokens * hidden
    count += 2 * size("queue_size") * size("projection_dim")
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs_defaults", None) or {}]
    for part in parts:
        if isinstance(part, PreTrainedConfig):
            count += estimated_parameters(part) + size("projection_dim") * (getattr(part, "hidden_size", 0) or 0)
    return count


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raise `ValueError` unless a number is finite and from `low` to `high`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value!r:.80}; expected a number from {low} to {high}.")
    if value < low:
        raise ValueError(f"{name} is {value!r:.80}; expected at least {low}.")
    if value > high:
        raise ValueError(f"{name} is {value!r:.80}; expected at most {high}.")


def _check_dtypes(dtype: Any, torch_dtype: Any) -> None:
    for name, value in (("dtype", dtype), ("torch_dtype", torch_dtype)):
        # an instance of torch.dtype is recognized without an import of torch
        if value is not None and value not in _DTYPES and not str(value).startswith("torch."):
            raise ValueError(f"{name} is {value!r:.80}; expected one of {', '.join(_DTYPES)}.")


def _check_common_fields(config: PreTrainedConfig, kwargs: Mapping[str, Any]) -> None:
    """Check what transformers' base class converts without a check."""
    kind = type(config).model_type
    given = kwargs.get("model_type", kind)
    if given is not None and given != kind:
        raise ValueError(f"model_type is {given!r:.80}; expected {kind!r} for a {type(config).__name__}.")
    _check_dtypes(config.dtype, kwargs.get("torch_dtype"))
    labels = kwargs.get("num_labels")
    if labels is not None and (isinstance(labels, bool) or not isinstance(labels, int) or labels < 1):
        raise ValueError(f"num_labels is {labels!r}; expected at least 1.")
    if labels is not None and labels > _MAX_LABELS:
        raise ValueError(f"num_labels is {labels}; expected at most {_MAX_LABELS}.")
    names = config.id2label
    is_table = isinstance(names, Mapping) and all(isinstance(name, (str, int)) for name in names.values())
    if names is not None and not (is_table and names and all(str(key).isdecimal() for key in names)):
        raise ValueError(f"id2label is {names!r:.80}; expected the name of each class by its number.")


def _complete_label_tables(config: PreTrainedConfig) -> None:
    """Of `id2label` and `label2id`, make the one that is missing from the other."""
    if config.id2label is None and config.label2id:
        # transformers would replace the names that are given by LABEL_0, LABEL_1, ...
        config.id2label = {int(index): name for name, index in config.label2id.items()}
    elif config.label2id is None and config.id2label:
        config.label2id = {str(name): int(index) for index, name in config.id2label.items()}


# ---- special tokens ----


@strict
class LavisVocabularyConfig(LavisPreTrainedConfig):
    """
    Base of the configurations with special tokens. Token ids outside the vocabulary raise an error at construction; ids
    that a file has give a warning instead, because not every head uses each of them.
    """

    #: parts with a vocabulary of the special tokens
    vocabulary_parts: ClassVar[tuple[str, ...]] = ("text_config",)
    #: special tokens without which a tokenizer does not fit
    tokenizer_fields: ClassVar[tuple[str, ...]] = ("pad_token_id", "cls_token_id", "eos_token_id")
    #: function of this package that makes such a tokenizer
    tokenizer_function = "bert_tokenizer"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # AutoModel iterates over the names, also if there are none
        self.architectures: list[str] | None = getattr(self, "architectures", None) or []

    @classmethod
    def prepare_dict(cls, values: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
        """Note the fields that the file itself has."""
        return {**super().prepare_dict(values, given), _STORED: frozenset(values) - given}

    def check_token_ids(self, stored: frozenset[str] = frozenset()) -> None:
        """
        Raise `ValueError` if a token id is outside the vocabulary; warn if the field is in `stored` and the id might be
        one of a larger vocabulary.

        Later changes of sizes are not checked: resizing the embeddings may leave out tokens that a head does not use.
        """
        sizes = {name: getattr(part, "vocab_size", None) for name, part in self._vocabularies().items()}
        part, size = min(((n, s) for n, s in sizes.items() if s), key=lambda pair: pair[1], default=("", 0))
        if not size:
            return
        wrong = {
            name: value
            for name in (*_FROM_TOKENIZER, "enc_token_id")
            if (value := getattr(self, name, None)) is not None and not 0 <= value < size
        }
        if not wrong:
            return
        stored = frozenset(name for name in stored if 0 <= wrong.get(name, 0) <= RANGES["vocab_size"][1])
        reason = (
            f"{_listed([f'{name} is {value}' for name, value in wrong.items()])}, but {part}.vocab_size is {size}; "
            f"expected token ids from 0 to {size - 1}. Give the ids of your tokenizer, or make the configuration from "
            f"it: {type(self).__name__}.from_tokenizer(tokenizer, ...)."
        )
        if set(wrong) <= stored:
            logger.warning(f"In a {type(self).__name__}: {reason}")
            return
        raise ValueError(reason)

    def _vocabularies(self) -> dict[str, PreTrainedConfig]:
        """The parts whose vocabulary has the special tokens, by field."""
        parts = {name: getattr(self, name) for name in self.vocabulary_parts}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **kwargs: Any) -> Any:
        """
        A configuration with the vocabulary size and the special tokens of a tokenizer.

        Args:
            tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): tokenizer, or a processor that has one.
            kwargs: fields of the configuration, such as `vision_config` and `text_config`. Token ids that are given
                override those of the tokenizer. A given vocabulary size may be larger than the tokenizer's.

        Raises:
            ValueError: the tokenizer lacks a special token, or a given vocabulary is smaller than the tokenizer's.
        """
        tokenizer, vocabulary = cls._read_tokenizer(tokenizer)
        for name in cls.tokenizer_fields:
            if name not in kwargs:
                kwargs[name] = cls._token_id(name, tokenizer, vocabulary)
        size = max(len(vocabulary), max(vocabulary.values()) + 1)
        for name in cls.vocabulary_parts:
            if name == cls.vocabulary_parts[0] or kwargs.get(name) is not None:
                kwargs[name] = with_vocabulary(name, kwargs.get(name), size, kwargs["pad_token_id"])
        return cls(**kwargs)

    @staticmethod
    def _read_tokenizer(tokenizer: Any) -> tuple[Any, Mapping[str, int]]:
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        if not hasattr(tokenizer, "get_vocab"):
            raise ValueError(
                f"Got a tokenizer of type {type(tokenizer).__name__}; pass a tokenizer of transformers or a processor, "
                "for instance AutoTokenizer.from_pretrained(...)."
            )
        return tokenizer, tokenizer.get_vocab()

    @classmethod
    def _token_id(cls, name: str, tokenizer: Any, vocabulary: Mapping[str, int]) -> int:
        if name == "enc_token_id":
            token, found = _ENC_TOKEN, vocabulary.get(_ENC_TOKEN)
        else:
            token, found = _FROM_TOKENIZER[name].removesuffix("_id"), getattr(tokenizer, _FROM_TOKENIZER[name], None)
        if found is None:
            raise ValueError(
                f"The tokenizer has no {token} for {name}. Make it with {cls.tokenizer_function}, or pass {name}=..."
            )
        return int(found)


def with_vocabulary(name: str, part: Any, size: int, pad_token_id: int | None) -> Any:
    """Values of a part with at least `size` tokens."""
    values = part.to_dict() if isinstance(part, PreTrainedConfig) else dict(part or {})
    given = values.get("vocab_size")
    if isinstance(given, int) and given < size:
        raise ValueError(
            f"{name}.vocab_size is {given}, but the tokenizer has {size} tokens, added ones included. Leave it out, or "
            "give at least that."
        )
    pad = {} if pad_token_id is None else {"pad_token_id": pad_token_id}
    return {**pad, **values, "vocab_size": given or size}


def _listed(parts: list[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), parts[-1]])


# ---- parts in other repositories ----


class FrozenPart(NamedTuple):
    """
    Where a frozen part is stored.

    Args:
        source (`str`): folder or Hub id.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        subfolder (`str`, *optional*): folder inside the repository.
    """

    source: str
    revision: str | None = None
    subfolder: str | None = None

    @classmethod
    def read(cls, name: str, value: Any) -> "FrozenPart":
        """
        Read an entry of `frozen_parts`.

        Args:
            name (`str`): the module, for the error.
            value (`str`, `os.PathLike` or `dict`): folder or Hub id, or `"org/name@revision"`, or a dictionary with
                `source` and, optionally, `revision` and `subfolder`.

        Raises:
            ValueError: the entry is none of these.
        """
        if isinstance(value, (str, os.PathLike)):
            source = os.fspath(value)
            repository, at, revision = source.rpartition("@")
            # a path may contain the sign, a Hub id may not
            is_hub_id = (
                bool(at) and not os.path.exists(source) and repository.count("/") <= 1 and source[0] not in "./~"
            )
            value = {"source": repository, "revision": revision} if is_hub_id else {"source": source}
        valid = isinstance(value, dict) and value.get("source") and set(value) <= set(_PART_ENTRIES)
        if not valid or not all(entry is None or isinstance(entry, str) and entry for entry in value.values()):
            raise ValueError(
                f"frozen_parts has {value!r:.80} for {name}; expected a folder, a Hub id ('org/name' or "
                f"'org/name@revision'), or a dictionary with {', '.join(_PART_ENTRIES)}."
            )
        return cls(**value)

    def __str__(self) -> str:
        return self.source + (f"@{self.revision}" if self.revision else "")


__all__ = [
    "ACTIVATIONS",
    "MAX_PARAMETERS",
    "RANGES",
    "UNFINISHED",
    "ConfigurationError",
    "FrozenPart",
    "LavisPreTrainedConfig",
    "LavisVocabularyConfig",
    "SubConfigSpec",
    "build_part",
    "check_implementations",
    "check_names",
    "check_range",
    "describe_error",
    "estimated_parameters",
    "section_of",
    "with_vocabulary",
]
