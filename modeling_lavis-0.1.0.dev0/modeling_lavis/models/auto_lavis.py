# SPDX-License-Identifier: Apache-2.0
"""Auto classes for tasks without an Auto class in transformers, with the same methods."""

from transformers.models.auto.auto_factory import _BaseAutoModelClass, auto_class_update

from .transformers_compat import empty_auto_mapping


class AutoModelForImageTextRetrieval(_BaseAutoModelClass):
    """Auto class of image-text retrieval heads (contrastive similarity and matching)."""

    _model_mapping = empty_auto_mapping()


class AutoModelForVideoTextRetrieval(_BaseAutoModelClass):
    """Auto class of video-text retrieval heads (contrastive similarity and matching)."""

    _model_mapping = empty_auto_mapping()


class AutoModelForVideoQuestionAnswering(_BaseAutoModelClass):
    """Auto class of video question answering heads."""

    _model_mapping = empty_auto_mapping()


class AutoModelForImagesAndTextClassification(_BaseAutoModelClass):
    """Auto class of heads that classify a text about a pair of images, as in NLVR2."""

    _model_mapping = empty_auto_mapping()


class AutoModelForImageAndTextClassification(_BaseAutoModelClass):
    """Auto class of heads that classify an image together with a text, as in visual entailment."""

    _model_mapping = empty_auto_mapping()


# inserts the task into the inherited docstrings
for _auto_class, _task in (
    (AutoModelForImageTextRetrieval, "image-text retrieval"),
    (AutoModelForVideoTextRetrieval, "video-text retrieval"),
    (AutoModelForVideoQuestionAnswering, "video question answering"),
    (AutoModelForImagesAndTextClassification, "image pair and text classification"),
    (AutoModelForImageAndTextClassification, "image and text classification"),
):
    auto_class_update(_auto_class, head_doc=_task)
