"""Text encoder and decoder: modes, cache, shared image states, and equality with transformers' BERT."""

from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor
from transformers import BertConfig, BertModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from modeling_lavis.models.configuration_text import LavisBertConfig
from modeling_lavis.models.text_bert import LavisBertLMHeadModel, LavisBertModel, shared_pair_projections

SETTINGS: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}


def bert(head: bool = False, **options: Any) -> Any:
    torch.manual_seed(0)
    model = (LavisBertLMHeadModel if head else LavisBertModel)(LavisBertConfig(**{**SETTINGS, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return model


def texts(rows: int = 4, length: int = 6) -> dict[str, Tensor]:
    ids = torch.arange(rows * length).view(rows, length) % 45 + 1
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


# ---- against transformers ----


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_text_mode_equals_transformers_bert(padded: bool, causal: bool) -> None:
    model = bert()
    theirs = BertModel(
        BertConfig(
            **{**SETTINGS, "layer_norm_eps": 1e-12, "type_vocab_size": 1, "is_decoder": causal},
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    ).eval()
    own = {name: value for name, value in model.state_dict().items() if "crossattention" not in name}
    own["embeddings.token_type_embeddings.weight"] = torch.zeros(1, 24)
    missing, unexpected = theirs.load_state_dict(own, strict=False)
    assert not unexpected and all("position_ids" in name or "token_type_ids" in name for name in missing)
    call = texts()
    if not padded:
        call["attention_mask"] = torch.ones_like(call["input_ids"])
    expected = theirs(**call).last_hidden_state
    assert_near(model(**call, mode="text", causal=causal).last_hidden_state, expected)
    assert_near(model(**call, mode="multimodal", causal=causal).last_hidden_state, expected)


def test_token_type_embeddings_are_added_only_when_given() -> None:
    model = bert(type_vocab_size=2)
    call = texts()
    plain = model(**call).last_hidden_state
    zeros = model(**call, token_type_ids=torch.zeros_like(call["input_ids"])).last_hidden_state
    assert not torch.allclose(plain, zeros)
    with torch.no_grad():
        model.embeddings.token_type_embeddings.weight.zero_()
    assert_near(model(**call, token_type_ids=torch.zeros_like(call["input_ids"])).last_hidden_state, plain)


# ---- modes ----


def test_text_then_fusion_equals_multimodal() -> None:
    model = bert(fusion_layer=2)
    call, states = texts(), torch.randn(4, 5, 24)
    text = model(**call, mode="text").last_hidden_state
    fused = model(
        text_embeds=text, attention_mask=call["attention_mask"], encoder_hidden_states=states, mode="fusion"
    ).last_hidden_state
    assert_near(fused, model(**call, encoder_hidden_states=states).last_hidden_state)
    assert not torch.allclose(fused, model(**call).last_hidden_state)


def test_text_mode_ignores_images() -> None:
    model = bert()
    call = texts()
    assert_near(
        model(**call, encoder_hidden_states=torch.randn(4, 5, 24), mode="text").last_hidden_state,
        model(**call).last_hidden_state,
    )


def test_layers_below_the_fusion_layer_have_no_cross_attention() -> None:
    assert [hasattr(layer, "crossattention") for layer in bert(fusion_layer=2).encoder.layer] == [False, False, True]
    assert not any(hasattr(layer, "crossattention") for layer in bert(add_cross_attention=False).encoder.layer)
    assert bert(fusion_layer=0).config.num_text_layers == 0


def test_encoder_hidden_size() -> None:
    model = bert(encoder_hidden_size=10)
    assert model.encoder.layer[0].crossattention.self.key.in_features == 10
    assert model(**texts(), encoder_hidden_states=torch.randn(4, 5, 10)).last_hidden_state.shape == (4, 6, 24)


@pytest.mark.parametrize("streams", [1, 2])
def test_image_pairs(streams: int) -> None:
    model = bert(num_image_streams=streams, fusion_layer=1, merge_from_layer=2)
    first, second, call = torch.randn(4, 5, 24), torch.randn(4, 5, 24), texts()
    both = model(**call, encoder_hidden_states=(first, second)).last_hidden_state
    assert not torch.allclose(both, model(**call, encoder_hidden_states=(second, first)).last_hidden_state)
    assert not torch.allclose(both, model(**call, encoder_hidden_states=(first, first)).last_hidden_state)
    if streams == 1:
        same = model(**call, encoder_hidden_states=(first, first)).last_hidden_state
        assert_near(same, model(**call, encoder_hidden_states=first).last_hidden_state)


def test_merge_layer_of_two_image_streams() -> None:
    model = bert(num_image_streams=2, merge_from_layer=2)
    outputs = [layer.crossattention.output for layer in model.encoder.layer]
    assert [hasattr(output, "merge_layer") for output in outputs] == [False, False, True]
    first, second, residual = torch.randn(3, 2, 4, 24).unbind(0)
    for output in outputs[1:]:
        one, two = output.dense0(first), output.dense1(second)
        merged = (one + two) / 2
        if hasattr(output, "merge_layer"):
            merged = torch.cat([one, two], -1) @ output.merge_layer.weight.T + output.merge_layer.bias
        assert_near(output((first, second), residual), output.LayerNorm(merged + residual))


# ---- less computation ----


@pytest.mark.parametrize("implementation", ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_first_token_only(implementation: str) -> None:
    model = bert(fusion_layer=1)
    model.set_attn_implementation(implementation)
    states = torch.randn(2, 5, 24)
    calls: list[dict[str, Any]] = [
        {**texts(), "mode": "text"},
        {**texts(), "encoder_hidden_states": states},
        {**texts(), "causal": True},
        {"text_embeds": torch.randn(4, 6, 24), "encoder_hidden_states": states, "mode": "fusion"},
    ]
    with torch.no_grad():
        for call in calls:
            short = model(**call, first_token_only=True).last_hidden_state
            assert short.shape == (4, 1, 24)
            assert_near(short, model(**call).last_hidden_state[:, :1])


@pytest.mark.parametrize("padded", [False, True])
def test_encoder_index_equals_repeated_states(padded: bool) -> None:
    model = bert()
    states, index = torch.randn(3, 5, 24), torch.tensor([2, 0, 0, 1])
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1] * 4 + [0]]) if padded else None
    found = model(
        **texts(), encoder_hidden_states=states, encoder_attention_mask=mask, encoder_index=index
    ).last_hidden_state
    expected = model(
        **texts(),
        encoder_hidden_states=states[index],
        encoder_attention_mask=None if mask is None else mask[index],
    ).last_hidden_state
    assert_near(found, expected)


@pytest.mark.parametrize("padded", [False, True])
def test_shared_states_equal_repeated_ones(padded: bool) -> None:
    model = bert()
    states = torch.randn(2, 5, 24)
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0]]) if padded else None
    shared = model(**texts(), encoder_hidden_states=states, encoder_attention_mask=mask).last_hidden_state
    repeated = model(
        **texts(),
        encoder_hidden_states=states.repeat_interleave(2, 0),
        encoder_attention_mask=None if mask is None else mask.repeat_interleave(2, 0),
    ).last_hidden_state
    assert_near(shared, repeated)


def test_keys_of_images_are_projected_once() -> None:
    model = bert()
    sizes: list[tuple[int, ...]] = []
    for layer in model.encoder.layer:
        layer.crossattention.self.key.register_forward_hook(lambda m, args, out: sizes.append(tuple(args[0].shape)))
    model(**texts(), encoder_hidden_states=torch.randn(2, 5, 24), encoder_index=torch.tensor([0, 0, 1, 0]))
    assert sizes == [(2, 5, 24)] * 3


# ---- cache ----


@pytest.mark.parametrize("kind", ["dynamic", "static", "self only"])
@pytest.mark.parametrize("padded", [False, True])
def test_cache_equals_no_cache(kind: str, padded: bool) -> None:
    model = bert(head=True)
    config = model.config
    call = texts()
    mask = call["attention_mask"].flip(1) if padded else None  # prompts are padded on the left
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    states = torch.randn(2, 5, 24)
    with torch.no_grad():
        expected, _ = model(
            call["input_ids"], attention_mask=mask, position_ids=positions, encoder_hidden_states=states
        )
        own = StaticCache(config=config, max_cache_len=10) if kind == "static" else DynamicCache(config=config)
        cache = own if kind == "self only" else EncoderDecoderCache(own, DynamicCache(config=config))
        found = []
        for start, stop in ((0, 3), (3, 4), (4, 6)):
            logits, _ = model(
                call["input_ids"][:, start:stop],
                attention_mask=None if mask is None else mask[:, :stop],
                position_ids=None if positions is None else positions[:, start:stop],
                encoder_hidden_states=states,
                past_key_values=cache,
            )
            found.append(logits)
    real = torch.ones(4, 6, dtype=torch.bool) if mask is None else mask.bool()
    assert_near(torch.cat(found, dim=1)[real], expected[real])
    assert int(own.get_seq_length()) == 6


def test_logits_to_keep() -> None:
    model = bert(head=True)
    logits, _ = model(**texts())
    assert_near(model(**texts(), logits_to_keep=2)[0], logits[:, -2:])
    assert_near(model(**texts(), logits_to_keep=torch.tensor([0, 3]))[0], logits[:, [0, 3]])


def test_causal_argument() -> None:
    model = bert(head=True)
    call = texts()
    changed = call["input_ids"].clone()
    changed[:, -1] = 7
    assert_near(model(changed)[0][:, :-1], model(call["input_ids"])[0][:, :-1])
    assert not torch.allclose(model(changed, causal=False)[0][:, 0], model(call["input_ids"], causal=False)[0][:, 0])


# ---- invalid inputs ----


def test_invalid_inputs_raise() -> None:
    model = bert()
    call = texts()
    with pytest.raises(ValueError, match="Exactly one of input_ids, inputs_embeds and text_embeds"):
        model()
    with pytest.raises(ValueError, match="Exactly one"):
        model(call["input_ids"], inputs_embeds=torch.randn(4, 6, 24))
    with pytest.raises(ValueError, match="mode is 'both'"):
        model(**call, mode="both")
    with pytest.raises(ValueError, match="20 tokens.*16 position embeddings"):
        model(torch.ones(1, 20, dtype=torch.long))
    with pytest.raises(ValueError, match="input_ids.*dtype torch.float32"):
        model(call["input_ids"].float())
    with pytest.raises(ValueError, match="attention_mask of shape"):
        model(call["input_ids"], attention_mask=call["attention_mask"][:, 1:])
    with pytest.raises(ValueError, match="4 text rows cannot share the hidden states of 3"):
        model(**call, encoder_hidden_states=torch.randn(3, 5, 24))
    with pytest.raises(StrictDataclassClassValidationError, match="fusion_layer 5 is out of range"):
        LavisBertConfig(**SETTINGS, fusion_layer=5)
    with pytest.raises(StrictDataclassClassValidationError, match="is not divisible by num_attention_heads 5"):
        LavisBertConfig(**{**SETTINGS, "num_attention_heads": 5})


def test_odd_number_of_shared_layers_raises() -> None:
    config = LavisBertConfig(num_hidden_layers=5, fusion_layer=2)
    with pytest.raises(ValueError, match="do not form pairs"):
        shared_pair_projections(config)
