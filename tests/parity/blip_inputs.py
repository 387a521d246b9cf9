"""What every replay of images and texts starts with: the converted model and tokenised texts."""

from __future__ import annotations

from typing import Any

import torch

from .converted import Converted


def compare_tokenizer(run: Converted) -> None:
    """Special ids and the ids of every recorded list of texts, without truncation, padded to the longest."""
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
    """The processor's `input_ids` and `attention_mask` of uncleaned texts, `[CLS]` in slot 0.

    Length limit and padding are what the conversion has put into the processor, unless `options` say otherwise: the
    recorded calls of the original tokenise without cleaning, some of them without a limit.
    """
    return dict(run.processor(text=texts, cleaning=None, text_format="encoder", return_tensors="pt", **options))
