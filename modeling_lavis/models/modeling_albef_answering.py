# SPDX-License-Identifier: Apache-2.0
"""ALBEF for visual question answering."""

from .configuration_albef import AlbefConfig
from .modeling_albef_base import AlbefPreTrainedModel
from .question_answering import QuestionAnsweringMixin


class AlbefForQuestionAnswering(QuestionAnsweringMixin, AlbefPreTrainedModel):
    """
    ALBEF for visual question answering, with momentum distillation (https://arxiv.org/abs/2107.07651, section 4): the
    best of a closed list of answers by `rank_answers`, open answers by `generate`. The LAVIS architecture `albef_vqa`.

    Args:
        config ([`AlbefConfig`]): `answer_config` is the decoder's; twins exist if `use_momentum` and `use_distill` are
            set.
    """

    def __init__(self, config: AlbefConfig) -> None:
        decoder_config = config.decoder_of_answers()
        super().__init__(config)
        self.build_answerer(config, decoder_config, distils=config.use_momentum and config.use_distill)
        self.post_init()


__all__ = ["AlbefForQuestionAnswering"]
