# SPDX-License-Identifier: Apache-2.0
"""`multimodal-feature-extraction`: features of pictures, of texts, and of both together, by name.

Letters: B rows of a batch, N image tokens, T text tokens, D width, P width of the common space.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.models.heads import project
from modeling_lavis.pipelines.base import LavisPipeline, one_picture_per_row
from modeling_lavis.pipelines.inputs import sort_inputs

#: name -> (needs a picture, needs a text)
FEATURES: dict[str, tuple[bool, bool]] = {
    "image_features": (True, False),
    "text_features": (False, True),
    "image_embeds": (True, False),
    "text_embeds": (False, True),
    "multimodal_embeds": (True, True),
}
_DEFAULTS = ("image_features", "text_features", "multimodal_embeds")


class MultimodalFeatureExtractionPipeline(LavisPipeline):
    """
    Features for search, clustering or other models. By name:

        image_features, text_features: projected into the common space and normalised (P,); what cosines are made of.
        image_embeds, text_embeds: states of the towers (D,).
        multimodal_embeds: states of the text that has read the picture (D,).

    These are those of slot 0; with `pool=False`, those of all tokens, (N, P) or (T, D) for example, padding cut off.
    Of models with learned queries, features of pictures and joint ones are those of every query, (Q, P) or (Q, D).

    Example:

    ```python
    >>> extractor = pipeline("multimodal-feature-extraction", model="my-model")  # doctest: +SKIP
    >>> features = extractor("beach.jpg", text="a dog", return_tensors="pt")  # doctest: +SKIP
    >>> features["image_features"] @ features["text_features"]  # doctest: +SKIP
    tensor(0.41)

    ```
    """

    heads = ("Model", "ForImageTextRetrieval", "ForPreTraining")
    methods = ("encode_images", "encode_texts", "vision_proj", "text_proj")
    preprocess_options = ("text", "features")
    forward_options = ("pool",)
    postprocess_options = ("return_tensors",)

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` when the model gives no features by name."""
        super().check_model(model, task)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not hasattr(inner, "read_images") and not type(inner).__name__.endswith("Model"):
            raise ValueError(
                f"{task} cannot use {type(inner).__name__}; it needs features by name. Load the same checkpoint "
                "as the feature extractor of its family, whose class ends in Model."
            )

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images (*optional*): a picture (path, URL, PIL image, array), a row with `"image"`, `"text"` or both, or a
                list, a data set or a generator of them.
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
            return self._run(sort_inputs(rows), **kwargs)
        options = {"text": text, **kwargs}
        return self._run(self._deal(images, options, "text"), **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if postprocess.get("return_tensors") not in (None, "pt", "np"):
            raise ValueError(f"return_tensors is {postprocess['return_tensors']!r}; expected 'pt', 'np' or None.")
        if preprocess.get("features") is not None:
            preprocess["features"] = _checked_names(preprocess["features"])
        return preprocess, forward, postprocess

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        has = (row.get("image") is not None, row.get("text") is not None)
        names = row.get("features") or [n for n in _DEFAULTS if all(h or not u for h, u in zip(has, FEATURES[n]))]
        needs_image, needs_text = (any(FEATURES[name][i] for name in names) for i in (0, 1))
        if not any(has):
            raise ValueError(f"A row has neither 'image' nor 'text', it has {', '.join(sorted(row)) or 'nothing'}.")
        return {
            "names": tuple(names),
            "pixel_values": self.pixels(row) if needs_image else None,
            "text": self.text(row, "text") if needs_text else None,
        }

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
        if not hasattr(model, "read_images"):
            return self._features_of_queries(batch, pool)
        image_embeds = model.encode_images(batch["pixel_values"]) if images else None
        if image_embeds is not None:
            put("image_embeds", image_embeds, images)
            if "image_features" in wanted:
                put("image_features", project(image_embeds, model.vision_proj), images)
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
                put("text_features", project(text_embeds, model.text_proj), texts, lengths)
        if joint and image_embeds is not None:
            chosen = torch.tensor([texts.index(row) for row in joint], device=ids.device)
            seen = torch.tensor([images.index(row) for row in joint], device=ids.device)
            states = model.read_images(
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


def _checked_names(names: str | Sequence[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in FEATURES]
    if unknown or not names:
        raise ValueError(f"Unknown features {unknown}; expected some of {', '.join(FEATURES)}.")
    return names
