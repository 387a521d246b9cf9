# SPDX-License-Identifier: Apache-2.0
"""What a conversion did, as data and as text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lavis.hub.accounting import group_by_reason


@dataclass(frozen=True)
class ConversionReport:
    """The account of one conversion. Sources are names in the checkpoint, targets names in the repository.

    Args:
        architecture: what was made, by the original's name.
        source_architecture: what the checkpoint was recognised as.
        model_type: published variant whose settings were used, or `None`.
        model_class: class that the repository loads into.
        checkpoint: the file that was read.
        output: the repository.
        used: target -> source, for every weight taken from the checkpoint.
        resized: targets whose image positions were resized -> (shape before, shape after).
        dropped: source -> reason, for every weight left out.
        initialised: target -> what it starts from, for every weight that the checkpoint does not have.
        ignored_settings: entries of `--config` that say nothing about a model.
        weight_files: names of the files with weights.
        not_finite: weights of the model that hold NaN or infinite numbers, as they are stored.
        notes: what else is worth knowing.
        pushed_to: address of the repository on the Hub, or `None`.
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

    def as_dict(self) -> dict[str, object]:
        """The report as plain data, for JSON."""
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
        }

    def __str__(self) -> str:
        kind = f"{self.architecture}{f' ({self.model_type})' if self.model_type else ''}"
        if self.source_architecture != self.architecture:
            kind += f" from a {self.source_architecture} checkpoint"
        sources = len(set(self.used.values()))
        lines = [
            f"{kind} -> {self.model_class}",
            f"  read         {self.checkpoint}",
            f"  written      {self.output} ({', '.join(self.weight_files)})",
            f"  used         {sources} weights of the checkpoint, for {len(self.used)} of the model",
        ]
        for name, (before, after) in self.resized.items():
            lines.append(f"  resized      {name} {before} -> {after}")
        for title, entries in (("dropped", self.dropped), ("initialised", self.initialised)):
            reasons = list(entries.values())
            for reason, modules in group_by_reason(entries.items()).items():
                lines.append(f"  {title:<12} {reasons.count(reason)}: {', '.join(modules)} ({reason})")
        if self.ignored_settings:
            lines.append(f"  ignored      settings that say nothing about a model: {', '.join(self.ignored_settings)}")
        if self.not_finite:
            shown, more = ", ".join(self.not_finite[:5]), len(self.not_finite) - 5
            lines.append(
                f"  WARNING      {len(self.not_finite)} weights hold NaN or infinite numbers: {shown}"
                f"{f' and {more} more' if more > 0 else ''}. The training may have diverged, or --dtype is too narrow."
            )
        lines += [f"  note         {note}" for note in self.notes]
        if self.pushed_to:
            lines.append(f"  pushed       {self.pushed_to}")
        return "\n".join(lines)
