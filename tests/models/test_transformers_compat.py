"""The cache of keys and values by both of its names."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from modeling_lavis.models.configuration_text import LavisBertConfig
from modeling_lavis.models.outputs import LavisGenerationOutput, LavisPreTrainingOutput
from modeling_lavis.models.text_bert import LavisBertModel
from modeling_lavis.models.transformers_compat import CACHE_NAME, CACHE_NAMES


def tiny_model() -> LavisBertModel:
    config = LavisBertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    return LavisBertModel(config)


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_model_accepts_both_cache_names(name: str) -> None:
    model = tiny_model().eval()
    ids = torch.tensor([[2, 5, 6, 7]])
    cache = DynamicCache(config=model.config)
    whole = model(ids, causal=True).last_hidden_state
    model(ids[:, :3], causal=True, **{name: cache})
    output = model(ids[:, 3:], causal=True, **{name: cache})
    assert torch.allclose(output.last_hidden_state, whole[:, 3:], atol=1e-6)
    assert output[CACHE_NAME] is cache


def test_two_caches_raise() -> None:
    model = tiny_model()
    caches = {name: DynamicCache(config=model.config) for name in CACHE_NAMES}
    with pytest.raises(TypeError, match="two names of one argument"):
        model(torch.tensor([[2, 5]]), causal=True, **caches)


@pytest.mark.parametrize("output_class", [LavisGenerationOutput, LavisPreTrainingOutput])
def test_outputs_with_cache_field(output_class: type) -> None:
    cache = DynamicCache()
    output = output_class(loss=torch.zeros(()), **{CACHE_NAME: cache})
    assert list(output) == ["loss", CACHE_NAME]
    assert output.past_key_values is cache
    assert output_class().to_tuple() == ()


def test_activation_checkpointing_does_not_fill_the_cache() -> None:
    model = tiny_model().train()
    model.gradient_checkpointing_enable()
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[2, 5, 6]]), causal=True, past_key_values=cache).last_hidden_state.sum().backward()
    assert cache.get_seq_length() == 0
