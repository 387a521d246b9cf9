# SPDX-License-Identifier: Apache-2.0
"""BLIP heads that classify a text together with one image or with two."""

import copy

from .configuration_lavis_blip import LavisBlipConfig
from .image_text_classification import ClassificationMixin, ImagePairClassificationMixin
from .modeling_lavis_blip_base import LavisBlipPreTrainedModel


class LavisBlipForImageAndTextClassification(ClassificationMixin, LavisBlipPreTrainedModel):
    """
    BLIP for pairs of an image and a text, such as visual entailment, with momentum distillation. The LAVIS
    architecture `blip_classification`. parity: its texts keep `[CLS]` in slot 0.

    Args:
        config ([`LavisBlipConfig`]): `num_labels`; twins exist if `use_momentum` and `use_distill` are set.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_classifier(config, distils=config.use_momentum and config.use_distill)
        self.post_init()


class LavisBlipForImagesAndTextClassification(ImagePairClassificationMixin, LavisBlipPreTrainedModel):
    """
    BLIP for a text about two images, as in NLVR2 (https://arxiv.org/abs/2201.12086, section 5.4): every layer of the
    text encoder reads both. The LAVIS architecture `blip_nlvr`, which has no twins.

    Args:
        config ([`LavisBlipConfig`]): `num_labels`; the text configuration gets two image streams.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        # A copy, so that other heads can be made of the caller's configuration.
        config = copy.deepcopy(config)
        config.text_config.num_image_streams = 2
        super().__init__(config)
        self.build_classifier(config, distils=False)
        self.post_init()

    @property
    def first_token_id(self) -> int | None:
        """`[ENC]`, as for every text that reads images."""
        return self.config.enc_token_id


__all__ = ["LavisBlipForImageAndTextClassification", "LavisBlipForImagesAndTextClassification"]
