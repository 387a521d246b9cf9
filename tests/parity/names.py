"""Names of the original and names of this package."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Names:
    """Translates parameter and module names by the top-level module's name.

    `prefixes` maps the original's leading part to ours; a name that no prefix fits stays as it is.
    """

    prefixes: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def _swap(name: str, table: dict[str, str]) -> str:
        for old in sorted(table, key=len, reverse=True):
            if name == old or name.startswith(f"{old}."):
                return table[old] + name[len(old) :]
        return name

    def ours(self, name: str) -> str:
        """This package's name of the original's parameter or module `name`."""
        return self._swap(name, self.prefixes)

    def theirs(self, name: str) -> str:
        """The original's name of this package's parameter or module `name`."""
        return self._swap(name, {new: old for old, new in self.prefixes.items()})


BLIP_NAMES = Names({"visual_encoder": "vision_model", "visual_encoder_m": "vision_model_m"})
