# SPDX-License-Identifier: Apache-2.0
"""Text cleaning of the LAVIS checkpoints, and BERT's tokenizer with the special tokens of BLIP and BLIP-2.

Captions and questions are cleaned in two different ways, as in the original: in a caption, punctuation is replaced by
spaces and whitespace is collapsed; in a question, punctuation is deleted and everything else is kept, including runs of
spaces and trailing newlines.

BLIP appends `[DEC]` (bos token of the decoder) and `[ENC]` (first token of an image-grounded text) to the vocabulary:
ids 30522 and 30523 for bert-base-uncased. BLIP-2's Q-Former appends `[DEC]` only.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BertTokenizer, PreTrainedTokenizerBase

DEC_TOKEN = "[DEC]"
ENC_TOKEN = "[ENC]"

CLEANINGS = ("caption", "question", None)

_PUNCTUATION = '.!"()*#:;~'
_PUNCTUATION_TO_SPACE = str.maketrans(dict.fromkeys(_PUNCTUATION, " "))
_PUNCTUATION_DELETED = str.maketrans(dict.fromkeys(_PUNCTUATION))
_WHITESPACE_RUN = re.compile(r"\s{2,}")
# Chinese and Japanese characters, kana and full-width punctuation, which are written without spaces
_IDEOGRAPH = "[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
_SPACE_BETWEEN_IDEOGRAPHS = re.compile(f"(?<={_IDEOGRAPH}) +(?={_IDEOGRAPH})")


def clean_caption(text: str, max_words: int | None = 50, prompt: str = "") -> str:
    """
    Clean a caption: lowercase, replace punctuation by spaces, collapse whitespace, truncate.

    Args:
        text (`str`): text to clean; may be empty.
        max_words (`int`, *optional*, defaults to 50): number of space-separated words to keep; `None` keeps all.
        prompt (`str`, *optional*, defaults to `""`): prefix of the result; neither cleaned nor counted.

    Returns:
        `str`: the cleaned caption.
    """
    text = _WHITESPACE_RUN.sub(" ", text.lower().translate(_PUNCTUATION_TO_SPACE))
    return prompt + _truncate_words(text.rstrip("\n").strip(" "), max_words)


def clean_question(text: str, max_words: int | None = 50) -> str:
    """
    Clean a question: lowercase, delete punctuation, strip trailing spaces, truncate.

    Args:
        text (`str`): text to clean; may be empty.
        max_words (`int`, *optional*, defaults to 50): number of space-separated words to keep; `None` keeps all.

    Returns:
        `str`: the cleaned question.
    """
    # parity: whitespace is neither collapsed nor stripped on the left, so the empty string between two spaces counts
    # as a word
    return _truncate_words(text.lower().translate(_PUNCTUATION_DELETED).rstrip(" "), max_words)


def clean_text(text: str, cleaning: str | None, max_words: int | None = 50) -> str:
    """
    Clean a text as a caption or as a question.

    Args:
        text (`str`): text to clean.
        cleaning (`str`, *optional*): `"caption"`, `"question"`, or `None` to return the text unchanged.
        max_words (`int`, *optional*, defaults to 50): number of words to keep; `None` keeps all.

    Returns:
        `str`: the cleaned text.

    Raises:
        ValueError: `cleaning` is none of the above.
    """
    if cleaning is None:
        return text
    if cleaning == "caption":
        return clean_caption(text, max_words)
    if cleaning == "question":
        return clean_question(text, max_words)
    raise ValueError(f"cleaning is {cleaning!r}; expected 'caption', 'question' or None (text left as it is).")


def join_ideographs(text: str) -> str:
    """
    Remove the spaces between Chinese and Japanese characters, which BERT's tokenizers put there when they decode.

    Args:
        text (`str`): decoded text.

    Returns:
        `str`: the text; spaces beside other scripts are kept.
    """
    return _SPACE_BETWEEN_IDEOGRAPHS.sub("", text)


def bert_tokenizer(source: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Create an uncased BERT tokenizer.

    Args:
        source (`str`, `os.PathLike`, `Sequence[str]`, `Mapping[str, int]` or `PreTrainedTokenizerBase`):
            a vocabulary file (one token per line), a vocabulary as a list of tokens or as `{token: id}`, a folder or
            Hub id with a tokenizer (or just a `vocab.txt`), or a tokenizer, which is returned unchanged.
        kwargs: options of the tokenizer class. `model_max_length` defaults to 512.

    Returns:
        `PreTrainedTokenizerBase`: the tokenizer.

    Raises:
        TypeError: `source` is none of the above.
        ValueError: the vocabulary contains duplicates or lacks `[UNK]`.
    """
    if isinstance(source, PreTrainedTokenizerBase):
        return source
    kwargs.setdefault("model_max_length", 512)
    # parity: "what's", not "what ' s"
    kwargs.setdefault("clean_up_tokenization_spaces", True)
    if isinstance(source, Mapping):
        return BertTokenizer(vocab=dict(source), **kwargs)
    if isinstance(source, (str, os.PathLike)):
        if os.path.isfile(source):
            with open(source, encoding="utf-8") as lines:
                tokens = [line.rstrip("\r\n") for line in lines]
            return BertTokenizer(vocab=_to_vocabulary(tokens, source), **kwargs)
        return BertTokenizer.from_pretrained(source, **kwargs)
    if isinstance(source, Sequence):
        return BertTokenizer(vocab=_to_vocabulary(list(source), "The list"), **kwargs)
    raise TypeError(
        f"Got a tokenizer of type {type(source).__name__}; expected a vocabulary file, a list or a dict of tokens, a"
        " folder, a Hub id, or a tokenizer."
    )


def add_blip_tokens(tokenizer: PreTrainedTokenizerBase, enc_token: bool = True) -> PreTrainedTokenizerBase:
    """
    Add the bos token `[DEC]` and the extra special token `[ENC]` to a tokenizer, in-place.

    Tokens that are already in the vocabulary keep their ids and become special tokens.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tokenizer to extend.
        enc_token (`bool`, *optional*, defaults to `True`): whether to add `[ENC]`.

    Returns:
        `PreTrainedTokenizerBase`: the same tokenizer.
    """
    if tokenizer.bos_token != DEC_TOKEN:
        tokenizer.add_special_tokens({"bos_token": DEC_TOKEN})
    if enc_token and ENC_TOKEN not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": [ENC_TOKEN]}, replace_extra_special_tokens=False)
    return tokenizer


def blip_tokenizer(source: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Create BLIP's tokenizer: an uncased BERT tokenizer with `[DEC]` as bos token, and `[ENC]`.

    Args:
        source: see [`bert_tokenizer`].
        kwargs: options of the tokenizer class.

    Returns:
        `PreTrainedTokenizerBase`: the tokenizer; the ids of the two tokens are 30522 and 30523 for bert-base-uncased.
    """
    return add_blip_tokens(bert_tokenizer(source, **kwargs))


def _truncate_words(text: str, max_words: int | None) -> str:
    words = text.split(" ")
    if max_words is None or len(words) <= max_words:
        return text
    return " ".join(words[:max_words])


def _to_vocabulary(tokens: list[str], source: Any) -> dict[str, int]:
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens) or "[UNK]" not in vocabulary:
        raise ValueError(
            f"{source} is not a BERT vocabulary: it has {len(tokens)} lines, {len(vocabulary)} of them unique; expected"
            " one token per line, without duplicates, including '[UNK]'."
        )
    return vocabulary


__all__ = [
    "CLEANINGS",
    "DEC_TOKEN",
    "ENC_TOKEN",
    "add_blip_tokens",
    "bert_tokenizer",
    "blip_tokenizer",
    "clean_caption",
    "clean_question",
    "clean_text",
    "join_ideographs",
]
