# SPDX-License-Identifier: Apache-2.0
"""BLIP for visual question answering."""

import copy

import torch
from torch import nn
from transformers import initialization as init

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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.config.architectures == ["LavisBlipForPreTraining"]:
            # Such a checkpoint holds what encoder and decoder share once, under the encoder's names.
            for name, online in self.text_encoder.named_parameters():
                decoder = self.text_decoder.bert.get_parameter(name)
                if ".attention." not in name and decoder.shape == online.shape:
                    init.copy_(decoder, online)

    @property
    def answers_attend_padding(self) -> bool:
        """parity: answers that are generated, unlike those that are ranked, attend to padding."""
        return self.config.attend_question_padding


__all__ = ["LavisBlipForQuestionAnswering"]
