# SPDX-License-Identifier: Apache-2.0
"""Penn Treebank tokens of captions, as COCO caption evaluation makes them.

COCO's tool runs Stanford's PTBTokenizer (version 3.4.1, Java) with lower-casing over all sentences in one file, and
removes punctuation. This is an implementation of its own; its rules are in `ptb_rules`. As in the Java program, the
longest match at a position wins, the first rule among equals, and a character that no rule knows is left out.
"""

import re
from collections.abc import Sequence

from . import ptb_rules
from .inputs import check_strings

#: Tokens that COCO's tool removes. Brackets stay: it looks for "-LRB-" after lower-casing, and does not find it.
PUNCTUATION = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", "--", "...", *".?!,:;-"])

_RULES = [(re.compile(pattern), handler) for pattern, handler in ptb_rules.RULES]
_LINE_BREAK = re.compile(r"[\n\r\x0b\x0c\x85\u2028\u2029]")
# The bulk of captions: words of ASCII letters before a space, perhaps with a comma or a period, for which no other rule
# can be longer.
_PLAIN_WORD = re.compile(r"([A-Za-z]{2,}|[A-Za-z](?=[ \n]))(?=([,.]?)(?:[ \n]|\Z))")
_NOT_PLAIN = frozenset(ptb_rules.SPLIT_WORDS.split())
_ABBREVIATIONS = frozenset(
    " ".join(
        (
            ptb_rules.ANYWHERE,
            ptb_rules.ANYWHERE_UNLESS_LOWER,
            ptb_rules.ANYWHERE_UNLESS_UPPER,
            ptb_rules.BEFORE_NO_LETTER,
            ptb_rules.BEFORE_NO_LETTER_UNLESS_UPPER,
            ptb_rules.BEFORE_NUMBER,
        )
    ).split()
)


def tokenize_captions(captions: Sequence[str]) -> list[str]:
    """
    Penn Treebank tokens of captions, as COCO caption evaluation makes them with Stanford's PTBTokenizer 3.4.1.

    As in the original tool, the last word of a sentence can depend on the next sentence: a single letter keeps its
    period ("plan b.") unless the next word begins a sentence ("The").

    Args:
        captions (sequence of `str`): sentences, in the order in which they are evaluated. Line breaks count as spaces.

    Returns:
        `list[str]`: the tokens of each sentence, in lower case, without punctuation, joined by spaces.

    Raises:
        ValueError: If a caption is no `str`.

    Example:

    ```python
    >>> tokenize_captions(["It isn't a cat (photo)."])
    ["it is n't a cat -lrb- photo -rrb-"]
    ```
    """
    if isinstance(captions, str):
        raise ValueError(f"captions is a single str ({captions[:40]!r}); expected a sequence of them.")
    check_strings("captions", captions)
    # parity: all sentences are one text, because the tool looks at the first word of the next one
    lines = _tokenize("\n".join(_LINE_BREAK.sub(" ", caption) for caption in captions)) if len(captions) else []
    return [
        " ".join(token for token in " ".join(tokens).rstrip().split(" ") if token not in PUNCTUATION)
        for tokens in lines
    ]


def _tokenize(text: str) -> list[list[str]]:
    """Tokens of each line of a text, in lower case."""
    lines: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        if text[position] in " \n":
            if text[position] == "\n":
                lines.append([])
            position += 1
            continue
        plain = _PLAIN_WORD.match(text, position)
        if plain and not _needs_rules(plain):
            lines[-1].append(plain[1].lower())
            position = plain.end()
        else:
            position, tokens = _longest_match(text, position)
            lines[-1].extend(token.lower() for token in tokens)
    return lines


def _needs_rules(plain: re.Match[str]) -> bool:
    word = plain[1].lower()
    return word in _NOT_PLAIN or (plain[2] == "." and word in _ABBREVIATIONS)


def _longest_match(text: str, position: int) -> tuple[int, list[str]]:
    """End and tokens of the longest match at a position."""
    longest, handler, best = 0, None, None
    for pattern, candidate in _RULES:
        match = pattern.match(text, position)
        if match and match.end() - position > longest:
            longest, handler, best = match.end() - position, candidate, match
    if handler is None or best is None:
        return position + 1, []
    end = best.start("ahead") if "ahead" in best.re.groupindex and best["ahead"] else best.end()
    return end, handler(text[position:end])


__all__ = ["PUNCTUATION", "tokenize_captions"]
