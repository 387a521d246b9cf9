"""Attention: keys and values shared by several rows of queries; agreement of all implementations.

Shapes: B rows of keys, n rows of queries per row of keys, H heads, T query tokens, N key tokens, d head dimension.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from modeling_lavis.models.attention import attend, split_heads
from modeling_lavis.models.configuration_text import LavisBertConfig
from modeling_lavis.models.text_bert import LavisBertModel

B, N_PER, H, T, N, D = 2, 3, 2, 4, 5, 8


class AttentionModule(nn.Module):
    """An attention module as `attend` expects it."""

    def __init__(self, implementation: str) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation=implementation)
        self.is_causal = False
        self.eval()


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention by a loop over rows of queries and heads."""
    contexts, attentions = [], []
    for row in range(query.shape[0]):
        owner = row // (query.shape[0] // key.shape[0])
        heads, weights = [], []
        for head, part in enumerate(query[row].chunk(H, dim=-1)):
            scores = part @ key[owner, head].T / (D // H) ** 0.5
            if mask is not None:
                scores = scores.masked_fill(~mask[owner][None], float("-inf"))
            weights.append(scores.softmax(-1))
            heads.append(weights[-1] @ value[owner, head])
        contexts.append(torch.cat(heads, dim=-1))
        attentions.append(torch.stack(weights))
    return torch.stack(contexts), torch.stack(attentions)


def additive_mask(mask: Tensor, rows: int) -> Tensor:
    """Boolean mask `(B, N)` to an additive mask of scores `(B, 1, rows, N)`."""
    zeros = torch.zeros(mask.shape[0], 1, rows, mask.shape[1], dtype=torch.float64)
    return zeros.masked_fill(~mask[:, None, None], torch.finfo(torch.float64).min)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_shared_keys_equal_reference_and_repeated_keys(implementation: str, masked: bool) -> None:
    query = states(B * N_PER, T, D)
    key, value = (split_heads(states(B, N, D, seed=seed), H) for seed in (1, 2))
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]]) if masked else None
    given = None if mask is None else additive_mask(mask, N_PER * T)
    context, weights = attend(AttentionModule(implementation), query, key, value, given, H)
    expected, attentions = attention_reference(query, key, value, mask)
    torch.testing.assert_close(context, expected)
    if implementation == "eager":
        torch.testing.assert_close(weights, attentions)
    repeated = attend(
        AttentionModule(implementation),
        query,
        key.repeat_interleave(N_PER, 0),
        value.repeat_interleave(N_PER, 0),
        None if mask is None else additive_mask(mask.repeat_interleave(N_PER, 0), T),
        H,
    )[0]
    torch.testing.assert_close(context, repeated)


def test_gradients_of_shared_keys_are_summed() -> None:
    query, key, value = states(B * N_PER, T, D), states(B, H, N, D // H, seed=1), states(B, H, N, D // H, seed=2)
    key.requires_grad_()
    module = AttentionModule("sdpa")
    attend(module, query, key, value, None, H)[0].square().sum().backward()
    many = key.detach().repeat_interleave(N_PER, 0).requires_grad_()
    attend(module, query, many, value.repeat_interleave(N_PER, 0), None, H)[0].square().sum().backward()
    torch.testing.assert_close(key.grad, many.grad.unflatten(0, (B, N_PER)).sum(1))


def test_indivisible_sharing_raises() -> None:
    key = states(B, H, N, D // H)
    with pytest.raises(ValueError, match="5 text rows cannot share the hidden states of 2 images"):
        attend(AttentionModule("sdpa"), states(5, T, D), key, key, None, H)


def test_dropout_in_training_only() -> None:
    module, query, key = AttentionModule("sdpa"), states(B, T, D), states(B, H, N, D // H)
    without_dropout = attend(module, query, key, key, None, H, dropout=0.9)[0]
    torch.testing.assert_close(without_dropout, attend(module, query, key, key, None, H)[0])
    module.train()
    assert not torch.allclose(attend(module, query, key, key, None, H, dropout=0.9)[0], without_dropout)


def tiny_bert(**options: object) -> LavisBertModel:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "initializer_range": 0.3,
        **options,
    }
    return LavisBertModel(LavisBertConfig(**settings)).eval()


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("cross", [None, "all", "padded"])
@pytest.mark.parametrize("implementation", ["sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_implementations_agree_in_the_text_encoder(
    implementation: str, causal: bool, padded: bool, cross: str | None
) -> None:
    model = tiny_bert()
    ids = torch.arange(1, 25).view(4, 6)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0
        mask[2, 1:] = 0
    call = {"input_ids": ids, "attention_mask": mask, "causal": causal}
    if cross:
        call["encoder_hidden_states"] = torch.randn(2, 7, 32)
    if cross == "padded":
        call["encoder_attention_mask"] = torch.tensor([[1] * 7, [1] * 3 + [0] * 4])
    results = {}
    changed = {**call, "input_ids": torch.cat([ids[:, :3], ids[:, 3:].flip(1)], dim=1)}
    with torch.no_grad():
        for name in ("eager", implementation):
            model.set_attn_implementation(name)
            results[name] = model(**call).last_hidden_state
        torch.testing.assert_close(results[implementation], results["eager"], atol=2e-5, rtol=1e-4)
        if causal:  # later tokens do not influence earlier ones
            earlier = model(**changed).last_hidden_state[:, :3]
            torch.testing.assert_close(earlier, results["eager"][:, :3], atol=2e-5, rtol=1e-4)


def test_a_compiled_graph_computes_as_many_rows_as_there_are() -> None:
    """Under a compiler the largest group is unknown; rows stay linear in their number all the same."""
    model = tiny_bert()
    rows, images = 12, 4
    ids = torch.randint(1, 40, (rows, 6), generator=torch.Generator().manual_seed(0))
    call = {
        "input_ids": ids,
        "encoder_hidden_states": torch.randn(images, 7, 32),
        "encoder_attention_mask": torch.ones(images, 7, dtype=torch.long).tril(4),
        "encoder_index": torch.arange(rows) % 3,  # the last image has no text
    }
    shapes: list[tuple[int, ...]] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        for node in graph.graph.nodes:
            if node.target is torch.nn.functional.scaled_dot_product_attention:
                shapes.append(tuple(node.args[0].meta["example_value"].shape))
        return graph.forward

    with torch.no_grad():
        expected = model(**call).last_hidden_state
        torch.compiler.reset()
        actual = torch.compile(model, backend=backend, fullgraph=True)(**call).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
    assert len(shapes) == 4 and {shape[0] for shape in shapes} == {rows}
