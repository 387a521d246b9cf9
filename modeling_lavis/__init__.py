# SPDX-License-Identifier: Apache-2.0
"""ALBEF, ALPRO, BLIP and BLIP-2 of LAVIS as ordinary transformers models.

Importing this package makes transformers' Auto classes and `pipeline` know its models. It does so without importing
torch or transformers: `registration` waits for the Auto classes to be imported and fills them in then.
"""

import importlib
from typing import Any

from modeling_lavis import registration

__version__ = "0.1.0.dev0"

# Public name -> the module that defines it. A name is imported when it is first asked for.
_HOME_OF: dict[str, str] = {
    name: f"modeling_lavis.{module}"
    for module, names in {
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
        "models.modeling_lavis_blip_2": (
            "LavisBlip2ForConditionalGeneration",
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

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """Import a public class on first use, and keep it as a plain attribute from then on."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.install()
