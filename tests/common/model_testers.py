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

BATCH, TOKENS, SIZE, PATCH, VOCAB = 3, 6, 32, 16, 60
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
        training: returns the inputs that a loss needs in addition.
    """

    name: str
    model_class: type[PreTrainedModel]
    config: Callable[[], PreTrainedConfig]
    inputs: Callable[[], dict[str, Any]]
    training: Callable[[], dict[str, Any]] = dict


def _two_layers(case: Case) -> Callable[[], PreTrainedConfig]:
    """The common tests allow two layers."""
    return lambda: case.config(text={"num_hidden_layers": 2})


def _of_case(case: Case) -> list[Subject]:
    subjects = []
    for mode, options in case.modes.items():
        name = case.name if len(case.modes) == 1 else f"{case.name}_{mode}"
        inputs = {name: value for name, value in {**case.inputs(BATCH), **options}.items() if value is not None}
        subjects.append(
            Subject(
                name, case.model_class, _two_layers(case), lambda made=inputs: dict(made), lambda: case.training(BATCH)
            )
        )
    return subjects


def _pixels() -> torch.Tensor:
    return lavis_blip_cases.pixels(BATCH)


def _qformer_inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "query_embeds": torch.randn(BATCH, 4, 16, generator=generator),
        "encoder_hidden_states": torch.randn(BATCH, 5, 24, generator=generator),
    }


def _encoders() -> list[Subject]:
    vision = {"image_size": SIZE, "patch_size": PATCH, **ENCODER}
    images: tuple[tuple[type[PreTrainedModel], Any], ...] = (
        (LavisViTModel, LavisViTConfig),
        (LavisEvaModel, LavisEvaConfig),
        (LavisClipVisionModel, LavisClipVisionConfig),
    )
    subjects = [
        Subject(model.__name__, model, lambda made=config: made(**vision), lambda: {"pixel_values": _pixels()})
        for model, config in images
    ]
    subjects.append(
        Subject(
            "LavisTimesformerModel",
            LavisTimesformerModel,
            lambda: LavisTimesformerConfig(**vision, num_frames=3),
            lambda: {"pixel_values_videos": lavis_blip_cases.pixels(BATCH, 3)},
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
                num_query_tokens=4,
                encoder_hidden_size=24,
            ),
            _qformer_inputs,
        )
    )
    return subjects


def _seq2seq() -> Subject:
    """BLIP-2 with T5, which is no case of the contract tests."""
    return Subject(
        "LavisBlip2ForConditionalGeneration_t5",
        lavis_blip_2_cases.OPT.model_class,
        lambda: lavis_blip_2_cases.blip_2_config(language_model="t5", text={"num_hidden_layers": 2}),
        lambda: lavis_blip_2_cases.one_image(BATCH),
        lambda: lavis_blip_2_cases.language_model_labels(BATCH),
    )


CASES = (*albef_cases.CASES, *alpro_cases.CASES, *lavis_blip_cases.CASES, *lavis_blip_2_cases.CASES)
SUBJECTS: tuple[Subject, ...] = (*(made for case in CASES for made in _of_case(case)), _seq2seq(), *_encoders())


class ModelTester:
    """What the common tests ask about a model."""

    is_training = True
    batch_size = BATCH
    seq_length = TOKENS

    def __init__(self, subject: Subject, parent: Any) -> None:
        self.subject = subject
        self.parent = parent
        config = subject.config()
        for name, of in (("text_config", "text_config"), ("vision_config", "vision_config")):
            if getattr(config, of, None) is not None:
                setattr(self, name, getattr(config, of).to_dict())
        sizes = config if not config.sub_configs else getattr(config, "vision_config", config)
        self.num_hidden_layers = sizes.num_hidden_layers
        self.hidden_size = sizes.hidden_size
        self.num_attention_heads = sizes.num_attention_heads
        if hasattr(sizes, "image_size"):
            self.image_size, self.patch_size = sizes.image_size, sizes.patch_size

    def get_config(self) -> PreTrainedConfig:
        """A new configuration."""
        return self.subject.config()

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, Any]]:
        """A new configuration and inputs of the forward pass."""
        return self.subject.config(), self.subject.inputs()

    # the name in transformers' generation tests
    prepare_config_and_inputs = prepare_config_and_inputs_for_common


__all__ = ["CASES", "SUBJECTS", "ModelTester", "Subject"]
