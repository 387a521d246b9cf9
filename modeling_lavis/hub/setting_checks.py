# SPDX-License-Identifier: Apache-2.0
"""Types and ranges of the settings that a conversion takes, so that a wrong one is named before a weight is read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from modeling_lavis.models.configuration_base import ACTIVATIONS, RANGES, check_range

#: Largest number of classes; more are a mistake that would end in a loop over millions of names.
MAX_CLASSES = 2**20


class Number(NamedTuple):
    """A number from `low` to `high`; an integer unless `fractional`."""

    low: float
    high: float
    fractional: bool = False


def _like(field: str, fractional: bool = False) -> Number:
    """The range of a field of our configurations."""
    return Number(*RANGES[field], fractional)


_SIZE = _like("hidden_size")
_SHARE = Number(0, 1, fractional=True)
# A type, a `Number`, or the allowed values.
Kind = type | Number | tuple[str, ...]

TOP: dict[str, Kind] = {
    **dict.fromkeys(("arch", "family", "prompt", "vit_model", "vit_precision", "language_model"), str),
    **dict.fromkeys(("use_momentum", "use_distill", "negative_all_rank", "attend_question_padding"), bool),
    **dict.fromkeys(("reset_queue_ptr_after_load", "use_token_type_embeddings", "freeze_vit"), bool),
    **dict.fromkeys(("momentum", "alpha", "label_smoothing", "mlm_mask_prob"), _SHARE),
    "temp": _like("logit_temperature", fractional=True),
    "embed_dim": _SIZE,
    "queue_size": _like("queue_size"),
    "num_classes": Number(1, MAX_CLASSES),
    "max_txt_len": _like("max_position_embeddings"),
    "num_query_token": _like("num_query_tokens"),
    "cross_attention_freq": _like("cross_attention_frequency"),
    "objective": ("main", "1.0.2"),
}
VISION: dict[str, Kind] = {
    **{name: _like(name) for name in ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_frames")},
    "checkpoint_image_size": _like("image_size"),
    "depth": _like("num_hidden_layers"),
    "num_heads": _like("num_attention_heads"),
    "mlp_ratio": Number(1e-3, 1000, fractional=True),
    "layer_norm_eps": _like("layer_norm_eps", fractional=True),
    "drop_path_rate": _like("drop_path_rate", fractional=True),
}
TEXT: dict[str, Kind] = {
    **{
        name: _like(name)
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "fusion_layer",
        )
    },
    **{
        name: _like(name, fractional=True)
        for name in ("layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range")
    },
    "encoder_width": _SIZE,
    "pad_token_id": Number(0, RANGES["vocab_size"][1]),
    "hidden_act": ACTIVATIONS,
    **dict.fromkeys(("add_type_embeddings", "add_cross_attention"), bool),
}
SECTIONS: dict[str, dict[str, Kind]] = {"vision": VISION, "text": TEXT, "text_decoder": TEXT, "qformer": TEXT}


def check_settings(settings: Mapping[str, Any], source: str | None = None) -> None:
    """
    Check the types and ranges of settings. Unknown entries are not checked, and `None` leaves a setting out.

    Args:
        settings (`Mapping[str, Any]`): the settings, with their sections.
        source (`str`, *optional*): file that they were read from, for the error.

    Raises:
        ValueError: If a value has the wrong type or is out of range. The message names file, setting and value.
    """
    where = "The configuration" if source is None else f"The configuration {source}"
    try:
        for name, value in settings.items():
            if name in TOP and value is not None:
                _check(name, value, TOP[name])
        for name, kinds in SECTIONS.items():
            section = settings.get(name)
            if section is not None and not isinstance(section, Mapping):
                raise ValueError(f"{name} is {section!r:.80}; expected a JSON object.")
            for key, value in (section or {}).items():
                if key in kinds and value is not None:
                    _check(f"{name}.{key}", value, kinds[key])
        if settings.get("labels") is not None:
            _check_labels(settings["labels"])
    except ValueError as error:
        raise ValueError(f"{where} cannot be used: {error} Correct it or leave it out.") from error


def _check(name: str, value: Any, kind: Kind) -> None:
    if isinstance(kind, Number):
        if not kind.fractional and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{name} is {value!r:.80}; expected an integer from {kind.low} to {kind.high}.")
        check_range(name, value, kind.low, kind.high)
    elif isinstance(kind, type):
        if not isinstance(value, kind):
            what = {str: "a string", bool: "true or false"}[kind]
            raise ValueError(f"{name} is {value!r:.80}; expected {what}.")
    elif value not in kind:
        raise ValueError(f"{name} is {value!r:.80}; expected one of {', '.join(kind)}.")


def _check_labels(labels: Any) -> None:
    names = labels.values() if isinstance(labels, Mapping) else labels
    is_table = isinstance(labels, (Mapping, list, tuple))
    if not is_table or not labels or not all(type(name) in (str, int) for name in names):
        raise ValueError(f"labels is {labels!r:.80}; expected a list of names, or a mapping between names and ids.")
    if len(labels) > MAX_CLASSES:
        raise ValueError(f"labels has {len(labels)} names; expected at most {MAX_CLASSES}.")
