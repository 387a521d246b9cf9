# SPDX-License-Identifier: Apache-2.0
"""What captions and answers need for `generate`, shared by evaluation and pipelines."""

from collections.abc import Mapping
from typing import Any


def with_newline(options: Mapping[str, Any], model: Any, processor: Any) -> dict[str, Any]:
    """
    Add the newline to the tokens that end a text: it ends captions and answers of causal language models in training.

    Args:
        options (`Mapping[str, Any]`): options of `generate`; with an `eos_token_id` or a `generation_config` of their
            own, they are returned as they are.
        model (`PreTrainedModel`): the model.
        processor (`ProcessorMixin`): its processor.

    Returns:
        `dict[str, Any]`: the options.
    """
    options = dict(options)
    newline = getattr(processor, "newline_token_id", None)
    is_causal = getattr(processor, "language_model", None) == "causal"
    if not is_causal or newline is None or "eos_token_id" in options or "generation_config" in options:
        return options
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return options if newline in ends else {**options, "eos_token_id": [*ends, newline]}


def best_sequences(ids: Any, rows: int) -> Any:
    """The first, best one of the sequences `(R * n, T)` that `generate` returned for each of R rows: `(R, T)`."""
    return ids.view(rows, -1, ids.shape[-1])[:, 0]


__all__ = ["best_sequences", "with_newline"]
