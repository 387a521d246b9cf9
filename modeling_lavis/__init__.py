# SPDX-License-Identifier: Apache-2.0
"""ALBEF, ALPRO, BLIP and BLIP-2 of LAVIS as ordinary transformers models.

Importing this package registers its models with transformers' Auto classes and its pipelines with `pipeline`. Torch and
transformers are not imported for that: `registration` registers when the Auto classes are imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

from modeling_lavis import registration

if TYPE_CHECKING:
    from modeling_lavis.bridge import load_model, load_model_and_preprocess
    from modeling_lavis.data.checks import check_data
    from modeling_lavis.data.collation import make_collator
    from modeling_lavis.data.loading import load_data, load_label2id
    from modeling_lavis.data.mixtures import mix
    from modeling_lavis.evaluation.engine import RetrievalEngine
    from modeling_lavis.evaluation.retrieval_rows import evaluate_retrieval
    from modeling_lavis.evaluation.tasks import evaluate
    from modeling_lavis.export import export_model, load_exported
    from modeling_lavis.interpretability.explaining import explain
    from modeling_lavis.models.auto_lavis import (
        AutoModelForImageAndTextClassification,
        AutoModelForImagesAndTextClassification,
        AutoModelForImageTextRetrieval,
        AutoModelForVideoQuestionAnswering,
        AutoModelForVideoTextRetrieval,
    )
    from modeling_lavis.models.configuration_albef import AlbefConfig
    from modeling_lavis.models.configuration_alpro import AlproConfig
    from modeling_lavis.models.configuration_lavis_blip import LavisBlipConfig
    from modeling_lavis.models.configuration_lavis_blip_2 import LavisBlip2Config
    from modeling_lavis.models.configuration_text import LavisBertConfig, LavisQFormerConfig
    from modeling_lavis.models.configuration_vision import (
        LavisClipVisionConfig,
        LavisEvaConfig,
        LavisTimesformerConfig,
        LavisViTConfig,
    )
    from modeling_lavis.models.image_processing_lavis import LavisImageProcessor, LavisImageProcessorTorchvision
    from modeling_lavis.models.modeling_albef import (
        AlbefForImageAndTextClassification,
        AlbefForImagesAndTextClassification,
        AlbefForImageTextRetrieval,
        AlbefForPreTraining,
        AlbefForQuestionAnswering,
        AlbefModel,
    )
    from modeling_lavis.models.modeling_alpro import (
        AlproForVideoQuestionAnswering,
        AlproForVideoTextRetrieval,
        AlproModel,
    )
    from modeling_lavis.models.modeling_lavis_blip import (
        LavisBlipForConditionalGeneration,
        LavisBlipForImageAndTextClassification,
        LavisBlipForImagesAndTextClassification,
        LavisBlipForImageTextRetrieval,
        LavisBlipForPreTraining,
        LavisBlipForQuestionAnswering,
        LavisBlipModel,
    )
    from modeling_lavis.models.modeling_lavis_blip_2 import (
        LavisBlip2ForImageTextRetrieval,
        LavisBlip2ForPreTraining,
        LavisBlip2Model,
    )
    from modeling_lavis.models.modeling_lavis_blip_2_generation import LavisBlip2ForConditionalGeneration
    from modeling_lavis.models.processing_albef import AlbefProcessor
    from modeling_lavis.models.processing_alpro import AlproProcessor
    from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
    from modeling_lavis.models.processing_lavis_blip_2 import LavisBlip2Processor
    from modeling_lavis.models.qformer import LavisQFormerModel
    from modeling_lavis.models.video_processing_lavis import LavisVideoProcessor
    from modeling_lavis.models.vision_timesformer import LavisTimesformerModel
    from modeling_lavis.models.vision_vit import LavisClipVisionModel, LavisEvaModel, LavisViTModel
    from modeling_lavis.training import LavisTrainer, train
    from modeling_lavis.training.lora_targets import LORA_TARGET_MODULES, lora_target_modules
    from modeling_lavis.training.recipes import list_recipes, load_recipe
    from modeling_lavis.training.starting_points import from_pretrained_parts

__version__ = "0.1.0.dev0"

# Public names with the modules that define them; a name is imported on first access.
_HOME_OF: dict[str, str] = {
    name: f"modeling_lavis.{module}"
    for module, names in {
        "bridge": ("load_model", "load_model_and_preprocess"),
        "data.checks": ("check_data",),
        "data.collation": ("make_collator",),
        "data.loading": ("load_data", "load_label2id"),
        "data.mixtures": ("mix",),
        "evaluation.engine": ("RetrievalEngine",),
        "evaluation.retrieval_rows": ("evaluate_retrieval",),
        "evaluation.tasks": ("evaluate",),
        "export": ("export_model", "load_exported"),
        "interpretability.explaining": ("explain",),
        "models.auto_lavis": (
            "AutoModelForImageAndTextClassification",
            "AutoModelForImageTextRetrieval",
            "AutoModelForImagesAndTextClassification",
            "AutoModelForVideoQuestionAnswering",
            "AutoModelForVideoTextRetrieval",
        ),
        "models.configuration_albef": ("AlbefConfig",),
        "models.configuration_alpro": ("AlproConfig",),
        "models.configuration_lavis_blip": ("LavisBlipConfig",),
        "models.configuration_lavis_blip_2": ("LavisBlip2Config",),
        "models.configuration_text": ("LavisBertConfig", "LavisQFormerConfig"),
        "models.configuration_vision": (
            "LavisClipVisionConfig",
            "LavisEvaConfig",
            "LavisTimesformerConfig",
            "LavisViTConfig",
        ),
        "models.image_processing_lavis": ("LavisImageProcessor", "LavisImageProcessorTorchvision"),
        "training": ("LavisTrainer", "train"),  # with a hint which extra is missing
        "training.lora_targets": ("LORA_TARGET_MODULES", "lora_target_modules"),
        "training.recipes": ("list_recipes", "load_recipe"),
        "training.starting_points": ("from_pretrained_parts",),
        "models.modeling_albef": (
            "AlbefForImageAndTextClassification",
            "AlbefForImageTextRetrieval",
            "AlbefForImagesAndTextClassification",
            "AlbefForPreTraining",
            "AlbefForQuestionAnswering",
            "AlbefModel",
        ),
        "models.modeling_alpro": ("AlproForVideoQuestionAnswering", "AlproForVideoTextRetrieval", "AlproModel"),
        "models.modeling_lavis_blip": (
            "LavisBlipForConditionalGeneration",
            "LavisBlipForImageAndTextClassification",
            "LavisBlipForImageTextRetrieval",
            "LavisBlipForImagesAndTextClassification",
            "LavisBlipForPreTraining",
            "LavisBlipForQuestionAnswering",
            "LavisBlipModel",
        ),
        "models.modeling_lavis_blip_2_generation": ("LavisBlip2ForConditionalGeneration",),
        "models.modeling_lavis_blip_2": (
            "LavisBlip2ForImageTextRetrieval",
            "LavisBlip2ForPreTraining",
            "LavisBlip2Model",
        ),
        "models.processing_albef": ("AlbefProcessor",),
        "models.processing_alpro": ("AlproProcessor",),
        "models.processing_lavis_blip": ("LavisBlipProcessor",),
        "models.processing_lavis_blip_2": ("LavisBlip2Processor",),
        "models.qformer": ("LavisQFormerModel",),
        "models.video_processing_lavis": ("LavisVideoProcessor",),
        "models.vision_timesformer": ("LavisTimesformerModel",),
        "models.vision_vit": ("LavisClipVisionModel", "LavisEvaModel", "LavisViTModel"),
    }.items()
    for name in names
}

__all__ = [
    "LORA_TARGET_MODULES",
    "AlbefConfig",
    "AlbefForImageAndTextClassification",
    "AlbefForImageTextRetrieval",
    "AlbefForImagesAndTextClassification",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefModel",
    "AlbefProcessor",
    "AlproConfig",
    "AlproForVideoQuestionAnswering",
    "AlproForVideoTextRetrieval",
    "AlproModel",
    "AlproProcessor",
    "AutoModelForImageAndTextClassification",
    "AutoModelForImageTextRetrieval",
    "AutoModelForImagesAndTextClassification",
    "AutoModelForVideoQuestionAnswering",
    "AutoModelForVideoTextRetrieval",
    "LavisBertConfig",
    "LavisBlip2Config",
    "LavisBlip2ForConditionalGeneration",
    "LavisBlip2ForImageTextRetrieval",
    "LavisBlip2ForPreTraining",
    "LavisBlip2Model",
    "LavisBlip2Processor",
    "LavisBlipConfig",
    "LavisBlipForConditionalGeneration",
    "LavisBlipForImageAndTextClassification",
    "LavisBlipForImageTextRetrieval",
    "LavisBlipForImagesAndTextClassification",
    "LavisBlipForPreTraining",
    "LavisBlipForQuestionAnswering",
    "LavisBlipModel",
    "LavisBlipProcessor",
    "LavisClipVisionConfig",
    "LavisClipVisionModel",
    "LavisEvaConfig",
    "LavisEvaModel",
    "LavisImageProcessor",
    "LavisImageProcessorTorchvision",
    "LavisQFormerConfig",
    "LavisQFormerModel",
    "LavisTimesformerConfig",
    "LavisTimesformerModel",
    "LavisTrainer",
    "LavisViTConfig",
    "LavisViTModel",
    "LavisVideoProcessor",
    "RetrievalEngine",
    "__version__",
    "check_data",
    "evaluate",
    "evaluate_retrieval",
    "explain",
    "export_model",
    "from_pretrained_parts",
    "list_recipes",
    "load_data",
    "load_exported",
    "load_label2id",
    "load_model",
    "load_model_and_preprocess",
    "load_recipe",
    "lora_target_modules",
    "make_collator",
    "mix",
    "train",
]


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public class on first access and keep it as a module attribute."""
        if name in ("jobs", "search"):
            return importlib.import_module(f"modeling_lavis.{name}")
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "jobs", "search"})


registration.install()
