# SPDX-License-Identifier: Apache-2.0
"""What the pipelines share: checks, pictures to pixels, batches, and results in order.

transformers' pipelines pad and split batches by rules of their own, which do not know texts of unequal number or pairs
of pictures. Here a subclass says how rows become a batch (`collate`) and returns one result per row (`_forward`).

Letters: B rows of a batch, C channels, H height, W width, T text tokens.
"""

import functools
from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import GenerationConfig, Pipeline

from modeling_lavis.models.image_processing_lavis import reject_unknown
from modeling_lavis.pipelines.inputs import (
    Failure,
    Inputs,
    PreparedRows,
    PreparedStream,
    as_row,
    is_picture,
    sort_inputs,
    spread,
)
from modeling_lavis.pipelines.loading import is_own_processor, own_processor

_ON_ERROR = ("raise", "return")
# Options of transformers' `pipeline` that reach the pipeline although they were meant for loading.
_LOADING_OPTIONS = ("local_files_only",)
# Below one, `generate` fails deep inside.
_COUNTS = ("num_beams", "num_return_sequences", "max_new_tokens", "max_length")
_GENERATION_OPTIONS = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_"))


class LavisPipeline(Pipeline):
    """
    Base of the pipelines of this package.

    All take one input or a list of them, and then return one result or a list; or a data set or a generator, and then
    return a generator of results. Options of all:

        batch_size (`int`, *optional*, defaults to 1): rows that are run at once.
        num_workers (`int`, *optional*, defaults to 0): processes that open pictures.
        on_error (`str`, *optional*, defaults to `"raise"`): with `"return"`, a row that cannot be prepared (a broken
            picture, say) has the result `{"error": message}` and does not stop the others.

    Args:
        model: a model of this package with a fitting head.
        processor: its processor.
        kwargs: options of `transformers.Pipeline`, and those of the call, which are then its defaults.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    #: endings of the names of classes that can do the task
    heads: tuple[str, ...] = ()
    #: what else such a class must have
    methods: tuple[str, ...] = ()
    must_generate = False
    #: options of the steps, by name
    preprocess_options: tuple[str, ...] = ()
    forward_options: tuple[str, ...] = ()
    postprocess_options: tuple[str, ...] = ()
    #: name under which an input that is no row is put into one
    input_name = "image"
    #: tells whether an input is a single one
    is_one = staticmethod(is_picture)

    def __init__(self, model: Any, processor: Any = None, task: str = "", **kwargs: Any) -> None:
        self.check_model(model, task or type(self).__name__)
        if not is_own_processor(processor):
            processor = own_processor(model)
        super().__init__(model=model, processor=processor, task=task, **kwargs)
        self.model.eval()

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` when the model has no head for the task."""
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        kind = type(inner)
        fits = kind.__name__.endswith(cls.heads) and all(hasattr(inner, name) for name in cls.methods)
        fits = fits and (not cls.must_generate or inner.can_generate())
        foreign = kind.__module__.split(".")[0] == "transformers"
        if foreign or not fits:
            raise ValueError(
                f"{task} cannot use {kind.__name__}{' of transformers' if foreign else ''}; it needs a model of "
                f"modeling_lavis whose class ends in {' or '.join(cls.heads)}"
                f"{' and that can generate text' if cls.must_generate else ''}. Give a checkpoint of such a head, or "
                "choose the task that this one was trained for."
            )

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save model and processor; the pipeline itself is found by its task, so none of its code is stored."""
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
            given = [n for n in options if n in _GENERATION_OPTIONS or n == "generation_config"]
            generate.update({name: options.pop(name) for name in given})
            for name in _COUNTS:
                if generate.get(name) is not None and generate[name] < 1:
                    raise ValueError(f"{name} is {generate[name]!r}; expected a whole number of at least 1.")
            if generate:
                forward["generate_kwargs"] = generate
            known += ["generate_kwargs", "generation_config", *sorted(_GENERATION_OPTIONS)]
        reject_unknown(type(self).__name__, options, known)
        return preprocess, forward, postprocess

    # ---- running ----

    def _deal(self, inputs: Any, options: dict[str, Any], *names: str) -> Inputs:
        """Take options that are lists out of `options` and give each row its own value."""
        found = sort_inputs(inputs, self.is_one)
        for name in names:
            if isinstance(options.get(name), (list, tuple)):
                found = spread(found, name, options.pop(name), self.input_name)
            elif options.get(name, ...) is None:
                options.pop(name)
        return found

    def _run(
        self, inputs: Inputs, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        given = self._sanitize_parameters(**options)
        stored = (self._preprocess_params, self._forward_params, self._postprocess_params)
        params = [{**old, **new} for old, new in zip(stored, given)]
        batch_size = batch_size or self._batch_size or 1
        num_workers = num_workers or self._num_workers or 0
        results = self.get_iterator(inputs.entries, num_workers, batch_size, *params)
        if inputs.single:
            return next(results)
        return results if inputs.lazy else list(results)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Results of the entries, in order; see transformers' `Pipeline` for the arguments."""
        prepare = functools.partial(self._prepare, **preprocess_params)
        rows: Any
        if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
            rows = PreparedRows(inputs, prepare)
        else:
            rows = PreparedStream(inputs, prepare)
            num_workers = min(num_workers, 1)  # each worker would go through the whole stream
        for batch in DataLoader(rows, batch_size=batch_size, num_workers=num_workers, collate_fn=list):
            good = [row for row in batch if not isinstance(row, Failure)]
            outputs = iter(self.forward(self.collate(good), **forward_params) if good else [])
            for row in batch:
                if isinstance(row, Failure):
                    yield {"error": row.message}
                else:
                    yield self.postprocess(next(outputs), **postprocess_params)

    def _prepare(self, entry: Any, on_error: str = "raise", **options: Any) -> Any:
        try:
            return self.preprocess({**options, **as_row(entry, self.input_name)})
        except (OSError, ValueError, TypeError) as error:
            if on_error == "raise":
                raise
            return Failure(str(error))

    # ---- steps, and what they are made of ----

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turn one row into tensors and checked texts."""
        raise NotImplementedError

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Turn prepared rows into the batch that `_forward` gets."""
        raise NotImplementedError

    def pixels(self, row: dict[str, Any], name: str = "image") -> Tensor:
        """Pixels (1, C, H, W) of the picture in a row; towers take them in any dtype."""
        if row.get(name) is None:
            raise ValueError(
                f"{self.task or type(self).__name__} got no picture; a row needs '{name}', it has "
                f"{', '.join(sorted(row)) or 'nothing'}."
            )
        return self.processor.image_processor(images=[row[name]], return_tensors="pt")["pixel_values"]

    def text(self, row: dict[str, Any], name: str) -> str:
        """The text in a row, which must be there."""
        value = row.get(name)
        if value is None:
            raise ValueError(
                f"{self.task or type(self).__name__} needs a {name}; pass {name}=..., or rows such as "
                f"{{'image': ..., '{name}': ...}}."
            )
        if not isinstance(value, str):
            raise ValueError(f"The {name} is {value!r}; expected a string.")
        return value

    def generation_options(self, given: dict[str, Any] | None, prompt_length: int = 1) -> dict[str, Any]:
        """Options for `generate` of this call, with the number of new tokens as a length, which counts the prompt."""
        options = self._prepare_generate_kwargs(given or {}, return_dict_in_generate=False)
        if options.get("max_length") is None and options.get("max_new_tokens") is not None:
            # generate would warn that both are set whenever the model's own configuration has a length
            options["max_length"] = options.pop("max_new_tokens") + prompt_length
            shortest = self.model.generation_config.min_length or 0
            if "min_length" not in options and shortest > options["max_length"]:
                options["min_length"] = options["max_length"]
        return options

    def tokens(self, texts: list[str], **options: Any) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (B, T) of texts, padded to the longest."""
        encoded = self.processor(text=texts, text_format="encoder", return_tensors="pt", **options)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def one_picture_per_row(rows: list[dict[str, Any]]) -> Tensor:
    """Pixels (B, C, H, W) of prepared rows."""
    shapes = {tuple(row["pixel_values"].shape[1:]) for row in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"Pictures of different sizes {sorted(shapes)} cannot be run together; use batch_size=1, or an image "
            "processor that resizes."
        )
    return torch.cat([row["pixel_values"] for row in rows])
