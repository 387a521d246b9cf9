"""What can go wrong between a client and the loopback Hub: cut connections, refusals, changes between requests."""

import fnmatch
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Cut:
    """Close the connection after that many bytes of a body, for requests whose address matches."""

    after_bytes: int
    direction: str
    match: str
    times: int


@dataclass
class Refusal:
    """Answer with a status and perhaps an `X-Error-Code`, instead of doing what was asked."""

    status: int
    match: str
    method: str
    times: int
    error_code: str | None
    headers: dict[str, str]


@dataclass
class Change:
    """Run something after the first request that matches has been answered."""

    match: str
    run: Callable[[], object]
    times: int


@dataclass
class Faults:
    """The faults that are still to happen. Addresses are matched as `fnmatch` patterns of any part of them."""

    cuts: list[Cut] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    storage_is_full: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def next_cut(self, direction: str, address: str, size: int) -> Cut | None:
        """The cut for a body of that size, if there is one; it counts as used."""
        with self.lock:
            for cut in self.cuts:
                if cut.times and cut.direction == direction and size > cut.after_bytes and matches(cut.match, address):
                    cut.times -= 1
                    return cut
        return None

    def next_refusal(self, method: str, address: str) -> Refusal | None:
        with self.lock:
            for refusal in self.refusals:
                if refusal.times and refusal.method in ("*", method) and matches(refusal.match, address):
                    refusal.times -= 1
                    return refusal
        return None

    def changes_after(self, address: str) -> list[Change]:
        with self.lock:
            due = [change for change in self.changes if change.times and matches(change.match, address)]
            for change in due:
                change.times -= 1
        return due


def matches(pattern: str, address: str) -> bool:
    return fnmatch.fnmatchcase(address, f"*{pattern}*")
