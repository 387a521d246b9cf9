# SPDX-License-Identifier: Apache-2.0
"""Comparison of an exported head with the one that it was exported from, on inputs that the processor makes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub.loading_probe import compute

TOLERANCE = 1e-4
#: largest root mean square of a tensor's difference, in parts of that of the tensor, by the precision of weights
BOUNDS = {"float16": 0.1, "int8": 0.3}
_BEAMS = {"num_beams": 3, "max_new_tokens": 8, "min_length": 0, "do_sample": False}


def verify(original: Any, exported: Any, processor: Any, weights: str = "float32") -> dict[str, Any]:
    """
    Run both heads on two images (or videos) of different content and two texts of different lengths.

    Args:
        original, exported (`PreTrainedModel`): the heads.
        processor (`ProcessorMixin`): their processor.
        weights (`str`, *optional*, defaults to `"float32"`): precision of the exported weights. In float32 the heads
            have to agree. Other weights change tensors and may change ids; their bound only tells rounding from errors.

    Returns:
        `dict`: `inputs`, `largest_difference` of each tensor, and `equal`, the ids and rankings that are equal. With
        float32 weights `tolerance`; else `bound`, `relative_difference` of each tensor (root mean square of the
        difference over that of the tensor), and `different`, the ids and rankings that are not equal.

    Raises:
        ValueError: with float32 weights, a tensor differs by more than 1e-4 + 1e-4 times its size, or ids or rankings
            differ; with others, the relative difference of a tensor is above the bound.
    """
    with torch.no_grad():
        expected, found = (_outputs(model, processor) for model in (original, exported))
    if expected.keys() != found.keys():
        raise ValueError(f"The exported model returned {sorted(found)}, but the model {sorted(expected)}.")
    exact = weights == "float32"
    differences: dict[str, float] = {}
    relative: dict[str, float] = {}
    equal: list[str] = []
    different: list[str] = []
    for name, value in expected.items():
        other = found[name]
        if not value.is_floating_point():
            same = torch.equal(value, other)
            if exact and not same:
                raise ValueError(f"{name} of the exported model differs from that of the model.")
            (equal if same else different).append(name)
            continue
        if value.shape != other.shape:
            raise ValueError(f"{name} of the exported model has shape {tuple(other.shape)}, not {tuple(value.shape)}.")
        if not value.numel():
            differences[name] = relative[name] = 0.0
            continue
        difference = (value - other).abs()
        largest, change = float(difference.max()), float(difference.norm() / value.norm().clamp_min(1e-30))
        if exact and not bool((difference <= TOLERANCE + TOLERANCE * value.abs()).all()):
            raise ValueError(
                f"{name} of the exported model differs by up to {largest:.2g} from that of the model, more than "
                f"{TOLERANCE:g}."
            )
        if not exact and not change <= BOUNDS[weights]:
            raise ValueError(
                f"{name} of the exported model differs by {change:.0%} from that of the model, more than the "
                f"{BOUNDS[weights]:.0%} that {weights} weights explain. Export it with other weights."
            )
        differences[name], relative[name] = float(f"{largest:.2g}"), float(f"{change:.2g}")
    facts: dict[str, Any] = {"inputs": "two images or videos and two texts through the processor of this folder"}
    if exact:
        return {**facts, "tolerance": TOLERANCE, "largest_difference": differences, "equal": equal}
    return {
        **facts,
        "bound": BOUNDS[weights],
        "largest_difference": differences,
        "relative_difference": relative,
        "equal": equal,
        "different": different,
    }


def _outputs(model: Any, processor: Any) -> dict[str, Tensor]:
    """Outputs of `forward`, of generation (greedy and with beams), of ranking and of matching, by name."""
    tensors = compute(model, processor)
    inputs = {name.removeprefix("inputs."): tensors.pop(name) for name in list(tensors) if name.startswith("inputs.")}
    tensors.update(_calls(model, inputs))
    return {name: value for name, value in tensors.items() if not name.startswith("forward.encoder_last")}


def _calls(model: Any, inputs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    images, texts = inputs[model.main_input_name], {name: inputs[name] for name in ("input_ids", "attention_mask")}
    if model.can_generate():
        questions = texts if hasattr(model, "rank_answers") else {}
        yield "generated_with_beams", model.generate(**{model.main_input_name: images}, **questions, **_BEAMS)
    if hasattr(model, "rank_answers"):
        ranked = model.rank_answers(
            images, **texts, answer_input_ids=texts["input_ids"], answer_attention_mask=texts["attention_mask"]
        )
        yield "ranked_answers", ranked.candidates
        yield "ranked_answers.scores", ranked.scores
    if hasattr(model, "score_pairs"):
        pairs = torch.tensor([[0, 1], [1, 0], [0, 0]])
        yield "score_pairs.logits", model.score_pairs(images, texts, pairs).logits


__all__ = ["BOUNDS", "TOLERANCE", "verify"]
