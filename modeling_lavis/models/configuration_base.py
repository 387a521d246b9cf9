# SPDX-License-Identifier: Apache-2.0
"""Base class of all configurations: ranges of their values, and errors that name file, field and value."""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

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
_DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
_MAX_LABELS = 2**20
# keyword arguments that transformers' `from_dict` handles itself
_NOT_MERGED = frozenset({"num_labels", "attn_implementation", "dtype", "torch_dtype", "name_or_path"})


@strict
class LavisPreTrainedConfig(PreTrainedConfig):
    """
    Base of all configurations. A value of the wrong type or out of its range raises an error at construction that names
    the field, and the file if the value was read from one.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        _check_common_fields(self, kwargs)
        for name, spec in self.sub_configs_defaults.items():
            value = getattr(self, name)
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
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except ConfigurationError as error:
            raise error.located(pretrained_model_name_or_path) from error.__cause__
        except (TypeError, AttributeError, KeyError) as error:
            raise _not_a_configuration(cls, pretrained_model_name_or_path, error) from error

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        Build the configuration from a dictionary. Keyword arguments replace its values; a dictionary for a part
        replaces only the values that it has.

        Raises:
            ValueError: a value has the wrong type or is out of its range. The message names field and value.
        """
        if not isinstance(config_dict, Mapping):
            raise ConfigurationError(f"it contains a {type(config_dict).__name__}, expected a JSON object")
        source = kwargs.get("name_or_path")
        values = dict(config_dict)
        try:
            values = cls.translate_dict(values)
            given = frozenset(field.name for field in fields(cls)) & kwargs.keys() - _NOT_MERGED
            for name in given:
                values[name] = _merge(values.get(name), kwargs.pop(name))
            return super().from_dict(cls.prepare_dict(values, given), **kwargs)
        except ConfigurationError as error:
            raise error.located(source) from error.__cause__
        except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ConfigurationError(describe_error(error, values)).located(source) from error

    @classmethod
    def translate_dict(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Hook for families: the fields of this class for a file in another format."""
        return values

    @classmethod
    def prepare_dict(cls, values: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
        """Hook for families: the arguments of the constructor for the fields of a file, `given` ones replaced."""
        return values


def build_part(name: str, make: Callable[..., PreTrainedConfig], values: dict[str, Any]) -> PreTrainedConfig:
    """`make(**values)`; errors name the part."""
    try:
        return make(**values)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
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


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raise `ValueError` unless a number is finite and from `low` to `high`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value!r:.80}; expected a number from {low} to {high}.")
    if value < low:
        raise ValueError(f"{name} is {value!r:.80}; expected at least {low}.")
    if value > high:
        raise ValueError(f"{name} is {value!r:.80}; expected at most {high}.")


def _check_common_fields(config: PreTrainedConfig, kwargs: Mapping[str, Any]) -> None:
    """Check what transformers' base class converts without a check."""
    for name, dtype in (("dtype", config.dtype), ("torch_dtype", kwargs.get("torch_dtype"))):
        if isinstance(dtype, str) and dtype not in _DTYPES:
            raise ValueError(f"{name} is {dtype!r}; expected one of {', '.join(_DTYPES)}.")
    labels = kwargs.get("num_labels")
    if labels is not None and (isinstance(labels, bool) or not isinstance(labels, int) or labels < 1):
        raise ValueError(f"num_labels is {labels!r}; expected at least 1.")
    if labels is not None and labels > _MAX_LABELS:
        raise ValueError(f"num_labels is {labels}; expected at most {_MAX_LABELS}.")
    names = config.id2label
    if names is not None and (not names or not all(str(key).isdecimal() for key in names)):
        raise ValueError(f"id2label is {names!r:.80}; expected the name of each class by its number.")


__all__ = [
    "ACTIVATIONS",
    "RANGES",
    "ConfigurationError",
    "LavisPreTrainedConfig",
    "build_part",
    "check_range",
    "describe_error",
    "section_of",
]
