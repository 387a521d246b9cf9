# SPDX-License-Identifier: Apache-2.0
"""Strict accounting: where each weight of a model comes from, and what becomes of each weight of a checkpoint.

A plan is made from names, shapes and equalities alone, before anything is written. Every source is used once or
listed with the reason it is dropped; every target is filled once or listed with what it starts from. Anything else is
an error that names the weights.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeling_lavis.hub.families import (
    TWIN_SUFFIX,
    Architecture,
    Drop,
    Family,
    Fresh,
    Initialiser,
    Resizer,
    module_of,
    resize_square,
)
from modeling_lavis.hub.key_maps import matches

_SECOND_NAME = "second name of a tensor that the model ties, equal to the first"


class AccountingError(ValueError):
    """A checkpoint and a model that do not fit together; the message names the weights."""


@dataclass(frozen=True)
class Filled:
    """A target that gets its value from the checkpoint.

    Args:
        source: name in the checkpoint.
        resized_from: shape before the positions were resized, or `None` when the tensor is taken as it is.
    """

    source: str
    resized_from: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Initialised:
    """A target that the checkpoint does not have.

    Args:
        how: what it starts from, in words.
        copy_of: target whose value it copies, or `None`.
        initialise: makes the value when nothing is copied.
    """

    how: str
    copy_of: str | None = None
    initialise: Initialiser | None = None


@dataclass
class Plan:
    """The outcome of the accounting, in our names (targets) and the checkpoint's (sources).

    Args:
        targets: meta tensors of what is to be written; of tied names only one is among them.
        tied: other names of a target's tensor, which are not written.
        filled: targets with a value from the checkpoint.
        initialised: targets without.
        dropped: sources that are left out, with the reason.
        resize: how tables of positions get another shape.
    """

    targets: dict[str, Tensor]
    tied: dict[str, str]
    filled: dict[str, Filled] = field(default_factory=dict)
    initialised: dict[str, Initialised] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    resize: Resizer = resize_square

    def dtype(self, name: str, sources: Mapping[str, Tensor]) -> torch.dtype:
        """The dtype of one target's value."""
        if name in self.filled:
            own = sources[self.filled[name].source].dtype
            # parity: positions are resized in float32 and stay so, also where the tower is in half precision
            return own if self.filled[name].resized_from is None else torch.promote_types(own, torch.float32)
        copied = self.initialised[name].copy_of
        return self.targets[name].dtype if copied is None else self.dtype(copied, sources)

    def tensor(self, name: str, sources: Mapping[str, Tensor], config: Any) -> Tensor:
        """The value of one target; mapped from the checkpoint wherever it can be taken as it is."""
        if name in self.filled:
            tensor = sources[self.filled[name].source]
            if self.filled[name].resized_from is not None:
                tensor = self.resize(name, tensor.to(self.dtype(name, sources)), tuple(self.targets[name].shape))
            return tensor
        origin = self.initialised[name]
        if origin.copy_of is not None:
            return self.tensor(origin.copy_of, sources, config)
        if origin.initialise is None:
            raise AccountingError(f"{name} has neither a source nor a first value; its family's table must name one.")
        # The seed comes from the name, so that converting again gives the same file whatever else is fresh.
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return origin.initialise(name, tuple(self.targets[name].shape), config, generator)


def targets_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that a model saves, and the names under which tied ones occur a second time.

    Returns:
        Tensors by the name they are saved under, and, for every other name of such a tensor, that name.
    """
    variables = model.state_dict(keep_vars=True)
    state = {name: value.detach() for name, value in variables.items()}
    owners = {name: id(value) for name, value in variables.items()}
    second_names = set(getattr(model, "all_tied_weights_keys", None) or {})
    saved_as: dict[int, str] = {}
    for name in sorted(state, key=lambda name: name in second_names):  # stable: first names keep their order
        saved_as.setdefault(owners[name], name)
    targets = {name: state[name] for name in state if saved_as[owners[name]] == name}
    tied = {name: saved_as[owners[name]] for name in state if name not in targets}
    return targets, tied


def make_plan(
    family: Family,
    architecture: str,
    source_architecture: str,
    sources: Mapping[str, Tensor],
    model: nn.Module,
    resize_allowed: bool,
    reset: Mapping[str, str] | None = None,
) -> Plan:
    """Account for every weight of a checkpoint and of a model.

    Args:
        family: table of facts.
        architecture: what is made.
        source_architecture: what the checkpoint is.
        sources: its weights.
        model: the model to fill, on the meta device.
        resize_allowed: whether another image resolution was asked for, so that positions may be resized.
        reset: buffers that start anew whatever the checkpoint says, with the reason; the family's by default.

    Returns:
        The plan.

    Raises:
        AccountingError: something is missing, left over, of another shape, filled twice, or differs between two
            names of what should be one tensor.
    """
    reset = family.reset if reset is None else reset
    return _Accountant(family, architecture, source_architecture, sources, model, resize_allowed, reset).run()


class _Accountant:
    def __init__(
        self,
        family: Family,
        architecture: str,
        source_architecture: str,
        sources: Mapping[str, Tensor],
        model: nn.Module,
        resize_allowed: bool,
        reset: Mapping[str, str],
    ) -> None:
        self.family = family
        self.name, self.source_name = architecture, source_architecture
        self.to: Architecture = family.architectures[architecture]
        self.of: Architecture = family.architectures[source_architecture]
        self.transfer = architecture != source_architecture
        self.sources = sources
        self.resize_allowed = resize_allowed
        self.reset = reset
        targets, tied = targets_of(model)
        self.plan = Plan(targets, tied, resize=family.resize_positions)
        self.target_modules = {module_of(name) for name in (*targets, *tied)}
        rows = self.to.transfer_renames.get(source_architecture, ())
        self.key_map = family.key_map_of(source_architecture).preceded_by(rows)
        self.leftovers = self._leftovers_of_twins()
        self.problems: dict[str, list[str]] = {}

    def run(self) -> Plan:
        self._check_twins_complete()
        for source in self.sources:
            self._place(source)
        for target in self.plan.targets:
            if target not in self.plan.filled:
                self._initialise(target)
        if self.problems:
            raise AccountingError(self._explain())
        return self.plan

    # Sources

    def _place(self, source: str) -> None:
        for drop in (*self.family.drops, *self.to.drops.get(self.source_name, ()), *self.leftovers):
            if matches(drop.pattern, source):
                self.plan.dropped[source] = drop.reason
                return
        names = self.key_map.forward(source)
        known = all(self.plan.tied.get(name, name) in self.plan.targets for name in names)
        if known and names[0] in self.reset:
            self.plan.dropped[source] = self.reset[names[0]]
        elif known:
            for name in names:
                self._fill(self.plan.tied.get(name, name), source, is_second_name=name in self.plan.tied)
        elif reason := self._why_not_needed(source, names[0]):
            self.plan.dropped[source] = reason
        else:
            self._problem("not part of the model", f"{source} {_shape(self.sources[source])}")

    def _why_not_needed(self, source: str, target: str) -> str | None:
        module = module_of(source)
        if module_of(target) in self.target_modules or not {module, target} & self.of.all_modules:
            return None
        kind = "contrastive queue" if target in self.of.queues else f"{module} of {self.source_name}"
        if module.endswith(TWIN_SUFFIX):
            kind = "momentum twin"
        switched_off = {module, target} & self.to.all_modules
        return f"{kind}, switched off" if switched_off else f"{kind}, which {self.name} has not"

    def _fill(self, target: str, source: str, is_second_name: bool) -> None:
        present = self.plan.filled.get(target)
        if present is None:
            self._take(target, source)
        elif target in self.plan.tied.values() and self._same_shape(present.source, source):
            if torch.equal(self.sources[present.source], self.sources[source]):
                # The first name of a tied tensor is the one that is reported as used.
                if is_second_name:
                    self.plan.dropped[source] = _SECOND_NAME
                else:
                    self.plan.dropped[present.source] = _SECOND_NAME
                    self.plan.filled[target] = Filled(source, present.resized_from)
            else:
                self._problem("one tensor in the model, but different in the file", f"{present.source} and {source}")
        else:
            self._problem("given twice", f"{target} by {present.source} and {source}")

    def _same_shape(self, first: str, second: str) -> bool:
        return self.sources[first].shape == self.sources[second].shape

    def _take(self, target: str, source: str) -> None:
        have, want = tuple(self.sources[source].shape), tuple(self.plan.targets[target].shape)
        given, expected = self.sources[source].dtype, self.plan.targets[target].dtype
        if given.is_floating_point != expected.is_floating_point or given.is_complex:
            self._problem("of another kind of numbers", f"{source} of {given}, expected {expected}")
        elif have == want:
            self.plan.filled[target] = Filled(source)
        elif self.family.is_position_table(target) and self.resize_allowed and have[-1] == want[-1]:
            self.plan.filled[target] = Filled(source, resized_from=have)
        elif target in self.family.resizable_queues:
            self.plan.dropped[source] = f"queue of shape {have}, another size was asked for"
        else:
            self._problem("of another shape", f"{source} {have}, expected {want}")

    # Targets

    def _names_that_count(self, drops: Iterable[Drop]) -> list[str]:
        drops = list(drops)
        return [name for name in self.sources if not any(matches(drop.pattern, name) for drop in drops)]

    def _leftovers_of_twins(self) -> tuple[Drop, ...]:
        """Second names of tied twins stay in files whose trainer left the twins out; alone they are of no use."""
        reason = "left over from a momentum twin that the file does not have"
        leftovers = tuple(Drop(pattern, reason) for pattern in self.family.leftovers)
        names = self._names_that_count((*self.family.drops, *leftovers))
        return () if any(module_of(name).endswith(TWIN_SUFFIX) for name in names) else leftovers

    def _check_twins_complete(self) -> None:
        """Momentum twins are in a file all together or not at all."""
        names = self._names_that_count((*self.family.drops, *self.leftovers))
        present = {name for name in names if module_of(name).removesuffix(TWIN_SUFFIX) in self.of.twins}
        twins = {name for name in present if module_of(name).endswith(TWIN_SUFFIX)}
        if not twins or not self.to.twins:
            return
        for name in sorted(present - twins):
            module, _, rest = name.partition(".")
            if f"{module}{TWIN_SUFFIX}.{rest}" not in twins:
                self._problem("missing from the file", f"{module}{TWIN_SUFFIX}.{rest}")

    def _initialise(self, target: str) -> None:
        module, _, rest = target.partition(".")
        if module.endswith(TWIN_SUFFIX) and self.to.twins:
            online = f"{module.removesuffix(TWIN_SUFFIX)}.{rest}" if rest else module.removesuffix(TWIN_SUFFIX)
            online = self.plan.tied.get(online, online)
            if online in self.plan.targets:
                self.plan.initialised[target] = Initialised("momentum twin, copy of the online weights", copy_of=online)
                return
        for fresh in self.to.fresh:
            if matches(fresh.pattern, target) and self._may_be_fresh(fresh):
                self.plan.initialised[target] = Initialised(fresh.how, initialise=fresh.initialise)
                return
        self._problem("missing from the file", f"{self.key_map.backward(target)} {_shape(self.plan.targets[target])}")

    def _may_be_fresh(self, fresh: Fresh) -> bool:
        return self.transfer or not fresh.only_in_transfer

    # Errors

    def _problem(self, kind: str, what: str) -> None:
        self.problems.setdefault(kind, []).append(what)

    def _explain(self) -> str:
        what = self.source_name if not self.transfer else f"{self.source_name}, to be turned into {self.name}"
        lines = [f"The checkpoint, recognised as {what}, does not fit {self.to.model_class}; nothing was written."]
        for kind, names in self.problems.items():
            shown = "".join(f"\n    {name}" for name in names[:20])
            more = f"\n    and {len(names) - 20} more" if len(names) > 20 else ""
            lines.append(f"  {kind} ({len(names)}):{shown}{more}")
        lines.append("  Check that the file is complete and of that architecture, and that --config describes it.")
        return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def group_by_reason(reasons: Iterable[tuple[str, str]], key: Callable[[str], str] = module_of) -> dict[str, list[str]]:
    """Group (name, reason) pairs for a short report: reason -> distinct modules (or what `key` says)."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons:
        shown = groups.setdefault(reason, [])
        if key(name) not in shown:
            shown.append(key(name))
    return groups
