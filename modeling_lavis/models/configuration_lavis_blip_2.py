# SPDX-License-Identifier: Apache-2.0
"""Configuration of the BLIP-2 family, and the modules to adapt with LoRA and to leave out of quantization."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_text import KEYS_TO_IGNORE_AT_INFERENCE, LavisQFormerConfig
from .configuration_vision import LavisClipVisionConfig, LavisEvaConfig

_VISION_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    config_class.model_type: config_class for config_class in (LavisEvaConfig, LavisClipVisionConfig)
}
_FOREIGN_MODEL_TYPE = "blip-2"

#: Modules to adapt with LoRA, by model type of the language model: `LoraConfig(target_modules=...)` of peft. Regular
#: expressions, so that modules of the same name in the image encoder or the Q-Former do not match.
LORA_TARGET_MODULES: dict[str, str] = {
    "opt": r"language_model\..*\.(q_proj|k_proj|v_proj|out_proj)",
    "t5": r"language_model\..*\.(q|k|v|o)",
    "bart": r"language_model\..*\.(q_proj|k_proj|v_proj|out_proj)",
    "llama": r"language_model\..*\.(q_proj|k_proj|v_proj|o_proj)",
    "gpt2": r"language_model\..*\.(c_attn|c_proj)",
    "qformer": r"qformer\..*\.(query|key|value)",
    "vision": r"vision_model\..*\.attn\.(qkv|proj)",
}
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


@strict
class LavisBlip2Config(PreTrainedConfig):
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
        frozen_parts (`dict`, *optional*): folders or Hub ids of the parts that this repository leaves out, by module
            name: `"vision_model"`, `"language_model"`.
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

    vision_config: Any = None
    qformer_config: Any = None
    text_config: Any = None
    projection_dim: int = 256
    logit_temperature: float = 0.07
    label_smoothing: float | int = 0.1
    ln_vision_eps: float = 1e-5
    objective: Literal["main", "1.0.2"] = "main"
    freeze_vision: bool = True
    freeze_language_model: bool = True
    original_beam_scores: bool = True
    untied_language_head: bool = False
    image_token_id: int | None = None
    frozen_parts: dict[str, str] | None = None
    pad_token_id: int = 0
    cls_token_id: int = 101
    eos_token_id: int = 102
    bos_token_id: int = 30522
    initializer_range: float = 0.02
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.vision_config, PreTrainedConfig):
            # AutoConfig does not know these classes where this package is not installed.
            vision = dict(self.vision_config or {})
            model_type = vision.pop("model_type", LavisEvaConfig.model_type)
            if model_type not in _VISION_CONFIGS:
                raise ValueError(
                    f"vision_config has the model_type {model_type!r}; expected one of {', '.join(_VISION_CONFIGS)}."
                )
            self.vision_config = _VISION_CONFIGS[model_type](**vision)
        if self.qformer_config is None and self.text_config is not None:
            self.qformer_config = {"use_text": False}
        super().__post_init__(**kwargs)
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        # without a language model, the Q-Former decodes captions
        self.is_encoder_decoder = self.text_config is None or bool(self.text_config.is_encoder_decoder)

    def validate_frozen_parts(self) -> None:
        """Raise `ValueError` when `frozen_parts` names a module that cannot be left out."""
        unknown = set(self.frozen_parts or {}) - {"vision_model", "language_model"}
        if unknown:
            raise ValueError(
                f"frozen_parts names {', '.join(sorted(unknown))}; only vision_model and language_model can be "
                "stored in other repositories."
            )

    @property
    def num_query_tokens(self) -> int:
        """Number of learned query tokens."""
        return self.qformer_config.num_query_tokens

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The configuration of the language model, or of the Q-Former if there is none."""
        return self.qformer_config if self.text_config is None else self.text_config

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "LavisBlip2Config":
        """Build the configuration from a dictionary, translating transformers' own BLIP-2 format."""
        if config_dict.get("model_type") == _FOREIGN_MODEL_TYPE:
            config_dict = translate_transformers_config(config_dict)
        return super().from_dict(config_dict, **kwargs)


def translate_transformers_config(foreign: dict[str, Any]) -> dict[str, Any]:
    """
    Translate the `config.json` of a repository in transformers' own BLIP-2 format to fields of [`LavisBlip2Config`].

    Fields that the file leaves out get transformers' defaults, not those of this package. Repositories for matching
    have no language model, although their file describes one.
    """
    vision, qformer = dict(foreign.get("vision_config") or {}), dict(foreign.get("qformer_config") or {})
    width = vision.get("hidden_size", 1408)
    architecture = (foreign.get("architectures") or ["Blip2ForConditionalGeneration"])[0]
    generates = architecture in ("Blip2ForConditionalGeneration", "Blip2Model")
    vocabulary = qformer.get("vocab_size", 30522)
    translated: dict[str, Any] = {
        "vision_config": {
            "model_type": LavisEvaConfig.model_type,
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 14),
            "hidden_size": width,
            "num_hidden_layers": vision.get("num_hidden_layers", 39),
            "num_attention_heads": vision.get("num_attention_heads", 16),
            # slightly above the exact ratio, whose product with the hidden size can round below the integer
            "mlp_ratio": (vision.get("intermediate_size", 6144) + 0.5) / width,
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
        "bos_token_id": vocabulary - 1,
    }
    for key in ("architectures", "dtype", "torch_dtype"):
        if foreign.get(key) is not None:
            translated[key.removeprefix("torch_")] = foreign[key]
    return translated


__all__ = ["LORA_TARGET_MODULES", "MODULES_NOT_TO_QUANTIZE", "LavisBlip2Config", "translate_transformers_config"]
