# SPDX-License-Identifier: Apache-2.0
"""Pipeline `image-text-matching`."""

from typing import Any

import torch

from modeling_lavis.evaluation.retrieval import encode_texts, matching_logits
from modeling_lavis.pipelines.base import LavisPipeline, stack_pixel_values


class ImageTextMatchingPipeline(LavisPipeline):
    """
    Scores how well texts match images: the probability of a match by the matching head, and the cosine similarity of
    the features.

    Example:

    ```python
    >>> matcher = pipeline("image-text-matching", model="my-matcher")  # doctest: +SKIP
    >>> matcher("beach.jpg", text=["a dog", "a cat"])  # doctest: +SKIP
    [{'text': 'a dog', 'score': 0.98, 'similarity': 0.41}, {'text': 'a cat', 'score': 0.01, 'similarity': 0.22}]

    ```
    """

    model_suffixes: tuple[str, ...] = ("ForImageTextRetrieval", "ForPreTraining")
    required_attributes = ("encode_images", "project_images", "encode_texts", "score_pairs")
    preprocess_options: tuple[str, ...] = ("text",)

    def __call__(self, images: Any, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images: an image (path, URL, PIL image, array), a row `{"image": ..., "text": str or list}`, or a list, a
                dataset or a generator of them.
            text (`str` or `list[str]`, *optional*): texts to match with every image. For pairs, pass rows.
            kwargs: `batch_size` (images per batch), `num_workers` and `on_error`, see [`LavisPipeline`].

        Returns:
            For each image a list with one entry per text, in the order of the texts: `"text"`, `"score"` (probability
            of a match, ITM) and `"similarity"` (cosine similarity of the features, ITC).
        """
        options = kwargs if text is None else {"text": text, **kwargs}
        return self._run(self._parse_entries(images), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        texts = row.get("text")
        texts = list(texts) if isinstance(texts, (list, tuple)) else [self.get_text(row, "text")]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"The text is {texts!r}; expected a string, or a list of at least one string.")
        return {"texts": texts, "pixel_values": self.get_pixel_values(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        texts = list(dict.fromkeys(text for row in rows for text in row["texts"]))
        text_rows = {text: index for index, text in enumerate(texts)}
        pairs = [[image, text_rows[text]] for image, row in enumerate(rows) for text in row["texts"]]
        return {
            "pixel_values": stack_pixel_values(rows),
            "tokens": self.tokenize(texts),
            "pairs": torch.tensor(pairs),
            "texts": [row["texts"] for row in rows],
        }

    def _forward(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        image_embeds = self.model.encode_images(batch["pixel_values"])
        image_features = self.model.project_images(image_embeds).float()
        encoded = encode_texts(self.model, batch["tokens"])
        images, texts = batch["pairs"].unbind(dim=1)
        similarities = self.model.compare_features(image_features, encoded.features.float())[images, texts]
        logits = matching_logits(self.model, image_embeds, encoded.inputs, batch["pairs"])
        probabilities = logits.float().softmax(dim=-1)[:, 1]
        counts = [len(row) for row in batch["texts"]]
        return [
            {"texts": row, "scores": scores, "similarities": cosines}
            for row, scores, cosines in zip(batch["texts"], probabilities.split(counts), similarities.split(counts))
        ]

    def postprocess(self, output: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"text": text, "score": score, "similarity": similarity}
            for text, score, similarity in zip(
                output["texts"], output["scores"].tolist(), output["similarities"].tolist()
            )
        ]
