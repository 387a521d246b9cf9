# SPDX-License-Identifier: Apache-2.0
"""The report of a conversion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modeling_lavis.hub.accounting import group_by_reason


@dataclass(frozen=True)
class ConversionReport:
    """
    The report of a conversion. Sources are keys of the checkpoint, targets are keys of the written repository.

    Args:
        architecture (`str`): the architecture that was converted to, by its original name.
        source_architecture (`str`): the architecture that the checkpoint was recognized as.
        model_type (`str`, *optional*): published model type whose settings were used.
        model_class (`str`): class that the repository loads into.
        checkpoint (`Path`): the file that was read.
        output (`Path`): folder of the repository.
        used (`Mapping[str, str]`): source of every target that was filled from the checkpoint.
        resized (`Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]`): shapes before and after of the targets whose
            position embeddings were resized.
        dropped (`Mapping[str, str]`): reason for every source that was dropped.
        initialised (`Mapping[str, str]`): description of the initial value of every target that the checkpoint lacks.
        ignored_settings (`tuple[str, ...]`, *optional*, defaults to `()`): entries of the configuration that do not
            affect the model.
        weight_files (`tuple[str, ...]`, *optional*, defaults to `()`): names of the weight files.
        not_finite (`tuple[str, ...]`, *optional*, defaults to `()`): targets that contain NaN or infinite values in the
            dtype they are stored in.
        notes (`tuple[str, ...]`, *optional*, defaults to `()`): further remarks.
        pushed_to (`str`, *optional*): URL of the published commit on the Hub.
        source (`Mapping[str, Any]`, *optional*): `url`, `size` in bytes and `sha256` of a checkpoint that is from a
            URL, or has the file name of the published one, whose URL is given then.
    """

    architecture: str
    source_architecture: str
    model_type: str | None
    model_class: str
    checkpoint: Path
    output: Path
    used: Mapping[str, str]
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dropped: Mapping[str, str]
    initialised: Mapping[str, str]
    ignored_settings: tuple[str, ...] = ()
    weight_files: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)
    pushed_to: str | None = None
    source: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dictionary that can be serialized as JSON."""
        return {
            "architecture": self.architecture,
            "source_architecture": self.source_architecture,
            "model_type": self.model_type,
            "model_class": self.model_class,
            "checkpoint": str(self.checkpoint),
            "output": str(self.output),
            "used": dict(self.used),
            "resized": {name: [list(before), list(after)] for name, (before, after) in self.resized.items()},
            "dropped": dict(self.dropped),
            "initialised": dict(self.initialised),
            "ignored_settings": list(self.ignored_settings),
            "weight_files": list(self.weight_files),
            "not_finite": list(self.not_finite),
            "notes": list(self.notes),
            "pushed_to": self.pushed_to,
            "source": None if self.source is None else dict(self.source),
        }

    def _source_lines(self) -> list[str]:
        if self.source is None:
            return []
        size, digest = self.source["size"], self.source["sha256"]
        return [f"  from         {self.source['url']} ({size:,} bytes, SHA-256 {digest})"]

    def __str__(self) -> str:
        kind = f"{self.architecture}{f' ({self.model_type})' if self.model_type else ''}"
        if self.source_architecture != self.architecture:
            kind += f" from a {self.source_architecture} checkpoint"
        sources = len(set(self.used.values()))
        lines = [
            f"{kind} -> {self.model_class}",
            f"  read         {self.checkpoint}",
            *self._source_lines(),
            f"  written      {self.output} ({', '.join(self.weight_files)})",
            f"  used         {sources} weights of the checkpoint, for {len(self.used)} weights of the model",
        ]
        for name, (before, after) in self.resized.items():
            lines.append(f"  resized      {name} {before} -> {after}")
        for title, entries in (("dropped", self.dropped), ("initialised", self.initialised)):
            reasons = list(entries.values())
            for reason, modules in group_by_reason(entries.items()).items():
                lines.append(f"  {title:<12} {reasons.count(reason)}: {', '.join(modules)} ({reason})")
        if self.ignored_settings:
            lines.append(f"  ignored      settings that do not affect the model: {', '.join(self.ignored_settings)}")
        if self.not_finite:
            shown, more = ", ".join(self.not_finite[:5]), len(self.not_finite) - 5
            lines.append(
                f"  WARNING      {len(self.not_finite)} weights contain NaN or infinite values: {shown}"
                f"{f' and {more} more' if more > 0 else ''}. The training may have diverged, or --dtype is too narrow."
            )
        lines += [f"  note         {note}" for note in self.notes]
        if self.pushed_to:
            lines.append(f"  pushed       {self.pushed_to}")
        return "\n".join(lines)
