"""The table of LoRA targets: peft wraps each head with it, and only projections of attention of online modules."""

import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import modeling_lavis
from modeling_lavis import LORA_TARGET_MODULES, lora_target_modules
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case
from tests.models.lavis_blip_2_cases import second_stage
from tests.models.tiny_tokenizers import tiny_model, tiny_processor

peft = pytest.importorskip("peft")

CASES = [case for cases in (albef_cases, alpro_cases, lavis_blip_cases, lavis_blip_2_cases) for case in cases.CASES]
#: last parts of the names of projections of attention, by the first part
PROJECTIONS = {
    "vision_model": {"qkv"},
    "text_encoder": {"query", "key", "value"},
    "text_decoder": {"query", "key", "value"},
    "qformer": {"query", "key", "value"},
    "language_model": {"q_proj", "k_proj", "v_proj", "out_proj", "o_proj", "q", "k", "v", "o", "c_attn", "c_proj"},
}


def adapted_layers(model: nn.Module) -> set[str]:
    """Names of the layers that got an adapter, as they were before."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A")
        for name, _ in model.named_modules()
        if name.endswith(".lora_A")
    }


def attention_layers(model: nn.Module, parts: tuple[str, ...]) -> set[str]:
    """Names of the linear layers that project to queries, keys and values, with weights of their own, in some parts."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    uses = Counter(id(layer.weight) for _, layer in layers)
    return {
        name
        for name, layer in layers
        if uses[id(layer.weight)] == 1
        and name.partition(".")[0] in parts
        and name.rpartition(".")[2] in PROJECTIONS[name.partition(".")[0]]
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_heads(case: Case) -> None:
    model = case.model()
    is_blip_2 = model.config.model_type == "lavis_blip_2"
    has_language_model = hasattr(model, "language_model")
    parts = ("language_model",) if has_language_model else ("qformer",) if is_blip_2 else tuple(PROJECTIONS)
    expected = attention_layers(model, parts)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=lora_target_modules(model)))
    assert adapted_layers(adapted) == expected and expected
    for name, value in adapted.named_parameters():
        assert value.requires_grad is (".lora_" in name), name
        assert "_m." not in name or ".lora_" not in name
    if case.training(2):
        adapted.train()
        adapted(**case.inputs(2), **case.training(2)).loss.backward()
        gradients = [value.grad for name, value in adapted.named_parameters() if ".lora_B" in name]
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_layers_with_shared_weights_get_no_adapters() -> None:
    pairs, pretraining = albef_cases.IMAGE_PAIRS.model(), lavis_blip_cases.PRETRAINING.model()
    for model, shared, own in (
        (pairs, {"key", "value"}, {"query"}),
        (pretraining, {"query", "key", "value"}, set()),
    ):
        target = lora_target_modules(model)
        layers = {name for name, _ in model.named_modules() if ".crossattention.self." in name and "_m." not in name}
        layers = {name for name in layers if name.rpartition(".")[2] in PROJECTIONS["text_encoder"]}
        assert {name.rpartition(".")[2] for name in layers} == shared | own
        matched = {name.rpartition(".")[2] for name in layers if re.fullmatch(target, name)}
        assert matched == own


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_entry_of_the_family(case: Case) -> None:
    """The entry for `config.model_type` fits every head of a family, BLIP-2's second stage as well."""
    model = case.model()
    before = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    target = LORA_TARGET_MODULES[model.config.model_type]
    adapted = adapted_layers(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=target)))
    assert adapted and adapted <= before
    assert {name.partition(".")[0] for name in adapted} <= {"vision_model", "text_encoder", "text_decoder", "qformer"}
    assert not any("_m." in name for name in adapted)


@pytest.mark.parametrize("kind", ["opt", "t5", "llama", "gpt2", "bart", "qwen2"])
def test_language_models(kind: str) -> None:
    if kind == "qwen2":
        model: Any = tiny_model("has no BOS (Qwen)", tiny_processor("has no BOS (Qwen)"))
    else:
        model = second_stage(kind)
    assert lora_target_modules(model) == LORA_TARGET_MODULES[kind]
    names = adapted_layers(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=LORA_TARGET_MODULES[kind])))
    assert names and all(name.startswith("language_model.") for name in names)
    assert {name.rpartition(".")[2] for name in names} <= PROJECTIONS["language_model"]


def test_entries_can_be_joined() -> None:
    target = "|".join(LORA_TARGET_MODULES[kind] for kind in ("opt", "qformer", "vision"))
    names = adapted_layers(peft.get_peft_model(second_stage("opt"), peft.LoraConfig(r=2, target_modules=target)))
    assert {name.partition(".")[0] for name in names} == {"language_model", "qformer", "vision_model"}


def test_unknown_models_raise() -> None:
    with pytest.raises(ValueError, match=r"no entry for Linear with the model type None; expected one of albef, "):
        lora_target_modules(torch.nn.Linear(1, 1))
    model = second_stage("opt")
    model.language_model.config.model_type = "unknown"
    with pytest.raises(ValueError, match="no entry for .* with the model type 'unknown'"):
        lora_target_modules(model)


def test_public() -> None:
    assert {"LORA_TARGET_MODULES", "lora_target_modules"} <= set(modeling_lavis.__all__)
