"""What every model class is held to: the table of cases, and the tools that the contract tests share.

A family gives a table of [`Case`]s; the classes of tests in `contract_saving`, `contract_forward`, `contract_training`
and `contract_auto` run over it. See `test_lavis_blip_contract` for how they are put together.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

#: numbers of dropout and stochastic depth that make training repeatable whatever the order of random draws
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Case:
    """
    One model class with tiny settings.

    Args:
        model_class: the class.
        config: makes a configuration; keyword arguments override top-level fields, `text` and `vision` are
            dictionaries that override fields of the parts.
        inputs: `inputs(batch)` makes what inference takes; with `padded=False` without any padding.
        training: `training(batch)` makes what is added to the inputs to get a loss.
        modes: options of `forward` for every kind of inference, by name.
        needed: inputs without which the class cannot run.
        variants: further settings of the configuration under which the class has to train.
        auto_classes: names of the Auto classes that find the class, `AutoModel` left out.
        pairs: whether training compares rows with each other, and therefore needs at least two.
        training_compiles: whether the forward with a loss is one graph.
        frozen: top-level modules that are not trained.
        exact: top-level modules that stay in float32 in half precision, and what they give with them.
        returns_image_tokens: whether `image_embeds` has one row per image token.
        pixels: name of the input that is seen.
    """

    model_class: type[PreTrainedModel]
    config: Callable[..., PreTrainedConfig]
    inputs: Callable[..., dict[str, Tensor]]
    training: Callable[..., dict[str, Any]]
    modes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"plain": {}})
    needed: tuple[str, ...] = ("pixel_values", "input_ids")
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    auto_classes: tuple[str, ...] = ()
    pairs: bool = False
    training_compiles: bool = True
    frozen: tuple[str, ...] = ()
    exact: tuple[str, ...] = ("temp", "image_queue", "text_queue")
    returns_image_tokens: bool = True
    pixels: str = "pixel_values"

    @property
    def name(self) -> str:
        return self.model_class.__name__

    def model(self, seed: int = 0, **options: Any) -> PreTrainedModel:
        """A freshly initialised model in evaluation mode, without dropout, whose biases and norms are no identities."""
        torch.manual_seed(seed)
        options = {**options, "text": {**NO_DROPOUT, **options.get("text", {})}}
        model = self.model_class(self.config(**options)).eval()
        shake(model)
        return model

    def calls(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Options of every mode, the one with a loss included, for a batch of three."""
        for name, options in self.modes.items():
            yield name, {**self.inputs(3), **options}
        yield "loss", {**self.inputs(3), **self.training(3)}


@torch.no_grad()
def shake(model: nn.Module) -> None:
    """Move all float weights a little, so that a weight that is left out or mixed up shows; twins follow."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name != "temp" and parameter.is_floating_point():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


class Contract:
    """Runs its tests over `cases`."""

    cases: tuple[Case, ...] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=[case.name for case in self.cases])


def tensors_of(value: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors of an output by name, the caches left out."""
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
    """The same tensors by name, close to each other."""
    left, right = tensors_of(actual), tensors_of(expected)
    assert left.keys() == right.keys()
    assert left, "there is nothing to compare"
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_state(actual: nn.Module, expected: nn.Module) -> None:
    """Equal parameters and buffers, in name, type and value."""
    left, right = actual.state_dict(), expected.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert torch.equal(left[name], right[name]), name


def state_copy(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, detached from what happens to the model."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed_names(model: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Names of the state dict whose values are others than `before`."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def twin_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of online parameters and their twins: `a.b` and `a_m.b`."""
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
    "shake",
    "state_copy",
    "tensors_of",
    "twin_pairs",
]
