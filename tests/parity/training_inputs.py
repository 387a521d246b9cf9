"""Inputs of the training objective of each architecture, from recorded pixels and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .blip_inputs import tokens
from .converted import Converted

#: Length in epochs of the warm-up of momentum distillation, of the architectures that have it.
RAMP_EPOCHS: dict[str, int] = {
    "albef_pretrain": 2,
    "albef_retrieval": 2,
    "albef_nlvr": 2,
    "blip_pretrain": 2,
    "blip_retrieval": 2,
    "albef_vqa": 1,
    "albef_classification": 1,
    "blip_classification": 1,
}


def clips(given: Mapping[str, Any]) -> torch.Tensor:
    """Recorded videos `(B, F, C, H, W)`; the original has channels before frames."""
    return given["video"].transpose(1, 2)


def training_inputs(run: Converted, given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments of `forward` for the loss of a batch; `given` has the recorded inputs by name.

    Raises:
        LookupError: the architecture does not train.
    """
    architecture = run.golden.architecture
    family, _, task = architecture.partition("_")
    if task in ("retrieval", "pretrain") or architecture == "blip2":
        visual = {"pixel_values_videos": clips(given)} if family == "alpro" else {"pixel_values": given["image"]}
        ids = {"image_ids": given["image_id"]} if "image_id" in given and architecture != "blip2" else {}
        return {**visual, **tokens(run, given["text_input"], padding="max_length"), **ids, "return_loss": True}
    if architecture == "alpro_qa":
        texts = tokens(run, given["text_input"], padding="max_length")
        return {"pixel_values_videos": clips(given), **texts, "labels": given["answers"]}
    if task == "nlvr":
        images = torch.stack([given["image0"], given["image1"]], dim=1)
        return {"pixel_values": images, **tokens(run, given["text_input"]), "labels": given["label"]}
    if task == "classification":
        return {"pixel_values": given["image"], **tokens(run, given["text_input"]), "labels": given["label"]}
    if task == "vqa":
        return {"pixel_values": given["image"], **tokens(run, given["text_input"]), **_answers(run, given)}
    if architecture in ("blip_caption", "blip2_opt"):
        # parity: the recorded captions of BLIP do not start with the prompt, but the positions of its tokens are
        # ignored anyway
        texts = run.processor.caption_labels(given["text_input"], add_prompt=False, cleaning=None)
        return {"pixel_values": given["image"], **texts}
    if architecture == "blip2_t5":
        texts = run.processor.caption_labels(given["text_output"], prompt=given["text_input"], cleaning=None)
        return {"pixel_values": given["image"], **texts}
    raise LookupError(f"There are no training inputs for the architecture {architecture!r}.")


def _answers(run: Converted, given: Mapping[str, Any]) -> dict[str, Any]:
    """Labels of answers, of which a question may have several."""
    counts = given["n_answers"].tolist()
    starts = [sum(counts[:number]) for number in range(len(counts))]
    parts = [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]
    return dict(
        run.processor.answer_labels(
            [given["answer"][part] for part in parts], weights=[given["weight"][part].tolist() for part in parts]
        )
    )
