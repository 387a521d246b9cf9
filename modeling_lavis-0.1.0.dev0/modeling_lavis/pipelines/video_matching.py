# SPDX-License-Identifier: Apache-2.0
"""Pipeline `video-text-matching`, the counterpart of `image-text-matching` for videos."""

from typing import Any

from modeling_lavis.pipelines.matching import ImageTextMatchingPipeline
from modeling_lavis.pipelines.video_inputs import VideoInputMixin


class VideoTextMatchingPipeline(VideoInputMixin, ImageTextMatchingPipeline):
    """
    Scores how well texts match videos: the probability of a match by the matching head, and the cosine similarity of
    the features.

    Example:

    ```python
    >>> matcher = pipeline("video-text-matching", model="my-video-matcher")  # doctest: +SKIP
    >>> matcher("beach.mp4", text=["a dog", "a cat"])  # doctest: +SKIP
    [{'text': 'a dog', 'score': 0.98, 'similarity': 0.41}, {'text': 'a cat', 'score': 0.01, 'similarity': 0.22}]

    ```
    """

    model_suffixes: tuple[str, ...] = ("ForVideoTextRetrieval",)
    preprocess_options: tuple[str, ...] = ("text", "start", "end")
    input_name = "video"

    def __call__(  # type: ignore[override]
        self, videos: Any, text: str | list[str] | None = None, **kwargs: Any
    ) -> Any:
        """
        Args:
            videos: a video (path, URL, array, list of frames), a row `{"video": ..., "text": str or list}`, or a list,
                a dataset or a generator of them.
            text (`str` or `list[str]`, *optional*): texts to match with every video. For pairs, pass rows.
            kwargs: `start` and `end` (time range in seconds; also as keys of rows), `batch_size` (videos per batch),
                `num_workers` and `on_error`, see [`LavisPipeline`].

        Returns:
            For each video a list with one entry per text, in the order of the texts: `"text"`, `"score"` (probability
            of a match, VTM) and `"similarity"` (cosine similarity of the features, VTC).
        """
        return super().__call__(videos, text=text, **kwargs)
