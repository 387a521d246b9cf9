# SPDX-License-Identifier: Apache-2.0
"""Configuration of the BLIP family."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_base import LavisVocabularyConfig, section_of
from .configuration_text import KEYS_TO_IGNORE_AT_INFERENCE, LavisBertConfig
from .configuration_vision import LavisViTConfig

_FOREIGN_MODEL_TYPE = "blip"
_VOCAB_SIZE = 30524  # of bert-base-uncased with [DEC] and [ENC]


@strict
class LavisBlipConfig(LavisVocabularyConfig):
    r"""
    Configuration of the BLIP models (Li et al., 2022, https://arxiv.org/abs/2201.12086). `from_pretrained` also reads
    the `config.json` of repositories in transformers' own BLIP format and translates it.

    Args:
        vision_config (`LavisViTConfig` or `dict`, *optional*): image encoder; ViT-B/16 at 224 px by default.
        text_config (`LavisBertConfig` or `dict`, *optional*): text encoder and decoder; BERT-base with a vocabulary
            of 30,524 tokens by default. Its `encoder_hidden_size` is set to the hidden size of the image encoder.
        projection_dim (`int`, *optional*, defaults to 256): dimension of the embedding space shared by images and
            texts.
        logit_temperature (`float`, *optional*, defaults to 0.07): initial temperature of the contrastive loss.
        queue_size (`int`, *optional*, defaults to 57600): length of the feature queue of the contrastive loss.
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
        negative_all_rank (`bool`, *optional*, defaults to `False`): draw hard negatives from all processes.
        label_smoothing (`float`, *optional*, defaults to 0.1): label smoothing of the language modeling loss; parity:
            the original applies it in evaluation and in answer ranking as well.
        attend_question_padding (`bool`, *optional*, defaults to `True`): parity: generated answers attend to the
            padding of shorter questions, as in the original; `False` masks it, so that answers do not depend on the
            other questions of a batch.
        original_beam_scores (`bool`, *optional*, defaults to `True`): parity: beam search normalizes scores by length
            as the original does; `False` uses transformers' normalization.
        pad_token_id, cls_token_id, eos_token_id, bos_token_id, enc_token_id (`int`): `[PAD]`, `[CLS]`, `[SEP]`,
            `[DEC]` (first token of decoded text) and `[ENC]` (first token of image-grounded text). With
            `enc_token_id=None` the first token is kept, as in transformers' own BLIP.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation for new projections and heads.
    """

    model_type = "lavis_blip"
    sub_configs_defaults = {"vision_config": LavisViTConfig, "text_config": LavisBertConfig}
    keys_to_ignore_at_inference = KEYS_TO_IGNORE_AT_INFERENCE
    tokenizer_fields = ("pad_token_id", "cls_token_id", "eos_token_id", "bos_token_id", "enc_token_id")
    tokenizer_function = "blip_tokenizer"

    vision_config: Any = None
    text_config: Any = None
    projection_dim: int = 256
    logit_temperature: float | int = 0.07
    queue_size: int = 57600
    momentum: float | int = 0.995
    momentum_every_forward: bool = False
    alpha: float | int = 0.4
    use_momentum: bool = True
    use_distill: bool = True
    negative_all_rank: bool = False
    label_smoothing: float | int = 0.1
    attend_question_padding: bool = True
    original_beam_scores: bool = True
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    bos_token_id: int = 30522
    enc_token_id: int | None = 30523
    initializer_range: float | int = 0.02
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None or isinstance(self.text_config, dict):
            self.text_config = {"vocab_size": _VOCAB_SIZE, **(self.text_config or {})}
        stored = kwargs.pop("_stored_fields", frozenset())
        super().__post_init__(**kwargs)
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        self.check_token_ids(stored)

    @classmethod
    def translate_dict(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Translate transformers' own BLIP format."""
        return translate_transformers_config(values) if values.get("model_type") == _FOREIGN_MODEL_TYPE else values


def translate_transformers_config(foreign: dict[str, Any]) -> dict[str, Any]:
    """
    Translate the `config.json` of a repository in transformers' own BLIP format to fields of [`LavisBlipConfig`].

    That format has no momentum encoders and queues, so `use_momentum` is `False`. Fields that the file leaves out get
    transformers' defaults, not those of this package.
    """
    vision, text = section_of(foreign, "vision_config"), section_of(foreign, "text_config")
    heads = text.get("num_attention_heads", 8)
    bos = text.get("bos_token_id", 30522)
    if not isinstance(bos, int):
        raise ValueError(f"text_config: bos_token_id is {bos!r:.80}; expected int")
    translated: dict[str, Any] = {
        "vision_config": {
            "image_size": vision.get("image_size", 384),
            "patch_size": vision.get("patch_size", 16),
            "hidden_size": vision.get("hidden_size", 768),
            "num_hidden_layers": vision.get("num_hidden_layers", 12),
            "num_attention_heads": vision.get("num_attention_heads", 12),
            "intermediate_size": vision.get("intermediate_size", 3072),
            "hidden_act": vision.get("hidden_act", "gelu"),
            "layer_norm_eps": vision.get("layer_norm_eps", 1e-5),
            "attention_probs_dropout_prob": vision.get("attention_dropout", 0.0),
        },
        "text_config": {
            "vocab_size": text.get("vocab_size", _VOCAB_SIZE),
            "hidden_size": text.get("hidden_size", 768),
            "num_hidden_layers": text.get("num_hidden_layers", 12),
            "num_attention_heads": heads,
            "intermediate_size": text.get("intermediate_size", 3072),
            "hidden_act": text.get("hidden_act", "gelu"),
            "layer_norm_eps": text.get("layer_norm_eps", 1e-12),
            "max_position_embeddings": text.get("max_position_embeddings", 512),
            "hidden_dropout_prob": text.get("hidden_dropout_prob", 0.0),
            "attention_probs_dropout_prob": text.get("attention_probs_dropout_prob", 0.0),
            "pad_token_id": text.get("pad_token_id", 0),
        },
        "projection_dim": foreign.get("image_text_hidden_size", 256),
        "pad_token_id": text.get("pad_token_id", 0),
        "cls_token_id": 101,
        "eos_token_id": text.get("sep_token_id", 102),
        "bos_token_id": bos,
        "enc_token_id": bos + 1,
        "use_momentum": False,
        "label_smoothing": 0.1,
    }
    for key in ("architectures", "dtype", "id2label", "label2id", "torch_dtype"):
        if foreign.get(key) is not None:
            translated[key.removeprefix("torch_")] = foreign[key]
    return translated


__all__ = ["LavisBlipConfig", "translate_transformers_config"]
