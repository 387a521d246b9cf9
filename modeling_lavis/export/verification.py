# SPDX-License-Identifier: Apache-2.0
"""Comparison of an exported head with the one that it was exported from, on inputs that the processor makes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub.loading_probe import compute

TOLERANCE = 1e-4
_BEAMS = {"num_beams": 3, "max_new_tokens": 8, "min_length": 0, "do_sample": False}


def verify(original: Any, exported: Any, processor: Any) -> dict[str, Any]:
    """
    Run both heads on two images (or videos) of different content and two texts of different lengths.

    Args:
        original, exported (`PreTrainedModel`): the heads.
        processor (`ProcessorMixin`): their processor.

    Returns:
        `dict`: `inputs`, `tolerance`, `largest_difference` of each output, and `equal`, the outputs that are ids or
        rankings and have to be equal.

    Raises:
        ValueError: a tensor differs by more than 1e-4 + 1e-4 times its size, or ids or rankings differ.
    """
    with torch.no_grad():
        expected, found = (_outputs(model, processor) for model in (original, exported))
    if expected.keys() != found.keys():
        raise ValueError(f"The exported model returned {sorted(found)}, but the model {sorted(expected)}.")
    differences: dict[str, float] = {}
    equal = []
    for name, value in expected.items():
        other = found[name]
        if value.shape != other.shape:
            raise ValueError(f"{name} of the exported model has shape {tuple(other.shape)}, not {tuple(value.shape)}.")
        if not value.is_floating_point():
            if not torch.equal(value, other):
                raise ValueError(f"{name} of the exported model differs from that of the model.")
            equal.append(name)
            continue
        difference = (value - other).abs()
        if not bool((difference <= TOLERANCE + TOLERANCE * value.abs()).all()):
            raise ValueError(
                f"{name} of the exported model differs by up to {float(difference.max()):.2g} from that of the model, "
                f"more than {TOLERANCE:g}."
            )
        differences[name] = float(f"{float(difference.max()):.2g}") if value.numel() else 0.0
    inputs = "two images or videos and two texts through the processor of this folder"
    return {"inputs": inputs, "tolerance": TOLERANCE, "largest_difference": differences, "equal": equal}


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


__all__ = ["TOLERANCE", "verify"]
