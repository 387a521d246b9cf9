"""
Failures of transformers' common tests that are deliberate, each with its reason.

An entry names a test and classes; both are patterns of `fnmatch`. Each test that it matches has to fail.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Difference:
    """
    A difference from what the common tests expect.

    Args:
        test: name of a test.
        classes: names of test classes.
        reason: why the difference is deliberate.
    """

    test: str
    classes: tuple[str, ...]
    reason: str

    def matches(self, name: str, test: str) -> bool:
        """Whether the entry is about a test of a class."""
        return fnmatchcase(test, self.test) and any(fnmatchcase(name, pattern) for pattern in self.classes)


DIFFERENCES: tuple[Difference, ...] = ()

#: Failures that a change under way removes, with the item of the tracker instead of a reason.
PENDING: tuple[Difference, ...] = ()
