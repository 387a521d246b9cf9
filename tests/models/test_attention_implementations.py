"""Flash and flex attention give what eager attention gives, in every head and mode, for texts padded on either side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch.nn import functional as F
from transformers import PreTrainedConfig

from modeling_lavis.models.attention import attend
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case, tensors_of
from tests.models.flash_reference import flash_attention

CASES = [
    case
    for module in (lavis_blip_cases, albef_cases, alpro_cases, lavis_blip_2_cases)
    for case in {case.name: case for case in module.CASES}.values()
]
by_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
by_side = pytest.mark.parametrize("side", ["right", "left"])


@contextmanager
def flex_attention(model: Any) -> Iterator[list[str]]:
    model.set_attn_implementation("flex_attention")
    # Of a kernel that was compiled for any batch size, torch's code for a CPU reads outside of a block.
    with dynamo_config.patch(automatic_dynamic_shapes=False, recompile_limit=64):
        torch.compiler.reset()
        yield ["flex"]
    model.set_attn_implementation("eager")


#: heads that run with flex attention, which compiles a kernel for every shape
FLEX = (
    "LavisBlipForQuestionAnswering",
    "AlbefForPreTraining",
    "AlproForVideoTextRetrieval",
    "LavisBlip2ForPreTraining",
)
COMBINATIONS = [
    *(
        pytest.param(case, side, flash_attention, id=f"{case.name}-{side}-flash")
        for case in CASES
        for side in ("right", "left")
    ),
    *(
        pytest.param(case, "right", flex_attention, id=f"{case.name}-right-flex", marks=pytest.mark.slow)
        for case in CASES
        if case.name in FLEX
    ),
]
by_combination = pytest.mark.parametrize(("case", "side", "implementation"), COMBINATIONS)


def on_side(call: dict[str, Any], side: str) -> dict[str, Any]:
    """The call with the padding of its texts moved to the left."""
    mask = call.get("attention_mask")
    if side == "right" or mask is None:
        return call
    order = mask.argsort(dim=1, stable=True)
    moved = {name: call[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    if torch.is_tensor(call.get("labels")) and call["labels"].shape == mask.shape:
        labels = call["labels"].gather(1, order)
        # the first token would be predicted from padding
        moved["labels"] = labels.masked_fill(moved["attention_mask"].cumsum(dim=1) == 1, -100)
    return {**call, **moved}


def without_padding(value: Tensor, call: dict[str, Any]) -> Tensor:
    """Hidden states and logits at padding mean nothing."""
    masks = [call.get("attention_mask"), call.get("decoder_attention_mask")]
    if torch.is_tensor(call.get("labels")) and call["labels"].ndim == 2:
        masks.append(call["labels"] != -100)
    for mask in masks:
        if mask is None or value.ndim != 3 or value.shape[0] != mask.shape[0] or value.shape[1] < mask.shape[1]:
            continue
        prefix = value.shape[1] - mask.shape[1]  # query tokens come first
        value = value.masked_fill(F.pad(mask.bool(), (prefix, 0), value=True).logical_not()[..., None], 0)
    return value


class Attention(nn.Module):
    """A module that calls `attend`."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PreTrainedConfig(attn_implementation="eager")
        self.is_causal = False
        self.proj = nn.Linear(1, 1)
        self.eval()


@by_combination
@torch.no_grad()  # flex attention has no backward pass on a CPU
def test_every_mode(case: Case, side: str, implementation: Callable[[Any], Any]) -> None:
    model = case.model()
    model.set_attn_implementation("eager")
    for name, call in case.calls():
        call = on_side(call, side)
        torch.manual_seed(0)
        expected = model(**call)
        torch.manual_seed(0)
        with implementation(model) as called:
            actual = model(**call)
        assert called, "no kernel ran"
        left, right = tensors_of(actual), tensors_of(expected)
        assert left.keys() == right.keys()
        for key in left:
            a, b = (without_padding(value, call) for value in (left[key], right[key]))
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda m, n=f"{name} {key}": f"{n}: {m}")


@pytest.mark.slow
@by_side
@by_case
def test_gradients(case: Case, side: str) -> None:
    if side == "left" and case.name.endswith("ForPreTraining"):
        pytest.skip("parity: captions start in the first column, which has to be a token")
    call = on_side({**case.inputs(3), **case.training(3)}, side)
    gradients = []
    for flash in (False, True):
        model = case.model()
        model.set_attn_implementation("eager")
        torch.manual_seed(0)
        if flash:
            with flash_attention(model):
                output = model(**call)
        else:
            output = model(**call)
        loss = output.loss if output.get("loss") is not None else sum(v.sum() for v in tensors_of(output).values())
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@by_combination
def test_generate(case: Case, side: str, implementation: Callable[[Any], Any]) -> None:
    model = case.model()
    if not model.can_generate():
        pytest.skip("the head does not generate")
    model.set_attn_implementation("eager")
    call = on_side(case.inputs(3), side)
    for options in ({}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}):
        expected = model.generate(**call, max_new_tokens=5, **options)
        with implementation(model):
            assert model.generate(**call, max_new_tokens=5, **options).tolist() == expected.tolist()


@by_combination
def test_grouped_rows(case: Case, side: str, implementation: Callable[[Any], Any]) -> None:
    """Selected pairs, and answers of a list: rows that share the keys and values of an image or of a question."""
    model = case.model()
    model.set_attn_implementation("eager")
    call = on_side(case.inputs(3), side)
    if hasattr(model, "score_pairs"):
        texts = {name: call[name] for name in ("input_ids", "attention_mask")}
        if side == "left":
            pytest.skip("score_pairs takes texts padded on the right")
        pairs = torch.tensor([[0, 2], [1, 1], [0, 0], [2, 1], [0, 1]])
        compute = lambda: model.score_pairs(call[case.pixel_name], texts, pairs).logits  # noqa: E731
    elif hasattr(model, "rank_answers"):
        answers = torch.tensor([[2, 9, 3, 0], [2, 10, 11, 3], [2, 12, 3, 0], [2, 13, 14, 3]])

        def compute():
            return model.rank_answers(
                **call, answer_input_ids=answers, answer_attention_mask=(answers != 0).long(), num_candidates=3
            ).scores
    else:
        pytest.skip("the head has no grouped rows")
    expected = compute()
    with implementation(model):
        torch.testing.assert_close(compute(), expected, atol=2e-5, rtol=1e-4)


def test_cross_attention_of_as_many_queries_as_padded_keys() -> None:
    """Queries are not removed with the padding of the keys, and not one is when both have the same length."""
    module, query = Attention(), torch.randn(2, 4, 8)
    key, mask = torch.randn(2, 2, 4, 4), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    additive = torch.zeros(2, 1, 1, 4).masked_fill(mask[:, None, None] == 0, float("-inf"))
    expected = attend(module, query, key, key, additive, 2)[0]
    with flash_attention(module) as called:
        torch.testing.assert_close(attend(module, query, key, key, mask.bool(), 2)[0], expected)
    assert called == ["flash_attn_varlen_func"]


def test_four_dimensional_masks_go_to_sdpa() -> None:
    module, query, key = Attention(), torch.randn(2, 4, 8), torch.randn(2, 2, 4, 4)
    mask = torch.rand(2, 1, 4, 4) > 0.3
    mask[..., 0] = True
    additive = torch.zeros(2, 1, 4, 4).masked_fill(~mask, float("-inf"))
    expected = attend(module, query, key, key, additive, 2)[0]
    with flash_attention(module) as called:
        torch.testing.assert_close(attend(module, query, key, key, mask, 2)[0], expected)
    assert called == []
