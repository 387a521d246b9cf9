# SPDX-License-Identifier: Apache-2.0
"""Pipeline `image-pair-classification`, for example for NLVR2.

Shapes: C channels, H height, W width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling_lavis.pipelines.classification import ImageTextClassificationPipeline
from modeling_lavis.pipelines.inputs import Inputs, add_values, is_image


class ImagePairClassificationPipeline(ImageTextClassificationPipeline):
    """
    Classification of a text and a pair of images.

    Example:

    ```python
    >>> classifier = pipeline("image-pair-classification", model="my-nlvr-model")  # doctest: +SKIP
    >>> classifier(["left.jpg", "right.jpg"], text="both images show a dog", top_k=1)  # doctest: +SKIP
    [{'label': 'True', 'score': 0.93}]

    ```
    """

    model_suffixes = ("ForImagesAndTextClassification",)
    input_name = "images"

    def __call__(self, images: Any, text: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images: a pair of images (a list or tuple of two images, or an array with four dimensions), a row
                `{"images": [left, right], "text": ...}`, or a list, a dataset or a generator of them.
            text (`str` or `list[str]`, *optional*): one text for all pairs or one per pair; or several texts for one
                pair.
            kwargs: `top_k` (number of labels to return, all by default), `batch_size`, `num_workers` and `on_error`,
                see [`LavisPipeline`].

        Returns:
            For each row a list of `{"label": str, "score": float}` with the probabilities of the labels, best first.
        """
        options = {"text": text, **kwargs}
        is_pair = _is_pair(images)
        inputs = self._parse_entries(images)
        if is_pair:
            inputs = Inputs([inputs.entries], single=True, lazy=False)
        if isinstance(text, (list, tuple)):
            inputs = add_values(inputs, "text", options.pop("text"), self.input_name)
        elif text is None:
            options.pop("text")
        return self._run(inputs, **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        pair: Any = row.get("images", row.get("image"))
        if not _is_pair(pair):
            raise ValueError(
                f"{self.task or type(self).__name__} needs pairs of images, for example [left, right] or rows "
                f"{{'images': [left, right], 'text': ...}}, but got {_describe(pair)}."
            )
        if isinstance(pair, (np.ndarray, Tensor)):
            pair = self._parse_entries(pair).entries
        pixels = [self.get_pixel_values({"image": image}) for image in pair]
        return {"text": self.get_text(row, "text"), "pixel_values": torch.stack(pixels, dim=1)}  # (1, 2, C, H, W)


def _is_pair(value: Any) -> bool:
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim == 4 and len(value) == 2
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_image, value))


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"a row with {', '.join(map(str, value))}"
    return "nothing" if value is None else type(value).__name__
