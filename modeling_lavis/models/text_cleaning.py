# SPDX-License-Identifier: Apache-2.0
"""Cleaning of captions and questions as the LAVIS checkpoints were trained on it.

Both functions are pure: one string in, one string out. The two differ on purpose, and so do their oddities:
a caption gets its marks replaced by spaces and its white space collapsed, a question gets its marks deleted
and keeps everything else, also interior runs of spaces and trailing newlines.
"""

import re

_MARKS = '.!"()*#:;~'
_MARKS_TO_SPACE = str.maketrans(dict.fromkeys(_MARKS, " "))
_MARKS_DELETED = str.maketrans(dict.fromkeys(_MARKS))
_RUN_OF_SPACE = re.compile(r"\s{2,}")

CLEANINGS = ("caption", "question", None)


def clean_caption(text: str, max_words: int | None = 50, prompt: str = "") -> str:
    """Clean a caption: lower case, ten marks to spaces, white space collapsed, at most `max_words` words.

    Args:
        text: any string, also an empty one.
        max_words: pieces between single spaces that are kept; None keeps all.
        prompt: put in front of the result as it is, neither cleaned nor counted.
    """
    text = _RUN_OF_SPACE.sub(" ", text.lower().translate(_MARKS_TO_SPACE))
    return prompt + _first_words(text.rstrip("\n").strip(" "), max_words)


def clean_question(text: str, max_words: int | None = 50) -> str:
    """Clean a question: lower case, ten marks deleted, trailing spaces removed, at most `max_words` words.

    Args:
        text: any string, also an empty one.
        max_words: pieces between single spaces that are kept; None keeps all.
    """
    # parity: no collapsing, no leading strip, and an empty piece between two spaces counts as a word
    return _first_words(text.lower().translate(_MARKS_DELETED).rstrip(" "), max_words)


def clean_text(text: str, cleaning: str | None, max_words: int | None = 50) -> str:
    """Clean `text` in the named way.

    Args:
        text: any string.
        cleaning: "caption", "question", or None, which returns the text unchanged.
        max_words: see the two functions above.
    """
    if cleaning is None:
        return text
    if cleaning == "caption":
        return clean_caption(text, max_words)
    if cleaning == "question":
        return clean_question(text, max_words)
    raise ValueError(f"cleaning is {cleaning!r}; expected 'caption', 'question' or None (text left as it is).")


def _first_words(text: str, max_words: int | None) -> str:
    words = text.split(" ")
    if max_words is None or len(words) <= max_words:
        return text
    return " ".join(words[:max_words])
