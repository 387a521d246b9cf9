# SPDX-License-Identifier: Apache-2.0
"""Renaming of state dict keys, written as ordered and anchored rules that can be applied in both directions."""

import re
from dataclasses import dataclass, field
from functools import cache, cached_property

_FIELD = re.compile(r"\{(\w+)(:d)?\}")


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Compile a template into a pattern for a whole key."""
    parts, last = [], 0
    for match in _FIELD.finditer(template):
        parts += [re.escape(template[last : match.start()]), f"(?P<{match[1]}>{r'[0-9]+' if match[2] else '.+'})"]
        last = match.end()
    return re.compile("".join(parts) + re.escape(template[last:]))


def _fill(template: str, fields: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: fields[match[1]], template)


def matches(template: str, name: str) -> bool:
    """Return whether the whole of `name` matches `template`. [`Rename`] describes the template syntax."""
    return _pattern(template).fullmatch(name) is not None


@dataclass(frozen=True)
class Rename:
    """
    One rule of a key map.

    Templates are keys in which `{field}` stands for one or more characters and `{field:d}` for a number. A field has
    the same value on both sides. A template always matches a whole key.

    Args:
        source (`str`): template of keys in the original checkpoints.
        targets (`str` or `tuple[str, ...]`): template of our key, or of several keys that all receive the same tensor.
        alias (`bool`, *optional*, defaults to `False`): whether the source is an alternative name that only some
            checkpoints use. An alias is read but never written, so [`~Rename.backward`] skips it.
    """

    source: str
    targets: str | tuple[str, ...]
    alias: bool = False

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
        """Return our keys for the original key `name`; empty if the rule does not match."""
        match = self._source_pattern.fullmatch(name)
        return tuple(_fill(target, match.groupdict()) for target in self._targets) if match else ()

    def backward(self, name: str) -> str | None:
        """Return the original key for our key `name`, or `None` if the rule does not match or is an alias."""
        if self.alias:
            return None
        for pattern in self._target_patterns:
            if match := pattern.fullmatch(name):
                return _fill(self.source, match.groupdict())
        return None


@dataclass(frozen=True)
class KeyMap:
    """
    An ordered list of renaming rules. The first rule that matches applies; a key that matches no rule is kept.

    Args:
        rows (`tuple[Rename, ...]`, *optional*, defaults to `()`): the rules.
    """

    rows: tuple[Rename, ...] = field(default_factory=tuple)

    def forward(self, name: str) -> tuple[str, ...]:
        """Return our key for the original key `name`, or several keys if the rule copies the tensor."""
        for row in self.rows:
            if targets := row.forward(name):
                return targets
        return (name,)

    def backward(self, name: str) -> str:
        """Return the original key for our key `name`."""
        for row in self.rows:
            if (source := row.backward(name)) is not None:
                return source
        return name

    def preceded_by(self, rows: tuple[Rename, ...]) -> "KeyMap":
        """Return a key map that tries `rows` before its own rules."""
        return KeyMap((*rows, *self.rows))
