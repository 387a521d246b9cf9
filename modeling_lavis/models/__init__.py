# SPDX-License-Identifier: Apache-2.0
"""The models, and the tables that tell transformers' Auto classes about them.

This file is the only one that knows all families. Each function below fills one kind of Auto class and may be called
any number of times. `modeling_lavis.registration` calls them when the Auto classes are imported.
"""


def register_configurations() -> None:
    """Make `AutoConfig` know the configurations, those of the towers included."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_text_bert import LavisBertConfig
    from .configuration_vision_timesformer import LavisTimesformerConfig
    from .configuration_vision_vit import LavisViTConfig

    towers = (LavisViTConfig, LavisTimesformerConfig, LavisBertConfig)
    for config_class in (*towers, AlbefConfig, AlproConfig, LavisBlipConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def register_models() -> None:
    """Make the Auto classes of transformers, and this package's own, know the models.

    `AutoModel` gets all heads of a family, so that it returns the one that a checkpoint was saved from.
    """
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
    from .configuration_vision_timesformer import LavisTimesformerConfig
    from .configuration_vision_vit import LavisViTConfig
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
    from .vision_timesformer import LavisTimesformerModel
    from .vision_vit import LavisViTModel

    auto.AutoModel.register(LavisViTConfig, LavisViTModel, exist_ok=True)
    auto.AutoModel.register(LavisTimesformerConfig, LavisTimesformerModel, exist_ok=True)
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
    families = (
        (AlbefConfig, AlbefModel, albef),
        (AlproConfig, AlproModel, alpro),
        (LavisBlipConfig, LavisBlipModel, blip),
    )
    for config_class, base, heads in families:
        auto.AutoModel.register(config_class, (base, *dict.fromkeys(heads.values())), exist_ok=True)
        for auto_class, head in heads.items():
            auto_class.register(config_class, head, exist_ok=True)


def register_tokenizers() -> None:
    """Make `AutoTokenizer` know which tokenizer belongs to each configuration."""
    from transformers.models.auto.tokenization_auto import AutoTokenizer
    from transformers.models.bert.tokenization_bert import BertTokenizer

    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig

    for config_class in (AlbefConfig, AlproConfig, LavisBlipConfig):
        AutoTokenizer.register(config_class, tokenizer_class=BertTokenizer, exist_ok=True)


def register_image_processors() -> None:
    """Make `AutoImageProcessor` know which image processor belongs to each configuration."""
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from .configuration_albef import AlbefConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .configuration_text_bert import LavisBertConfig
    from .configuration_vision_vit import LavisViTConfig
    from .image_processing_lavis import LavisImageProcessor, LavisImageProcessorTorchvision

    # under both names: the Auto class looks for "torchvision" first and would warn that it is missing
    exact = {"pil": LavisImageProcessor, "torchvision": LavisImageProcessor}
    for config_class in (AlbefConfig, LavisBlipConfig, LavisViTConfig):
        AutoImageProcessor.register(config_class, image_processor_classes=exact, exist_ok=True)
    # a stored class is found by its name among the registered ones only; no model is read by this configuration
    faster = {"pil": LavisImageProcessorTorchvision, "torchvision": LavisImageProcessorTorchvision}
    AutoImageProcessor.register(LavisBertConfig, image_processor_classes=faster, exist_ok=True)


def register_video_processors() -> None:
    """Make `AutoVideoProcessor` know which video processor belongs to each configuration."""
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    from .configuration_alpro import AlproConfig
    from .configuration_vision_timesformer import LavisTimesformerConfig
    from .video_processing_lavis import LavisVideoProcessor

    # under both names, as for pictures: it needs no torchvision
    classes = {"pil": LavisVideoProcessor, "torchvision": LavisVideoProcessor}
    for config_class in (AlproConfig, LavisTimesformerConfig):
        AutoVideoProcessor.register(config_class, video_processor_classes=classes, exist_ok=True)


def register_processors() -> None:
    """Make `AutoProcessor` know which processor belongs to each configuration."""
    from transformers.models.auto.processing_auto import AutoProcessor

    from .configuration_albef import AlbefConfig
    from .configuration_alpro import AlproConfig
    from .configuration_lavis_blip import LavisBlipConfig
    from .processing_albef import AlbefProcessor
    from .processing_alpro import AlproProcessor
    from .processing_lavis_blip import LavisBlipProcessor

    AutoProcessor.register(AlbefConfig, AlbefProcessor, exist_ok=True)
    AutoProcessor.register(AlproConfig, AlproProcessor, exist_ok=True)
    AutoProcessor.register(LavisBlipConfig, LavisBlipProcessor, exist_ok=True)


def register() -> None:
    """Register everything at once; imports transformers' Auto classes and torch."""
    register_configurations()
    register_models()
    register_tokenizers()
    register_image_processors()
    register_video_processors()
    register_processors()
