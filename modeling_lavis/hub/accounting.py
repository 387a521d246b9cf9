# SPDX-License-Identifier: Apache-2.0
"""Strict accounting of weights: the origin of each weight of a model, and the use of each weight of a checkpoint.

A plan is made from keys, shapes and comparisons of tied weights alone, before anything is written. Each source (a
weight of the checkpoint) is used once or dropped for a listed reason; each target (a weight of the model) is filled
once or initialized in a listed way. Anything else raises an error that names the weights.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeling_lavis.hub.families import (
    MOMENTUM_SUFFIX,
    Architecture,
    Drop,
    Family,
    Initializer,
    NewWeights,
    Resizer,
    module_of,
    resize_square,
)
from modeling_lavis.hub.key_maps import matches
from modeling_lavis.hub.zoo import model_class_of

_TIED = "tied weight, equal to the one that is used"


class AccountingError(ValueError):
    """Raised if a checkpoint and a model do not fit together. The message names the weights."""


@dataclass(frozen=True)
class Filled:
    """
    A target that is filled from the checkpoint.

    Args:
        source (`str`): key in the checkpoint.
        resized_from (`tuple[int, ...]`, *optional*): shape of the position embeddings before they are resized. `None`
            if the tensor is copied unchanged.
    """

    source: str
    resized_from: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Initialized:
    """
    A target that is missing from the checkpoint.

    Args:
        how (`str`): description of the initial value.
        copy_of (`str`, *optional*): target whose value is copied.
        initialize (`Callable`, *optional*): function that returns the initial value. Used if `copy_of` is `None`.
    """

    how: str
    copy_of: str | None = None
    initialize: Initializer | None = None


@dataclass
class Plan:
    """
    The result of the accounting, with targets by our keys and sources by the original keys.

    Args:
        targets (`dict[str, torch.Tensor]`): meta tensors to write. Of tied weights it contains only the one that is
            saved.
        tied (`dict[str, str]`): the other keys of tied weights, which are not written, and the target of each.
        filled (`dict[str, Filled]`, *optional*, defaults to `{}`): targets that are filled from the checkpoint.
        initialized (`dict[str, Initialized]`, *optional*, defaults to `{}`): targets that are not.
        dropped (`dict[str, str]`, *optional*, defaults to `{}`): sources that are dropped, with the reason.
        resize (`Callable`, *optional*, defaults to [`~modeling_lavis.hub.families.resize_square`]): function that
            resizes position embeddings.
    """

    targets: dict[str, Tensor]
    tied: dict[str, str]
    filled: dict[str, Filled] = field(default_factory=dict)
    initialized: dict[str, Initialized] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    resize: Resizer = resize_square

    def dtype(self, name: str, sources: Mapping[str, Tensor]) -> torch.dtype:
        """Return the dtype of a target's value."""
        if name in self.filled:
            own = sources[self.filled[name].source].dtype
            # parity: resized position embeddings are float32, even if the encoder is in half precision
            return own if self.filled[name].resized_from is None else torch.promote_types(own, torch.float32)
        copied = self.initialized[name].copy_of
        return self.targets[name].dtype if copied is None else self.dtype(copied, sources)

    def tensor(self, name: str, sources: Mapping[str, Tensor], config: Any) -> Tensor:
        """
        Return the value of a target. It stays memory-mapped from the checkpoint wherever it is copied unchanged.

        Raises:
            AccountingError: If the target has neither a source nor an initial value.
        """
        if name in self.filled:
            tensor = sources[self.filled[name].source]
            if self.filled[name].resized_from is not None:
                tensor = self.resize(name, tensor.to(self.dtype(name, sources)), tuple(self.targets[name].shape))
            return tensor
        origin = self.initialized[name]
        if origin.copy_of is not None:
            return self.tensor(origin.copy_of, sources, config)
        if origin.initialize is None:
            raise AccountingError(f"{name} has neither a source nor an initial value. Add one to its family's table.")
        # Seeding by the key makes conversions reproducible, whichever other weights are initialized.
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return origin.initialize(name, tuple(self.targets[name].shape), config, generator)


def targets_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    Return the tensors that a model saves, and the other keys of its tied weights.

    Returns:
        `tuple[dict[str, torch.Tensor], dict[str, str]]`: The tensors by the key they are saved under, and, for every
        other key of a tied weight, that key.
    """
    variables = model.state_dict(keep_vars=True)
    state = {name: value.detach() for name, value in variables.items()}
    owners = {name: id(value) for name, value in variables.items()}
    tied_names = set(getattr(model, "all_tied_weights_keys", None) or {})
    saved_as: dict[int, str] = {}
    for name in sorted(state, key=lambda name: name in tied_names):  # stable, so the saved keys keep their order
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
    """
    Account for every weight of a checkpoint and of a model.

    Args:
        family (`Family`): the table of the family.
        architecture (`str`): the architecture to convert to.
        source_architecture (`str`): the architecture of the checkpoint.
        sources (`Mapping[str, torch.Tensor]`): the weights of the checkpoint.
        model (`torch.nn.Module`): the model to fill, on the meta device.
        resize_allowed (`bool`): whether another image size or number of frames was requested, so that position
            embeddings may be resized.
        reset (`Mapping[str, str]`, *optional*, defaults to `family.reset`): buffers that are reinitialized whatever
            their value in the checkpoint, with the reason.

    Returns:
        [`Plan`]: The plan.

    Raises:
        AccountingError: If a weight is missing, unexpected, filled twice, or of another shape or an incompatible dtype,
            or if tied weights differ.
    """
    reset = family.reset if reset is None else reset
    return _Planner(family, architecture, source_architecture, sources, model, resize_allowed, reset).run()


class _Planner:
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
        self.architecture: Architecture = family.architectures[architecture]
        self.source_architecture: Architecture = family.architectures[source_architecture]
        self.transfer = architecture != source_architecture
        self.sources = sources
        self.resize_allowed = resize_allowed
        self.reset = reset
        targets, tied = targets_of(model)
        self.plan = Plan(targets, tied, resize=family.resize_positions)
        self.target_modules = {module_of(name) for name in (*targets, *tied)}
        rows = self.architecture.transfer_renames.get(source_architecture, ())
        self.key_map = family.key_map_of(source_architecture).preceded_by(rows)
        self.orphan_drops = self._drops_of_orphaned_momentum_keys()
        self.problems: dict[str, list[str]] = {}

    def run(self) -> Plan:
        self._check_momentum_encoders_complete()
        for source in self.sources:
            self._assign(source)
        for target in self.plan.targets:
            if target not in self.plan.filled:
                self._initialize(target)
        if self.problems:
            raise AccountingError(self._error_message())
        return self.plan

    # Sources

    def _assign(self, source: str) -> None:
        for drop in (*self.family.drops, *self.architecture.drops.get(self.source_name, ()), *self.orphan_drops):
            if matches(drop.pattern, source):
                self.plan.dropped[source] = drop.reason
                return
        names = self.key_map.forward(source)
        known = all(self.plan.tied.get(name, name) in self.plan.targets for name in names)
        if known and names[0] in self.reset:
            self.plan.dropped[source] = self.reset[names[0]]
        elif known:
            for name in names:
                self._fill(self.plan.tied.get(name, name), source, is_tied=name in self.plan.tied)
        elif reason := self._reason_unused(source, names[0]):
            self.plan.dropped[source] = reason
        else:
            self._add_problem("not part of the model", f"{source} {_shape(self.sources[source])}")

    def _reason_unused(self, source: str, target: str) -> str | None:
        module = module_of(source)
        if module_of(target) in self.target_modules or not {module, target} & self.source_architecture.all_modules:
            return None
        kind = "feature queue" if target in self.source_architecture.queues else f"{module} of {self.source_name}"
        if module.endswith(MOMENTUM_SUFFIX):
            kind = "momentum encoder"
        switched_off = {module, target} & self.architecture.all_modules
        return f"{kind}, switched off" if switched_off else f"{kind}, which {self.name} does not have"

    def _fill(self, target: str, source: str, is_tied: bool) -> None:
        present = self.plan.filled.get(target)
        if present is None:
            self._fill_first(target, source)
        elif target in self.plan.tied.values() and self._same_shape(present.source, source):
            if torch.equal(self.sources[present.source], self.sources[source]):
                # Of tied weights, the report lists the saved key as used and the others as dropped.
                if is_tied:
                    self.plan.dropped[source] = _TIED
                else:
                    self.plan.dropped[present.source] = _TIED
                    self.plan.filled[target] = Filled(source, present.resized_from)
            else:
                self._add_problem(
                    "tied in the model, but different in the checkpoint", f"{present.source} and {source}"
                )
        else:
            self._add_problem("given twice", f"{target} by {present.source} and {source}")

    def _same_shape(self, first: str, second: str) -> bool:
        return self.sources[first].shape == self.sources[second].shape

    def _fill_first(self, target: str, source: str) -> None:
        have, want = tuple(self.sources[source].shape), tuple(self.plan.targets[target].shape)
        given, expected = self.sources[source].dtype, self.plan.targets[target].dtype
        if given.is_floating_point != expected.is_floating_point or given.is_complex:
            self._add_problem("of an incompatible dtype", f"{source} of {given}, expected {expected}")
        elif have == want:
            self.plan.filled[target] = Filled(source)
        elif self.family.is_position_table(target) and self.resize_allowed and have[-1] == want[-1]:
            self.plan.filled[target] = Filled(source, resized_from=have)
        elif target in self.family.resizable_queues:
            self.plan.dropped[source] = f"queue of shape {have}, another size was requested"
        else:
            self._add_problem("of another shape", f"{source} {have}, expected {want}")

    # Targets

    def _names_without(self, drops: Iterable[Drop]) -> list[str]:
        drops = list(drops)
        return [name for name in self.sources if not any(matches(drop.pattern, name) for drop in drops)]

    def _drops_of_orphaned_momentum_keys(self) -> tuple[Drop, ...]:
        """LAVIS's runner does not save the frozen momentum encoders, except for duplicates of their tied weights."""
        reason = "part of a momentum encoder that the checkpoint does not contain"
        drops = tuple(Drop(pattern, reason) for pattern in self.family.orphaned_momentum_keys)
        names = self._names_without((*self.family.drops, *drops))
        return () if any(module_of(name).endswith(MOMENTUM_SUFFIX) for name in names) else drops

    def _check_momentum_encoders_complete(self) -> None:
        """A checkpoint contains all momentum encoders or none."""
        names = self._names_without((*self.family.drops, *self.orphan_drops))
        momentum_modules = self.source_architecture.momentum_modules
        present = {name for name in names if module_of(name).removesuffix(MOMENTUM_SUFFIX) in momentum_modules}
        momentum = {name for name in present if module_of(name).endswith(MOMENTUM_SUFFIX)}
        if not momentum or not self.architecture.momentum_modules:
            return
        for name in sorted(present - momentum):
            module, _, rest = name.partition(".")
            if f"{module}{MOMENTUM_SUFFIX}.{rest}" not in momentum:
                self._add_problem("missing from the checkpoint", f"{module}{MOMENTUM_SUFFIX}.{rest}")

    def _initialize(self, target: str) -> None:
        module, _, rest = target.partition(".")
        if module.endswith(MOMENTUM_SUFFIX) and self.architecture.momentum_modules:
            online = f"{module.removesuffix(MOMENTUM_SUFFIX)}.{rest}" if rest else module.removesuffix(MOMENTUM_SUFFIX)
            online = self.plan.tied.get(online, online)
            if online in self.plan.targets:
                how = "momentum copy of the online weights"
                self.plan.initialized[target] = Initialized(how, copy_of=online)
                return
        for new in self.architecture.new_weights:
            if matches(new.pattern, target) and self._may_be_missing(new):
                self.plan.initialized[target] = Initialized(new.how, initialize=new.initialize)
                return
        self._add_problem(
            "missing from the checkpoint", f"{self.key_map.backward(target)} {_shape(self.plan.targets[target])}"
        )

    def _may_be_missing(self, new: NewWeights) -> bool:
        return self.transfer or not new.only_in_transfer

    # Errors

    def _add_problem(self, kind: str, what: str) -> None:
        self.problems.setdefault(kind, []).append(what)

    def _error_message(self) -> str:
        what = self.source_name if not self.transfer else f"{self.source_name} (to be converted to {self.name})"
        lines = [
            f"The checkpoint, recognized as {what}, does not fit {model_class_of(self.name)}. Nothing was written."
        ]
        for kind, names in self.problems.items():
            shown = "".join(f"\n    {name}" for name in names[:20])
            more = f"\n    and {len(names) - 20} more" if len(names) > 20 else ""
            lines.append(f"  {kind} ({len(names)}):{shown}{more}")
        lines.append(
            "  Check that the checkpoint is complete and of that architecture, and that --config describes it."
        )
        return "\n".join(lines)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def group_by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group pairs of a key and a reason into the distinct modules of each reason."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons:
        shown = groups.setdefault(reason, [])
        if module_of(name) not in shown:
            shown.append(module_of(name))
    return groups
