"""Replays a recorded training objective: losses, module outputs (taps), gradients, state, and a step of SGD.

Recorded names: `<scope>.*` the first forward pass, `<scope>.after.*` the state after it, `<scope>.grad*` its gradients,
`<scope>.step2.*` a second forward pass after one step of SGD.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from .draws import recorded_masks, recorded_negatives
from .ledger import Ledger
from .names import Names

LEARNING_RATE = 0.05

Forward = Callable[[nn.Module], ModelOutput]
Record = Callable[[ModelOutput], Mapping[str, torch.Tensor]]


@contextmanager
def recorded_taps(
    model: nn.Module, ledger: Ledger, names: Names, scope: str, others: frozenset[str] = frozenset()
) -> Iterator[None]:
    """Compare outputs of modules, in call order, with `<scope>.tap.<module>.<call>`.

    Modules in `others` are called differently here; the replay compares their outputs itself.
    """
    prefix = f"{scope}.tap."
    recorded_calls: dict[str, int] = defaultdict(int)
    for name in ledger.golden.below(prefix):
        if (module := name[len(prefix) :].rsplit(".", 1)[0]) not in others:
            recorded_calls[module] += 1
    calls: dict[str, list[torch.Tensor]] = {module: [] for module in recorded_calls}

    def keep(store: list[torch.Tensor]) -> Callable[..., None]:
        return lambda module, arguments, output: store.append(_states(output).detach().clone())

    hooks = [
        model.get_submodule(names.module(module)).register_forward_hook(keep(calls[module]))
        for module in recorded_calls
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for module, count in recorded_calls.items():
        ledger.check(f"{prefix}{module}: {len(calls[module])} calls, {count} recorded", len(calls[module]) == count)
        for number, output in enumerate(calls[module][:count]):
            ledger.compare(f"{prefix}{module}.{number}", output)


def _states(output: Any) -> torch.Tensor:
    """The tensor that a tap records: the output itself, its logits, or its hidden states."""
    if isinstance(output, torch.Tensor):
        return output
    return output["logits"] if "logits" in output else output["last_hidden_state"]


def compare_recorded(ledger: Ledger, scope: str, values: Mapping[str, torch.Tensor]) -> None:
    """Compare those `values` (names below `scope`) that are recorded."""
    for name, value in values.items():
        if ledger.records(f"{scope}.{name}"):
            ledger.compare(f"{scope}.{name}", value)


def losses(output: ModelOutput) -> dict[str, torch.Tensor]:
    """`loss` and its components."""
    return {name: value for name, value in output.items() if name.startswith("loss") and value is not None}


def compare_state(model: nn.Module, ledger: Ledger, names: Names, scope: str) -> None:
    """Compare queues, pointer, temperature and momentum encoders with `<scope>.after.*`."""
    prefix = f"{scope}.after."
    state = model.state_dict()
    for name in ledger.golden.below(prefix):
        key = names.ours(name[len(prefix) :])
        if key not in state:
            ledger.check(f"{name}: the model has no {key}", False)
            continue
        ledger.compare(name, state[key])


def compare_gradients(model: nn.Module, ledger: Ledger, names: Names, scope: str) -> None:
    """Compare three full gradients, the gradient norm per top-level module, and the parameters without gradient."""
    golden = ledger.golden
    parameters = {names.theirs(name): p for name, p in model.named_parameters() if p.requires_grad}
    compared = []
    for name in golden.below(f"{scope}.grad."):
        parameter = name[len(f"{scope}.grad.") :]
        compared.append(parameter)
        gradient = parameters[parameter].grad if parameter in parameters else None
        ledger.compare(name, gradient)
    if ledger.records(f"{scope}.grad_names"):
        ledger.compare_value(f"{scope}.grad_names", compared)

    for name in golden.below(f"{scope}.grad_norm."):
        module = name[len(f"{scope}.grad_norm.") :]
        own = [p.grad for key, p in parameters.items() if key.split(".")[0] == module and p.grad is not None]
        total = sum((g.double().square().sum() for g in own), torch.zeros((), dtype=torch.float64))
        ledger.compare(name, total.sqrt())

    if ledger.records(f"{scope}.no_grad"):
        # Only parameters of the original model: a head for several architectures may have more.
        original_keys = golden.checkpoint_keys - set(golden.load["unexpected_keys"]) | set(golden.load["missing_keys"])
        sizes = {key: 0.0 if p.grad is None else p.grad.abs().max().item() for key, p in parameters.items()}
        # The softmax over a single query has no gradient: exactly 0 in one implementation, rounding errors in another.
        recorded, rounding = set(golden.strings[f"{scope}.no_grad"]), 1e-6 * max(sizes.values(), default=0.0)
        without_gradient = [
            key
            for key, size in sizes.items()
            if key in original_keys and size <= (rounding if key in recorded else 0.0)
        ]
        ledger.compare_value(f"{scope}.no_grad", sorted(without_gradient))


def replay_training(
    model: nn.Module,
    ledger: Ledger,
    names: Names,
    forward: Forward,
    record: Record,
    scope: str = "train",
    other_taps: frozenset[str] = frozenset(),
) -> None:
    """Run the objective in evaluation mode, compare all entries below `scope`, then take the recorded step of SGD.

    `forward` runs the objective once; `record` returns its outputs by their recorded names, without the scope.
    """
    model.eval()
    model.zero_grad(set_to_none=True)
    with (
        recorded_negatives(model, ledger, scope),
        recorded_masks(model, ledger, scope),
        recorded_taps(model, ledger, names, scope, other_taps),
    ):
        output = forward(model)
    compare_recorded(ledger, scope, {**losses(output), **record(output)})
    compare_state(model, ledger, names, scope)
    output.loss.backward()
    compare_gradients(model, ledger, names, scope)

    second = f"{scope}.step2"
    if not ledger.golden.below(f"{second}."):
        return
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=LEARNING_RATE).step()
    with torch.no_grad(), recorded_negatives(model, ledger, second), recorded_masks(model, ledger, second):
        output = forward(model)
    compare_recorded(ledger, second, {**losses(output), **record(output)})
    compare_state(model, ledger, names, second)


def pick(output: ModelOutput | Mapping[str, Any] | None, *names: str) -> dict[str, Any]:
    """The outputs in `names` that are not None."""
    return {name: output[name] for name in names if output is not None and output.get(name) is not None}
