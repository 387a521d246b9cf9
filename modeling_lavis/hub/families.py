# SPDX-License-Identifier: Apache-2.0
"""What a family's table has to say so that the converter can handle it. A new family is a new table, no new code.

A name's module is its part before the first dot: `text_encoder.embeddings...` belongs to the module `text_encoder`,
the buffer `queue_ptr` is its own module. A momentum twin's module ends in `_m`.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub.key_maps import KeyMap, Rename, matches
from modeling_lavis.models.vision_vit import interpolate_grid_positions

TWIN_SUFFIX = "_m"

Shape = tuple[int, ...]
# (our name, value, shape wanted) -> the value in that shape
Resizer = Callable[[str, Tensor, Shape], Tensor]
# (our name, shape, model configuration, generator) -> first value of a weight that no checkpoint has
Initialiser = Callable[[str, Shape, Any, torch.Generator], Tensor]


def resize_square(name: str, table: Tensor, shape: Shape) -> Tensor:
    """Resize positions of a square image after a class token."""
    side = round((shape[1] - 1) ** 0.5)
    return interpolate_grid_positions(table, (side, side))


def module_of(name: str) -> str:
    """The module that a parameter or buffer belongs to."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class Fresh:
    """Weights that may be missing from a checkpoint, and what they then start from.

    Args:
        pattern: template of our names (see [`modeling_lavis.hub.key_maps.Rename`]).
        initialise: makes the value.
        how: the same in words, for the report.
        only_in_transfer: whether they may only be missing when the checkpoint is of another architecture.
    """

    pattern: str
    initialise: Initialiser
    how: str
    only_in_transfer: bool = True


@dataclass(frozen=True)
class Drop:
    """Weights of a checkpoint that are left out on purpose.

    Args:
        pattern: template of the original's names.
        reason: why, for the report.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class Architecture:
    """One of the original's architectures.

    Args:
        model_class: name of our class, exported by `modeling_lavis`.
        modules: the original's modules, twins and queues not included.
        twins: modules that have a momentum twin in the original.
        queues: buffers of the contrastive queue.
        sources: other architectures whose checkpoints can start this one.
        transfer_renames: rows that are asked first when the checkpoint is of another architecture; by that one.
        fresh: weights that may be missing.
        renames: rows that are asked first for this architecture's own files.
        drops: weights of a checkpoint that this architecture leaves out, by the architecture of the checkpoint.
        is_start_only: whether checkpoints of it only start others, and none is made.
        stored_as: dtypes in which the original keeps frozen modules (our names).
    """

    model_class: str
    modules: frozenset[str]
    twins: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()
    transfer_renames: Mapping[str, tuple[Rename, ...]] = field(default_factory=dict)
    fresh: tuple[Fresh, ...] = ()
    renames: tuple[Rename, ...] = ()
    drops: Mapping[str, tuple[Drop, ...]] = field(default_factory=dict)
    is_start_only: bool = False
    stored_as: Mapping[str, torch.dtype] = field(default_factory=dict)

    @property
    def all_modules(self) -> frozenset[str]:
        """Every module that a complete checkpoint of this architecture can have."""
        return self.modules | {name + TWIN_SUFFIX for name in self.twins} | self.queues


@dataclass(frozen=True)
class Signature:
    """How a checkpoint's architecture is recognised: some names must occur and others must not.

    Args:
        architecture: what it is.
        has: prefixes or whole names of which each must occur.
        lacks: prefixes or whole names of which none may occur.
    """

    architecture: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    def fits(self, names: Iterable[str]) -> bool:
        """Tell whether a checkpoint with these names is of this architecture."""
        names = list(names)

        def occurs(prefix: str) -> bool:
            return any(name == prefix or name.startswith(prefix) for name in names)

        return all(map(occurs, self.has)) and not any(map(occurs, self.lacks))


@dataclass(frozen=True)
class Family:
    """Everything that the converter must know about a family.

    Args:
        name: short name, as in the originals (`"blip"`).
        key_map: the original's names and ours.
        architectures: by the original's name.
        signatures: asked in order; the first that fits decides.
        drops: asked before the key map.
        reset: buffers (our names) that start anew whatever the checkpoint says, with the reason; each needs a
            `Fresh` row.
        positions: template of the tables of positions (our names), which may be resized.
        resize_positions: how; as a square grid after a class token by default.
        resizable_queues: buffers (our names) that may start anew when another length is asked for.
        build_config: (architecture, source architecture, shapes, settings, tokenizer) -> model configuration.
        build_processor: (architecture, settings, model configuration, tokenizer) -> processor.
        build_generation_config: (architecture, settings, model configuration) -> generation configuration or `None`.
        load_tokenizer: (folder or Hub id, or `None` for the published one) -> tokenizer.
        known_settings: names in a configuration that say something about a model.
        pretraining: architectures whose checkpoints start the tasks, at the tasks' own resolution.
        leftovers: templates of names (the original's) of tied twins that a file may have although it has no twins.
        separate_parts: arguments of the conversion that give parts kept in other files (BLIP-2's frozen ones).
        add_parts: (architecture, weights, settings, image tower, language model) -> the weights with those parts.
        without_tokenizer: architectures whose tokenizer belongs to a separate part.
    """

    name: str
    key_map: KeyMap
    architectures: Mapping[str, Architecture]
    signatures: tuple[Signature, ...]
    drops: tuple[Drop, ...]
    reset: Mapping[str, str]
    positions: str
    resizable_queues: frozenset[str]
    build_config: Callable[..., Any]
    build_processor: Callable[..., Any]
    build_generation_config: Callable[..., Any]
    load_tokenizer: Callable[[str | Path | None], Any]
    known_settings: frozenset[str]
    pretraining: frozenset[str]
    leftovers: tuple[str, ...] = ()
    separate_parts: frozenset[str] = frozenset()
    add_parts: Callable[..., Any] | None = None
    without_tokenizer: frozenset[str] = frozenset()
    resize_positions: Resizer = resize_square

    def key_map_of(self, architecture: str) -> KeyMap:
        """Names in the files of one architecture and ours."""
        return self.key_map.preceded_by(self.architectures[architecture].renames)

    def recognise(self, names: Iterable[str]) -> str:
        """Name the architecture whose checkpoint has these names.

        Raises:
            ValueError: it is none of this family; says what was found and what it seems to be.
        """
        names = list(names)
        for signature in self.signatures:
            if signature.fits(names):
                return signature.architecture
        raise ValueError(
            f"This is no {self.name} checkpoint{_seems_to_be(names)}. It has weights such as "
            f"{', '.join(sorted(names)[:4])}. Give a checkpoint of one of: {', '.join(self.architectures)}."
        )

    def is_position_table(self, name: str) -> bool:
        """Tell whether the parameter (our name) is a table of image positions."""
        return matches(self.positions, name)


def _seems_to_be(names: list[str]) -> str:
    if any(name.startswith("vision_model.blocks.") for name in names):
        return ": it is in this package's own format already, load it with from_pretrained"
    if any(name.startswith(("vision_model.embeddings.", "qformer.")) for name in names):
        return ": it is in transformers' format, which from_pretrained of our classes reads as it is"
    if any(name.startswith("Qformer.") for name in names):
        lacks = "" if "query_tokens" in names else ", but has no queries (query_tokens)"
        return f": it belongs to BLIP-2{lacks}"
    if any(name.startswith("visual_encoder.model.") for name in names):
        return ": it belongs to ALPRO"
    return ""


# The original's name of an architecture begins with its family's; the longest prefix decides.
_HOMES = {
    "albef_": "modeling_lavis.hub.albef",
    "alpro_": "modeling_lavis.hub.alpro",
    "blip_": "modeling_lavis.hub.blip",
    "blip2": "modeling_lavis.hub.blip2",
}


def family_of(architecture: str) -> Family:
    """The table of the family that an architecture of the original belongs to.

    Raises:
        ValueError: there is no such architecture; lists those that there are.
    """
    for prefix in sorted(_HOMES, key=len, reverse=True):
        if architecture.startswith(prefix):
            family: Family = importlib.import_module(_HOMES[prefix]).FAMILY
            if architecture in family.architectures and not family.architectures[architecture].is_start_only:
                return family
    raise ValueError(f"Unknown architecture {architecture!r}; convertible are: {', '.join(architectures())}.")


def architectures() -> list[str]:
    """Names of all architectures that can be converted."""
    families = [importlib.import_module(home).FAMILY for home in _HOMES.values()]
    return [name for family in families for name, entry in family.architectures.items() if not entry.is_start_only]
