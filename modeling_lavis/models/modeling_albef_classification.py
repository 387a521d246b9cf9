# SPDX-License-Identifier: Apache-2.0
"""ALBEF heads that classify a text together with one image or with two."""

from copy import deepcopy

from .configuration_albef import AlbefConfig
from .image_text_classification import ClassificationMixin, ImagePairClassificationMixin
from .modeling_albef_base import AlbefPreTrainedModel


class AlbefForImageAndTextClassification(ClassificationMixin, AlbefPreTrainedModel):
    """
    ALBEF for pairs of an image and a text, such as visual entailment, with momentum distillation
    (https://arxiv.org/abs/2107.07651, section 4). The LAVIS architecture `albef_classification`.

    Args:
        config ([`AlbefConfig`]): `num_labels`; twins exist if `use_momentum` and `use_distill` are set.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_classifier(config, distils=config.use_momentum and config.use_distill)
        self.post_init()


class AlbefForImagesAndTextClassification(ImagePairClassificationMixin, AlbefPreTrainedModel):
    """
    ALBEF for a text about two images, as in NLVR2, with momentum distillation (https://arxiv.org/abs/2107.07651,
    section 4): fusion layers come in pairs, one for each image, that share their keys and values. The LAVIS
    architecture `albef_nlvr`.

    Args:
        config ([`AlbefConfig`]): `num_labels`; the text configuration gets `pair_image_layers`. Published: 18 layers,
            12 of which read images. Twins exist if `use_momentum` and `use_distill` are set.
    """

    # parity: the original lets the text encoder itself read the twin tower's images; its own twin only moves along.
    twin_reads = False
    reads_pairs = True

    def __init__(self, config: AlbefConfig) -> None:
        if not config.text_config.pair_image_layers:
            config = deepcopy(config)  # the caller's may go on to other heads
            config.text_config.pair_image_layers = True
        super().__init__(config)
        self.build_classifier(config, distils=config.use_momentum and config.use_distill)
        self.post_init()


__all__ = ["AlbefForImageAndTextClassification", "AlbefForImagesAndTextClassification"]
