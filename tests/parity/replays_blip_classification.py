"""Replays of ALBEF and BLIP classification: pairs of images with a text (NLVR2), and images with a text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.utils import ModelOutput

from .blip_inputs import compare_tokenizer
from .converted import Converted
from .goldens import GoldenSet
from .ledger import Ledger
from .registry import replays
from .training import pick, replay_training
from .training_inputs import RAMP_EPOCHS, training_inputs


@replays("albef_nlvr", "blip_nlvr", "albef_classification", "blip_classification")
def replay_classification(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    model, batch = run.model(), training_inputs(run, golden.inputs)
    with torch.no_grad():
        output = model(**{name: value for name, value in batch.items() if name != "labels"})
    ledger.compare("predict.predictions", output.logits)
    if ledger.records("image_embeds"):
        ledger.compare("image_embeds", output.image_embeds)

    def forward(model: nn.Module) -> ModelOutput:
        if not hasattr(model, "vision_model_m"):
            return model(**batch)
        alpha = golden.alpha(RAMP_EPOCHS[golden.architecture])
        return model(**batch, alpha=alpha, update_state=True, output_intermediates=True)

    replay_training(run.model(), ledger, run.names, forward, _record)


def _record(output: ModelOutput) -> dict[str, torch.Tensor]:
    """Outputs by their recorded names, without the scope."""
    intermediates = output.intermediates
    embeds = {**pick(output, "image_embeds"), **pick(intermediates, "image_embeds_m")}
    inner = {
        # The images of pairs are recorded as two stacked batches.
        **{name: value.transpose(0, 1) if value.ndim == 4 else value for name, value in embeds.items()},
        "encoder_output.last_hidden_state": output.multimodal_embeds,
    }
    if intermediates is not None:
        inner["encoder_output_m.last_hidden_state"] = intermediates["multimodal_embeds_m"]
    return {
        **{f"intermediate_output.{name}": value for name, value in inner.items()},
        **pick(output, "logits"),
        **pick(intermediates, "logits_m"),
    }
