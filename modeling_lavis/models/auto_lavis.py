# SPDX-License-Identifier: Apache-2.0
"""Auto classes for tasks that transformers has none for; used as its own are (`from_pretrained`, `from_config`)."""

from collections import OrderedDict

from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES


def _empty_mapping() -> _LazyAutoMapping:
    return _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForImageTextRetrieval(_BaseAutoModelClass):
    """Finds the class that matches images and texts (contrastive similarity and matching head)."""

    _model_mapping = _empty_mapping()


class AutoModelForVideoTextRetrieval(_BaseAutoModelClass):
    """Finds the class that matches videos and texts (contrastive similarity and matching head)."""

    _model_mapping = _empty_mapping()


class AutoModelForVideoQuestionAnswering(_BaseAutoModelClass):
    """Finds the class that answers questions about videos."""

    _model_mapping = _empty_mapping()


class AutoModelForImagesAndTextClassification(_BaseAutoModelClass):
    """Finds the class that labels a text about a pair of images, as in NLVR2."""

    _model_mapping = _empty_mapping()


class AutoModelForImageAndTextClassification(_BaseAutoModelClass):
    """Finds the class that labels an image together with a text, as in visual entailment."""

    _model_mapping = _empty_mapping()


# Writes the names of tasks into the inherited docstrings.
for _auto_class, _task in (
    (AutoModelForImageTextRetrieval, "image-text retrieval"),
    (AutoModelForVideoTextRetrieval, "video-text retrieval"),
    (AutoModelForVideoQuestionAnswering, "video question answering"),
    (AutoModelForImagesAndTextClassification, "image pair and text classification"),
    (AutoModelForImageAndTextClassification, "image and text classification"),
):
    auto_class_update(_auto_class, head_doc=_task)
