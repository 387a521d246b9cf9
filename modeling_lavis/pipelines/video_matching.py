# SPDX-License-Identifier: Apache-2.0
"""`video-text-matching`: how well each of some texts describes a video, as `image-text-matching` does for pictures."""

from typing import Any

from modeling_lavis.pipelines.matching import ImageTextMatchingPipeline
from modeling_lavis.pipelines.video_inputs import VideoInputMixin


class VideoTextMatchingPipeline(VideoInputMixin, ImageTextMatchingPipeline):
    """
    Scores texts against videos: by the matching head, which reads text and video together, and by the cosine of their
    features.

    Example:

    ```python
    >>> matcher = pipeline("video-text-matching", model="my-video-matcher")  # doctest: +SKIP
    >>> matcher("beach.mp4", text=["a dog", "a cat"])  # doctest: +SKIP
    [{'text': 'a dog', 'score': 0.98, 'similarity': 0.41}, {'text': 'a cat', 'score': 0.01, 'similarity': 0.22}]

    ```
    """

    heads: tuple[str, ...] = ("ForVideoTextRetrieval",)
    preprocess_options: tuple[str, ...] = ("text", "start", "end")
    input_name = "video"

    def __call__(  # type: ignore[override]
        self, videos: Any, text: str | list[str] | None = None, **kwargs: Any
    ) -> Any:
        """
        Args:
            videos: a video (path, URL, array, list of frames), a row `{"video": ..., "text": str or list}`, or a list,
                a data set or a generator of them.
            text (`str` or `list[str]`, *optional*): texts that every video is compared with. For pairs give rows.
            kwargs: `start` and `end` (seconds of the part that is looked at, also in rows), `batch_size` (videos run at
                once), `num_workers`, `on_error` (see [`LavisPipeline`]).

        Returns:
            For each video a list with one entry per text, in their order: `"text"`, `"score"` (probability of a match
            by the matching head, VTM) and `"similarity"` (cosine of the features, VTC).
        """
        return super().__call__(videos, text=text, **kwargs)
