# SPDX-License-Identifier: Apache-2.0
"""Processor of BLIP.

Formats of texts:

* `"encoder"`: `[CLS] text [SEP]`, for features, retrieval, matching, questions and statements. The model replaces
  `[CLS]` by `[ENC]` where the text cross-attends to an image.
* `"prompt"`: `[DEC] text`, for `generate`, padded on the left.
* labels of captions and answers: `[DEC] text [SEP]`, -100 at ignored positions.
"""

from collections.abc import Mapping
from typing import Any

from .processing_image_text import PromptProcessorMixin
from .processing_lavis import first_architecture
from .tokenization_lavis import ENC_TOKEN, add_blip_tokens, blip_tokenizer


class LavisBlipProcessor(PromptProcessorMixin):
    """
    Processor of all BLIP models ([Li et al., 2022](https://arxiv.org/abs/2201.12086)).

    Args:
        image_processor (`LavisImageProcessor` or `LavisImageProcessorTorchvision`): exact or faster image processor.
        tokenizer (`BertTokenizer`): tokenizer; `[DEC]` and `[ENC]` are added in-place if they are missing.
        prompt (`str`, *optional*, defaults to `""`):
            start of every caption, `"a picture of "` for the published captioning models.
        max_text_length (`int`, *optional*, defaults to 35):
            maximum number of tokens of a text, special tokens included; `None` uses the limit of the tokenizer (512).
        max_words (`int`, *optional*, defaults to 50): maximum number of words of a cleaned text; `None` keeps all.
        cleaning (`str`, *optional*, defaults to `"caption"`):
            `"caption"`, `"question"` or `None`: how texts are cleaned before tokenization. Prompts and answers are
            never cleaned.
        text_format (`str`, *optional*):
            `"encoder"` or `"prompt"`: format of the `text` of a call, see the head of this file. Defaults to `"prompt"`
            if there is a prompt, else `"encoder"`.
        join_ideographs (`bool`, *optional*, defaults to `False`):
            whether generated texts have no spaces between Chinese and Japanese characters, which BERT's tokenizers
            decode with spaces.

    Raises:
        ValueError: an option has an unsupported value.

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
        join_ideographs: bool = False,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        self.set_text_options(prompt, max_text_length, max_words, cleaning, text_format)
        self.check_options({"join_ideographs": join_ideographs})
        self.join_ideographs = join_ideographs
        add_blip_tokens(self.tokenizer)

    @property
    def bos_token_id(self) -> int:
        """Id of `[DEC]`, which starts captions and answers."""
        return self.tokenizer.bos_token_id

    @property
    def enc_token_id(self) -> int:
        """Id of `[ENC]`, the first token of an image-grounded text."""
        return self.tokenizer.convert_tokens_to_ids(ENC_TOKEN)

    @classmethod
    def _options_from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        # transformers' captioning models continue the text of the call; they have no prompt of their own
        architecture = first_architecture(config)
        options: dict[str, dict[str, Any]] = {
            "BlipForConditionalGeneration": {"text_format": "prompt", "max_text_length": 40},
            "BlipForQuestionAnswering": {"cleaning": "question"},
        }
        return options.get(architecture, {})


__all__ = ["LavisBlipProcessor", "blip_tokenizer"]
