"""Parameter and module names of the original and of this package."""

from __future__ import annotations

from modeling_lavis.hub.families import family_of
from modeling_lavis.hub.key_maps import KeyMap

_INSIDE = ".weight"


class Names:
    """Converts parameter, buffer and module names of an architecture with the key map of the conversion."""

    def __init__(self, key_map: KeyMap) -> None:
        self.key_map = key_map

    @classmethod
    def of(cls, architecture: str) -> Names:
        """The names of a LAVIS architecture."""
        return cls(family_of(architecture).key_map_of(architecture))

    def ours(self, name: str) -> str:
        """This package's name of the original's parameter or buffer `name`."""
        (first, *_) = self.key_map.forward(name)
        return first

    def theirs(self, name: str) -> str:
        """The original's name of this package's parameter or buffer `name`."""
        return self.key_map.backward(name)

    def module(self, name: str) -> str:
        """This package's name of the original's module `name`."""
        return self.ours(name + _INSIDE).removesuffix(_INSIDE)
