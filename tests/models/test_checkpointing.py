"""Activation checkpointing: transformers' own, torch's around parts of a model, and generation while it is on."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.checkpoint import checkpoint

from modeling_lavis import LavisViTConfig, LavisViTModel
from modeling_lavis.models.transformers_compat import major_minor
from modeling_lavis.models.vision_vit import ViTBlock
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case

CASES = list(
    {
        case.name: case
        for module in (lavis_blip_cases, albef_cases, alpro_cases, lavis_blip_2_cases)
        for case in module.CASES
    }.values()
)
TRAINED = [case for case in CASES if not case.name.endswith("Model")]
GENERATING = [case for case in CASES if case.model_class.can_generate()]


def gradients(model: Any, call: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model(**call).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", TRAINED, ids=[case.name for case in TRAINED])
def test_reentrant_checkpointing_gives_the_same_gradients(case: Case) -> None:
    call = {**case.inputs(3), **case.training(3)}
    expected = gradients(case.model().train(), call)
    model = case.model().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    actual = gradients(model, call)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("case", GENERATING, ids=[case.name for case in GENERATING])
def test_generation_in_training_mode(case: Case) -> None:
    """Without gradient nothing runs twice, so the cache is kept."""
    model = case.model()
    if hasattr(model, "language_model") and major_minor(transformers.__version__) < (5, 24):
        pytest.skip("these versions of transformers drop the cache of their language models' own layers")
    call = case.inputs(3)
    expected = model.generate(**call, max_new_tokens=6, num_beams=2)
    model.train()
    model.gradient_checkpointing_enable()
    assert model.generate(**call, max_new_tokens=6, num_beams=2).tolist() == expected.tolist()


def image_encoder() -> LavisViTModel:
    torch.manual_seed(0)
    config = LavisViTConfig(image_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=2)
    return LavisViTModel(config).train()


def checkpoint_blocks(model: LavisViTModel) -> None:
    """torch's checkpoint around every block, as users write it."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def wrap_blocks(model: LavisViTModel) -> None:
    """The wrapper that FSDP uses."""
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, ViTBlock))


@pytest.mark.parametrize("around", [checkpoint_blocks, wrap_blocks])
def test_a_checkpoint_around_blocks_keeps_none_of_their_activations(around: Callable[[LavisViTModel], None]) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    expected = image_encoder()
    expected(pixels).last_hidden_state.square().sum().backward()

    model = image_encoder()
    kept: list[weakref.ref[torch.Tensor]] = []
    for block in model.blocks:
        for part in (block.norm1, block.attn.qkv, block.attn.proj, block.norm2, block.mlp.fc1, block.mlp.act):
            part.register_forward_hook(lambda module, args, output: kept.append(weakref.ref(output)))
    around(model)
    output = model(pixels).last_hidden_state
    assert len(kept) >= 15
    assert not any(reference() is not None for reference in kept)
    output.square().sum().backward()
    for left, right in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_hooks_of_the_user_see_what_is_saved() -> None:
    """Offloading (`save_on_cpu`) takes every saved tensor, those of the blocks included."""
    model, pixels, seen = image_encoder(), torch.randn(2, 3, 64, 64), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(pixels)
    # the normalized hidden states and the MLP's activations of each block are among them
    assert seen.count(torch.Size([2, 17, 128])) + seen.count(torch.Size([34, 128])) >= 3
    assert seen.count(torch.Size([2, 17, 32])) + seen.count(torch.Size([34, 32])) >= 6
