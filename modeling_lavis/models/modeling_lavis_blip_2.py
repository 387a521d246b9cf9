# SPDX-License-Identifier: Apache-2.0
"""The BLIP-2 family: all heads by name."""

from .modeling_lavis_blip_2_base import LavisBlip2PreTrainedModel
from .modeling_lavis_blip_2_features import LavisBlip2Model
from .modeling_lavis_blip_2_generation import LavisBlip2ForConditionalGeneration
from .modeling_lavis_blip_2_pretraining import LavisBlip2ForPreTraining
from .modeling_lavis_blip_2_retrieval import LavisBlip2ForImageTextRetrieval

__all__ = [
    "LavisBlip2ForConditionalGeneration",
    "LavisBlip2ForImageTextRetrieval",
    "LavisBlip2ForPreTraining",
    "LavisBlip2Model",
    "LavisBlip2PreTrainedModel",
]
