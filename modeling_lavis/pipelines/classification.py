# SPDX-License-Identifier: Apache-2.0
"""`image-text-classification`: a label for a text about a picture, such as visual entailment.

Letters: B rows of a batch.
"""

from typing import Any

from torch import Tensor

from modeling_lavis.pipelines.base import LavisPipeline, one_picture_per_row


class ImageTextClassificationPipeline(LavisPipeline):
    """
    Labels texts about pictures.

    Example:

    ```python
    >>> classifier = pipeline("image-text-classification", model="my-entailment-model")  # doctest: +SKIP
    >>> classifier("beach.jpg", text="an animal is outdoors", top_k=1)  # doctest: +SKIP
    [{'label': 'entailment', 'score': 0.97}]

    ```
    """

    heads = ("ForImageAndTextClassification",)
    preprocess_options = ("text",)
    postprocess_options = ("top_k",)

    def __call__(self, images: Any, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images: a picture (path, URL, PIL image, array), a row `{"image": ..., "text": ...}`, or a list, a data set
                or a generator of them.
            text (`str` or `list[str]`, *optional*): one text for all, or one each; several for one picture.
            kwargs: `top_k` (labels that come back, all by default), `batch_size`, `num_workers`, `on_error` (see
                [`LavisPipeline`]).

        Returns:
            For each row a list of `{"label": str, "score": probability}`, best first.
        """
        options = {"text": text, **kwargs}
        return self._run(self._deal(images, options, "text"), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"text": self.text(row, "text"), "pixel_values": self.pixels(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"pixel_values": one_picture_per_row(rows), **self.tokens([row["text"] for row in rows])}

    def _forward(self, batch: dict[str, Any]) -> list[Tensor]:
        return list(self.model(**batch).logits.split(1))

    def postprocess(self, output: Tensor, top_k: int | None = None) -> list[dict[str, Any]]:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; expected at least 1, or None for all labels.")
        return self.processor.post_process_classification(output, self.model.config.id2label, top_k)[0]
