"""Replays of ALBEF and BLIP classification: pairs of images with a text (NLVR2), and images with a text."""

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
from .training import pick, replay_training


def _replay(run: Converted, batch: dict[str, torch.Tensor], epochs: int) -> None:
    golden, ledger = run.golden, run.ledger
    compare_tokenizer(run)
    model, labels = run.model(), golden.inputs["label"]
    with torch.no_grad():
        output = model(**batch)
    ledger.compare("predict.predictions", output.logits)
    if ledger.records("image_embeds"):
        ledger.compare("image_embeds", output.image_embeds)

    def forward(model: nn.Module) -> ModelOutput:
        if not hasattr(model, "vision_model_m"):
            return model(**batch, labels=labels)
        return model(**batch, labels=labels, alpha=golden.alpha(epochs), update_state=True, output_intermediates=True)

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


@replays("albef_nlvr", "blip_nlvr")
def replay_pairs(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    images = torch.stack([golden.inputs["image0"], golden.inputs["image1"]], dim=1)
    _replay(run, {"pixel_values": images, **tokens(run, golden.inputs["text_input"])}, epochs=2)


@replays("albef_classification", "blip_classification")
def replay_classification(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    batch = {"pixel_values": golden.inputs["image"], **tokens(run, golden.inputs["text_input"])}
    _replay(run, batch, epochs=1)
