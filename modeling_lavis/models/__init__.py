# SPDX-License-Identifier: Apache-2.0
"""The models, and their registration with transformers' Auto classes.

Only this file knows all families. Each function below registers with one kind of Auto class and may be called
repeatedly. `modeling_lavis.registration` calls them when the Auto classes are imported.
"""


def register_configurations() -> None:
    """Register the configurations, including those of submodels, with `AutoConfig`."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_lavis_blip_2 import LavisBlip2Config
    from .configuration_text import LavisBertConfig, LavisQFormerConfig
    from .configuration_vision import LavisClipVisionConfig, LavisEvaConfig, LavisTimesformerConfig, LavisViTConfig

    vision = (LavisViTConfig, LavisTimesformerConfig, LavisEvaConfig, LavisClipVisionConfig)
    texts = (LavisBertConfig, LavisQFormerConfig)
    for config_class in (*vision, *texts, AlbefConfig, AlproConfig, LavisBlipConfig, LavisBlip2Config):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_models() -> None:
    """
    Register the models with transformers' Auto classes and with those of this package.

    The Auto class of a task gets the head of that task, which takes over what it shares with the head that a checkpoint
    was saved from. `AutoModel` gets all heads of a family, so that it returns the one that a checkpoint was saved from.
    """
    from typing import Any

    from transformers.models.auto import modeling_auto as auto

    from .auto_lavis import AutoModelForImageAndTextClassification as AutoForImageAndText
    from .auto_lavis import AutoModelForImagesAndTextClassification as AutoForImagesAndText
    from .auto_lavis import (
        AutoModelForImageTextRetrieval,
        AutoModelForVideoQuestionAnswering,
        AutoModelForVideoTextRetrieval,
    )
    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_lavis_blip_2 import LavisBlip2Config
    from .configuration_text import LavisQFormerConfig
    from .configuration_vision import LavisClipVisionConfig, LavisEvaConfig, LavisTimesformerConfig, LavisViTConfig
    from .modeling_albef import (
        AlbefForImageAndTextClassification,
        AlbefForImagesAndTextClassification,
        AlbefForImageTextRetrieval,
        AlbefForPreTraining,
        AlbefForQuestionAnswering,
        AlbefModel,
    )
    from .modeling_alpro import AlproForVideoQuestionAnswering, AlproForVideoTextRetrieval, AlproModel
    from .modeling_lavis_blip import (
        LavisBlipForConditionalGeneration,
        LavisBlipForImageAndTextClassification,
        LavisBlipForImagesAndTextClassification,
        LavisBlipForImageTextRetrieval,
        LavisBlipForPreTraining,
        LavisBlipForQuestionAnswering,
        LavisBlipModel,
    )
    from .modeling_lavis_blip_2 import LavisBlip2ForImageTextRetrieval, LavisBlip2ForPreTraining, LavisBlip2Model
    from .modeling_lavis_blip_2_generation import LavisBlip2ForConditionalGeneration
    from .qformer import LavisQFormerModel
    from .vision_timesformer import LavisTimesformerModel
    from .vision_vit import LavisClipVisionModel, LavisEvaModel, LavisViTModel

    auto.AutoModel.register(LavisViTConfig, LavisViTModel, exist_ok=True)
    auto.AutoModel.register(LavisTimesformerConfig, LavisTimesformerModel, exist_ok=True)
    auto.AutoModel.register(LavisEvaConfig, LavisEvaModel, exist_ok=True)
    auto.AutoModel.register(LavisClipVisionConfig, LavisClipVisionModel, exist_ok=True)
    auto.AutoModel.register(LavisQFormerConfig, LavisQFormerModel, exist_ok=True)
    albef = {
        auto.AutoModelForPreTraining: AlbefForPreTraining,
        auto.AutoModelForZeroShotImageClassification: AlbefForImageTextRetrieval,
        AutoModelForImageTextRetrieval: AlbefForImageTextRetrieval,
        auto.AutoModelForVisualQuestionAnswering: AlbefForQuestionAnswering,
        AutoForImagesAndText: AlbefForImagesAndTextClassification,
        AutoForImageAndText: AlbefForImageAndTextClassification,
    }
    alpro = {
        AutoModelForVideoTextRetrieval: AlproForVideoTextRetrieval,
        AutoModelForVideoQuestionAnswering: AlproForVideoQuestionAnswering,
    }
    blip = {
        auto.AutoModelForPreTraining: LavisBlipForPreTraining,
        auto.AutoModelForZeroShotImageClassification: LavisBlipForImageTextRetrieval,
        AutoModelForImageTextRetrieval: LavisBlipForImageTextRetrieval,
        auto.AutoModelForImageTextToText: LavisBlipForConditionalGeneration,
        auto.AutoModelForVisualQuestionAnswering: LavisBlipForQuestionAnswering,
        AutoForImagesAndText: LavisBlipForImagesAndTextClassification,
        AutoForImageAndText: LavisBlipForImageAndTextClassification,
    }
    blip_2 = {
        auto.AutoModelForPreTraining: LavisBlip2ForPreTraining,
        auto.AutoModelForZeroShotImageClassification: LavisBlip2ForImageTextRetrieval,
        AutoModelForImageTextRetrieval: LavisBlip2ForImageTextRetrieval,
        auto.AutoModelForImageTextToText: LavisBlip2ForConditionalGeneration,
    }
    families: tuple[tuple[Any, Any, dict[Any, Any]], ...] = (
        (AlbefConfig, AlbefModel, albef),
        (AlproConfig, AlproModel, alpro),
        (LavisBlipConfig, LavisBlipModel, blip),
        (LavisBlip2Config, LavisBlip2Model, blip_2),
    )
    for config_class, base, heads in families:
        for auto_class, head in heads.items():
            auto_class.register(config_class, head, exist_ok=True)
        # of a tuple, the Auto class selects the head that the checkpoint was saved from, else the first
        auto.AutoModel.register(config_class, tuple(dict.fromkeys([base, *heads.values()])), exist_ok=True)


def register_tokenizers() -> None:
    """Register the tokenizer of each configuration with `AutoTokenizer`."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer
    from transformers.models.bert.tokenization_bert import BertTokenizer

    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_lavis_blip_2 import LavisBlip2Config

    for config_class in (AlbefConfig, AlproConfig, LavisBlipConfig, LavisBlip2Config):
        AutoTokenizer.register(config_class, tokenizer_class=BertTokenizer, exist_ok=True)


def register_image_processors() -> None:
    """Register the image processor of each configuration with `AutoImageProcessor`."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from .configuration_albef import AlbefConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_lavis_blip_2 import LavisBlip2Config
    from .configuration_text import LavisBertConfig
    from .configuration_vision import LavisViTConfig
    from .image_processing_lavis import LavisImageProcessor, LavisImageProcessorTorchvision

    # under both backends: the Auto class looks for "torchvision" first and would warn that it is missing
    exact = {"pil": LavisImageProcessor, "torchvision": LavisImageProcessor}
    for config_class in (AlbefConfig, LavisBlipConfig, LavisBlip2Config, LavisViTConfig):
        AutoImageProcessor.register(config_class, image_processor_classes=exact, exist_ok=True)
    # a stored class is looked up by name among the registered ones only; no model has this configuration at top level
    faster = {"pil": LavisImageProcessorTorchvision, "torchvision": LavisImageProcessorTorchvision}
    AutoImageProcessor.register(LavisBertConfig, image_processor_classes=faster, exist_ok=True)


def register_video_processors() -> None:
    """Register the video processor of each configuration with `AutoVideoProcessor`."""
    from .configuration_alpro import AlproConfig
    from .configuration_vision import LavisTimesformerConfig
    from .transformers_compat import register_video_processor
    from .video_processing_lavis import LavisVideoProcessor

    for config_class in (AlproConfig, LavisTimesformerConfig):
        register_video_processor(config_class, LavisVideoProcessor)


def register_processors() -> None:
    """Register the processor of each configuration with `AutoProcessor`."""
    from transformers.models.auto.processing_auto import AutoProcessor

    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_lavis_blip_2 import LavisBlip2Config
    from .processing_albef import AlbefProcessor
    from .processing_alpro import AlproProcessor
    from .processing_lavis_blip import LavisBlipProcessor
    from .processing_lavis_blip_2 import LavisBlip2Processor

    AutoProcessor.register(AlbefConfig, AlbefProcessor, exist_ok=True)
    AutoProcessor.register(AlproConfig, AlproProcessor, exist_ok=True)
    AutoProcessor.register(LavisBlipConfig, LavisBlipProcessor, exist_ok=True)
    AutoProcessor.register(LavisBlip2Config, LavisBlip2Processor, exist_ok=True)


def register() -> None:
    """Register everything; imports transformers' Auto classes and torch."""
    register_configurations()
    register_models()
    register_tokenizers()
    register_image_processors()
    register_video_processors()
    register_processors()
