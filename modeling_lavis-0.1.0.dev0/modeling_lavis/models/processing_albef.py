# SPDX-License-Identifier: Apache-2.0
"""Processor of ALBEF.

Texts and answers have the format `[CLS] text [SEP]`; `[CLS]` starts the decoder, too.
"""

from typing import Any

from .processing_image_text import ImageTextProcessorMixin


class AlbefProcessor(ImageTextProcessorMixin):
    """
    Processor of all ALBEF models ([Li et al., 2021](https://arxiv.org/abs/2107.07651)).

    Args:
        image_processor (`LavisImageProcessor` or `LavisImageProcessorTorchvision`): exact or faster image processor.
        tokenizer (`BertTokenizer`): tokenizer; no token is added to it.
        max_text_length (`int`, *optional*, defaults to 30):
            maximum number of tokens of a text, special tokens included; `None` uses the limit of the tokenizer (512).
            Published models use 30 for retrieval, 25 for questions, 40 for visual entailment and NLVR2.
        max_words (`int`, *optional*, defaults to 50): maximum number of words of a cleaned text; `None` keeps all.
        cleaning (`str`, *optional*, defaults to `"caption"`):
            `"caption"`, `"question"` or `None`: how texts are cleaned before tokenization. Answers are never cleaned.
        join_ideographs (`bool`, *optional*, defaults to `False`):
            whether generated texts have no spaces between Chinese and Japanese characters, which BERT's tokenizers
            decode with spaces.

    Raises:
        ValueError: an option has an unsupported value.

    Example:
        >>> inputs = processor(images="dog.jpg", text="a dog on the beach", return_tensors="pt")  # doctest: +SKIP
        >>> model(**inputs, match_head="itm").logits.softmax(-1)  # doctest: +SKIP
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        max_text_length: int | None = 30,
        max_words: int | None = 50,
        cleaning: str | None = "caption",
        join_ideographs: bool = False,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.check_options({"max_text_length": max_text_length, "max_words": max_words, "cleaning": cleaning})
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self.check_options({"join_ideographs": join_ideographs})
        self.join_ideographs = join_ideographs

    @property
    def bos_token_id(self) -> int:
        """Id of `[CLS]`, which starts answers."""
        return self.tokenizer.cls_token_id


__all__ = ["AlbefProcessor"]
