# SPDX-License-Identifier: Apache-2.0
"""Pipeline `image-text-classification`, for example for visual entailment."""

from typing import Any

from torch import Tensor

from modeling_lavis.pipelines.base import LavisPipeline, check_positive, stack_pixel_values


class ImageTextClassificationPipeline(LavisPipeline):
    """
    Classification of a text and an image.

    Example:

    ```python
    >>> classifier = pipeline("image-text-classification", model="my-entailment-model")  # doctest: +SKIP
    >>> classifier("beach.jpg", text="an animal is outdoors", top_k=1)  # doctest: +SKIP
    [{'label': 'entailment', 'score': 0.97}]

    ```
    """

    model_suffixes = ("ForImageAndTextClassification",)
    preprocess_options = ("text",)
    postprocess_options = ("top_k",)

    def __call__(self, images: Any, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images: an image (path, URL, PIL image, array), a row `{"image": ..., "text": ...}`, or a list, a dataset or
                a generator of them.
            text (`str` or `list[str]`, *optional*): one text for all images or one per image; or several texts for one
                image.
            kwargs: `top_k` (number of labels to return, all by default), `batch_size`, `num_workers` and `on_error`,
                see [`LavisPipeline`].

        Returns:
            For each row a list of `{"label": str, "score": float}` with the probabilities of the labels, best first.
        """
        options = {"text": text, **kwargs}
        return self._run(self._parse_inputs(images, options, "text"), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"text": self.get_text(row, "text"), "pixel_values": self.get_pixel_values(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"pixel_values": stack_pixel_values(rows), **self.tokenize([row["text"] for row in rows])}

    def _forward(self, batch: dict[str, Any]) -> list[Tensor]:
        return list(self.model(**batch).logits.split(1))

    def postprocess(self, output: Tensor, top_k: int | None = None) -> list[dict[str, Any]]:
        if top_k is not None:
            check_positive("top_k", top_k)
        return self.processor.post_process_classification(output, self.model.config.id2label, top_k)[0]
