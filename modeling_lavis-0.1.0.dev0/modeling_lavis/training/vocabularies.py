# SPDX-License-Identifier: Apache-2.0
"""Vocabularies made from the texts of a data set, for models without pretrained text encoder."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int = 1000, lowercase: bool = True, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """
    Make a WordPiece tokenizer, with BERT's special tokens, from texts in any language.

    Unlike BERT's, it keeps accents, and words with hyphens, and it decodes texts as they were but for case, repeated
    spaces and characters that the texts do not have. Chinese characters are tokens of their own.

    Args:
        texts (`Iterable[str]`): the texts.
        vocabulary_size (`int`, *optional*, defaults to 1000): largest number of tokens, special ones included. All
            characters of the texts are tokens, even if they are more.
        lowercase (`bool`, *optional*, defaults to `True`): whether upper and lower case are the same.
        max_length (`int`, *optional*, defaults to 512): largest number of tokens of a text.

    Raises:
        ValueError: there are no texts.
    """
    texts = [text.lower() if lowercase else text for text in texts]
    characters = sorted({character for text in texts for character in text if not character.isspace()})
    if not characters:
        raise ValueError("There are no texts to make a vocabulary from; check the column of texts.")
    # listed in order, because the trainer would number continuing characters in another order in every run
    special = list(SPECIAL_TOKENS.values())
    known = [*special, *characters, *(f"##{character}" for character in characters)]
    trainer: Any = trainers.WordPieceTrainer(
        vocab_size=max(vocabulary_size, len(known)), special_tokens=known, show_progress=False, min_frequency=2
    )
    draft = _backend(Tokenizer(models.WordPiece(unk_token="[UNK]")), lowercase)
    draft.train_from_iterator(texts, trainer)
    tokenizer = _backend(Tokenizer(models.WordPiece(draft.get_vocab(), unk_token="[UNK]")), lowercase)
    tokenizer.add_special_tokens(special)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


def set_language_tokens(tokenizer: Any) -> None:
    """Let a tokenizer of BERT begin and end the texts of a new language model with its own first and last tokens."""
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token


def _backend(tokenizer: Tokenizer, lowercase: bool) -> Tokenizer:
    normalizer: Any = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lowercase
    )
    untyped: Any = tokenizer
    untyped.normalizer = normalizer
    untyped.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    untyped.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return tokenizer


__all__ = ["SPECIAL_TOKENS", "set_language_tokens", "train_tokenizer"]
