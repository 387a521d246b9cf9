# SPDX-License-Identifier: Apache-2.0
"""Configuration of the ALBEF models."""

from copy import deepcopy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_base import LavisVocabularyConfig, SubConfigSpec
from .configuration_text import KEYS_TO_IGNORE_AT_INFERENCE, LavisBertConfig
from .configuration_vision import LavisViTConfig


@strict
class AlbefConfig(LavisVocabularyConfig):
    r"""
    Configuration of the ALBEF models (Li et al., 2021, https://arxiv.org/abs/2107.07651): an image encoder, a text
    encoder, and fusion layers above it that cross-attend to the image.

    Args:
        vision_config (`LavisViTConfig` or `dict`, *optional*): image encoder; ViT-B/16 at 224 px by default.
        text_config (`LavisBertConfig` or `dict`, *optional*): text encoder and fusion layers; BERT-base with
            `fusion_layer` 6 by default. Its `encoder_hidden_size` is set to the hidden size of the image encoder.
        answer_config (`LavisBertConfig` or `dict`, *optional*): answer decoder of the question answering head. By
            default it has as many layers as the text configuration has fusion layers, all with cross-attention to the
            question.
        projection_dim (`int`, *optional*, defaults to 256): dimension of the embedding space shared by images and
            texts.
        logit_temperature (`float`, *optional*, defaults to 0.07): initial temperature of the contrastive loss.
        queue_size (`int`, *optional*, defaults to 65536): length of the feature queue of the contrastive loss.
        momentum (`float`, *optional*, defaults to 0.995): momentum of the momentum encoders' moving average.
        momentum_every_forward (`bool`, *optional*, defaults to `False`): parity: update the momentum encoders in every
            forward pass in training, as the original does, not once per step of the optimizer. With accumulated
            gradients the original moves them several times per step.
        alpha (`float`, *optional*, defaults to 0.4): weight of the soft targets of the momentum encoders.
        use_momentum (`bool`, *optional*, defaults to `True`): whether heads have momentum encoders and, where the
            original has one, a feature queue. Without them, the contrastive loss uses in-batch negatives and there is
            no distillation, at half the memory.
        use_distill (`bool`, *optional*, defaults to `True`): whether training uses the soft targets of the momentum
            encoders.
        mlm_probability (`float`, *optional*, defaults to 0.15): share of tokens that pretraining masks.
        label_smoothing (`float`, *optional*, defaults to 0.1): label smoothing of the answer loss; parity: the original
            applies it in evaluation and in answer ranking as well.
        original_beam_scores (`bool`, *optional*, defaults to `True`): parity: beam search normalizes scores by length
            as the original does; `False` uses transformers' normalization.
        use_token_type_embeddings (`bool`, *optional*, defaults to `False`): whether the embedding of token type 0 is
            added to every token, as in the training by ALBEF's authors. parity: LAVIS has no token types. Repositories
            converted from the authors' checkpoints have the table either way, so that
            `from_pretrained(..., use_token_type_embeddings=True)` can choose.
        pad_token_id, cls_token_id, eos_token_id, mask_token_id (`int`): `[PAD]`, `[CLS]`, `[SEP]` and `[MASK]`.
        bos_token_id (`int`, *optional*): first token of answers; `[CLS]` by default.
        enc_token_id (`int`, *optional*): first token of image-grounded texts, if it differs; ALBEF has none.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation for new projections and heads.
    """

    model_type = "albef"
    sub_configs_defaults = {
        "vision_config": LavisViTConfig,
        "text_config": LavisBertConfig,
        "answer_config": SubConfigSpec(LavisBertConfig, optional=True),
    }
    keys_to_ignore_at_inference = KEYS_TO_IGNORE_AT_INFERENCE
    vocabulary_parts = ("text_config", "answer_config")
    tokenizer_fields = ("pad_token_id", "cls_token_id", "eos_token_id", "mask_token_id")

    vision_config: Any = None
    text_config: Any = None
    answer_config: Any = None
    projection_dim: int = 256
    logit_temperature: float | int = 0.07
    queue_size: int = 65536
    momentum: float | int = 0.995
    momentum_every_forward: bool = False
    alpha: float | int = 0.4
    use_momentum: bool = True
    use_distill: bool = True
    mlm_probability: float | int = 0.15
    label_smoothing: float | int = 0.1
    original_beam_scores: bool = True
    use_token_type_embeddings: bool = False
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    mask_token_id: int = 103
    bos_token_id: int | None = None
    enc_token_id: int | None = None
    initializer_range: float | int = 0.02
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = {"fusion_layer": 6}
        if self.bos_token_id is None:
            self.bos_token_id = self.cls_token_id
        stored = kwargs.pop("_stored_fields", frozenset())
        super().__post_init__(**kwargs)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        if self.text_config.fusion_layer is None:
            # half of the layers, as in the published models
            self.text_config.fusion_layer = self.text_config.num_hidden_layers // 2
        if self.answer_config is not None:
            # the answer decoder attends to questions
            self.answer_config.encoder_hidden_size = self.text_config.hidden_size
        self.sync_token_types()
        self.check_token_ids(stored)

    def sync_token_types(self) -> None:
        """Copy `use_token_type_embeddings` to the text configurations; models do so again when they are built."""
        for config in (self.text_config, self.answer_config):
            if config is not None:
                config.implicit_token_type = self.use_token_type_embeddings
                if self.use_token_type_embeddings:
                    config.type_vocab_size = config.type_vocab_size or 2

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text configuration; with `decoder=True` that of the answer decoder, if there is one."""
        if decoder and not encoder and self.answer_config is not None:
            return self.answer_config
        return self.text_config

    def default_answer_config(self) -> LavisBertConfig:
        """The answer decoder of a configuration without `answer_config`: one layer per fusion layer."""
        answer = deepcopy(self.text_config)  # with the attention implementation that is asked for
        answer.num_hidden_layers = max(answer.num_hidden_layers - (answer.fusion_layer or 0), 1)
        answer.fusion_layer, answer.encoder_hidden_size = None, answer.hidden_size
        return answer


__all__ = ["AlbefConfig"]
