"""Replays of the ALPRO architectures.

Shapes: B batch size, F frames, P patches per frame, N = P + 1 tokens per frame, T text tokens, D hidden size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.utils import ModelOutput

from .blip_inputs import compare_tokenizer, tokens
from .converted import Converted
from .goldens import GoldenSet
from .ledger import Ledger
from .registry import replays
from .retrieval import compare_similarity_matrices
from .training import pick, replay_training
from .training_inputs import clips, training_inputs


def _all_tokens(run: Converted) -> None:
    """Compare hidden states in the original's layout `(B, 1 + P * F, D)`: class token, then frames per patch."""
    normed: list[torch.Tensor] = []
    video_encoder = run.model().vision_model
    video_encoder.norm.register_forward_hook(lambda module, arguments, output: normed.append(output))
    with torch.no_grad():
        pooled = video_encoder(clips(run.golden.inputs)).last_hidden_state
    (states,) = normed  # (B, N, F, D)
    run.ledger.compare("vision_all_tokens", torch.cat([states[:, 0, :1], states[:, 1:].flatten(1, 2)], dim=1))
    run.ledger.compare("train.intermediate_output.video_embeds", pooled)


def _record(output: ModelOutput) -> dict[str, torch.Tensor]:
    """Outputs by their recorded names, without the scope."""
    intermediates = output.get("intermediates")
    inner = pick(output, "video_embeds", "text_embeds")
    if intermediates is None:
        inner["encoder_output.last_hidden_state"] = output.multimodal_embeds
    else:
        batch = len(output.video_embeds)
        inner |= pick(intermediates, "vtm_logits", "vtm_labels")
        # One forward pass for positives and negatives here, two in the original.
        inner["encoder_output.last_hidden_state"] = intermediates["multimodal_embeds"][:batch]
        inner["encoder_output_neg.last_hidden_state"] = intermediates["multimodal_embeds"][batch:]
    fields = {f"intermediate_output.{name}": value for name, value in inner.items()}
    return fields if intermediates is not None else {**fields, **pick(output, "logits")}


@replays("alpro_retrieval")
def replay_retrieval(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    _all_tokens(run)
    batch = training_inputs(run, golden.inputs)

    def forward(model: nn.Module) -> ModelOutput:
        return model(**batch, update_state=True, output_intermediates=True)

    replay_training(run.model(), ledger, run.names, forward, _record)
    texts = tokens(run, golden.inputs["retrieval_texts"], padding="max_length")
    compare_similarity_matrices(golden, ledger, run.model(), clips(golden.inputs), texts)


@replays("alpro_qa")
def replay_answering(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    _all_tokens(run)
    batch = training_inputs(run, golden.inputs)
    questions = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        ledger.compare("predict.predictions", run.model()(**questions, first_token_only=True).logits)

    def forward(model: nn.Module) -> ModelOutput:
        return model(**batch)

    replay_training(run.model(), ledger, run.names, forward, _record)
