# SPDX-License-Identifier: Apache-2.0
"""The base of all BLIP heads."""

from .configuration_lavis_blip import LavisBlipConfig
from .image_text_base import ImageTextPreTrainedModel


class LavisBlipPreTrainedModel(ImageTextPreTrainedModel):
    """An image tower and a text transformer that are configured by [`LavisBlipConfig`]."""

    config: LavisBlipConfig


__all__ = ["LavisBlipPreTrainedModel"]
