# SPDX-License-Identifier: Apache-2.0
"""The processor of the ALBEF family: pictures and texts in, model inputs and labels out, and results back to text.

Every text is laid out as `[CLS] text [SEP]`, answers too: `[CLS]` is what starts the decoder.
"""

from typing import Any

from .processing_image_text import ImageTextProcessorMixin


class AlbefProcessor(ImageTextProcessorMixin):
    """Processor of all ALBEF models.

    Args:
        image_processor: a `LavisImageProcessor` (exact) or a `LavisImageProcessorTorchvision` (faster).
        tokenizer: a BERT tokenizer; no token is added to it.
        max_text_length (default 30): tokens kept of a text, the special ones included; None keeps what the tokenizer
            allows (512). Published: 30 for retrieval, 25 for questions, 40 for entailment and NLVR2.
        max_words (default 50): words kept by the cleaning; None keeps all.
        cleaning (default "caption"): "caption", "question" or None; how texts are cleaned before tokenisation.
            Answers are never cleaned.

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
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.max_text_length = max_text_length
        self.max_words = max_words
        self.cleaning = cleaning
        self._check_text_options()

    @property
    def bos_token_id(self) -> int:
        """Id of `[CLS]`, which starts answers."""
        return self.tokenizer.cls_token_id


__all__ = ["AlbefProcessor"]
