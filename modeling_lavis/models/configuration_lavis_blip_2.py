# SPDX-License-Identifier: Apache-2.0
"""Configuration of the BLIP-2 family, and the modules to leave out of quantization."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .configuration_base import (
    ACTIVATIONS,
    RANGES,
    FrozenPart,
    LavisVocabularyConfig,
    SubConfigSpec,
    build_part,
    check_names,
    check_range,
    section_of,
    with_vocabulary,
)
from .configuration_text import KEYS_TO_IGNORE_AT_INFERENCE, LavisQFormerConfig
from .configuration_vision import LavisClipVisionConfig, LavisEvaConfig

_FOREIGN_MODEL_TYPE = "blip-2"

#: Modules to leave out of quantization: `llm_int8_skip_modules` of bitsandbytes, `modules_to_not_convert` of torchao.
#: They are small, trainable and kept in float32; the last one is tied to the word embeddings. Names are complete from
#: the model on: torchao compares them with names of tensors, which end in `.weight`.
MODULES_NOT_TO_QUANTIZE: tuple[str, ...] = (
    "qformer",
    "ln_vision",
    "language_projection",
    "vision_proj",
    "text_proj",
    "itm_head",
    "cls",
    "language_model.lm_head",
)
_LANGUAGE_MODEL_ACTIVATIONS = ("hidden_act", "activation_function", "dense_act_fn")
# Sizes in the configurations of transformers' language models, with their largest value.
_LANGUAGE_MODEL_SIZES: dict[str, int] = {
    "vocab_size": 2**24,
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers"), 4096),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "num_key_value_heads"), 4096),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_decoder_layers"), 4096),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "d_kv", "head_dim", "word_embed_proj_dim"), 2**17),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 2**20),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 2**24),
}
_FROZEN_MODULES = ("vision_model", "language_model")


@strict
class LavisBlip2Config(LavisVocabularyConfig):
    r"""
    Configuration of the BLIP-2 models (Li et al., 2023, https://arxiv.org/abs/2301.12597). `from_pretrained` also
    reads the `config.json` of repositories in transformers' own BLIP-2 format and translates it.

    Args:
        vision_config (`LavisEvaConfig`, `LavisClipVisionConfig` or `dict`, *optional*): image encoder, EVA-ViT-g at
            224 px by default; the `model_type` of a dictionary selects the class.
        qformer_config (`LavisQFormerConfig` or `dict`, *optional*): the Q-Former. Its `encoder_hidden_size` is set to
            the hidden size of the image encoder.
        text_config (`PreTrainedConfig` or `dict`, *optional*): language model, any causal or sequence-to-sequence model
            of transformers; the `model_type` of a dictionary selects the class. `None` for heads without one.
        projection_dim (`int`, *optional*, defaults to 256): dimension of the embedding space shared by images and
            texts.
        logit_temperature (`float`, *optional*, defaults to 0.07): initial temperature of the contrastive loss.
        label_smoothing (`float`, *optional*, defaults to 0.1): label smoothing of the contrastive and captioning
            losses.
        ln_vision_eps (`float`, *optional*, defaults to 1e-5): epsilon of the layer norm after the image encoder.
        objective (`str`, *optional*, defaults to `"main"`): which of LAVIS's two versions of the first stage to
            train. With `"main"`, rows with equal `image_ids` are positives of each other and never hard negatives; with
            `"1.0.2"`, ids are ignored and every other row can be a negative.
        freeze_vision (`bool`, *optional*, defaults to `True`): freeze the image encoder and keep it in evaluation mode.
        freeze_language_model (`bool`, *optional*, defaults to `True`): freeze the language model.
        original_beam_scores (`bool`, *optional*, defaults to `True`): parity: beam search normalizes scores by length
            as the original does; `False` uses transformers' normalization.
        untied_language_head (`bool`, *optional*, defaults to `False`): whether the language modeling head has weights
            of its own although transformers ties it to the word embeddings (T5 1.1, FLAN-T5). Repositories that store
            both load correctly either way.
        image_token_id (`int`, *optional*): placeholder of a query token in the prompts of transformers' processors. In
            prompts without placeholders the query tokens come first.
        frozen_parts (`dict`, *optional*): where the parts are that this repository leaves out, by module name
            (`"vision_model"`, `"language_model"`): a folder or a Hub id, `"org/name@revision"` for a certain revision,
            or a dictionary with `source`, `revision` and `subfolder`.
        pad_token_id, cls_token_id, eos_token_id, bos_token_id (`int`): `[PAD]`, `[CLS]`, `[SEP]` and `[DEC]` of the
            Q-Former's texts; the last is the first token of a caption.
        initializer_range (`float`, *optional*, defaults to 0.02): standard deviation for new query tokens, projections
            and heads.
    """

    model_type = "lavis_blip_2"
    sub_configs_defaults = {
        "vision_config": LavisEvaConfig,
        "qformer_config": LavisQFormerConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="opt", optional=True),
    }
    keys_to_ignore_at_inference = KEYS_TO_IGNORE_AT_INFERENCE
    vocabulary_parts = ("qformer_config",)
    tokenizer_fields = ("pad_token_id", "cls_token_id", "eos_token_id", "bos_token_id")
    tokenizer_function = "qformer_tokenizer"

    vision_config: Any = None
    qformer_config: Any = None
    text_config: Any = None
    projection_dim: int = 256
    logit_temperature: float | int = 0.07
    label_smoothing: float | int = 0.1
    ln_vision_eps: float | int = 1e-5
    objective: Literal["main", "1.0.2"] = "main"
    freeze_vision: bool = True
    freeze_language_model: bool = True
    original_beam_scores: bool = True
    untied_language_head: bool = False
    image_token_id: int | None = None
    frozen_parts: dict[str, Any] | None = None
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    bos_token_id: int = 30522
    initializer_range: float | int = 0.02
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.qformer_config is None and self.text_config is not None:
            self.qformer_config = {"use_text": False}
        stored = kwargs.pop("_stored_fields", frozenset())
        super().__post_init__(**kwargs)
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        if self.text_config is not None:
            _check_language_model(self.text_config)
        # without a language model, the Q-Former decodes captions
        self.is_encoder_decoder = self.text_config is None or bool(self.text_config.is_encoder_decoder)
        self.check_token_ids(stored)

    def _build_part(self, name: str, values: dict[str, Any]) -> PreTrainedConfig:
        if name == "vision_config":
            # AutoConfig does not know these classes where this package is not installed.
            model_type = values.get("model_type", LavisEvaConfig.model_type)
            kinds = {kind.model_type: kind for kind in (LavisEvaConfig, LavisClipVisionConfig)}
            if not isinstance(model_type, str) or model_type not in kinds:
                raise ValueError(
                    f"vision_config has the model_type {model_type!r:.80}; expected one of {', '.join(kinds)}."
                )
            rest = {key: value for key, value in values.items() if key != "model_type"}
            return build_part("vision_config", kinds[model_type], rest)
        if name == "text_config":
            model_type = values.get("model_type", "opt")
            if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"text_config has the model_type {model_type!r:.80}; expected that of a causal or "
                    "sequence-to-sequence language model of transformers, such as opt or t5."
                )
            try:
                check_names(CONFIG_MAPPING[model_type], values)
            except ValueError as error:
                raise ValueError(f"text_config: {error}") from error
        return super()._build_part(name, values)

    def _vocabularies(self) -> dict[str, PreTrainedConfig]:
        # the Q-Former of a language model has no text
        return super()._vocabularies() if self.qformer_config.use_text else {}

    def validate_image_token_id(self) -> None:
        """Raise `ValueError` when `image_token_id` is not a token id of the language model."""
        if self.image_token_id is None:
            return
        text: Any = None if self.text_config is None else self.text_config.get_text_config()
        size = getattr(text, "vocab_size", None) or RANGES["vocab_size"][1]
        if not 0 <= self.image_token_id < size:
            raise ValueError(
                f"image_token_id is {self.image_token_id}; expected a token id from 0 to {size - 1}, or None."
            )

    def validate_frozen_parts(self) -> None:
        """Raise `ValueError` when `frozen_parts` names a module that cannot be left out, or no place for it."""
        for name, value in (self.frozen_parts or {}).items():
            if name not in _FROZEN_MODULES:
                raise ValueError(
                    f"frozen_parts names {name}; only {' and '.join(_FROZEN_MODULES)} can be stored in other "
                    "repositories."
                )
            FrozenPart.read(name, value)

    @property
    def num_query_tokens(self) -> int:
        """Number of learned query tokens."""
        return self.qformer_config.num_query_tokens

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The configuration of the language model, or of the Q-Former if there is none."""
        return self.qformer_config if self.text_config is None else self.text_config

    @classmethod
    def translate_dict(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Translate transformers' own BLIP-2 format."""
        return translate_transformers_config(values) if values.get("model_type") == _FOREIGN_MODEL_TYPE else values

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **kwargs: Any) -> Any:
        """
        A configuration with the vocabulary size and the special tokens of a tokenizer: those of the Q-Former, or, if
        `text_config` is given, those of the language model, whose prompts the tokenizer makes.

        Args:
            tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): tokenizer, or a processor that has one.
            kwargs: fields of the configuration, such as `vision_config`, `qformer_config` and `text_config`. Token ids
                that are given override those of the tokenizer. A given vocabulary size may be larger.

        Raises:
            ValueError: the tokenizer lacks a special token, or a given vocabulary is smaller than the tokenizer's.
        """
        text = kwargs.get("text_config")
        if text is None:
            return super().from_tokenizer(tokenizer, **kwargs)
        tokenizer, vocabulary = cls._read_tokenizer(tokenizer)
        size = max(len(vocabulary), max(vocabulary.values()) + 1)
        ids = {name: getattr(tokenizer, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        values = with_vocabulary("text_config", text, size, None)
        given = {name: value for name, value in ids.items() if value is not None}
        explicit = text if isinstance(text, dict) else {}
        return cls(**{**kwargs, "text_config": {**values, **given, **explicit, "vocab_size": values["vocab_size"]}})


def _check_language_model(config: PreTrainedConfig) -> None:
    """Raise `ValueError` for sizes of a language model that transformers does not check."""
    for name, value in vars(config).items():
        if name in _LANGUAGE_MODEL_SIZES and value is not None:
            check_range(f"text_config.{name}", value, 1, _LANGUAGE_MODEL_SIZES[name])
        elif "dropout" in name and value is not None:
            check_range(f"text_config.{name}", value, 0, 1)
        elif name in _LANGUAGE_MODEL_ACTIVATIONS and value not in (*ACTIVATIONS, "prelu", "xielu"):
            raise ValueError(f"text_config.{name} is {value!r:.80}; expected one of {', '.join(ACTIVATIONS)}.")
    pad, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
        raise ValueError(
            f"text_config.pad_token_id is {pad}; expected a token id from 0 to {size - 1} (vocab_size - 1)."
        )


def translate_transformers_config(foreign: dict[str, Any]) -> dict[str, Any]:
    """
    Translate the `config.json` of a repository in transformers' own BLIP-2 format to fields of [`LavisBlip2Config`].

    Fields that the file leaves out get transformers' defaults, not those of this package. Repositories for matching
    have no language model, although their file describes one.
    """
    vision, qformer = section_of(foreign, "vision_config"), section_of(foreign, "qformer_config")
    architecture = (foreign.get("architectures") or ["Blip2ForConditionalGeneration"])[0]
    generates = architecture in ("Blip2ForConditionalGeneration", "Blip2Model")
    vocabulary = qformer.get("vocab_size", 30522)
    if not isinstance(vocabulary, int):
        raise ValueError(f"qformer_config: vocab_size is {vocabulary!r:.80}; expected int")
    translated: dict[str, Any] = {
        "vision_config": {
            "model_type": LavisEvaConfig.model_type,
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 14),
            "hidden_size": vision.get("hidden_size", 1408),
            "num_hidden_layers": vision.get("num_hidden_layers", 39),
            "num_attention_heads": vision.get("num_attention_heads", 16),
            "intermediate_size": vision.get("intermediate_size", 6144),
            "hidden_act": vision.get("hidden_act", "gelu"),
            "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
            "attention_probs_dropout_prob": vision.get("attention_dropout", 0.0),
        },
        "qformer_config": {
            "vocab_size": vocabulary,
            "hidden_size": qformer.get("hidden_size", 768),
            "num_hidden_layers": qformer.get("num_hidden_layers", 12),
            "num_attention_heads": qformer.get("num_attention_heads", 12),
            "intermediate_size": qformer.get("intermediate_size", 3072),
            "hidden_act": qformer.get("hidden_act", "gelu"),
            "layer_norm_eps": qformer.get("layer_norm_eps", 1e-12),
            "max_position_embeddings": qformer.get("max_position_embeddings", 512),
            "hidden_dropout_prob": qformer.get("hidden_dropout_prob", 0.1),
            "attention_probs_dropout_prob": qformer.get("attention_probs_dropout_prob", 0.1),
            "pad_token_id": qformer.get("pad_token_id", 0),
            "cross_attention_frequency": qformer.get("cross_attention_frequency", 2),
            "num_query_tokens": foreign.get("num_query_tokens", 32),
            "use_text": qformer.get("use_qformer_text_input", False) or not generates,
        },
        "text_config": (foreign.get("text_config") or {"model_type": "opt"}) if generates else None,
        "projection_dim": foreign.get("image_text_hidden_size", 256),
        # transformers uses the image encoder's epsilon for the layer norm after it
        "ln_vision_eps": vision.get("layer_norm_eps", 1e-6),
        "original_beam_scores": False,
        "image_token_id": foreign.get("image_token_index", foreign.get("image_token_id")),
        "pad_token_id": qformer.get("pad_token_id", 0),
        "cls_token_id": 101,
        "eos_token_id": 102,
        "bos_token_id": vocabulary - 1,
    }
    for key in ("architectures", "dtype", "torch_dtype"):
        if foreign.get(key) is not None:
            translated[key.removeprefix("torch_")] = foreign[key]
    return translated


__all__ = ["MODULES_NOT_TO_QUANTIZE", "LavisBlip2Config", "translate_transformers_config"]
