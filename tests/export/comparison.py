"""Comparison of what a head and its export return."""

from collections.abc import Mapping
from typing import Any

import torch


def assert_close(found: Any, expected: Any) -> None:
    """
    Compare values of any depth: numbers within 1e-4, ids and everything else exactly.

    Entries that are `None` count as missing: an exported head returns no caches.
    """
    if isinstance(expected, torch.Tensor) and expected.is_floating_point():
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, Mapping):
        names = {name for name, value in expected.items() if value is not None}
        assert names == {name for name, value in found.items() if value is not None}
        for name in names:
            assert_close(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for pair in zip(found, expected):
            assert_close(*pair)
    elif isinstance(expected, float):
        assert abs(found - expected) <= 1e-4 + 1e-4 * abs(expected)
    elif not hasattr(expected, "get_seq_length"):
        assert found == expected
