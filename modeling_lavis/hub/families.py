# SPDX-License-Identifier: Apache-2.0
"""Tables that describe a family of architectures to the converter. A new family needs a new table, but no new code.

The module of a key is the part before its first dot: `text_encoder.embeddings...` belongs to the module
`text_encoder`, and the buffer `queue_ptr` is a module of its own. The module of a momentum encoder ends in `_m`.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.hub.key_maps import KeyMap, Rename, matches
from modeling_lavis.hub.zoo import family_name, model_class_of
from modeling_lavis.models.vision_vit import interpolate_grid_positions

MOMENTUM_SUFFIX = "_m"

Shape = tuple[int, ...]
# (our key, position embeddings, target shape) -> position embeddings of the target shape
Resizer = Callable[[str, Tensor, Shape], Tensor]
# (our key, shape, model configuration, generator) -> initial value of a weight that the checkpoint lacks
Initializer = Callable[[str, Shape, Any, torch.Generator], Tensor]


def resize_square(name: str, table: Tensor, shape: Shape) -> Tensor:
    """Interpolate the position embeddings of a square patch grid that follow a class token."""
    side = round((shape[1] - 1) ** 0.5)
    return interpolate_grid_positions(table, (side, side))


def module_of(name: str) -> str:
    """Return the module that a parameter or buffer belongs to."""
    return name.partition(".")[0]


@dataclass(frozen=True)
class NewWeights:
    """
    Weights that may be missing from a checkpoint, and how they are initialized then.

    Args:
        pattern (`str`): template of our keys; see [`modeling_lavis.hub.key_maps.Rename`].
        initialize (`Callable`): function that returns the initial value.
        how (`str`): description of the initial value for the report. It starts with `"new "` if the weights need
            training, in which case the model card says so.
        only_in_transfer (`bool`, *optional*, defaults to `True`): whether the weights may be missing only if the
            checkpoint is of another architecture.
    """

    pattern: str
    initialize: Initializer
    how: str
    only_in_transfer: bool = True


@dataclass(frozen=True)
class Drop:
    """
    Weights of a checkpoint that are dropped on purpose.

    Args:
        pattern (`str`): template of the original keys.
        reason (`str`): the reason, for the report.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class Architecture:
    """
    One architecture of the original projects. Checkpoints of those that [`~modeling_lavis.hub.zoo.architectures`] does
    not name only initialize others.

    Args:
        modules (`frozenset[str]`): modules of the original model, without momentum encoders and queues.
        momentum_modules (`frozenset[str]`, *optional*, defaults to `frozenset()`): modules of which the original model
            keeps a momentum copy.
        queues (`frozenset[str]`, *optional*, defaults to `frozenset()`): buffers of the feature queue.
        sources (`tuple[str, ...]`, *optional*, defaults to `()`): other architectures whose checkpoints can initialize
            this one.
        transfer_renames (`Mapping[str, tuple[Rename, ...]]`, *optional*, defaults to `{}`): rules that come before the
            key map if the checkpoint is of another architecture, by that architecture.
        new_weights (`tuple[NewWeights, ...]`, *optional*, defaults to `()`): weights that may be missing.
        renames (`tuple[Rename, ...]`, *optional*, defaults to `()`): rules that come before the key map for checkpoints
            of this architecture.
        drops (`Mapping[str, tuple[Drop, ...]]`, *optional*, defaults to `{}`): weights that this architecture does not
            use, by the architecture of the checkpoint.
        frozen_dtypes (`Mapping[str, torch.dtype]`, *optional*, defaults to `{}`): dtypes in which the original model
            keeps frozen modules, by our module name.
    """

    modules: frozenset[str]
    momentum_modules: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()
    transfer_renames: Mapping[str, tuple[Rename, ...]] = field(default_factory=dict)
    new_weights: tuple[NewWeights, ...] = ()
    renames: tuple[Rename, ...] = ()
    drops: Mapping[str, tuple[Drop, ...]] = field(default_factory=dict)
    frozen_dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)

    @property
    def all_modules(self) -> frozenset[str]:
        """Every module that a complete checkpoint of this architecture can contain."""
        return self.modules | {name + MOMENTUM_SUFFIX for name in self.momentum_modules} | self.queues


@dataclass(frozen=True)
class Signature:
    """
    Keys by which the architecture of a checkpoint is recognized.

    Args:
        architecture (`str`): the architecture.
        has (`tuple[str, ...]`): keys or prefixes of keys, each of which must occur.
        lacks (`tuple[str, ...]`, *optional*, defaults to `()`): keys or prefixes of keys, none of which may occur.
    """

    architecture: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    def fits(self, names: Iterable[str]) -> bool:
        """Return whether a checkpoint with these keys is of this architecture."""
        names = list(names)

        def occurs(prefix: str) -> bool:
            return any(name == prefix or name.startswith(prefix) for name in names)

        return all(map(occurs, self.has)) and not any(map(occurs, self.lacks))


@dataclass(frozen=True)
class Family:
    """
    Everything that the converter needs to know about a family.

    Args:
        name (`str`): short name, as in the original projects (`"blip"`).
        key_map (`KeyMap`): rules from the original keys to ours.
        architectures (`Mapping[str, Architecture]`): the architectures by their original names.
        signatures (`tuple[Signature, ...]`): signatures in order; the first that fits determines the architecture of a
            checkpoint.
        drops (`tuple[Drop, ...]`): weights that every architecture drops.
        reset (`Mapping[str, str]`): buffers (our keys) that are reinitialized whatever their value in the checkpoint,
            with the reason. Each needs a [`NewWeights`] entry.
        positions (`str`): template of the position embeddings (our keys) that may be resized.
        resizable_queues (`frozenset[str]`): queue buffers (our keys) that are reinitialized if another queue size is
            requested.
        build_config (`Callable`): `(architecture, source architecture, shapes, settings, tokenizer) -> model
            configuration`.
        build_processor (`Callable`): `(architecture, settings, model configuration, tokenizer) -> processor`.
        build_generation_config (`Callable`): `(architecture, settings, model configuration) -> generation configuration
            or None`.
        load_tokenizer (`Callable`): `(folder or Hub id, or None for the published one) -> tokenizer`.
        known_settings (`frozenset[str]`): entries of a configuration that affect the model.
        pretraining (`frozenset[str]`): pretraining architectures. A checkpoint of one is resized to the image size of
            the published task.
        orphaned_momentum_keys (`tuple[str, ...]`, *optional*, defaults to `()`): templates of tied momentum weights
            (original keys) that a checkpoint may contain although the momentum encoders themselves were not saved.
        separate_parts (`frozenset[str]`, *optional*, defaults to `frozenset()`): arguments of the conversion that name
            checkpoints of frozen parts (BLIP-2).
        add_parts (`Callable`, *optional*): `(architecture, weights, settings, vision checkpoint, language model) ->
            CompletedCheckpoint`.
        without_tokenizer (`frozenset[str]`, *optional*, defaults to `frozenset()`): architectures whose tokenizer comes
            from a separate part.
        published_parts (`Callable`, *optional*): `(settings, names of the weights) -> arguments of the conversion` that
            name the published frozen parts that a checkpoint was trained with and leaves out.
        resize_positions (`Callable`, *optional*, defaults to [`resize_square`]): function that resizes position
            embeddings.
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
    orphaned_momentum_keys: tuple[str, ...] = ()
    separate_parts: frozenset[str] = frozenset()
    add_parts: Callable[..., Any] | None = None
    without_tokenizer: frozenset[str] = frozenset()
    published_parts: Callable[..., dict[str, str]] | None = None
    resize_positions: Resizer = resize_square

    def key_map_of(self, architecture: str) -> KeyMap:
        """Return the key map for checkpoints of one architecture."""
        return self.key_map.preceded_by(self.architectures[architecture].renames)

    def recognize(self, names: Iterable[str]) -> str:
        """
        Return the architecture of a checkpoint with these keys.

        Raises:
            ValueError: If the checkpoint belongs to none of this family's architectures. The message shows some of
                the keys and what the checkpoint seems to be.
        """
        names = list(names)
        for signature in self.signatures:
            if signature.fits(names):
                return signature.architecture
        raise ValueError(
            f"This is not a {self.name} checkpoint{_guess_format(names)}. It contains keys such as "
            f"{', '.join(sorted(names)[:4])}. Give a checkpoint of one of: {', '.join(self.architectures)}."
        )

    def is_position_table(self, name: str) -> bool:
        """Return whether the parameter `name` (our key) is a table of position embeddings that may be resized."""
        return matches(self.positions, name)


def _guess_format(names: list[str]) -> str:
    if any(name.startswith("vision_model.blocks.") for name in names):
        return ": it is already in the format of this package, load it with from_pretrained"
    if any(name.startswith(("vision_model.embeddings.", "qformer.")) for name in names):
        return ": it is in transformers' format, which from_pretrained of our classes reads directly"
    if any(name.startswith("Qformer.") for name in names):
        lacks = "" if "query_tokens" in names else ", but has no query tokens (query_tokens)"
        return f": it belongs to BLIP-2{lacks}"
    if any(name.startswith("visual_encoder.model.") for name in names):
        return ": it belongs to ALPRO"
    return ""


def family_of(architecture: str) -> Family:
    """
    Return the family that an architecture of the original projects belongs to.

    Raises:
        ValueError: If there is no such architecture. The message lists the known ones.
    """
    model_class_of(architecture)  # raises an error with all architectures for an unknown one
    family: Family = importlib.import_module(f"modeling_lavis.hub.{family_name(architecture)}").FAMILY
    return family
