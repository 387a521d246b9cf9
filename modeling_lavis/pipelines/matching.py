# SPDX-License-Identifier: Apache-2.0
"""`image-text-matching`: how well each of some texts describes a picture.

Letters: B pictures of a batch, S texts, K pairs, P width of the common space.
"""

from typing import Any

import torch
from torch import Tensor

from modeling_lavis.pipelines.base import LavisPipeline, one_picture_per_row
from modeling_lavis.pipelines.inputs import sort_inputs

TEXTS_AT_ONCE = 256


def read_texts(model: Any, tokens: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Features (S, P) of texts, in float32, and what `score_pairs` takes of the texts: their tokens, and where it begins
    with the states that the features come from, these (S, T, D) as `text_embeds`. A few hundred texts run at a time.
    """
    features, states = [], []
    for ids, mask in zip(
        tokens["input_ids"].split(TEXTS_AT_ONCE), tokens["attention_mask"].split(TEXTS_AT_ONCE), strict=True
    ):
        embeds = model.encode_texts(ids, mask)
        features.append(model.project_texts(embeds).float())
        if model.fuses_text_states:
            states.append(embeds)
    return torch.cat(features), {**tokens, "text_embeds": torch.cat(states)} if states else tokens


class ImageTextMatchingPipeline(LavisPipeline):
    """
    Scores texts against pictures: by the matching head, which reads text and picture together, and by the cosine of
    their features.

    Example:

    ```python
    >>> matcher = pipeline("image-text-matching", model="my-matcher")  # doctest: +SKIP
    >>> matcher("beach.jpg", text=["a dog", "a cat"])  # doctest: +SKIP
    [{'text': 'a dog', 'score': 0.98, 'similarity': 0.41}, {'text': 'a cat', 'score': 0.01, 'similarity': 0.22}]

    ```
    """

    heads: tuple[str, ...] = ("ForImageTextRetrieval", "ForPreTraining")
    methods = ("encode_images", "project_images", "get_text_features", "score_pairs")
    preprocess_options: tuple[str, ...] = ("text",)

    def __call__(self, images: Any, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images: a picture (path, URL, PIL image, array), a row `{"image": ..., "text": str or list}`, or a list, a
                data set or a generator of them.
            text (`str` or `list[str]`, *optional*): texts that every picture is compared with. For pairs give rows.
            kwargs: `batch_size` (pictures run at once), `num_workers`, `on_error` (see [`LavisPipeline`]).

        Returns:
            For each picture a list with one entry per text, in their order: `"text"`, `"score"` (probability of a match
            by the matching head, ITM) and `"similarity"` (cosine of the features, ITC).
        """
        options = kwargs if text is None else {"text": text, **kwargs}
        return self._run(sort_inputs(images, self.is_one), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        texts = row.get("text")
        texts = list(texts) if isinstance(texts, (list, tuple)) else [self.text(row, "text")]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"The text is {texts!r}; expected a string, or a list of at least one string.")
        return {"texts": texts, "pixel_values": self.pixels(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        unique = list(dict.fromkeys(text for row in rows for text in row["texts"]))
        number = {text: index for index, text in enumerate(unique)}
        pairs = [[image, number[text]] for image, row in enumerate(rows) for text in row["texts"]]
        return {
            "pixel_values": one_picture_per_row(rows),
            "tokens": self.tokens(unique),
            "pairs": torch.tensor(pairs),
            "texts": [row["texts"] for row in rows],
        }

    def _forward(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        image_embeds = self.model.encode_images(batch["pixel_values"])
        image_features = self.model.project_images(image_embeds).float()
        images, texts = batch["pairs"].unbind(dim=1)
        text_features, tokens = read_texts(self.model, batch["tokens"])
        cosine = self.model.compare_features(image_features, text_features)[images, texts]
        logits = self.model.score_pairs(image_embeds, tokens, batch["pairs"]).logits
        probabilities = logits.float().softmax(dim=-1)[:, 1]
        counts = [len(row) for row in batch["texts"]]
        return [
            {"texts": row, "scores": scores, "similarities": similarities}
            for row, scores, similarities in zip(batch["texts"], probabilities.split(counts), cosine.split(counts))
        ]

    def postprocess(self, output: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"text": text, "score": score, "similarity": similarity}
            for text, score, similarity in zip(
                output["texts"], output["scores"].tolist(), output["similarities"].tolist()
            )
        ]
