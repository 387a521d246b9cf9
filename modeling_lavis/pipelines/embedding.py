# SPDX-License-Identifier: Apache-2.0
"""`multimodal-feature-extraction`: features of pictures or videos, of texts, and of both together, by name.

Letters: B rows of a batch, N image tokens, T text tokens, D width, P width of the common space.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.models.modeling_base import project_features
from modeling_lavis.pipelines.base import LavisPipeline, one_picture_per_row
from modeling_lavis.pipelines.inputs import is_picture, is_video, sort_inputs
from modeling_lavis.pipelines.loading import looks_at
from modeling_lavis.pipelines.video_inputs import video_pixels


def feature_names(seen: str) -> dict[str, tuple[bool, bool]]:
    """Name -> (needs what the model looks at, needs a text), for a model that looks at "image" or "video"."""
    return {
        f"{seen}_features": (True, False),
        "text_features": (False, True),
        f"{seen}_embeds": (True, False),
        "text_embeds": (False, True),
        "multimodal_embeds": (True, True),
    }


#: those that are given where none are asked for
_ENDINGS_BY_DEFAULT = ("_features", "multimodal_embeds")


class MultimodalFeatureExtractionPipeline(LavisPipeline):
    """
    Features for search, clustering or other models. By name:

        image_features, text_features: projected into the common space and normalised (P,); what cosines are made of.
        image_embeds, text_embeds: states of the towers (D,).
        multimodal_embeds: states of the text that has read the picture (D,).

    These are those of slot 0; with `pool=False`, those of all tokens, (N, P) or (T, D) for example, padding cut off.
    Of models with learned queries, features of pictures and joint ones are those of every query, (Q, P) or (Q, D).
    Models of videos take videos where pictures are spoken of, and have `video_features` and `video_embeds`.

    Example:

    ```python
    >>> extractor = pipeline("multimodal-feature-extraction", model="my-model")  # doctest: +SKIP
    >>> features = extractor("beach.jpg", text="a dog", return_tensors="pt")  # doctest: +SKIP
    >>> features["image_features"] @ features["text_features"]  # doctest: +SKIP
    tensor(0.41)

    ```
    """

    heads = ("Model", "ForImageTextRetrieval", "ForVideoTextRetrieval", "ForPreTraining")
    methods = ("encode_images", "encode_texts", "vision_proj", "text_proj")
    preprocess_options: tuple[str, ...] = ("text", "features")
    forward_options = ("pool",)
    postprocess_options = ("return_tensors",)

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        self.seen = looks_at(model)
        self.input_name = self.seen
        self.is_one = is_video if self.seen == "video" else is_picture  # type: ignore[method-assign]
        self.known = feature_names(self.seen)
        if self.seen == "video":
            self.preprocess_options = (*self.preprocess_options, "start", "end")
        super().__init__(model, *args, **kwargs)

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` when the model gives no features by name."""
        super().check_model(model, task)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if hasattr(inner, "query_images") and not type(inner).__name__.endswith("Model"):
            raise ValueError(
                f"{task} cannot use {type(inner).__name__}; it needs features by name. Load the same checkpoint "
                "as the feature extractor of its family, whose class ends in Model."
            )

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images (*optional*): a picture (path, URL, PIL image, array), a row with `"image"`, `"text"` or both, or a
                list, a data set or a generator of them; of models of videos a video (path, URL, array, list of frames)
                or a row with `"video"`, and `start` and `end` in seconds.
            text (`str` or `list[str]`, *optional*): a text for the picture, or one for each; without pictures, the
                texts themselves.
            kwargs: `features` (a name or a list of names; by default all features of slot 0 in the common space, and
                the joint ones where a row has both), `pool` (default True, see above), `return_tensors` (`"pt"`,
                `"np"`, or None for lists, the default), `batch_size`, `num_workers`, `on_error`.

        Returns:
            For each row a dictionary from names to features.
        """
        if images is None:
            if text is None:
                raise ValueError(f"{self.task or type(self).__name__} got nothing; give pictures, texts or both.")
            rows = {"text": text} if isinstance(text, str) else [{"text": entry} for entry in text]
            return self._run(sort_inputs(rows, self.is_one), **kwargs)
        options = {"text": text, **kwargs}
        return self._run(self._deal(images, options, "text"), **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if postprocess.get("return_tensors") not in (None, "pt", "np"):
            raise ValueError(f"return_tensors is {postprocess['return_tensors']!r}; expected 'pt', 'np' or None.")
        if preprocess.get("features") is not None:
            preprocess["features"] = _checked_names(preprocess["features"], self.known)
        return preprocess, forward, postprocess

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        has = (row.get(self.seen) is not None, row.get("text") is not None)
        names = row.get("features") or [
            name
            for name, needs in self.known.items()
            if name.endswith(_ENDINGS_BY_DEFAULT) and all(there or not needed for there, needed in zip(has, needs))
        ]
        needs_image, needs_text = (any(self.known[name][i] for name in names) for i in (0, 1))
        if not any(has):
            given = ", ".join(sorted(row)) or "nothing"
            raise ValueError(f"A row has neither '{self.seen}' nor 'text', it has {given}.")
        return {
            "names": tuple(names),
            "pixel_values": self.pixels(row, self.seen) if needs_image else None,
            "text": self.text(row, "text") if needs_text else None,
        }

    def pixels(self, row: dict[str, Any], name: str = "image") -> Tensor:
        """Pixels (1, C, H, W) of the picture in a row, or its clip (1, F, C, H, W)."""
        return video_pixels(self, row, name) if name == "video" else super().pixels(row, name)

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        with_image = [i for i, row in enumerate(rows) if row["pixel_values"] is not None]
        with_text = [i for i, row in enumerate(rows) if row["text"] is not None]
        batch: dict[str, Any] = {"names": [row["names"] for row in rows], "images": with_image, "texts": with_text}
        if with_image:
            batch["pixel_values"] = one_picture_per_row([rows[i] for i in with_image])
        if with_text:
            batch["tokens"] = self.tokens([rows[i]["text"] for i in with_text])
        return batch

    def _forward(self, batch: dict[str, Any], pool: bool = True) -> list[dict[str, Tensor]]:
        wanted = {name for names in batch["names"] for name in names}
        results: list[dict[str, Tensor]] = [{} for _ in batch["names"]]

        def put(name: str, states: Tensor, rows: list[int], lengths: list[int] | None = None) -> None:
            for place, row in enumerate(rows):
                if name in batch["names"][row]:
                    length = None if lengths is None else lengths[place]
                    results[row][name] = states[place, 0] if pool else states[place, :length]

        model, images, texts = self.model, batch["images"], batch["texts"]
        if hasattr(model, "query_images"):
            return self._features_of_queries(batch, pool)
        image_embeds = model.encode_images(batch["pixel_values"]) if images else None
        if image_embeds is not None:
            put(f"{self.seen}_embeds", image_embeds, images)
            if f"{self.seen}_features" in wanted:
                put(f"{self.seen}_features", project_features(image_embeds, model.vision_proj), images)
        if not texts:
            return results
        ids, mask = batch["tokens"]["input_ids"], batch["tokens"]["attention_mask"]
        lengths = mask.sum(dim=1).tolist()
        joint = [row for row in texts if "multimodal_embeds" in batch["names"][row]]
        text_embeds = None
        if wanted & {"text_embeds", "text_features"} or (joint and model.fuses_text_states):
            text_embeds = model.encode_texts(ids, mask)
            put("text_embeds", text_embeds, texts, lengths)
            if "text_features" in wanted:
                put("text_features", project_features(text_embeds, model.text_proj), texts, lengths)
        if joint and image_embeds is not None:
            chosen = torch.tensor([texts.index(row) for row in joint], device=ids.device)
            seen = torch.tensor([images.index(row) for row in joint], device=ids.device)
            states = model.fuse(
                image_embeds[seen],
                ids[chosen],
                mask[chosen],
                text_embeds=None if text_embeds is None else text_embeds[chosen],
            ).last_hidden_state
            put("multimodal_embeds", states, joint, [lengths[i] for i in chosen.tolist()])
        return results

    def _features_of_queries(self, batch: dict[str, Any], pool: bool) -> list[dict[str, Tensor]]:
        """Features by the names that the model's forward gives them; queries are never pooled."""
        results: list[dict[str, Tensor]] = [{} for _ in batch["names"]]
        images, texts = batch["images"], batch["texts"]
        given = {name: batch["tokens"][name] for name in ("input_ids", "attention_mask")} if texts else {}
        both = [row for row in texts if row in images and "multimodal_embeds" in batch["names"][row]]
        passes: list[tuple[list[int], dict[str, Tensor]]] = []
        if images:
            passes.append((images, {"pixel_values": batch["pixel_values"]}))
        if texts:
            passes.append((texts, given))
        if both:
            seen, read = [images.index(row) for row in both], [texts.index(row) for row in both]
            joint = {"pixel_values": batch["pixel_values"][seen], **{n: v[read] for n, v in given.items()}}
            passes.append((both, joint))
        for rows, inputs in passes:
            output = self.model(**inputs)
            for place, row in enumerate(rows):
                for name in batch["names"][row]:
                    if name not in output:
                        continue
                    states = output[name][place]
                    if name.startswith("text_"):
                        real = int(inputs["attention_mask"][place].sum())
                        states = states[0] if pool else states[:real]
                    results[row][name] = states
        return results

    def postprocess(self, output: dict[str, Tensor], return_tensors: str | None = None) -> dict[str, Any]:
        if return_tensors == "pt":
            return output
        arrays: dict[str, np.ndarray] = {name: values.float().numpy() for name, values in output.items()}
        return arrays if return_tensors == "np" else {name: values.tolist() for name, values in arrays.items()}


def _checked_names(names: str | Sequence[str], known: Iterable[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"Unknown features {unknown}; expected some of {', '.join(known)}.")
    return names
