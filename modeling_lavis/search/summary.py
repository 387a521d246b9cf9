# SPDX-License-Identifier: Apache-2.0
"""What became of an index."""

from dataclasses import asdict, dataclass
from typing import Any

from modeling_lavis.evaluation.index_files import IndexFiles


@dataclass(frozen=True)
class IndexSummary:
    """
    What became of an index.

    Args:
        output (`str`): its folder.
        items (`int`): number of items.
        added (`int`): how many of them are new, or were computed again because their files had changed.
        removed (`int`): items that were removed.
        failed (`int`): inputs that could not be read.
        failures (`str`): the list of those, with reasons.
        missing (`int`): items whose files are gone; [`remove_from_index`] removes them.
        with_states (`int`): items whose hidden states are stored.
        search (`str`): `"exact"`, or FAISS's description of the index.
        seconds (`float`): time of computing features.
    """

    output: str
    items: int
    added: int = 0
    removed: int = 0
    failed: int = 0
    failures: str = ""
    missing: int = 0
    with_states: int = 0
    search: str = "exact"
    seconds: float = 0.0

    @classmethod
    def of(cls, files: IndexFiles, **numbers: Any) -> "IndexSummary":
        """The summary of an index on disk."""
        stored = 0 if files.states is None else int((files.states.counts > 0).sum())
        return cls(
            str(files.folder),
            len(files.vectors),
            with_states=stored,
            search=files.head.get("search", "exact"),
            **numbers,
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


__all__ = ["IndexSummary"]
