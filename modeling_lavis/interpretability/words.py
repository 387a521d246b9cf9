# SPDX-License-Identifier: Apache-2.0
"""From tokens to words."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Word(NamedTuple):
    """
    A word of a text.

    Args:
        text (`str`): the word, with the punctuation that follows it.
        tokens (`tuple[int, ...]`): positions of its tokens in the text.
    """

    text: str
    tokens: tuple[int, ...]


def find_words(tokenizer: Any, token_ids: Sequence[int], first: int = 0) -> list[Word]:
    """
    Join the tokens of a text to words, without special tokens. Punctuation belongs to the word before it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer of any kind: two tokens belong to one word if it decodes them
            without a space between them.
        token_ids (`Sequence[int]`): the text.
        first (`int`, *optional*, defaults to 0): position from which on words are wanted.

    Returns:
        `list[Word]`: the words in order.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    pieces = tokenizer.convert_ids_to_tokens(list(token_ids))
    decode = tokenizer.convert_tokens_to_string
    groups: list[list[int]] = []
    for position in range(first, len(pieces)):
        if token_ids[position] in special or not decode([pieces[position]]).strip():
            continue
        before = position - 1
        follows = groups and groups[-1][-1] == before
        if follows and _is_one_word(decode, pieces[before], pieces[position]):
            groups[-1].append(position)
        else:
            groups.append([position])
    return [Word(decode([pieces[position] for position in group]).strip(), tuple(group)) for group in groups]


def _is_one_word(decode: Any, before: str, piece: str) -> bool:
    if not any(character.isalnum() for character in decode([piece])):
        return True
    return len(decode([before, piece]).split()) == 1


__all__ = ["Word", "find_words"]
