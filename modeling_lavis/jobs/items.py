# SPDX-License-Identifier: Apache-2.0
"""What a job works on: items, in blocks of fixed size.

A block is the unit of everything: its rows are decoded, batched, computed and written together, its place in the
collection does not depend on what was done before, and no batch has rows of two blocks. So a job that is resumed
after an interruption, a part of it on another machine (`Shard`), and a worker of a cluster compute the very same
numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Item:
    """
    An input of a job.

    Args:
        name (`str`): what the output calls it: a path, a URL, or a place in a data set.
        row (`Mapping[str, Any]`): what the model takes: `image` or `video`, and texts such as `question`.
        fields (`Mapping[str, Any]`, *optional*): further columns, which the output keeps.
        members (`Mapping[str, bytes]`, *optional*): files of a WebDataset sample, by extension.
        error (`str`, *optional*): why there is nothing to compute, if that is already known.
    """

    name: str
    row: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, bytes] | None = None
    error: str | None = None


class Position(NamedTuple):
    """
    A place in a collection.

    Args:
        unit (`int`): number of a part that can be read alone: a shard, a row group, a block of a list.
        block (`int`): number of the block in it.
    """

    unit: int = 0
    block: int = 0


class Block(NamedTuple):
    """
    Items that are computed together.

    Args:
        position (`Position`): its place in the collection.
        items (`list[Item]`): the items, in order.
    """

    position: Position
    items: list[Item]


class Result(NamedTuple):
    """
    What became of an item: a record or an error.

    Args:
        item (`Item`): the item.
        record (`dict[str, Any]`, *optional*): the results, as JSON has them.
        error (`str`, *optional*): why there are none.
    """

    item: Item
    record: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Shard:
    """
    A part of a collection: every `count`-th unit, from the one with the number `index`.

    Args:
        index (`int`, *optional*, defaults to 0): from 0.
        count (`int`, *optional*, defaults to 1): number of parts.

    Raises:
        ValueError: there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"There is no part {self.index + 1} of {self.count}; expected 1/{self.count} to"
                f" {self.count}/{self.count}."
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """
        Read `i/n`, where i is from 1 to n.

        Raises:
            ValueError: it has another form.
        """
        index, slash, count = text.partition("/")
        if not slash or not index.isdecimal() or not count.isdecimal():
            raise ValueError(f"{text!r} is not a part of a collection; expected I/N, such as 1/8 to 8/8.")
        return cls(int(index) - 1, int(count))

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, int) and unit % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


START = Position()
"""The beginning of a collection."""

WHOLE = Shard()
"""The only part of a collection that is not divided."""

__all__ = ["START", "WHOLE", "Block", "Item", "Position", "Result", "Shard"]
