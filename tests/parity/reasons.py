"""Recorded entries that are not compared, with the reason. Kept short on purpose: a comparison is always better.

Keys are pairs of regular expressions, for the LAVIS architecture and for the entry's name; both must match whole.
"""

from __future__ import annotations

REASONS: dict[tuple[str, str], str] = {
    (r".*", r"predict\.targets"): "the labels of the inputs, which the original hands through",
    (r"blip_classification", r"train\.shim"): (
        "a remark on how the recording was made: the original's own forward raises, its output class was replaced"
    ),
}
