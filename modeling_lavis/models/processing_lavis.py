# SPDX-License-Identifier: Apache-2.0
"""What the processors of all families share: tokenization, checks of options, post-processing and loading.

Shapes: B batch size, T text tokens, k candidates.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_processing_base import BatchFeature, ImageProcessingMixin
from transformers.tokenization_utils_base import LARGE_INTEGER

from .configuration_base import check_names
from .image_processing_lavis import (
    LavisImageProcessor,
    LavisImageProcessorTorchvision,
    check_file_options,
    check_image_options,
    read_options,
    reject_unknown,
)
from .modeling_base import HUB_OPTIONS, saved_together
from .outputs import IGNORE_INDEX
from .tokenization_lavis import CLEANINGS, clean_text, join_ideographs
from .transformers_compat import merged_processor_options

_OWN_BACKENDS = {"LavisImageProcessor": "pil", "LavisImageProcessorTorchvision": "torchvision"}
# All names that transformers' BLIP image processor has had (`None`: older repositories do not name it); their options
# are loaded into our classes.
_BLIP_IMAGE_PROCESSORS = ("BlipImageProcessor", "BlipImageProcessorFast", "BlipImageProcessorPil", None)
_NAMES = ("processor_class", "image_processor_type", "video_processor_type")
_MAX_LENGTH = 2**20
_BERT_TOKENS = ("cls_token", "sep_token", "pad_token")
_PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
# Options of a tokenizer that return more than token ids and their mask, or that take more than one text per row.
_UNSUPPORTED_TEXT_OPTIONS = (
    "text_pair",
    "text_target",
    "text_pair_target",
    "is_split_into_words",
    "stride",
    "return_overflowing_tokens",
    "return_special_tokens_mask",
    "return_offsets_mapping",
    "return_length",
)
_OTHER_KWARGS = ("text_kwargs", "images_kwargs", "common_kwargs", "return_tensors")


class LavisProcessorMixin(ProcessorMixin):
    """
    Base of all processors.

    A subclass implements `__call__`, and sets `cleaning`, `max_words` and `max_text_length` in its `__init__`.
    """

    image_processor: Any
    tokenizer: PreTrainedTokenizerBase
    cleaning: str | None
    max_words: int | None
    max_text_length: int | None
    #: whether to decode Chinese and Japanese characters without spaces between them
    join_ideographs: bool

    @property
    def text_kwargs(self) -> dict[str, Any]:  # type: ignore[override]
        """Default options of the tokenizer, which a call can override."""
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
        """Id of the padding token; read by transformers' `Seq2SeqTrainer`."""
        return self.tokenizer.pad_token_id

    def clean(self, text: str | Sequence[str], cleaning: str | None = "own") -> list[str]:
        """
        Clean texts as this processor does before tokenization.

        Args:
            text (`str` or `Sequence[str]`): one text or several.
            cleaning (`str`, *optional*, defaults to the processor's `cleaning`):
                `"caption"`, `"question"`, or `None` to leave the texts unchanged.

        Returns:
            `list[str]`: the cleaned texts.

        Raises:
            ValueError: `text` is empty or contains something other than strings, or `cleaning` is unknown.
        """
        cleaning = self.cleaning if cleaning == "own" else cleaning
        return [clean_text(entry, cleaning, self.max_words) for entry in list_of_texts(text)]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """
        transformers' `save_pretrained`. A process that is killed meanwhile leaves the folder as it was, complete, or
        without the files that are read first; not so with `push_to_hub=True`.
        """
        if args or kwargs.get("push_to_hub"):
            return super().save_pretrained(save_directory, *args, **kwargs)
        with saved_together(save_directory) as folder:
            files = super().save_pretrained(folder, **kwargs)
        return [os.path.join(save_directory, os.path.relpath(file, folder)) for file in files or ()]

    # ---- options ----

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """
        Check the values of options of the constructor; those that are missing are left alone.

        Args:
            options (`Mapping[str, Any]`): options by name.

        Raises:
            ValueError: a value has the wrong type or is out of its range. The message names option and value.
        """
        check_names(cls, options)
        if options.get("cleaning") is not None and options["cleaning"] not in CLEANINGS:
            raise ValueError(f"{cls.__name__}: cleaning is {options['cleaning']!r:.80}; expected one of {CLEANINGS}.")
        for option in ("max_text_length", "max_words"):
            value = options.get(option)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{cls.__name__}: {option} is {value!r:.80}; expected a positive int, or None for no limit."
                )
            if value > _MAX_LENGTH:
                raise ValueError(
                    f"{cls.__name__}: {option} is {value!r:.80}; expected at most {_MAX_LENGTH}, or None for no limit."
                )
        if not isinstance(options.get("join_ideographs", False), bool):
            raise ValueError(f"join_ideographs is {options['join_ideographs']!r:.80}; expected true or false.")
        for name in _NAMES:
            if options.get(name) is not None and not isinstance(options[name], str):
                raise ValueError(f"{name} is {options[name]!r:.80}; expected the name of a class.")
        if options.get("auto_map") is not None and not isinstance(options["auto_map"], Mapping):
            raise ValueError(f"auto_map is {options['auto_map']!r:.80}; expected classes by the name of an Auto class.")

    def _split_kwargs(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Split the options of a call into those of the tokenizer, those of the image processor, `return_tensors`."""
        reject_unknown(type(self).__name__, kwargs, self._known_kwargs())
        for name in ("text_kwargs", "images_kwargs", "common_kwargs"):
            if not isinstance(kwargs.get(name, {}), Mapping):
                raise TypeError(f"{name} is {kwargs[name]!r}; expected a dict of options.")
        known_text_kwargs = self.valid_processor_kwargs.__annotations__["text_kwargs"].__annotations__
        reject_unknown(type(self).__name__, kwargs.get("text_kwargs", {}), known_text_kwargs)
        merged = merged_processor_options(self, kwargs)
        text_kwargs, image_kwargs = dict(merged["text_kwargs"]), dict(merged["images_kwargs"])
        text_tensors = text_kwargs.pop("return_tensors", None)
        image_tensors = image_kwargs.pop("return_tensors", None)
        return text_kwargs, image_kwargs, text_tensors or image_tensors

    def _known_kwargs(self) -> set[str]:
        annotations = self.valid_processor_kwargs.__annotations__
        known = set(annotations["text_kwargs"].__annotations__) | set(annotations["images_kwargs"].__annotations__)
        known |= set(getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {}))
        return known | set(_OTHER_KWARGS)

    # ---- tokenization ----

    def _tokenize(self, texts: list[str], text_kwargs: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        """Tokenize as `[CLS] text [SEP]`; every value has one row per text."""
        if getattr(self, "language_model", None) is None:
            self._check_tokenizer()
        for text in texts:
            if not text.isascii():
                _check_encodable(text)
        encoding = self.tokenizer(texts, **text_kwargs)
        return {name: value for name, value in encoding.items() if name not in self.unused_input_names}

    def _check_tokenizer(self) -> None:
        missing = [token for token in _BERT_TOKENS if getattr(self.tokenizer, f"{token}_id", None) is None]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: the tokenizer ({type(self.tokenizer).__name__}) has no {', '.join(missing)};"
                " expected a tokenizer of BERT. A processor of BLIP-2 takes another one with language_model='causal' or"
                " 'seq2seq'."
            )

    def _tokenize_with_bos(
        self,
        texts: list[str],
        bos_token_id: int,
        text_kwargs: Mapping[str, Any],
        add_eos: bool,
        truncates: bool = False,
        padding_side: str = "right",
    ) -> dict[str, list[list[int]]]:
        """Tokenize with another token in place of `[CLS]`, with or without the final `[SEP]`, and pad."""
        last = [self.tokenizer.sep_token_id] if add_eos else []
        options = self._text_options(text_kwargs, truncates, padding_side)
        # `max_length` counts the final `[SEP]` of a prompt, too
        rows = self._truncate(self._tokenize_bare(texts), options, num_special_tokens=2)
        return self._pad([[bos_token_id, *row, *last] for row in rows], options)

    def _text_options(self, given: Mapping[str, Any], truncates: bool, padding_side: str = "right") -> dict[str, Any]:
        """
        Options for prompts, captions and answers, with defaults; raises errors for those that are not supported.

        With `truncates`, texts are truncated to `max_text_length` by default, otherwise only to a given `max_length`.
        """
        known = self.valid_processor_kwargs.__annotations__["text_kwargs"].__annotations__
        reject_unknown(type(self).__name__, given, known)
        for name in _UNSUPPORTED_TEXT_OPTIONS:
            if given.get(name):
                raise TypeError(
                    f"{type(self).__name__} got {name}={given[name]!r}, which it does not support for prompts, captions"
                    " and answers; call its tokenizer instead."
                )
        if given.get("add_special_tokens") is False:
            raise TypeError(
                f"{type(self).__name__} got add_special_tokens=False, but prompts, captions and answers need their"
                " special tokens; call its tokenizer instead."
            )
        defaults = {
            "padding": True,
            "truncation": True,
            "pad_to_multiple_of": None,
            "padding_side": padding_side,
            # the end of a caption is cut off, never its prompt
            "truncation_side": "right" if truncates else self.tokenizer.truncation_side,
        }
        options = {name: default if given.get(name) is None else given[name] for name, default in defaults.items()}
        length = given.get("max_length", self.max_text_length if truncates else None)
        if length is None and truncates:
            length = self._tokenizer_limit
        options["max_length"] = length
        if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
            raise ValueError(f"max_length is {length!r}; expected a positive int, or None.")
        if _value_of(options["padding"]) not in _PADDINGS:
            raise ValueError(f"padding is {options['padding']!r}; expected one of {_PADDINGS}.")
        if options["padding_side"] not in ("left", "right"):
            raise ValueError(f"padding_side is {options['padding_side']!r}; expected 'left' or 'right'.")
        return options

    def _tokenize_bare(self, texts: list[str]) -> list[list[int]]:
        """Token ids of texts without special tokens, neither truncated nor padded."""
        options = {"add_special_tokens": False, "padding": False, "truncation": False, "verbose": False}
        return self._tokenize(texts, options)["input_ids"]

    def _truncate(self, rows: list[list[int]], options: Mapping[str, Any], num_special_tokens: int) -> list[list[int]]:
        """Truncate rows of token ids so that special tokens can be added to them."""
        if options["max_length"] is None or _value_of(options["truncation"]) in (False, "do_not_truncate"):
            return rows
        length = max(options["max_length"] - num_special_tokens, 0)
        if options["truncation_side"] == "left":
            return [row[max(len(row) - length, 0) :] for row in rows]
        return [row[:length] for row in rows]

    def _pad(self, rows: list[list[int]], options: Mapping[str, Any]) -> dict[str, list[list[int]]]:
        """Pad rows of token ids under the options of [`_text_options`]."""
        max_length = self.padding_length if options["max_length"] is None else options["max_length"]
        length = padded_length(rows, options["padding"], max_length, options["pad_to_multiple_of"])
        return pad_rows(rows, length, self.pad_token_id, options["padding_side"])

    @property
    def padding_length(self) -> int | None:
        """
        Number of tokens to which `padding="max_length"` pads if a call gives no `max_length`: that of the tokenizer's
        options, else `max_text_length`, else the limit of the tokenizer; `None` if there is none of them.
        """
        for length in (self.tokenizer.init_kwargs.get("max_length"), self.max_text_length):
            if length is not None:
                return length
        return self._tokenizer_limit

    @property
    def _tokenizer_limit(self) -> int | None:
        limit = self.tokenizer.model_max_length
        return None if limit is None or limit > LARGE_INTEGER else int(limit)

    def _to_batch(self, data: dict[str, Any], text_kwargs: Mapping[str, Any], return_tensors: Any) -> BatchFeature:
        """A batch of the rows of [`_pad`] and other fields."""
        if text_kwargs.get("return_attention_mask") is False:
            data.pop("attention_mask", None)
        return to_batch(data, return_tensors)

    # ---- post-processing ----

    def _decode(self, outputs: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        kwargs.setdefault("clean_up_tokenization_spaces", True)
        texts = [
            self.tokenizer.decode(row, skip_special_tokens=skip_special_tokens, **kwargs)
            for row in generated_rows(outputs)
        ]
        return [join_ideographs(text) for text in texts] if self.join_ideographs else texts

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """
        Decode generated tokens including the prompt, as transformers' image-text-to-text pipeline expects.

        Args:
            generated_outputs (`torch.Tensor` of shape `(B, T)` or `(T,)`, or `ModelOutput`):
                token ids, or the output of `generate`.
            skip_special_tokens (`bool`, *optional*, defaults to `True`): whether to remove special tokens.
            kwargs: options of the tokenizer's `decode`.

        Returns:
            `list[str]`: one text per sequence.
        """
        return self._decode(generated_outputs, skip_special_tokens, **kwargs)

    def post_process_answers(self, outputs: Any) -> list[str]:
        """
        Decode generated answers.

        Args:
            outputs (`torch.Tensor` of shape `(B, T)`, or `ModelOutput`): token ids, or the output of `generate`.

        Returns:
            `list[str]`: one answer per sequence.
        """
        return self._decode(outputs)

    def post_process_ranked_answers(
        self, output: Any, answers: Sequence[str], top_k: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """
        Convert the output of `rank_answers` to answers.

        Args:
            output (`RankedAnswers`): output with `candidates` and `scores` of shape `(B, k)`, best first.
            answers (`Sequence[str]`): the ranked list of answers, in the same order.
            top_k (`int`, *optional*): number of answers to return per question; defaults to k.

        Returns:
            `list[list[dict]]`: for each question `{"answer": str, "score": float}`, best first. The score is the
            log-likelihood of the answer (the negative of its summed, label-smoothed loss).

        Raises:
            ValueError: `answers` is shorter than the list that was ranked.
        """
        if int(output.candidates.max()) >= len(answers):
            raise ValueError(
                f"The answer with index {int(output.candidates.max())} was ranked, but {len(answers)} answers are"
                " given; pass the list that was tokenized."
            )
        return [
            [{"answer": answers[index], "score": score} for index, score in zip(row[:top_k], scores[:top_k])]
            for row, scores in zip(output.candidates.tolist(), output.scores.tolist())
        ]

    def post_process_classification(
        self, outputs: Any, id2label: Mapping[int, str] | None = None, top_k: int | None = None
    ) -> list[list[dict[str, Any]]]:
        """
        Convert the output of a classification head to labels.

        Args:
            outputs (`torch.Tensor` of shape `(B, num_labels)`, or `ModelOutput`): logits, or an output with `logits`.
            id2label (`Mapping[int, str]`, *optional*): the model's `config.id2label`; defaults to the class indices.
            top_k (`int`, *optional*): number of labels to return per row; defaults to all.

        Returns:
            `list[list[dict]]`: for each row `{"label": str, "score": float}`, best first. The score is a probability.

        Raises:
            ValueError: `id2label` and the logits have different numbers of classes.
        """
        logits = getattr(outputs, "logits", outputs)
        if id2label is not None and len(id2label) != logits.shape[-1]:
            raise ValueError(f"id2label has {len(id2label)} classes, the logits have {logits.shape[-1]}.")
        scores, order = logits.float().softmax(-1).sort(dim=-1, descending=True, stable=True)
        labels = {index: str(index) for index in range(logits.shape[-1])} if id2label is None else id2label
        return [
            [{"label": labels[index], "score": score} for index, score in zip(row[:top_k], values[:top_k])]
            for row, values in zip(order.tolist(), scores.tolist())
        ]

    # ---- loading ----

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """
        Load the options of a processor.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or Hub id.
            kwargs: options of transformers' method of the same name.

        Returns:
            `tuple[dict, dict]`: the options and the unused `kwargs`. The options of a repository that was not saved by
            this class are completed from its `config.json`.

        Raises:
            ValueError: an option has a wrong value; the message names file, option, value and what was expected.
        """
        read = super().get_processor_dict
        stored, unused = read_options(read, cls.check_options, None, pretrained_model_name_or_path, kwargs)
        if stored.get("processor_class") != cls.__name__:
            hub_kwargs = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name)}
            try:
                config, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub_kwargs)
            except OSError:  # a folder with processor files only
                config = {}
            stored = {**cls._options_from_config(config), **stored}
        return stored, unused

    @classmethod
    def _options_from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options for a repository of another library, given its `config.json` (`{}` if it has none)."""
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


def first_architecture(config: Mapping[str, Any]) -> str:
    """The class that a `config.json` names first; `""` if there is none."""
    names = config.get("architectures") if isinstance(config, Mapping) else None
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def load_image_processor(source: Any, backend: str | None = None, **kwargs: Any) -> Any:
    """
    Load an image processor; transformers' BLIP image processors are loaded as [`LavisImageProcessor`].

    Args:
        source (`str` or `os.PathLike`): folder, file or Hub id.
        backend (`str`, *optional*):
            `"pil"` (exact) or `"torchvision"` (faster); defaults to the saved one, and to `"pil"` for repositories in
            transformers' format.
        kwargs: Hub options (`revision`, `token`, ...), and options that override the saved ones.

    Returns:
        The image processor.

    Raises:
        ValueError: `backend` is none of the above, or an option has a wrong value; the message names file and option.
    """
    if backend not in (None, "pil", "torchvision"):
        raise ValueError(f"backend is {backend!r}; expected 'pil' (exact), 'torchvision' (faster) or None.")

    def check(options: Mapping[str, Any]) -> None:
        check_image_options({name: options.get(name) for name in ("image_processor_type", "auto_map")})
        if options.get("image_processor_type") in (*_OWN_BACKENDS, *_BLIP_IMAGE_PROCESSORS):
            check_file_options(options)

    read = ImageProcessingMixin.get_image_processor_dict
    saved, overrides = read_options(read, check, "image_processor", source, kwargs)
    saved_type = saved.get("image_processor_type")
    if saved_type not in _OWN_BACKENDS and saved_type not in _BLIP_IMAGE_PROCESSORS:
        return AutoImageProcessor.from_pretrained(source, **kwargs)
    backend = backend or _OWN_BACKENDS.get(saved_type, "pil")
    image_class = LavisImageProcessorTorchvision if backend == "torchvision" else LavisImageProcessor
    known = image_class.valid_kwargs.__annotations__
    return image_class(**{name: value for name, value in {**saved, **overrides}.items() if name in known})


def list_of_texts(text: Any, name: str = "text") -> list[str]:
    """
    Convert a string or an iterable of strings to a list of strings.

    Args:
        text (`str` or `Iterable[str]`): one text or several.
        name (`str`, *optional*, defaults to `"text"`): name of the argument, for messages.

    Returns:
        `list[str]`: the texts.

    Raises:
        ValueError: there is no text, or an entry is not a string.
    """
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, Sequence) or isinstance(texts, (bytes, Mapping)):
        texts = list(texts) if hasattr(texts, "__iter__") and not isinstance(texts, (bytes, Mapping)) else [texts]
    if not len(texts):
        raise ValueError(f"`{name}` is an empty list; expected at least one string ('' is allowed).")
    for position, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise ValueError(
                f"`{name}` contains {type(entry).__name__} at position {position}; expected a string or a list of"
                " strings."
            )
    return list(texts)


def generated_rows(outputs: Any) -> list[list[int]]:
    """
    Rows of token ids of the output of `generate`, of a tensor, of a list of rows, or of a single row. -100, with which
    a Trainer fills up predictions and labels, is removed.
    """
    sequences = getattr(outputs, "sequences", outputs)
    sequences = sequences.tolist() if hasattr(sequences, "tolist") else list(sequences)
    rows = [sequences] if sequences and isinstance(sequences[0], int) else sequences
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
    return [[token_id for token_id in row if token_id != IGNORE_INDEX] for row in rows]


def padded_length(rows: list[list[int]], padding: Any, max_length: int | None, multiple: int | None) -> int:
    """Length to which rows of token ids are padded under transformers' `padding` option; 0 for no padding."""
    strategy = _value_of(padding)
    if strategy in (False, "do_not_pad"):
        return 0
    length = max(map(len, rows))
    if strategy == "max_length" and max_length is not None:
        length = max(length, max_length)
    return -(-length // multiple) * multiple if multiple else length


def _value_of(option: Any) -> Any:
    """The value of an option that may be a member of one of transformers' enumerations."""
    return getattr(option, "value", option)


def encoder_padding_side(given: Mapping[str, Any]) -> str:
    """Padding side of texts for an encoder, wherever the tokenizer pads; `ValueError` for another one in a call."""
    if given.get("padding_side") not in (None, "right"):
        raise ValueError(
            f"padding_side is {given['padding_side']!r}, but encoders read the first token of a text; leave "
            "padding_side out."
        )
    return "right"


def pad_rows(rows: list[list[int]], length: int, pad_token_id: int, padding_side: str) -> dict[str, list[list[int]]]:
    """Pad rows of token ids to `length` on the left or right; returns `input_ids` and `attention_mask`."""
    padded: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": []}
    for row in rows:
        num_pads = max(0, length - len(row))
        ids_padding, mask_padding, mask = [pad_token_id] * num_pads, [0] * num_pads, [1] * len(row)
        padded["input_ids"].append(ids_padding + row if padding_side == "left" else row + ids_padding)
        padded["attention_mask"].append(mask_padding + mask if padding_side == "left" else mask + mask_padding)
    return padded


def to_batch(data: dict[str, Any], return_tensors: Any) -> BatchFeature:
    """Convert lists to a `BatchFeature`; raises `ValueError` if rows of different lengths cannot become a tensor."""
    try:
        batch = BatchFeature(data, tensor_type=return_tensors)
    except ValueError as error:
        lengths = {name: sorted({len(row) for row in rows}) for name, rows in data.items() if isinstance(rows[0], list)}
        raise ValueError(
            f"The rows have different lengths ({lengths}) and cannot be stacked into a tensor; pass padding=True."
        ) from error
    for name, value in batch.items():
        if 0 in getattr(value, "shape", ()):  # rows without a token become floats
            batch[name] = value.long() if isinstance(value, torch.Tensor) else value.astype("int64")
    return batch


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"A text contains an unpaired surrogate at character {error.start}, which is not valid Unicode; decode its"
            " source with errors='replace'."
        ) from error


__all__ = [
    "LavisProcessorMixin",
    "encoder_padding_side",
    "first_architecture",
    "generated_rows",
    "list_of_texts",
    "load_image_processor",
    "pad_rows",
    "padded_length",
    "to_batch",
]
