"""Tiny models for transformers' common tests: the cases of the contract tests, and the public encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_lavis import (
    LavisClipVisionConfig,
    LavisClipVisionModel,
    LavisEvaConfig,
    LavisEvaModel,
    LavisQFormerConfig,
    LavisQFormerModel,
    LavisTimesformerConfig,
    LavisTimesformerModel,
    LavisViTConfig,
    LavisViTModel,
)
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case

# With two rows, each has one negative, so that drawing it is deterministic.
BATCH, TOKENS, SIZE, PATCH, VOCAB, QUERIES = 2, 6, 32, 16, 60, lavis_blip_2_cases.QUERIES
IMAGE_TOKENS = (SIZE // PATCH) ** 2 + 1
ENCODER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True)
class Subject:
    """
    A model class in one mode.

    Args:
        name: name of the class and of the mode, as in the table of differences.
        model_class: the class under test.
        config: returns the configuration.
        inputs: returns the inputs of the forward pass.
        training: returns the inputs that a loss needs in addition, if the class has a loss in this mode.
        of_text: whether `hidden_states` and `attentions` are those of a text, otherwise of an image or a video.
        is_encoder_decoder: whether the forward pass takes `decoder_input_ids`.
        num_layers: number of layers with `hidden_states` and `attentions`; by default, all of the text encoder.
        num_tokens: number of tokens of `hidden_states`; by default, those of the text or of the image.
    """

    name: str
    model_class: type[PreTrainedModel]
    config: Callable[[], PreTrainedConfig]
    inputs: Callable[[], dict[str, Any]]
    training: Callable[[], dict[str, Any]] | None = None
    of_text: bool = True
    is_encoder_decoder: bool = False
    num_layers: int | None = None
    num_tokens: int | None = None


def _config_of(case: Case) -> Callable[[], PreTrainedConfig]:
    """
    Configurations for what the common tests do: they allow two layers, shrink the vocabulary, so that special tokens
    may not be its last ones, and compare gradients of all parameters.
    """
    text: dict[str, Any] = {"num_hidden_layers": 2}
    if case.model_class is albef_cases.IMAGE_PAIRS.model_class:
        text["fusion_layer"] = 0  # layers with cross-attention form pairs
    options: dict[str, Any] = {}
    if case in lavis_blip_cases.CASES:
        options = {"bos_token_id": 4, "enc_token_id": 1}
    if case in lavis_blip_2_cases.CASES:
        options = {"bos_token_id": 4, "freeze_vision": False, "freeze_language_model": False}

    def make() -> PreTrainedConfig:
        config = case.config(text=text, **options)
        if case is albef_cases.ANSWERING:
            # attention implementations are given by part, so the configuration needs all parts
            config.answer_config = config.default_answer_config()
        return config

    return make


def _num_layers(case: Case, mode: str) -> int | None:
    """ALBEF and ALPRO divide the two layers of BERT between the text encoder and the multimodal encoder."""
    with_all_layers = mode == "itm" or case in (albef_cases.IMAGE_PAIRS, albef_cases.CLASSIFICATION)
    if case in alpro_cases.CASES or (case in albef_cases.CASES and not with_all_layers):
        return 1
    return None


def _num_tokens(case: Case, mode: str) -> int | None:
    """The multimodal encoder of ALPRO and the Q-Former attend to text and video or query tokens jointly."""
    if case in alpro_cases.CASES and mode != "vtc":
        return TOKENS + IMAGE_TOKENS
    if case in lavis_blip_2_cases.FIRST_STAGE and mode != "decoder":
        return QUERIES + (0 if mode == "itc" else TOKENS)
    return None


def _of_case(case: Case) -> list[Subject]:
    """One subject per mode that has all inputs; images or texts alone are left to the contract tests."""
    subjects = []
    trained = case.training(BATCH)
    for mode, options in case.modes.items():
        if None in options.values():
            continue
        name = case.name if len(case.modes) == 1 else f"{case.name}_{mode}"
        inputs = {**case.inputs(BATCH), **options}
        if "decoder_input_ids" in inputs:
            # one mask is used for encoder and decoder
            inputs["decoder_input_ids"] = lavis_blip_cases.texts(BATCH, length=TOKENS, padded=False)["input_ids"]
        # pretraining with images alone has no loss in the mode of its decoder
        training = None if not trained or ("decoder_input_ids" in options and "labels" not in trained) else trained
        subjects.append(
            Subject(
                name,
                case.model_class,
                _config_of(case),
                lambda made=inputs: dict(made),
                None if training is None else lambda made=training: dict(made),
                is_encoder_decoder="decoder_input_ids" in inputs,
                num_layers=_num_layers(case, mode),
                num_tokens=_num_tokens(case, mode),
            )
        )
    return subjects


def _pixels() -> torch.Tensor:
    return lavis_blip_cases.pixels(BATCH)


def _qformer_inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "query_embeds": torch.randn(BATCH, QUERIES, 16, generator=generator),
        "encoder_hidden_states": torch.randn(BATCH, IMAGE_TOKENS, 24, generator=generator),
        **lavis_blip_2_cases.texts(BATCH),
    }


def _encoders() -> list[Subject]:
    vision = {"image_size": SIZE, "patch_size": PATCH, **ENCODER}
    images: tuple[tuple[type[PreTrainedModel], Any], ...] = (
        (LavisViTModel, LavisViTConfig),
        (LavisEvaModel, LavisEvaConfig),
        (LavisClipVisionModel, LavisClipVisionConfig),
    )
    subjects = [
        Subject(
            model.__name__,
            model,
            lambda made=config: made(**vision),
            lambda: {"pixel_values": _pixels()},
            of_text=False,
        )
        for model, config in images
    ]
    subjects.append(
        Subject(
            "LavisTimesformerModel",
            LavisTimesformerModel,
            lambda: LavisTimesformerConfig(**vision, num_frames=3),
            lambda: {"pixel_values_videos": lavis_blip_cases.pixels(BATCH, 3)},
            of_text=False,
        )
    )
    subjects.append(
        Subject(
            "LavisQFormerModel",
            LavisQFormerModel,
            lambda: LavisQFormerConfig(
                vocab_size=VOCAB,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=40,
                num_query_tokens=QUERIES,
                encoder_hidden_size=24,
            ),
            _qformer_inputs,
            num_tokens=QUERIES + TOKENS,
        )
    )
    return subjects


def _seq2seq() -> Subject:
    """BLIP-2 with T5, which is not a case of the contract tests."""
    return Subject(
        "LavisBlip2ForConditionalGeneration_t5",
        lavis_blip_2_cases.OPT.model_class,
        lambda: lavis_blip_2_cases.blip_2_config(
            language_model="t5", text={"num_hidden_layers": 2}, freeze_vision=False, freeze_language_model=False
        ),
        lambda: {
            **lavis_blip_2_cases.one_image(BATCH),
            "decoder_input_ids": torch.zeros(BATCH, TOKENS, dtype=torch.long),
        },
        lambda: lavis_blip_2_cases.language_model_labels(BATCH),
        is_encoder_decoder=True,
    )


CASES = (*albef_cases.CASES, *alpro_cases.CASES, *lavis_blip_cases.CASES, *lavis_blip_2_cases.CASES)
SUBJECTS: tuple[Subject, ...] = (*(made for case in CASES for made in _of_case(case)), _seq2seq(), *_encoders())


class ModelTester:
    """What the common tests ask about a model."""

    batch_size = BATCH

    def __init__(self, subject: Subject, parent: Any) -> None:
        self.subject = subject
        self.parent = parent
        self.is_training = subject.training is not None
        config = subject.config()
        parts = {name: getattr(config, name) for name in ("text_config", "vision_config") if hasattr(config, name)}
        for name, part in parts.items():
            if part is not None:
                setattr(self, name, part.to_dict())
        sizes = parts.get("text_config") or getattr(config, "qformer_config", config)
        self.num_hidden_layers = subject.num_layers or sizes.num_hidden_layers
        self.hidden_size = sizes.hidden_size
        self.num_attention_heads = sizes.num_attention_heads
        self.image_size, self.patch_size = SIZE, PATCH
        if "vision_config" in parts:
            self.video_config = self.vision_config
        self.seq_length = subject.num_tokens or (TOKENS if subject.of_text else IMAGE_TOKENS)
        if config.sub_configs:
            self.num_hidden_states_types = 2  # those of the image encoder besides
            self.text_model_tester = TextTester(self)

    def get_config(self) -> PreTrainedConfig:
        """A new configuration."""
        config = self.subject.config()
        # a configuration belongs to all heads of a family and to all modes, also to those without a decoder
        if not self.subject.is_encoder_decoder:
            config.is_encoder_decoder = False
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """A new configuration and inputs of the forward pass."""
        return self.get_config(), self.subject.inputs()

    # the name in transformers' generation tests
    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class TextTester:
    """What the common tests ask about `get_text_features`."""

    def __init__(self, tester: ModelTester) -> None:
        self.tester = tester
        text = getattr(tester.get_config(), "text_config", None)
        fusion_layer = getattr(text, "fusion_layer", None)
        self.num_hidden_layers = fusion_layer or tester.num_hidden_layers

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """A new configuration and a text."""
        return self.tester.get_config(), lavis_blip_cases.texts(BATCH)


__all__ = ["CASES", "SUBJECTS", "ModelTester", "Subject"]
