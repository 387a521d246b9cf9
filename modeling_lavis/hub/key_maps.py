# SPDX-License-Identifier: Apache-2.0
"""Renaming of parameters as data: ordered, anchored rows that are read in both directions."""

import re
from dataclasses import dataclass, field
from functools import cached_property

_FIELD = re.compile(r"\{(\w+)(:d)?\}")


def _pattern(template: str) -> re.Pattern[str]:
    """Compile a template into a pattern that must match a whole name."""
    parts, last = [], 0
    for match in _FIELD.finditer(template):
        parts += [re.escape(template[last : match.start()]), f"(?P<{match[1]}>{r'[0-9]+' if match[2] else '.+'})"]
        last = match.end()
    return re.compile("".join(parts) + re.escape(template[last:]))


def _fill(template: str, fields: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match[1]], template)


def matches(template: str, name: str) -> bool:
    """Tell whether `name` as a whole fits `template` (see [`Rename`] for how templates are written)."""
    return _pattern(template).fullmatch(name) is not None


@dataclass(frozen=True)
class Rename:
    """One row of a key map.

    Templates are names in which `{word}` stands for one or more characters and `{word:d}` for a number; a field
    keeps its text on the other side. They always match whole names.

    Args:
        source (`str`): template of names in the original's files.
        targets (`str` or `tuple[str, ...]`): template of our name, or of several that all receive a copy.
        spelling (`bool`, *optional*, defaults to `False`): an additional spelling that some files use; it is read but
            never written, so the way back skips it.
    """

    source: str
    targets: str | tuple[str, ...]
    spelling: bool = False

    @cached_property
    def _source_pattern(self) -> re.Pattern[str]:
        return _pattern(self.source)

    @cached_property
    def _target_patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_pattern(target) for target in self._targets)

    @property
    def _targets(self) -> tuple[str, ...]:
        return (self.targets,) if isinstance(self.targets, str) else self.targets

    def forward(self, name: str) -> tuple[str, ...]:
        """Our names for the original's `name`; empty when the row does not match."""
        match = self._source_pattern.fullmatch(name)
        return tuple(_fill(target, match.groupdict()) for target in self._targets) if match else ()

    def backward(self, name: str) -> str | None:
        """The original's name for our `name`; `None` when the row does not match or is a mere spelling."""
        if self.spelling:
            return None
        for pattern in self._target_patterns:
            if match := pattern.fullmatch(name):
                return _fill(self.source, match.groupdict())
        return None


@dataclass(frozen=True)
class KeyMap:
    """Rows in order; the first that matches decides. A name that no row matches keeps its name.

    Args:
        rows (`tuple[Rename, ...]`): the table.
    """

    rows: tuple[Rename, ...] = field(default_factory=tuple)

    def forward(self, name: str) -> tuple[str, ...]:
        """Our name for the original's `name` (several when the row copies)."""
        for row in self.rows:
            if targets := row.forward(name):
                return targets
        return (name,)

    def backward(self, name: str) -> str:
        """The original's name for our `name`."""
        for row in self.rows:
            if (source := row.backward(name)) is not None:
                return source
        return name

    def preceded_by(self, rows: tuple[Rename, ...]) -> "KeyMap":
        """The same map with `rows` asked first."""
        return KeyMap((*rows, *self.rows))
