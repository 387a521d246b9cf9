# SPDX-License-Identifier: Apache-2.0
"""What the processors of all families share: text cleaning, layout of texts, checks, loading, answers back to text.

Letters: B batch, T text tokens, A answers, S sum of the numbers of answers of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin

from .image_processing_lavis import LavisImageProcessor, LavisImageProcessorTorchvision, reject_unknown
from .tokenization_lavis import CLEANINGS, clean_text

# Stored image processor types that are read into ours: transformers' own BLIP under all the names it has had.
_FOREIGN_IMAGE_PROCESSORS = ("BlipImageProcessor", "BlipImageProcessorFast", "BlipImageProcessorPil", None)
_OTHER_KWARGS = ("text_kwargs", "images_kwargs", "common_kwargs", "return_tensors")


class LavisProcessorMixin(ProcessorMixin):
    """Base of the processors. A family adds its special tokens, its `__call__` and its labels.

    A subclass sets `cleaning`, `max_words` and `max_text_length` in its `__init__`.
    """

    image_processor: Any
    tokenizer: PreTrainedTokenizerBase
    cleaning: str | None
    max_words: int | None
    max_text_length: int | None

    @property
    def text_kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """Defaults of the tokenizer's options; a call overrides them."""
        return {
            "padding": True,
            "truncation": True,
            "max_length": self.max_text_length,
            "return_token_type_ids": False,
        }

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    @property
    def pad_token_id(self) -> int:
        """Id of `[PAD]`; transformers' Seq2SeqTrainer asks its `processing_class` for it."""
        return self.tokenizer.pad_token_id

    def clean(self, text: str | Sequence[str], cleaning: str | None = "own") -> list[str]:
        """Clean one text or several as this processor does before it tokenises.

        Args:
            text: a string or a list of strings.
            cleaning: "caption", "question", None (unchanged); by default what the processor was made with.
        """
        cleaning = self.cleaning if cleaning == "own" else cleaning
        return [clean_text(entry, cleaning, self.max_words) for entry in list_of_texts(text)]

    # ---- options ----

    def _check_text_options(self) -> None:
        name = type(self).__name__
        if self.cleaning not in CLEANINGS:
            raise ValueError(f"{name}: cleaning is {self.cleaning!r}; expected one of {CLEANINGS}.")
        for option in ("max_text_length", "max_words"):
            value = getattr(self, option)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: {option} is {value!r}; expected a positive int, or None for no limit.")

    def _split_kwargs(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Sort the options of a call into those of the tokenizer and those of the image processor.

        Returns:
            Options of the tokenizer, of the image processor, and `return_tensors`.
        """
        reject_unknown(type(self).__name__, kwargs, self._known_kwargs())
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_kwargs, image_kwargs = dict(merged["text_kwargs"]), dict(merged["images_kwargs"])
        in_text = text_kwargs.pop("return_tensors", None)
        in_images = image_kwargs.pop("return_tensors", None)
        return text_kwargs, image_kwargs, in_text or in_images

    def _known_kwargs(self) -> set[str]:
        annotations = self.valid_processor_kwargs.__annotations__
        known = set(annotations["text_kwargs"].__annotations__) | set(annotations["images_kwargs"].__annotations__)
        known |= set(getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {}))
        return known | set(_OTHER_KWARGS)

    # ---- tokens ----

    def _tokenize(self, texts: list[str], text_kwargs: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        """Tokenise as `[CLS] text [SEP]`; every value is a list with one entry per text."""
        for text in texts:
            if not text.isascii():
                _check_encodable(text)
        encoding = self.tokenizer(texts, **text_kwargs)
        return {name: value for name, value in encoding.items() if name not in self.unused_input_names}

    def _tokenize_from(
        self,
        texts: list[str],
        first_token_id: int,
        text_kwargs: Mapping[str, Any],
        keep_end: bool,
        padding_side: str = "right",
    ) -> dict[str, list[list[int]]]:
        """Tokenise with another token in the place of `[CLS]`, with or without the final `[SEP]`, and pad."""
        known = self.valid_processor_kwargs.__annotations__["text_kwargs"].__annotations__
        reject_unknown(type(self).__name__, text_kwargs, known)
        options = {"truncation": True, "max_length": self.max_text_length, **text_kwargs}
        padding = options.pop("padding", True)
        multiple = options.pop("pad_to_multiple_of", None)
        options.pop("padding_side", None)
        rows = self._tokenize(texts, options)["input_ids"]
        rows = [[first_token_id, *(row[1:] if keep_end else row[1:-1])] for row in rows]
        length = padded_length(rows, padding, options["max_length"], multiple)
        ids, mask = [], []
        for row in rows:
            pads = max(0, length - len(row))
            blank, seen = [self.pad_token_id] * pads, [1] * len(row)
            ids.append(blank + row if padding_side == "left" else row + blank)
            mask.append([0] * pads + seen if padding_side == "left" else seen + [0] * pads)
        return {"input_ids": ids, "attention_mask": mask}

    # ---- results back to text ----

    def _decode(self, outputs: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        sequences = getattr(outputs, "sequences", outputs)
        if isinstance(sequences, torch.Tensor):
            sequences = sequences.tolist()
        sequences = list(sequences)
        if sequences and isinstance(sequences[0], int):
            sequences = [sequences]
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        return [self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens, **kwargs) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Decode generated ids, the prompt included, as transformers' pipeline of that name expects it.

        Args:
            generated_outputs: ids (B, T) or (T,), or the output object of `generate`.
            skip_special_tokens: whether `[CLS]`, `[SEP]`, `[PAD]` ... are left out.
            kwargs: passed on to the tokenizer's `decode`.
        """
        return self._decode(generated_outputs, skip_special_tokens, **kwargs)

    def post_process_answers(self, outputs: Any) -> list[str]:
        """Decode generated answers: ids (B, T), or the output object of `generate`."""
        return self._decode(outputs)

    def post_process_ranked_answers(
        self, output: Any, answers: Sequence[str], top_k: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """Name the answers that `rank_answers` ranked.

        Args:
            output: what `rank_answers` returned, with `.candidates` (B, k) and `.scores` (B, k), best first.
            answers: the list that was ranked, in the same order.
            top_k: how many to keep per question; None keeps all k.

        Returns:
            One list per question, best first, of {"answer": str, "score": float}. The score is the log-likelihood
            of the answer (minus the smoothed, summed loss), so it is negative and 0 would be certain.
        """
        if int(output.candidates.max()) >= len(answers):
            raise ValueError(
                f"An answer with index {int(output.candidates.max())} was ranked, but {len(answers)} answers are given;"
                " pass the same list that was tokenised."
            )
        return [
            [{"answer": answers[index], "score": score} for index, score in zip(row[:top_k], scores[:top_k])]
            for row, scores in zip(output.candidates.tolist(), output.scores.tolist())
        ]

    def post_process_classification(
        self, outputs: Any, id2label: Mapping[int, str] | None = None, top_k: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """Name the classes of a classification head.

        Args:
            outputs: logits (B, classes), or an output object that has them.
            id2label: the model's `config.id2label`; None names the classes by number.
            top_k: how many to keep per row; None keeps all.

        Returns:
            One list per row, best first, of {"label": str, "score": probability}.
        """
        logits = getattr(outputs, "logits", outputs)
        if id2label is not None and len(id2label) != logits.shape[-1]:
            raise ValueError(f"id2label names {len(id2label)} classes, the logits have {logits.shape[-1]}.")
        scores, order = logits.float().softmax(-1).sort(dim=-1, descending=True, stable=True)
        names = {number: str(number) for number in range(logits.shape[-1])} if id2label is None else id2label
        return [
            [{"label": names[index], "score": score} for index, score in zip(row[:top_k], values[:top_k])]
            for row, values in zip(order.tolist(), scores.tolist())
        ]

    # ---- loading ----

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """Read the stored options; for a folder in another package's layout, derive them from its `config.json`."""
        stored, unused = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if stored.get("processor_class") != cls.__name__:
            access = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
            known = {name: kwargs[name] for name in access if kwargs.get(name)}
            try:
                config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **known)
            except OSError:  # a folder with processor files only
                config = {}
            stored = {**cls._options_for_foreign(config), **stored}
        return stored, unused

    @classmethod
    def _options_for_foreign(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options that suit a repository whose `config.json` (as a dict, {} if it has none) was not written by us."""
        return {}

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list[Any]:
        backend = kwargs.pop("backend", None)
        image_processor = load_image_processor(pretrained_model_name_or_path, backend, **dict(kwargs))
        tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs)
        parts = {"image_processor": image_processor, "tokenizer": tokenizer}
        return [parts[name] for name in cls.get_attributes()]


def load_image_processor(source: Any, backend: str | None = None, **kwargs: Any) -> Any:
    """Load the image processor of a folder or Hub id, transformers' BLIP ones into ours.

    Args:
        source: folder, file or Hub id.
        backend: "pil" for the exact one, "torchvision" for the faster one; None takes the stored one, and the exact
            one for repositories in transformers' format.
        kwargs: access to the Hub (`revision`, `token`, ...), and options that replace the stored ones.
    """
    if backend not in (None, "pil", "torchvision"):
        raise ValueError(f"backend is {backend!r}; expected 'pil' (exact), 'torchvision' (faster) or None.")
    stored, options = ImageProcessingMixin.get_image_processor_dict(source, **kwargs)
    kind = stored.get("image_processor_type")
    own = {"LavisImageProcessor": "pil", "LavisImageProcessorTorchvision": "torchvision"}
    if kind not in own and kind not in _FOREIGN_IMAGE_PROCESSORS:
        return AutoImageProcessor.from_pretrained(source, **kwargs)
    chosen = backend or own.get(kind, "pil")
    image_class = LavisImageProcessorTorchvision if chosen == "torchvision" else LavisImageProcessor
    known = image_class.valid_kwargs.__annotations__
    values = {name: value for name, value in {**stored, **options}.items() if name in known}
    return image_class(**values)


def list_of_texts(text: Any, what: str = "text") -> list[str]:
    """Check that `text` is a string or a sequence of strings, and return a list."""
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, Mapping)):
        texts = list(texts) if hasattr(texts, "__iter__") and not isinstance(texts, (bytes, Mapping)) else [texts]
    if not len(texts):
        raise ValueError(f"`{what}` is an empty list; expected at least one string ('' is allowed).")
    for number, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise ValueError(
                f"`{what}` holds {type(entry).__name__} at position {number}; expected a string or a list of strings."
            )
    return list(texts)


def padded_length(rows: list[list[int]], padding: Any, max_length: int | None, multiple: int | None) -> int:
    """Length to which rows of ids are padded under transformers' `padding` option; 0 for no padding."""
    kind = getattr(padding, "value", padding)
    if kind in (False, "do_not_pad"):
        return 0
    length = max(map(len, rows))
    if kind == "max_length" and max_length is not None:
        length = max(length, max_length)
    return -(-length // multiple) * multiple if multiple else length


def to_batch(data: dict[str, Any], return_tensors: Any) -> BatchFeature:
    """Turn lists into a `BatchFeature`, with a plain error where rows of unequal length cannot become a tensor."""
    try:
        return BatchFeature(data, tensor_type=return_tensors)
    except ValueError as error:
        lengths = {name: sorted({len(row) for row in rows}) for name, rows in data.items()}
        raise ValueError(
            f"The rows have different lengths ({lengths}) and cannot become one tensor; pass padding=True."
        ) from error


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"A text holds half of a surrogate pair at character {error.start} and is no valid Unicode; decode its"
            " source with errors='replace'."
        ) from error
