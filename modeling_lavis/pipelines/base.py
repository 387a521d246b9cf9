# SPDX-License-Identifier: Apache-2.0
"""Base class of the pipelines: checks, image inputs, batches, and results in order.

transformers' pipelines pad and split batches by generic rules, which do not support several texts per image or pairs of
images. Here a subclass builds a batch from rows (`collate`) and returns one result per row (`_forward`).

Shapes: B rows of a batch, C channels, H height, W width, T text tokens.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, Pipeline

from modeling_lavis.models.image_conversion import to_numpy, to_uint8
from modeling_lavis.models.image_processing_lavis import reject_unknown
from modeling_lavis.models.transformers_compat import initialize_pipeline, options_of_generate
from modeling_lavis.pipelines.inputs import Failure, Inputs, add_values, as_row, is_image, parse_inputs, run_batches
from modeling_lavis.pipelines.loading import chooses_dtype, unwrap_adapters
from modeling_lavis.pipelines.precision import use_fast_dtype
from modeling_lavis.pipelines.processors import resolve_processor

_ON_ERROR = ("raise", "return")
# Loading options that transformers' `pipeline` passes on to the pipeline.
_LOADING_OPTIONS = ("local_files_only",)
# Two forms of each length: with the prompt, and without.
_LENGTHS = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
# Checked here, because the errors of `generate` for values below 1 do not name the option.
_POSITIVE_OPTIONS = ("num_beams", "num_return_sequences", "max_new_tokens", "max_length")
_GENERATION_OPTIONS = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_"))


class LavisPipeline(Pipeline):
    """
    Base class of the pipelines of this package.

    A call takes one input and returns one result, takes a list and returns a list, or takes a dataset or a generator
    and returns a generator of results. Options of all calls:

        batch_size (`int`, *optional*, defaults to 1): rows per batch.
        num_workers (`int`, *optional*, defaults to 0): number of processes that load images or videos.
        on_error (`str`, *optional*, defaults to `"raise"`): with `"return"`, the result of a row that cannot be
            prepared, for example because its image is corrupt, is `{"error": message}`, and the other rows still run.

    Args:
        model: a model of this package with a head for the task, with or without adapters of PEFT. A model that
            `transformers.pipeline` loads without a dtype, or with `dtype="auto"`, keeps the stored one, unless the
            device is slow in it; see `modeling_lavis.pipelines.precision`.
        processor (*optional*): the processor of the model; by default it is loaded from the model's repository.
        tokenizer, image_processor, video_processor (*optional*): parts of the processor, instead of it or of its own
            parts.
        kwargs: options of `transformers.Pipeline`, and defaults for the options of the call.

    Raises:
        TypeError: an option is unknown or has an unsupported type.
        ValueError: the model does not support the task, or its processor cannot be loaded or built.
    """

    # transformers passes on what it is given; what is missing depends on the rest and is loaded here
    _load_processor = False
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    #: suffixes of the model classes that support the task
    model_suffixes: tuple[str, ...] = ()
    #: attributes that such a class must have
    required_attributes: tuple[str, ...] = ()
    requires_generation = False
    #: names of the options of each step
    preprocess_options: tuple[str, ...] = ()
    forward_options: tuple[str, ...] = ()
    postprocess_options: tuple[str, ...] = ()
    #: what the model takes in addition to text: "image" or "video"
    modality: Literal["image", "video"] = "image"
    #: name in the row of an input that is not a row
    input_name = "image"
    #: whether an input is a single one, and not a list
    is_single_input = staticmethod(is_image)

    def __init__(self, model: Any, processor: Any = None, task: str = "", **kwargs: Any) -> None:
        self.check_model(model, task or type(self).__name__)
        names = ("tokenizer", "image_processor", "feature_extractor", "video_processor")
        parts = {name: kwargs.pop(name, None) for name in names}
        processor = resolve_processor(model, processor, **parts)
        options = {"model": model, "processor": processor, "task": task, **kwargs}
        initialize_pipeline(self, super().__init__, options)
        if chooses_dtype(self.model):
            use_fast_dtype(self.model, self.device)
        self.model.eval()

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` if the model does not support the task."""
        inner = unwrap_adapters(model)
        name = type(inner).__name__
        supported = (
            name.endswith(cls.model_suffixes)
            and all(hasattr(inner, attribute) for attribute in cls.required_attributes)
            and (not cls.requires_generation or inner.can_generate())
        )
        is_foreign = type(inner).__module__.split(".")[0] == "transformers"
        if is_foreign or not supported:
            raise ValueError(
                f"{task} cannot use {name}{' of transformers' if is_foreign else ''}; it needs a model of "
                f"modeling_lavis whose class name ends with {' or '.join(cls.model_suffixes)}"
                f"{' and that can generate text' if cls.requires_generation else ''}. Load a checkpoint of such a "
                "class, or choose a task that this model supports."
            )

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model and the processor. Loading them needs the task, but no code of the pipeline."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    # ---- options ----

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in _LOADING_OPTIONS:
            options.pop(name, None)
        preprocess, forward, postprocess = (
            {name: options.pop(name) for name in names if name in options}
            for names in (
                (*self.preprocess_options, "on_error"),
                self.forward_options,
                self.postprocess_options,
            )
        )
        if preprocess.get("on_error", "raise") not in _ON_ERROR:
            raise ValueError(f"on_error is {preprocess['on_error']!r}; expected 'raise' or 'return'.")
        known = [*self.preprocess_options, *self.forward_options, *self.postprocess_options]
        known += ["batch_size", "num_workers", "on_error"]
        if self._pipeline_calls_generate:
            generate = options.pop("generate_kwargs", None) or {}
            if not isinstance(generate, dict):
                raise TypeError(f"generate_kwargs is {generate!r}; expected a dict of options of generate.")
            generate = dict(generate)
            names = [name for name in options if name in _GENERATION_OPTIONS or name == "generation_config"]
            generate.update({name: options.pop(name) for name in names})
            for name in _POSITIVE_OPTIONS:
                if generate.get(name) is not None:
                    check_positive(name, generate[name])
            if generate:
                forward["generate_kwargs"] = generate
            known += ["generate_kwargs", "generation_config", *sorted(_GENERATION_OPTIONS)]
        reject_unknown(type(self).__name__, options, known)
        return preprocess, forward, postprocess

    # ---- running ----

    def _parse_inputs(self, inputs: Any, options: dict[str, Any], *names: str) -> Inputs:
        """Parse inputs, and move those of the named options that are lists from `options` to the rows."""
        parsed = self._parse_entries(inputs)
        for name in names:
            if isinstance(options.get(name), (list, tuple)):
                parsed = add_values(parsed, name, options.pop(name), self.input_name)
            elif options.get(name, ...) is None:
                options.pop(name)
        return parsed

    def _parse_entries(self, inputs: Any) -> Inputs:
        """
        Parse inputs without options. An array of several images (or videos) becomes 8-bit, since its values have one
        range, and its rows are prepared one by one.
        """
        if isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim > (4 if self.modality == "video" else 3):
            if getattr(getattr(self.processor, f"{self.modality}_processor", None), "do_rescale", True):
                inputs = to_uint8(to_numpy(inputs), truncate=self.modality == "video")
        return parse_inputs(inputs, self.is_single_input)

    def steps(self, **options: Any) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]]]:
        """
        The two steps of a call, for code that makes batches itself, such as `modeling_lavis.jobs`.

        Args:
            options: options of the call, except `batch_size`, `num_workers` and `on_error`.

        Returns:
            A function from an entry (an image, a video or a row) to a prepared row, or to a [`Failure`] that says why
            there is none, for any number of threads; and a function from a list of prepared rows to one result for
            each, for one thread.
        """
        preprocess, forward, postprocess = self._params(options)
        prepare = functools.partial(self._prepare, **{**preprocess, "on_error": "return"})

        def run(rows: list[Any]) -> list[Any]:
            return [self.postprocess(output, **postprocess) for output in self.forward(self.collate(rows), **forward)]

        return prepare, run

    def _params(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Options of the three steps: those of the call, else those of the pipeline."""
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        return [{**default, **new} for default, new in zip(defaults, self._sanitize_parameters(**options))]

    def _run(
        self, inputs: Inputs, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        batch_size, num_workers = self._loader_options(batch_size, num_workers)
        results = self.get_iterator(inputs.entries, num_workers, batch_size, *self._params(options))
        if inputs.single:
            return next(results)
        return results if inputs.lazy else list(results)

    def _loader_options(self, batch_size: int | None, num_workers: int | None) -> tuple[int, int]:
        """Batch size and number of workers of a call: its own, else those of the pipeline."""
        return batch_size or self._batch_size or 1, num_workers or self._num_workers or 0

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Results of the inputs, in order; see transformers' `Pipeline` for the arguments."""
        prepare = functools.partial(self._prepare, **preprocess_params)

        def run(rows: list[Any]) -> Any:
            return self.forward(self.collate(rows), **forward_params)

        for result in run_batches(inputs, prepare, run, batch_size, num_workers):
            if isinstance(result, Failure):
                yield {"error": result.message}
            else:
                yield self.postprocess(result, **postprocess_params)

    def _prepare(self, entry: Any, on_error: str = "raise", **options: Any) -> Any:
        """Preprocess an entry; with `on_error="return"`, an error becomes a [`Failure`]."""
        try:
            return self.preprocess({**options, **as_row(entry, self.input_name)})
        except (OSError, ValueError, TypeError) as error:
            if on_error == "raise":
                raise
            return Failure(str(error))

    # ---- steps of subclasses ----

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turn a row into pixel values and checked texts."""
        raise NotImplementedError

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Turn preprocessed rows into the batch that `_forward` takes."""
        raise NotImplementedError

    # ---- parts of the steps ----

    def get_pixel_values(self, row: dict[str, Any], name: str = "image") -> Tensor:
        """Pixel values `(1, C, H, W)` of the image in a row, in float32; the model casts them."""
        if row.get(name) is None:
            raise ValueError(
                f"{self.task or type(self).__name__} got no image; expected '{name}' in the row, but it has "
                f"{', '.join(sorted(row)) or 'no keys'}."
            )
        return self.processor.image_processor(images=[row[name]], return_tensors="pt")["pixel_values"]

    def get_text(self, row: dict[str, Any], name: str) -> str:
        """The text in a row; raises `ValueError` if it is missing or not a string."""
        value = row.get(name)
        if value is None:
            raise ValueError(
                f"{self.task or type(self).__name__} needs a {name}; pass {name}=..., or rows such as "
                f"{{'{self.modality}': ..., '{name}': ...}}."
            )
        if not isinstance(value, str):
            raise ValueError(f"The {name} is {value!r}; expected a string.")
        return value

    def generation_options(self, given: dict[str, Any] | None, prompt_length: int = 1) -> dict[str, Any]:
        """
        Options of `generate` as keyword arguments: those of the call, then those of the pipeline, then its defaults.

        Lengths include the prompt. transformers would warn of two forms of a length, and of a `generation_config` with
        other options; here the call's form replaces the others, and options are taken from the configuration.
        """
        given = dict(given or {})
        options = options_of_generate(self, given, return_dict_in_generate=False)
        if (config := options.pop("generation_config", None)) is not None:
            stated = {name: getattr(config, name) for name in config.to_diff_dict() if name in _GENERATION_OPTIONS}
            options = {**stated, **options}
            given = {**stated, **given} if "generation_config" in given else given
        for length, new_tokens in _LENGTHS:
            if given.get(length) is not None and given.get(new_tokens) is None:
                options.pop(new_tokens, None)
            elif given.get(new_tokens) is not None and given.get(length) is None:
                options.pop(length, None)
            if options.get(length) is None and options.get(new_tokens) is not None:
                options[length] = options.pop(new_tokens) + prompt_length
        stored = self.model.generation_config
        longest, shortest = options.get("max_length"), options.get("min_length")
        if shortest is None and longest is not None and (stored.min_length or 0) > longest:
            options["min_length"] = longest
        if shortest is not None:
            longest = longest or (None if stored.max_new_tokens is not None else stored.max_length)
            if longest is not None and shortest > longest:
                raise ValueError(
                    f"min_length is {shortest}, but no text is longer than max_length, {longest} tokens with the"
                    " prompt. Give a smaller min_length (or min_new_tokens), or a larger max_length."
                )
        return options

    def tokenize(self, texts: list[str], **options: Any) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `(B, T)` of texts, padded to the longest."""
        encoded = self.processor(text=texts, text_format="encoder", return_tensors="pt", **options)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def is_positive(value: Any) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) > 0


def check_positive(name: str, value: Any) -> None:
    """Raise `ValueError` unless an option is a positive integer."""
    if not is_positive(value):
        raise ValueError(f"{name} is {value!r}; expected a positive integer.")


def stack_pixel_values(rows: list[dict[str, Any]]) -> Tensor:
    """Pixel values `(B, C, H, W)` of preprocessed rows."""
    shapes = {tuple(row["pixel_values"].shape[1:]) for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"Images of different sizes {sorted(shapes)} cannot be in one batch; use batch_size=1, or an image "
            "processor that resizes."
        )
    return torch.cat([row["pixel_values"] for row in rows])
