"""Contract of every model class: the cases under test, and the helpers of the contract tests.

Each family defines [`Case`]s; the test classes in `contract_saving`, `contract_forward`, `contract_training` and
`contract_auto` run over them. See `test_modeling_lavis_blip_contract` for an example.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

#: text options that make training independent of random draws
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Enable activation checkpointing, which older versions of transformers call gradient checkpointing."""
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{kind}_checkpointing_enable")()
    assert getattr(model, f"is_{kind}_checkpointing")


@dataclass(frozen=True)
class Case:
    """
    A model class with a tiny configuration.

    Args:
        model_class: the class under test.
        config: returns a configuration; keyword arguments override top-level fields, `text` and `vision` are
            dictionaries that override fields of the sub-configurations.
        inputs: `inputs(batch)` returns the inputs of inference; `padded=False` leaves out padding.
        training: `training(batch)` returns the inputs that a loss needs in addition.
        modes: options of `forward` for each kind of inference, by name.
        required: inputs without which the class raises.
        variants: further configuration options under which the class must train.
        auto_classes: names of the Auto classes that resolve to the class, besides `AutoModel`.
        needs_negatives: whether training draws in-batch negatives and therefore needs two different images.
        training_compiles: whether the forward pass with a loss compiles to one graph.
        frozen: top-level modules that are not trained.
        float32_modules: top-level modules that stay in float32 when the model is loaded in half precision.
        returns_image_tokens: whether `image_embeds` has one row per image token.
        pixel_name: name of the image or video input.
    """

    model_class: type[PreTrainedModel]
    config: Callable[..., PreTrainedConfig]
    inputs: Callable[..., dict[str, Tensor]]
    training: Callable[..., dict[str, Any]]
    modes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"plain": {}})
    required: tuple[str, ...] = ("pixel_values", "input_ids")
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    auto_classes: tuple[str, ...] = ()
    needs_negatives: bool = False
    training_compiles: bool = True
    frozen: tuple[str, ...] = ()
    float32_modules: tuple[str, ...] = ("temp", "image_queue", "text_queue")
    returns_image_tokens: bool = True
    pixel_name: str = "pixel_values"

    @property
    def name(self) -> str:
        return self.model_class.__name__

    def model(self, seed: int = 0, **options: Any) -> PreTrainedModel:
        """A new model in evaluation mode, without dropout, with perturbed biases and norms."""
        torch.manual_seed(seed)
        options = {**options, "text": {**NO_DROPOUT, **options.get("text", {})}}
        model = self.model_class(self.config(**options)).eval()
        perturb(model)
        return model

    def calls(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and inputs of every mode, including the one with a loss, for a batch of three."""
        for name, options in self.modes.items():
            yield name, {**self.inputs(3), **options}
        yield "loss", {**self.inputs(3), **self.training(3)}


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """Add noise to all floating-point parameters, so that an ignored or mixed-up weight changes the output."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name != "temp" and parameter.is_floating_point():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


class Contract:
    """Base of the contract tests, parametrized over `cases`."""

    cases: tuple[Case, ...] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=[case.name for case in self.cases])


def tensors_of(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors of an output by name, without caches."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, Cache):
        return {}
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (tuple, list)):
        parts = enumerate(value)
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, part in parts:
        found.update(tensors_of(part, f"{name}.{key}" if name else str(key)))
    return found


def assert_same(actual: Any, expected: Any, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    """Outputs have tensors of the same names with close values."""
    left, right = tensors_of(actual), tensors_of(expected)
    assert left.keys() == right.keys()
    assert left, "there is nothing to compare"
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_state(actual: nn.Module, expected: nn.Module) -> None:
    """State dicts are equal in keys, dtypes and values."""
    left, right = actual.state_dict(), expected.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert torch.equal(left[name], right[name]), name


def clone_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict that later updates of the model do not change."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed_names(model: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Keys of the state dict whose values differ from `before`."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def momentum_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of online parameters and of the momentum parameters that follow them: `a.b` and `a_m.b`."""
    names = dict(model.named_parameters(remove_duplicate=False))
    pairs = []
    for name in names:
        head, dot, rest = name.partition(".")
        if head.endswith("_m"):
            pairs.append((head.removesuffix("_m") + dot + rest, name))
    return pairs


__all__ = [
    "NO_DROPOUT",
    "Case",
    "Contract",
    "assert_same",
    "assert_same_state",
    "changed_names",
    "clone_state_dict",
    "momentum_pairs",
    "perturb",
    "tensors_of",
]
