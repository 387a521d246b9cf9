# SPDX-License-Identifier: Apache-2.0
"""Base class of the families' configurations: special tokens that have to be in the vocabulary."""

from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import logging

from .configuration_base import LavisPreTrainedConfig

logger = logging.get_logger(__name__)

# Fields of the configurations, and the attribute of a tokenizer that has the same id.
_FROM_TOKENIZER = {
    "pad_token_id": "pad_token_id",
    "cls_token_id": "cls_token_id",
    "eos_token_id": "sep_token_id",
    "mask_token_id": "mask_token_id",
    "bos_token_id": "bos_token_id",
}
_ENC_TOKEN = "[ENC]"
# Key of the dictionary by which `from_dict` tells the constructor which fields a file has.
_STORED = "_stored_fields"


@strict
class LavisVocabularyConfig(LavisPreTrainedConfig):
    """
    Base of the configurations with special tokens. Token ids outside the vocabulary raise an error at construction; ids
    that a file has give a warning instead, because not every head uses each of them.
    """

    #: parts with a vocabulary of the special tokens
    vocabulary_parts: ClassVar[tuple[str, ...]] = ("text_config",)
    #: special tokens without which a tokenizer does not fit
    tokenizer_fields: ClassVar[tuple[str, ...]] = ("pad_token_id", "cls_token_id", "eos_token_id")
    #: function of this package that makes such a tokenizer
    tokenizer_function = "bert_tokenizer"

    @classmethod
    def prepare_dict(cls, values: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
        """Note the fields that the file itself has."""
        return {**super().prepare_dict(values, given), _STORED: frozenset(values) - given}

    def check_token_ids(self, stored: frozenset[str] = frozenset()) -> None:
        """
        Raise `ValueError` if a token id is outside the vocabulary; warn if the field is in `stored`.

        Later changes of sizes are not checked: resizing the embeddings may leave out tokens that a head does not use.
        """
        sizes = {name: getattr(part, "vocab_size", None) for name, part in self._vocabularies().items()}
        part, size = min(((n, s) for n, s in sizes.items() if s), key=lambda pair: pair[1], default=("", 0))
        if not size:
            return
        wrong = {
            name: value
            for name in (*_FROM_TOKENIZER, "enc_token_id")
            if (value := getattr(self, name, None)) is not None and not 0 <= value < size
        }
        if not wrong:
            return
        reason = (
            f"{_listed([f'{name} is {value}' for name, value in wrong.items()])}, but {part}.vocab_size is {size}; "
            f"expected token ids from 0 to {size - 1}. Give the ids of your tokenizer, or make the configuration from "
            f"it: {type(self).__name__}.from_tokenizer(tokenizer, ...)."
        )
        if set(wrong) <= stored:
            logger.warning(f"In a {type(self).__name__}: {reason}")
            return
        raise ValueError(reason)

    def _vocabularies(self) -> dict[str, PreTrainedConfig]:
        """The parts whose vocabulary has the special tokens, by field."""
        parts = {name: getattr(self, name) for name in self.vocabulary_parts}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **kwargs: Any) -> Any:
        """
        A configuration with the vocabulary size and the special tokens of a tokenizer.

        Args:
            tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): tokenizer, or a processor that has one.
            kwargs: fields of the configuration, such as `vision_config` and `text_config`. Token ids that are given
                override those of the tokenizer. A given vocabulary size may be larger than the tokenizer's.

        Raises:
            ValueError: the tokenizer lacks a special token, or a given vocabulary is smaller than the tokenizer's.
        """
        tokenizer, vocabulary = cls._read_tokenizer(tokenizer)
        for name in cls.tokenizer_fields:
            if name not in kwargs:
                kwargs[name] = cls._token_id(name, tokenizer, vocabulary)
        size = max(len(vocabulary), max(vocabulary.values()) + 1)
        for name in cls.vocabulary_parts:
            if name == cls.vocabulary_parts[0] or kwargs.get(name) is not None:
                kwargs[name] = with_vocabulary(name, kwargs.get(name), size, kwargs["pad_token_id"])
        return cls(**kwargs)

    @staticmethod
    def _read_tokenizer(tokenizer: Any) -> tuple[Any, Mapping[str, int]]:
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        if not hasattr(tokenizer, "get_vocab"):
            raise ValueError(
                f"Got a tokenizer of type {type(tokenizer).__name__}; pass a tokenizer of transformers or a processor, "
                "for instance AutoTokenizer.from_pretrained(...)."
            )
        return tokenizer, tokenizer.get_vocab()

    @classmethod
    def _token_id(cls, name: str, tokenizer: Any, vocabulary: Mapping[str, int]) -> int:
        if name == "enc_token_id":
            token, found = _ENC_TOKEN, vocabulary.get(_ENC_TOKEN)
        else:
            token, found = _FROM_TOKENIZER[name].removesuffix("_id"), getattr(tokenizer, _FROM_TOKENIZER[name], None)
        if found is None:
            raise ValueError(
                f"The tokenizer has no {token} for {name}. Make it with {cls.tokenizer_function}, or pass {name}=..."
            )
        return int(found)


def with_vocabulary(name: str, part: Any, size: int, pad_token_id: int | None) -> Any:
    """Values of a part with at least `size` tokens."""
    values = part.to_dict() if isinstance(part, PreTrainedConfig) else dict(part or {})
    given = values.get("vocab_size")
    if isinstance(given, int) and given < size:
        raise ValueError(
            f"{name}.vocab_size is {given}, but the tokenizer has {size} tokens, added ones included. Leave it out, or "
            "give at least that."
        )
    pad = {} if pad_token_id is None else {"pad_token_id": pad_token_id}
    return {**pad, **values, "vocab_size": given or size}


def _listed(parts: list[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), parts[-1]])


__all__ = ["LavisVocabularyConfig", "with_vocabulary"]
