# SPDX-License-Identifier: Apache-2.0
"""The processor of the BLIP family: pictures and texts in, model inputs and labels out, and results back to text.

Letters: B batch, T text tokens, A answers in a list, S sum of the numbers of answers of a batch, L answer tokens.

How a text is laid out:

* "encoder": `[CLS] text [SEP]`, for features, retrieval, matching, questions, statements. The model puts `[ENC]` in
  slot 0 itself where a pass reads the text together with a picture.
* "prompt": `[DEC] text`, for `generate` to go on from. Prompts of different lengths are padded on the left.
* Labels of captions and answers: `[DEC] text [SEP]`, -100 where nothing is to be learnt.
"""

from collections.abc import Mapping
from typing import Any

from .processing_prompts import PromptProcessorMixin
from .tokenization_lavis import ENC_TOKEN, add_blip_tokens, blip_tokenizer

__all__ = ["LavisBlipProcessor", "blip_tokenizer"]


class LavisBlipProcessor(PromptProcessorMixin):
    """Processor of all BLIP models.

    Args:
        image_processor: a `LavisImageProcessor` (exact) or a `LavisImageProcessorTorchvision` (faster).
        tokenizer: a BERT tokenizer; `[DEC]` and `[ENC]` are added to it, in place, where they are missing.
        prompt (default ""): what captions start with, "a picture of " for the published captioning models.
        max_text_length (default 35): tokens kept of a text, the special ones included; None keeps what the tokenizer
            allows (512).
        max_words (default 50): words kept by the cleaning; None keeps all.
        cleaning (default "caption"): "caption", "question" or None; how texts are cleaned before tokenisation.
            Prompts and answers are never cleaned.
        text_format: "encoder" or "prompt", the layout of `text=` in a call (see the head of this file). None, the
            default, stands for "prompt" where there is a prompt, else "encoder".

    Example:
        >>> inputs = processor(images="dog.jpg", return_tensors="pt")  # doctest: +SKIP
        >>> processor.post_process_captions(model.generate(**inputs))  # doctest: +SKIP
        ['a dog on the beach']
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        prompt: str = "",
        max_text_length: int | None = 35,
        max_words: int | None = 50,
        cleaning: str | None = "caption",
        text_format: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.set_text_options(prompt, max_text_length, max_words, cleaning, text_format)
        add_blip_tokens(self.tokenizer)

    @property
    def bos_token_id(self) -> int:
        """Id of `[DEC]`, which starts captions and answers."""
        return self.tokenizer.bos_token_id

    @property
    def enc_token_id(self) -> int:
        """Id of `[ENC]`, slot 0 of a text that is read together with a picture."""
        return self.tokenizer.convert_tokens_to_ids(ENC_TOKEN)

    @classmethod
    def _options_for_foreign(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # transformers' captioners go on from the text, without a prompt of their own
        architecture = (config.get("architectures") or [""])[0]
        options: dict[str, dict[str, Any]] = {
            "BlipForConditionalGeneration": {"text_format": "prompt", "max_text_length": 40},
            "BlipForQuestionAnswering": {"cleaning": "question"},
        }
        return options.get(architecture, {})
