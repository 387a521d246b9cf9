# SPDX-License-Identifier: Apache-2.0
"""Tasks of `transformers.pipeline`: captioning, question answering, matching, retrieval, classification and feature
extraction for images, videos and texts.

`modeling_lavis.registration` calls `register` when `transformers.pipelines` is imported.
"""

import importlib

#: task -> (module of this package, class)
TASKS: dict[str, tuple[str, str]] = {
    "image-captioning": ("captioning", "ImageCaptioningPipeline"),
    "image-question-answering": ("question_answering", "ImageQuestionAnsweringPipeline"),
    "image-text-matching": ("matching", "ImageTextMatchingPipeline"),
    "image-text-retrieval": ("retrieval", "ImageTextRetrievalPipeline"),
    "image-text-classification": ("classification", "ImageTextClassificationPipeline"),
    "image-pair-classification": ("pair_classification", "ImagePairClassificationPipeline"),
    "video-question-answering": ("video_question_answering", "VideoQuestionAnsweringPipeline"),
    "video-text-matching": ("video_matching", "VideoTextMatchingPipeline"),
    "video-text-retrieval": ("video_retrieval", "VideoTextRetrievalPipeline"),
    "multimodal-feature-extraction": ("embedding", "MultimodalFeatureExtractionPipeline"),
}


def register() -> None:
    """Add the tasks to the registry of transformers. A second call has no effect."""
    from transformers.pipelines import PIPELINE_REGISTRY

    from modeling_lavis.pipelines import image_features
    from modeling_lavis.pipelines.loading import CheckpointHead

    for task, (module, name) in TASKS.items():
        pipeline_class = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        known = PIPELINE_REGISTRY.supported_tasks.get(task)
        if known is None or known["impl"] is not pipeline_class:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=CheckpointHead, type="multimodal")
    image_features.register()
