# SPDX-License-Identifier: Apache-2.0
"""What captions and answers need for `generate`, shared by evaluation and pipelines.

Shapes: B inputs of a batch, n beams, R sequences that are returned (a multiple of B), T tokens with the prompt, G
generated tokens, V vocabulary size.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Generated(NamedTuple):
    """
    Texts of `generate`, with scores.

    Args:
        ids (`Tensor` of shape `(R, T)`): token ids.
        scores (`list[float]`, *optional*): mean log-probability of the generated tokens of each sequence, the end token
            included; `None` if the decoding loop gives none.
        beam_scores (`list[float]`, *optional*): with beams, the score by which each sequence was chosen.
    """

    ids: Tensor
    scores: list[float] | None
    beam_scores: list[float] | None


def generate_scored(model: Any, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Generated:
    """
    Generate texts and score them.

    Without beams, the log-probabilities are those of the model, before temperature, `top_p` and penalties. With beams
    they are those of the search, after penalties.

    Args:
        model (`PreTrainedModel`): a model with `generate`.
        inputs (`Mapping[str, Any]`): its inputs.
        options (`Mapping[str, Any]`): options of `generate`.

    Returns:
        [`Generated`]: ids and scores.
    """
    beams = options.get("num_beams") or getattr(options.get("generation_config"), "num_beams", None)
    beams = beams or model.generation_config.num_beams or 1
    # the scores of a search name the beam of each token, which logits alone do not
    wanted = {"output_scores": beams > 1, "output_logits": beams == 1, "return_dict_in_generate": True}
    output = model.generate(**{**inputs, **options, **wanted})
    ids = output.sequences
    steps = output.scores if beams > 1 else output.logits
    if not steps:
        return Generated(ids, None, None)
    if beams > 1:
        found, kept = _of_beams(ids, steps, output.beam_indices)
    else:
        ends = options.get("eos_token_id", model.generation_config.eos_token_id)
        found, kept = _of_rows(ids, steps, getattr(model.config, "eos_token_id", None) if ends is None else ends)
    means = (found.masked_fill(~kept, 0).sum(dim=1) / kept.sum(dim=1).clamp(min=1)).tolist()
    chosen = getattr(output, "sequences_scores", None)
    return Generated(ids, means, None if chosen is None else chosen.tolist())


def _of_beams(ids: Tensor, steps: tuple[Tensor, ...], beam_indices: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(R, G)` of generated tokens, and which are not padding; `steps` are G tensors `(B n, V)`."""
    length = beam_indices.shape[1]
    tokens = ids[:, ids.shape[1] - length :]
    kept = beam_indices >= 0
    rows = beam_indices.clamp(min=0)
    found = [steps[step][rows[:, step], tokens[:, step]] for step in range(length)]
    return torch.stack(found, dim=1).float(), kept


def _of_rows(ids: Tensor, steps: tuple[Tensor, ...], end_token_ids: Any) -> tuple[Tensor, Tensor]:
    """As [`_of_beams`], without beams; `steps` are G tensors of logits `(R, V)`."""
    tokens = ids[:, ids.shape[1] - len(steps) :]
    found = [
        logits.float().log_softmax(dim=-1).gather(1, tokens[:, step, None])[:, 0] for step, logits in enumerate(steps)
    ]
    ends = torch.as_tensor([] if end_token_ids is None else end_token_ids, device=ids.device)
    ended = torch.isin(tokens, ends.to(tokens.dtype)).cumsum(dim=1)
    before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1)
    return torch.stack(found, dim=1), before == 0


def texts_with_scores(key: str, texts: list[str], output: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Texts as the results of a pipeline.

    Args:
        key (`str`): name of the text in a result.
        texts (`list[str]`): the texts of one input.
        output (`Mapping[str, Any]`): `scores` and `beam_scores` of these texts, or `None`.

    Returns:
        `list[dict[str, Any]]`: for each text a dict with it, `score` and, with beams, `beam_score`.
    """
    results: list[dict[str, Any]] = [{key: text} for text in texts]
    for name in ("score", "beam_score"):
        for result, value in zip(results, output.get(f"{name}s") or ()):
            result[name] = value
    return results


def split_generated(generated: Generated, rows: int) -> list[dict[str, Any]]:
    """What [`Generated`] has for each of `rows` inputs: `ids` `(n, T)`, `scores` and `beam_scores`."""
    sequences = generated.ids.view(rows, -1, generated.ids.shape[-1])
    count = sequences.shape[1]
    return [
        {
            "ids": sequence,
            "scores": None if generated.scores is None else generated.scores[row * count : (row + 1) * count],
            "beam_scores": (
                None if generated.beam_scores is None else generated.beam_scores[row * count : (row + 1) * count]
            ),
        }
        for row, sequence in enumerate(sequences)
    ]


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


__all__ = [
    "Generated",
    "best_sequences",
    "generate_scored",
    "split_generated",
    "texts_with_scores",
    "with_newline",
]
