"""Recorded entries that are not compared, with the reason. Comparing an entry is always better.

Keys are pairs of regular expressions for the LAVIS architecture and for the name of the entry; both are full matches.
"""

from __future__ import annotations

REASONS: dict[tuple[str, str], str] = {
    (r".*", r"predict\.targets"): "the labels of the inputs, which the original returns unchanged",
    (r"blip_classification", r"train\.shim"): (
        "a note on the recording: the forward of the original raises, so its output class was replaced"
    ),
}
