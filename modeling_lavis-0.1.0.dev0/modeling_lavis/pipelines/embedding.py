# SPDX-License-Identifier: Apache-2.0
"""Pipeline `multimodal-feature-extraction`.

Shapes: B rows of a batch, N image tokens, T text tokens, Q query tokens, D hidden size, P projection dimension.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.models.modeling_base import project_features
from modeling_lavis.pipelines.base import LavisPipeline, stack_pixel_values
from modeling_lavis.pipelines.inputs import is_image, is_video
from modeling_lavis.pipelines.loading import input_modality, unwrap_adapters
from modeling_lavis.pipelines.video_inputs import get_video_pixel_values


def feature_inputs(modality: str) -> dict[str, tuple[bool, bool]]:
    """Names of the features, and whether each needs an image (or a video, by `modality`) and a text."""
    return {
        f"{modality}_features": (True, False),
        "text_features": (False, True),
        f"{modality}_embeds": (True, False),
        "text_embeds": (False, True),
        "multimodal_embeds": (True, True),
    }


#: suffixes of the features that are returned by default
_DEFAULT_SUFFIXES = ("_features", "multimodal_embeds")


class MultimodalFeatureExtractionPipeline(LavisPipeline):
    """
    Extracts features of images, texts, or both:

        image_features, text_features: projected and normalized features (P,), whose dot product is a cosine similarity.
        image_embeds, text_embeds: hidden states of the image encoder and of the text encoder (D,).
        multimodal_embeds: hidden states of the multimodal encoder (D,).

    These are the features of the first token; with `pool=False`, of all tokens without padding, for example (N, P) or
    (T, D). For a Q-Former, image features and multimodal hidden states are those of all query tokens, (Q, P) or (Q, D),
    and are not pooled. Video models take videos instead of images and return `video_features` and `video_embeds`.

    Example:

    ```python
    >>> extractor = pipeline("multimodal-feature-extraction", model="my-model")  # doctest: +SKIP
    >>> features = extractor("beach.jpg", text="a dog", return_tensors="pt")  # doctest: +SKIP
    >>> features["image_features"] @ features["text_features"]  # doctest: +SKIP
    tensor(0.41)

    ```
    """

    model_suffixes = ("Model", "ForImageTextRetrieval", "ForVideoTextRetrieval", "ForPreTraining")
    required_attributes = ("encode_images", "encode_texts", "vision_proj", "text_proj")
    preprocess_options: tuple[str, ...] = ("text", "features")
    forward_options = ("pool",)
    postprocess_options = ("return_tensors",)

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        self.modality = input_modality(model)
        self.input_name = self.modality
        self.is_single_input = is_video if self.modality == "video" else is_image  # type: ignore[method-assign]
        self.feature_inputs = feature_inputs(self.modality)
        if self.modality == "video":
            self.preprocess_options = (*self.preprocess_options, "start", "end")
        super().__init__(model, *args, **kwargs)

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` if the model does not return features by name."""
        super().check_model(model, task)
        inner = unwrap_adapters(model)
        if hasattr(inner, "query_images") and not type(inner).__name__.endswith("Model"):
            raise ValueError(
                f"{task} cannot use {type(inner).__name__}; it needs features by name. Load the same checkpoint with "
                "the feature extraction class of its family, whose name ends with Model."
            )

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images (*optional*): an image (path, URL, PIL image, array), a row with `"image"`, `"text"` or both, or a
                list, a dataset or a generator of them. For video models a video (path, URL, array, list of frames) or
                a row with `"video"`, and optionally `start` and `end` in seconds.
            text (`str` or `list[str]`, *optional*): a text for all images or one per image; without images, one text or
                a list of texts.
            kwargs: `features` (`str` or `list[str]`: names of the features to return; by default projected features,
                and multimodal hidden states if a row has both an image and a text), `pool` (`bool`, defaults to
                `True`, see above), `return_tensors` (`"pt"`, `"np"`, or `None` for lists, the default), `batch_size`,
                `num_workers` and `on_error`, see [`LavisPipeline`].

        Returns:
            For each row a dictionary from names to features.
        """
        if images is None:
            if text is None:
                raise ValueError(f"{self.task or type(self).__name__} got no input; pass images, texts or both.")
            rows = {"text": text} if isinstance(text, str) else [{"text": entry} for entry in text]
            return self._run(self._parse_entries(rows), **kwargs)
        options = {"text": text, **kwargs}
        return self._run(self._parse_inputs(images, options, "text"), **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if postprocess.get("return_tensors") not in (None, "pt", "np"):
            raise ValueError(f"return_tensors is {postprocess['return_tensors']!r}; expected 'pt', 'np' or None.")
        if preprocess.get("features") is not None:
            preprocess["features"] = _check_names(preprocess["features"], self.feature_inputs)
        return preprocess, forward, postprocess

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        given = (row.get(self.modality) is not None, row.get("text") is not None)
        names = row.get("features") or [
            name
            for name, needed in self.feature_inputs.items()
            if name.endswith(_DEFAULT_SUFFIXES) and all(has or not needs for has, needs in zip(given, needed))
        ]
        needs_image, needs_text = (any(self.feature_inputs[name][column] for name in names) for column in (0, 1))
        if not any(given):
            keys = ", ".join(sorted(row)) or "no keys"
            raise ValueError(f"A row has neither '{self.modality}' nor 'text', but {keys}.")
        return {
            "names": tuple(names),
            "pixel_values": self.get_pixel_values(row, self.modality) if needs_image else None,
            "text": self.get_text(row, "text") if needs_text else None,
        }

    def get_pixel_values(self, row: dict[str, Any], name: str = "image") -> Tensor:
        """Pixel values `(1, C, H, W)` of the image in a row, or `(1, F, C, H, W)` of its video."""
        return get_video_pixel_values(self, row, name) if name == "video" else super().get_pixel_values(row, name)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        image_rows = [index for index, row in enumerate(rows) if row["pixel_values"] is not None]
        text_rows = [index for index, row in enumerate(rows) if row["text"] is not None]
        batch: dict[str, Any] = {
            "names": [row["names"] for row in rows],
            "image_rows": image_rows,
            "text_rows": text_rows,
        }
        if image_rows:
            batch["pixel_values"] = stack_pixel_values([rows[index] for index in image_rows])
        if text_rows:
            batch["tokens"] = self.tokenize([rows[index]["text"] for index in text_rows])
        return batch

    def _forward(self, batch: dict[str, Any], pool: bool = True) -> list[dict[str, Tensor]]:
        if hasattr(self.model, "query_images"):
            return self._query_features(batch, pool)
        model, image_rows, text_rows = self.model, batch["image_rows"], batch["text_rows"]
        requested = {name for names in batch["names"] for name in names}
        results: list[dict[str, Tensor]] = [{} for _ in batch["names"]]

        def add(name: str, states: Tensor, rows: list[int], lengths: list[int] | None = None) -> None:
            for index, row in enumerate(rows):
                if name in batch["names"][row]:
                    length = None if lengths is None else lengths[index]
                    results[row][name] = states[index, 0] if pool else states[index, :length]

        image_embeds = model.encode_images(batch["pixel_values"]) if image_rows else None
        if image_embeds is not None:
            add(f"{self.modality}_embeds", image_embeds, image_rows)
            if f"{self.modality}_features" in requested:
                add(f"{self.modality}_features", project_features(image_embeds, model.vision_proj), image_rows)
        if not text_rows:
            return results
        input_ids, attention_mask = batch["tokens"]["input_ids"], batch["tokens"]["attention_mask"]
        lengths = attention_mask.sum(dim=1).tolist()
        fused_rows = [row for row in text_rows if "multimodal_embeds" in batch["names"][row]]
        text_embeds = None
        if requested & {"text_embeds", "text_features"} or (fused_rows and model.fuses_text_states):
            text_embeds = model.encode_texts(input_ids, attention_mask)
            add("text_embeds", text_embeds, text_rows, lengths)
            if "text_features" in requested:
                add("text_features", project_features(text_embeds, model.text_proj), text_rows, lengths)
        if fused_rows and image_embeds is not None:
            images = torch.tensor([image_rows.index(row) for row in fused_rows], device=input_ids.device)
            texts = torch.tensor([text_rows.index(row) for row in fused_rows], device=input_ids.device)
            states = model.fuse(
                image_embeds[images],
                input_ids[texts],
                attention_mask[texts],
                text_embeds=None if text_embeds is None else text_embeds[texts],
            ).last_hidden_state
            add("multimodal_embeds", states, fused_rows, [lengths[text] for text in texts.tolist()])
        return results

    def _query_features(self, batch: dict[str, Any], pool: bool) -> list[dict[str, Tensor]]:
        """Features of a Q-Former, from the model's forward; those of query tokens are not pooled."""
        results: list[dict[str, Tensor]] = [{} for _ in batch["names"]]
        image_rows, text_rows = batch["image_rows"], batch["text_rows"]
        tokens = {name: batch["tokens"][name] for name in ("input_ids", "attention_mask")} if text_rows else {}
        fused_rows = [row for row in text_rows if row in image_rows and "multimodal_embeds" in batch["names"][row]]
        passes: list[tuple[list[int], dict[str, Tensor]]] = []
        if image_rows:
            passes.append((image_rows, {"pixel_values": batch["pixel_values"]}))
        if text_rows:
            passes.append((text_rows, tokens))
        if fused_rows:
            images, texts = (
                [image_rows.index(row) for row in fused_rows],
                [text_rows.index(row) for row in fused_rows],
            )
            inputs = {name: values[texts] for name, values in tokens.items()}
            passes.append((fused_rows, {"pixel_values": batch["pixel_values"][images], **inputs}))
        for rows, inputs in passes:
            output = self.model(**inputs)
            for index, row in enumerate(rows):
                for name in batch["names"][row]:
                    if name not in output:
                        continue
                    states = output[name][index]
                    if name.startswith("text_"):
                        length = int(inputs["attention_mask"][index].sum())
                        states = states[0] if pool else states[:length]
                    results[row][name] = states
        return results

    def postprocess(self, output: dict[str, Tensor], return_tensors: str | None = None) -> dict[str, Any]:
        if return_tensors == "pt":
            return output
        arrays: dict[str, np.ndarray] = {name: values.float().numpy() for name, values in output.items()}
        return arrays if return_tensors == "np" else {name: values.tolist() for name, values in arrays.items()}


def _check_names(names: str | Sequence[str], known: Iterable[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"Unknown features {unknown}; expected one or more of {', '.join(known)}.")
    return names
