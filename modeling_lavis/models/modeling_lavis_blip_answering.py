# SPDX-License-Identifier: Apache-2.0
"""BLIP for visual question answering."""

import copy

from .configuration_lavis_blip import LavisBlipConfig
from .modeling_lavis_blip_base import LavisBlipPreTrainedModel
from .question_answering import QuestionAnsweringMixin


class LavisBlipForQuestionAnswering(QuestionAnsweringMixin, LavisBlipPreTrainedModel):
    """
    BLIP for visual question answering (https://arxiv.org/abs/2201.12086, section 5.3): open answers by `generate`, the
    best of a closed list by `rank_answers`. The LAVIS architecture `blip_vqa`.

    Args:
        config ([`LavisBlipConfig`]): sizes; this head has no twins.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        # The decoder reads questions, whose width is that of the text, not that of the images.
        decoder_config = copy.deepcopy(config.text_config)
        decoder_config.encoder_hidden_size = decoder_config.hidden_size
        self.build_answerer(config, decoder_config, distils=False)
        self.post_init()

    @property
    def answers_attend_padding(self) -> bool:
        """parity: answers that are generated, unlike those that are ranked, attend to padding."""
        return self.config.attend_question_padding


__all__ = ["LavisBlipForQuestionAnswering"]
