# SPDX-License-Identifier: Apache-2.0
"""BERT's tokenizer with the extra tokens of BLIP and BLIP-2.

BLIP appends `[DEC]` (start of decoding; bos token) and `[ENC]` (first token of an image-grounded text) to the
vocabulary: ids 30522 and 30523 for bert-base-uncased. BLIP-2's Q-Former appends `[DEC]` only.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BertTokenizer, PreTrainedTokenizerBase

DEC_TOKEN = "[DEC]"
ENC_TOKEN = "[ENC]"


def bert_tokenizer(source: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Make a lower-casing BERT tokenizer.

    Args:
        source: a vocabulary file (one piece per line), a vocabulary as a list of pieces or as {piece: id}, a folder
            or a Hub id that holds a tokenizer (or just a `vocab.txt`), or a tokenizer, which is returned as it is.
        kwargs: passed on to the tokenizer's class.
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
                pieces = [line.rstrip("\r\n") for line in lines]
            return BertTokenizer(vocab=_numbered(pieces, source), **kwargs)
        return BertTokenizer.from_pretrained(source, **kwargs)
    if isinstance(source, Sequence):
        return BertTokenizer(vocab=_numbered(list(source), "the list"), **kwargs)
    raise TypeError(
        f"A tokenizer is given as {type(source).__name__}; expected a vocabulary file, a list or a dict of pieces, a"
        " folder, a Hub id, or a tokenizer."
    )


def add_blip_tokens(tokenizer: PreTrainedTokenizerBase, enc_token: bool = True) -> PreTrainedTokenizerBase:
    """Give `tokenizer` the bos token `[DEC]` and, unless `enc_token` is False, the extra token `[ENC]`.

    Tokens that the vocabulary has already only get their role. The tokenizer is changed in place and returned.
    """
    if tokenizer.bos_token != DEC_TOKEN:
        tokenizer.add_special_tokens({"bos_token": DEC_TOKEN})
    if enc_token and ENC_TOKEN not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": [ENC_TOKEN]}, replace_extra_special_tokens=False)
    return tokenizer


def blip_tokenizer(source: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Make BLIP's tokenizer: `bert_tokenizer(source)` with `[DEC]` as bos token and `[ENC]`, at the end.

    The ids are 30522 and 30523 on top of bert-base-uncased's 30,522 pieces.
    """
    return add_blip_tokens(bert_tokenizer(source, **kwargs))


def _numbered(pieces: list[str], source: Any) -> dict[str, int]:
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces) or "[UNK]" not in vocabulary:
        raise ValueError(
            f"{source} is no BERT vocabulary: {len(pieces)} lines, {len(vocabulary)} different ones; expected one"
            " piece per line, each once, '[UNK]' among them."
        )
    return vocabulary
