"""Inputs of the replays of images and texts: tokenized texts, and the comparison of tokenizers."""

from __future__ import annotations

from typing import Any

import torch

from .converted import Converted


def compare_tokenizer(run: Converted) -> None:
    """Compare special token ids, and the ids of every recorded list of texts, without truncation."""
    tokenizer, ledger = run.processor.tokenizer, run.ledger
    ledger.compare_value(
        "tokenizer",
        {
            "length": len(tokenizer),
            "pad": tokenizer.pad_token_id,
            "cls": tokenizer.cls_token_id,
            "sep": tokenizer.sep_token_id,
            "mask": tokenizer.mask_token_id,
            "bos_DEC": tokenizer.get_vocab().get("[DEC]"),
            "enc_ENC": tokenizer.get_vocab().get("[ENC]"),
        },
    )
    for name in run.golden.below("tokenized."):
        texts = run.golden.inputs[name.removeprefix("tokenized.")]
        ledger.compare(name, tokens(run, texts, truncation=False, max_length=None)["input_ids"])


def tokens(run: Converted, texts: str | list[str], **options: Any) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of texts that start with `[CLS]`, without cleaning.

    Maximal length and padding are those of the converted processor, unless `options` override them: the recorded calls
    of the original tokenize without cleaning, some of them without truncation.
    """
    return dict(run.processor(text=texts, cleaning=None, text_format="encoder", return_tensors="pt", **options))
