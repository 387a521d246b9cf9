# SPDX-License-Identifier: Apache-2.0
"""Base class of the pipelines: checks, image inputs, batches, and results in order.

transformers' pipelines pad and split batches by generic rules, which do not support several texts per image or pairs of
images. Here a subclass builds a batch from rows (`collate`) and returns one result per row (`_forward`).

Shapes: B rows of a batch, C channels, H height, W width, T text tokens.
"""

import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, Pipeline

from modeling_lavis.models.image_processing_lavis import reject_unknown
from modeling_lavis.pipelines.inputs import Failure, Inputs, add_values, as_row, is_image, parse_inputs, run_batches
from modeling_lavis.pipelines.loading import is_lavis_processor, load_processor, unwrap_adapters

_ON_ERROR = ("raise", "return")
# Loading options that transformers' `pipeline` passes on to the pipeline.
_LOADING_OPTIONS = ("local_files_only",)
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
        model: a model of this package with a head for the task.
        processor (*optional*): the processor of the model; by default it is loaded from the model's repository.
        kwargs: options of `transformers.Pipeline`, and defaults for the options of the call.
    """

    _load_processor = True
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
        if not is_lavis_processor(processor):
            processor = load_processor(model)
        super().__init__(model=model, processor=processor, task=task, **kwargs)
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
            generate = dict(options.pop("generate_kwargs", None) or {})
            names = [name for name in options if name in _GENERATION_OPTIONS or name == "generation_config"]
            generate.update({name: options.pop(name) for name in names})
            for name in _POSITIVE_OPTIONS:
                if generate.get(name) is not None and generate[name] < 1:
                    raise ValueError(f"{name} is {generate[name]!r}; expected a positive integer.")
            if generate:
                forward["generate_kwargs"] = generate
            known += ["generate_kwargs", "generation_config", *sorted(_GENERATION_OPTIONS)]
        reject_unknown(type(self).__name__, options, known)
        return preprocess, forward, postprocess

    # ---- running ----

    def _parse_inputs(self, inputs: Any, options: dict[str, Any], *names: str) -> Inputs:
        """Parse inputs, and move those of the named options that are lists from `options` to the rows."""
        parsed = parse_inputs(inputs, self.is_single_input)
        for name in names:
            if isinstance(options.get(name), (list, tuple)):
                parsed = add_values(parsed, name, options.pop(name), self.input_name)
            elif options.get(name, ...) is None:
                options.pop(name)
        return parsed

    def _run(
        self, inputs: Inputs, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        given = self._sanitize_parameters(**options)
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        params = [{**default, **new} for default, new in zip(defaults, given)]
        batch_size, num_workers = self._loader_options(batch_size, num_workers)
        results = self.get_iterator(inputs.entries, num_workers, batch_size, *params)
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
        """Options of `generate`, with `max_new_tokens` as a `max_length` that includes the prompt."""
        options = self._prepare_generate_kwargs(given or {}, return_dict_in_generate=False)
        if options.get("max_length") is None and options.get("max_new_tokens") is not None:
            # generate warns if max_new_tokens is given and the model's generation config has a max_length
            options["max_length"] = options.pop("max_new_tokens") + prompt_length
            min_length = self.model.generation_config.min_length or 0
            if "min_length" not in options and min_length > options["max_length"]:
                options["min_length"] = options["max_length"]
        return options

    def tokenize(self, texts: list[str], **options: Any) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `(B, T)` of texts, padded to the longest."""
        encoded = self.processor(text=texts, text_format="encoder", return_tensors="pt", **options)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def stack_pixel_values(rows: list[dict[str, Any]]) -> Tensor:
    """Pixel values `(B, C, H, W)` of preprocessed rows."""
    shapes = {tuple(row["pixel_values"].shape[1:]) for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"Images of different sizes {sorted(shapes)} cannot be in one batch; use batch_size=1, or an image "
            "processor that resizes."
        )
    return torch.cat([row["pixel_values"] for row in rows])
