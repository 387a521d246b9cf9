"""A golden checkpoint after the real conversion: the repository that it made, loaded with the Auto classes."""

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

# Class and Auto class of each architecture, from the package's contract.
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


# Why a weight that the original loads may be left out here: stored twice, or of no use to the architecture.
GROUNDS = (
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
    """The conversion's account against the missing and unexpected keys of the original's load.

    Our classes may own more than the original's (twins, queues, a temperature), so a key that was unexpected there
    may be used here; every other difference needs one of the grounds below.
    """
    names = Names.of(report.architecture)
    missing, unexpected = set(recorded["missing_keys"]), set(recorded["unexpected_keys"])
    used = set(report.used.values())
    for key in sorted(checkpoint_keys - used - set(report.dropped)):
        ledger.check(f"conversion: {key} of the checkpoint is unaccounted for", False)
    for key in sorted(set(report.dropped) - unexpected):
        ground = key.endswith("position_ids") or key == "queue_ptr" or report.dropped[key].startswith(GROUNDS)
        ledger.check(f"conversion: drops {key} ({report.dropped[key]}), which the original loads", ground)
    original = (checkpoint_keys - unexpected) | missing
    initialised = {names.theirs(target) for target in report.initialised} - {"queue_ptr"}
    for key in sorted(initialised & original - missing):
        ledger.check(f"conversion: {key} starts anew, but the original loads it", False)
    # Keys of constant buffers and second names of tied weights have no target of their own. What comes from separate
    # files is there for the original before it loads the checkpoint.
    from_parts = {name for name in (used | set(report.dropped)) - checkpoint_keys if name in missing}
    for key in sorted(missing - initialised - from_parts):
        ground = key.endswith("position_ids") or key == "queue_ptr"
        ledger.check(f"conversion: {key} is missing for the original, but not here", ground)


class Converted:
    """
    Converts `golden.checkpoint` into `folder` once and loads from there as often as needed.

    `architecture` is another one that the original makes of the same checkpoint with the same class.
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
        """A fresh model in evaluation mode, with some settings of its configuration changed."""
        # The recordings were made in float32, in which frozen parts in half precision are read exactly.
        settings = {"dtype": torch.float32, **settings}
        model, loading = auto_class(self.auto_name).from_pretrained(self.folder, output_loading_info=True, **settings)
        left = {kind: sorted(keys) for kind, keys in loading.items() if keys}
        self.ledger.check(f"loading the converted files: {left}", not left)
        self.ledger.check(f"{self.auto_name} gives {type(model).__name__}", type(model).__name__ == self.class_name)
        return model.eval()
