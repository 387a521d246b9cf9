# SPDX-License-Identifier: Apache-2.0
"""Configuration of the ALBEF models."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_text_bert import LavisBertConfig
from .configuration_vision_vit import LavisViTConfig


@strict
class AlbefConfig(PreTrainedConfig):
    r"""
    Configuration of the ALBEF models (Li et al., 2021, https://arxiv.org/abs/2107.07651): an image tower, a text
    encoder, and above it fusion layers that read the image.

    Args:
        vision_config (`LavisViTConfig` or `dict`, *optional*): image tower; ViT-B/16 at 224 px by default.
        text_config (`LavisBertConfig` or `dict`, *optional*): text encoder and fusion layers; BERT-base whose layers
            from `fusion_layer` 6 on read the image by default. Its `encoder_hidden_size` is set to the width of the
            image tower.
        answer_config (`LavisBertConfig` or `dict`, *optional*): decoder of answers. When not given, question answering
            takes as many layers as the text configuration has above its `fusion_layer`, all of which read the question.
        projection_dim (`int`, *optional*, defaults to 256): width of the space in which images and texts are compared.
        logit_temperature (`float`, *optional*, defaults to 0.07): initial temperature of the contrastive loss.
        queue_size (`int`, *optional*, defaults to 65536): momentum features kept for the contrastive loss.
        momentum (`float`, *optional*, defaults to 0.995): share that the momentum twins keep at an update.
        alpha (`float`, *optional*, defaults to 0.4): weight of the soft targets of the momentum twins.
        use_momentum (`bool`, *optional*, defaults to `True`): whether heads that know them have momentum twins and
            queues. Without, they contrast within the batch and train without distillation, in half the memory.
        use_distill (`bool`, *optional*, defaults to `True`): whether training uses the twins' soft targets.
        mlm_probability (`float`, *optional*, defaults to 0.15): share of tokens that pretraining hides.
        label_smoothing (`float`, *optional*, defaults to 0.1): smoothing of the loss of answers; parity: the original
            applies it in evaluation and in answer ranking as well.
        use_token_type_embeddings (`bool`, *optional*, defaults to `False`): whether the first token type is added to
            every word, as the authors of ALBEF trained it. parity: LAVIS has no token types and leaves them out. A
            repository that was converted from the authors' checkpoint has the table either way, so that
            `from_pretrained(..., use_token_type_embeddings=True)` can choose.
        pad_token_id, cls_token_id, eos_token_id, mask_token_id (`int`): `[PAD]`, `[CLS]`, `[SEP]` and `[MASK]`.
        bos_token_id (`int`, *optional*): what starts answers; `[CLS]` when not given.
        enc_token_id (`int`, *optional*): another token for slot 0 of texts that read images; ALBEF has none.
        initializer_range (`float`, *optional*, defaults to 0.02): deviation for new projections and heads.
    """

    model_type = "albef"
    sub_configs_defaults = {
        "vision_config": LavisViTConfig,
        "text_config": LavisBertConfig,
        "answer_config": SubConfigSpec(LavisBertConfig, optional=True),
    }
    keys_to_ignore_at_inference = ["cache", "past_key_values", "encoder_last_hidden_state", "intermediates"]

    vision_config: Any = None
    text_config: Any = None
    answer_config: Any = None
    projection_dim: int = 256
    logit_temperature: float = 0.07
    queue_size: int = 65536
    momentum: float = 0.995
    alpha: float | int = 0.4
    use_momentum: bool = True
    use_distill: bool = True
    mlm_probability: float = 0.15
    label_smoothing: float | int = 0.1
    use_token_type_embeddings: bool = False
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    mask_token_id: int = 103
    bos_token_id: int | None = None
    enc_token_id: int | None = None
    initializer_range: float = 0.02
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = {"fusion_layer": 6}
        if self.bos_token_id is None:
            self.bos_token_id = self.cls_token_id
        super().__post_init__(**kwargs)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        if self.text_config.fusion_layer is None:
            # half of the layers, as published
            self.text_config.fusion_layer = self.text_config.num_hidden_layers // 2
        self.pass_on_token_types()

    def pass_on_token_types(self) -> None:
        """Tell the text transformers whether the first token type counts; models do so again before they are built."""
        for config in (self.text_config, self.answer_config):
            if config is not None:
                config.implicit_token_type = self.use_token_type_embeddings
                if self.use_token_type_embeddings:
                    config.type_vocab_size = config.type_vocab_size or 2

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The text configuration; with `decoder=True` that of the decoder of answers, if there is one."""
        if decoder and not encoder and self.answer_config is not None:
            return self.answer_config
        return self.text_config

    def decoder_of_answers(self) -> LavisBertConfig:
        """`answer_config`, or what it is by default."""
        if self.answer_config is None:
            text = self.text_config.to_dict()
            layers = text["num_hidden_layers"] - text["fusion_layer"]
            text.update(num_hidden_layers=max(layers, 1), fusion_layer=None, encoder_hidden_size=text["hidden_size"])
            self.answer_config = LavisBertConfig.from_dict(text)
        return self.answer_config


__all__ = ["AlbefConfig"]
