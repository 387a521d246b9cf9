"""A golden checkpoint, converted with the conversion code of the package and loaded with the Auto classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel, AutoProcessor

import modeling_lavis
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.report import ConversionReport

from .goldens import GoldenSet
from .ledger import Ledger
from .names import Names

# Expected class and Auto class of each architecture.
HEADS = {
    "albef_classification": ("AlbefForImageAndTextClassification", "AutoModelForImageAndTextClassification"),
    "albef_feature_extractor": ("AlbefModel", "AutoModel"),
    "albef_nlvr": ("AlbefForImagesAndTextClassification", "AutoModelForImagesAndTextClassification"),
    "albef_pretrain": ("AlbefForPreTraining", "AutoModelForPreTraining"),
    "albef_retrieval": ("AlbefForImageTextRetrieval", "AutoModelForImageTextRetrieval"),
    "albef_vqa": ("AlbefForQuestionAnswering", "AutoModelForVisualQuestionAnswering"),
    "blip2": ("LavisBlip2ForPreTraining", "AutoModelForPreTraining"),
    "blip2_feature_extractor": ("LavisBlip2Model", "AutoModel"),
    "blip2_image_text_matching": ("LavisBlip2ForImageTextRetrieval", "AutoModelForImageTextRetrieval"),
    "blip2_opt": ("LavisBlip2ForConditionalGeneration", "AutoModelForImageTextToText"),
    "blip2_t5": ("LavisBlip2ForConditionalGeneration", "AutoModelForImageTextToText"),
    "alpro_qa": ("AlproForVideoQuestionAnswering", "AutoModelForVideoQuestionAnswering"),
    "alpro_retrieval": ("AlproForVideoTextRetrieval", "AutoModelForVideoTextRetrieval"),
    "blip_caption": ("LavisBlipForConditionalGeneration", "AutoModelForImageTextToText"),
    "blip_classification": ("LavisBlipForImageAndTextClassification", "AutoModelForImageAndTextClassification"),
    "blip_feature_extractor": ("LavisBlipModel", "AutoModel"),
    "blip_image_text_matching": ("LavisBlipForImageTextRetrieval", "AutoModelForImageTextRetrieval"),
    "blip_nlvr": ("LavisBlipForImagesAndTextClassification", "AutoModelForImagesAndTextClassification"),
    "blip_pretrain": ("LavisBlipForPreTraining", "AutoModelForPreTraining"),
    "blip_retrieval": ("LavisBlipForImageTextRetrieval", "AutoModelForImageTextRetrieval"),
    "blip_vqa": ("LavisBlipForQuestionAnswering", "AutoModelForVisualQuestionAnswering"),
}


# Beginnings of the accepted reasons for dropping a weight that the original loads: stored twice, or unused.
ACCEPTED_REASONS = (
    "tied weight",
    "copy of a frozen weight of the language model",
    "MLM head, which only pretraining uses",
    "shared with the next layer",
    "captioning head, which only blip2 has",
    "ITM head, which the feature extractor does not have",
    "block after the",
    "part of the image encoder that the original does not use",
)


def auto_class(name: str) -> Any:
    """An Auto class of transformers or of this package."""
    return getattr(transformers, name, None) or getattr(modeling_lavis, name)


def compare_load(
    ledger: Ledger, report: ConversionReport, recorded: Mapping[str, list[str]], checkpoint_keys: set[str]
) -> None:
    """Compare the conversion report with the missing and unexpected keys of the original's load.

    The classes of this package may have more weights than the original's (momentum encoders, queues, a temperature), so
    a key that is unexpected for the original may be used here. Every other difference needs an accepted reason.
    """
    names = Names.of(report.architecture)
    missing, unexpected = set(recorded["missing_keys"]), set(recorded["unexpected_keys"])
    used = set(report.used.values())
    for key in sorted(checkpoint_keys - used - set(report.dropped)):
        ledger.check(f"conversion: {key} of the checkpoint is neither used nor dropped", False)
    for key in sorted(set(report.dropped) - unexpected):
        accepted = (
            key.endswith("position_ids") or key == "queue_ptr" or report.dropped[key].startswith(ACCEPTED_REASONS)
        )
        ledger.check(f"conversion: drops {key} ({report.dropped[key]}), which the original loads", accepted)
    original = (checkpoint_keys - unexpected) | missing
    initialized = {names.theirs(target) for target in report.initialised} - {"queue_ptr"}
    for key in sorted(initialized & original - missing):
        ledger.check(f"conversion: {key} is initialized, but the original loads it", False)
    # Constant buffers and second names of tied weights have no target. The original loads separate files before the
    # checkpoint.
    from_parts = {name for name in (used | set(report.dropped)) - checkpoint_keys if name in missing}
    for key in sorted(missing - initialized - from_parts):
        accepted = key.endswith("position_ids") or key == "queue_ptr"
        ledger.check(f"conversion: {key} is missing for the original, but not here", accepted)


class Converted:
    """
    Converts `golden.checkpoint` into `folder` once; `model` loads it from there.

    `architecture` is another architecture that the original loads from the same checkpoint with the same class.
    """

    def __init__(self, golden: GoldenSet, ledger: Ledger, folder: Path, architecture: str | None = None) -> None:
        architecture = architecture or golden.architecture
        self.golden, self.ledger, self.folder = golden, ledger, folder / f"converted_{architecture}"
        self.class_name, self.auto_name = HEADS[architecture]
        self.names = Names.of(architecture)
        parts: dict[str, Path] = {}
        if (golden.folder / "vision.pth").exists() and not any("visual_encoder." in k for k in golden.checkpoint_keys):
            parts["vision_checkpoint"] = golden.folder / "vision.pth"
        if (golden.folder / "llm").exists():
            parts["language_model"] = golden.folder / "llm"
        self.report = convert(
            architecture,
            golden.checkpoint,
            self.folder,
            config={**golden.config, "arch": architecture},
            tokenizer=golden.tokenizer_folder,
            **parts,
        )
        compare_load(ledger, self.report, golden.load, golden.checkpoint_keys)
        self.processor = AutoProcessor.from_pretrained(self.folder)
        ledger.check(
            f"AutoModel gives another class than {self.class_name}",
            type(AutoModel.from_pretrained(self.folder)).__name__ == self.class_name,
        )

    def model(self, **settings: Any) -> nn.Module:
        """Load the model in evaluation mode, with some configuration options changed."""
        # The recordings were made in float32, to which frozen parts in half precision convert without loss.
        settings = {"dtype": torch.float32, **settings}
        model, loading = auto_class(self.auto_name).from_pretrained(self.folder, output_loading_info=True, **settings)
        problems = {kind: sorted(keys) for kind, keys in loading.items() if keys}
        self.ledger.check(f"loading the converted files: {problems}", not problems)
        self.ledger.check(f"{self.auto_name} gives {type(model).__name__}", type(model).__name__ == self.class_name)
        return model.eval()
