"""A vocabulary that is resized: all parts of every head agree, also after saving and loading."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig

from modeling_lavis import LavisBlip2ForConditionalGeneration
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import assert_same_state, momentum_pairs

OLD = lavis_blip_cases.VOCAB
MODULES = (albef_cases, alpro_cases, lavis_blip_cases, lavis_blip_2_cases)
HEADS: dict[str, Any] = {
    **{case.name: case.model for module in MODULES for case in module.CASES},
    **{kind: lambda kind=kind: lavis_blip_2_cases.second_stage(kind) for kind in lavis_blip_2_cases.LANGUAGE_MODELS},
    "t5 with an untied head": lambda: lavis_blip_2_cases.second_stage("t5", untied_language_head=True),
}


def vocabularies(config: PreTrainedConfig, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every `vocab_size` of a configuration, without that of a Q-Former which has no text."""
    if getattr(config, "use_text", True) is False:
        return
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from vocabularies(value, f"{prefix}{name}.")
    if getattr(config, "vocab_size", None) is not None:
        yield f"{prefix}vocab_size", config.vocab_size


def check(model: Any, size: int) -> None:
    found = dict(vocabularies(model.config))
    for name, module in model.named_modules():
        if isinstance(getattr(module, "config", None), PreTrainedConfig):
            found.update(vocabularies(module.config, f"{name}.config."))
        if isinstance(module, nn.Embedding) and "word" in name:
            assert module.num_embeddings == module.weight.shape[0] == size, name
        if isinstance(module, nn.Linear):
            assert module.out_features == module.weight.shape[0] != OLD, name
            assert module.bias is None or module.bias.shape[0] == module.out_features, name
    assert found and {name: value for name, value in found.items() if value != size} == {}
    assert model.get_input_embeddings().weight.shape[0] == size
    state = model.state_dict()
    for online, momentum in momentum_pairs(model):
        assert state[online].shape == state[momentum].shape, momentum


@pytest.mark.parametrize("name", HEADS)
def test_every_part_has_the_new_size(name: str, tmp_path: Path) -> None:
    for size in (OLD + 8, OLD - 7):
        model = HEADS[name]()
        before = model.get_input_embeddings().weight.detach().clone()
        returned = model.resize_token_embeddings(size)
        assert returned is model.get_input_embeddings() and model.vocab_size == size
        rows = min(size, OLD)
        assert torch.equal(returned.weight[:rows], before[:rows])
        check(model, size)
        model.save_pretrained(tmp_path / str(size))
        again, info = type(model).from_pretrained(tmp_path / str(size), output_loading_info=True)
        assert not any(info.values()), info
        check(again, size)
        assert_same_state(again, model)


@pytest.mark.parametrize("name", HEADS)
def test_rounding_up(name: str) -> None:
    model = HEADS[name]()
    model.resize_token_embeddings(OLD + 1, pad_to_multiple_of=16)
    check(model, 64)


@pytest.mark.parametrize("kind", lavis_blip_2_cases.LANGUAGE_MODELS)
def test_new_tokens_of_a_language_model(kind: str) -> None:
    model: LavisBlip2ForConditionalGeneration = lavis_blip_2_cases.second_stage(kind)
    model.resize_token_embeddings(OLD + 8)
    ids = torch.tensor([[5, OLD + 7]])
    output = model(pixel_values=lavis_blip_2_cases.pixels(1), input_ids=ids, labels=ids)
    assert output.logits.shape[-1] == OLD + 8 and output.loss.isfinite()
