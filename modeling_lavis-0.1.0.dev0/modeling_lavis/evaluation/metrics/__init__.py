# SPDX-License-Identifier: Apache-2.0
"""Metrics as the field's own tools compute them: captions, answers, classes, rankings.

Plain functions, and modules for the package `evaluate` ([`load_metric`]).
"""

from .answers import (
    VqaAccuracy,
    aokvqa_accuracy,
    gqa_accuracy,
    normalize_answer,
    remove_punctuation,
    vqa_accuracy,
)
from .captions import CaptionScore, bleu, caption_scores, cider, cider_d, rouge_l
from .classification import classification_accuracy
from .java_metrics import meteor, spice
from .loading import load_metric, metric_names, module_path
from .ptb_tokenizer import tokenize_captions
from .ranking import recall_at_k

__all__ = [
    "CaptionScore",
    "VqaAccuracy",
    "aokvqa_accuracy",
    "bleu",
    "caption_scores",
    "cider",
    "cider_d",
    "classification_accuracy",
    "gqa_accuracy",
    "load_metric",
    "meteor",
    "metric_names",
    "module_path",
    "normalize_answer",
    "recall_at_k",
    "remove_punctuation",
    "rouge_l",
    "spice",
    "tokenize_captions",
    "vqa_accuracy",
]
