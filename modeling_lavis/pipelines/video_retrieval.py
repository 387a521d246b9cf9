# SPDX-License-Identifier: Apache-2.0
"""`video-text-retrieval`: find videos by a text, or texts by a video, as `image-text-retrieval` does for pictures."""

from typing import Any

from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline, RetrievalIndex
from modeling_lavis.pipelines.video_inputs import VideoInputMixin


class VideoTextRetrievalPipeline(VideoInputMixin, ImageTextRetrievalPipeline):
    """
    Searches a collection of videos with texts, or a collection of texts with videos.

    Example:

    ```python
    >>> searcher = pipeline("video-text-retrieval", model="my-video-matcher")  # doctest: +SKIP
    >>> clips = searcher.index(videos=["beach.mp4", "forest.mp4"])  # doctest: +SKIP
    >>> searcher("a dog", index=clips, top_k=1)  # doctest: +SKIP
    [{'index': 0, 'video': 'beach.mp4', 'score': 4.2, 'similarity': 0.41}]

    ```
    """

    heads: tuple[str, ...] = ("ForVideoTextRetrieval",)
    seen = "video"

    def index(self, videos: Any = None, texts: Any = None, **kwargs: Any) -> RetrievalIndex:  # type: ignore[override]
        """
        Encode a collection once, to be searched many times.

        Args:
            videos: a list, a data set or a generator of videos (paths, URLs, arrays, lists of frames) or of rows
                `{"video": ...}`.
            texts: or a list of strings.
            kwargs: as for [`ImageTextRetrievalPipeline.index`].
        """
        return self._make_index(videos, texts, **kwargs)

    def __call__(  # type: ignore[override]
        self, query: Any, index: RetrievalIndex | None = None, videos: Any = None, texts: Any = None, **kwargs: Any
    ) -> Any:
        """
        Args:
            query: a text (to find videos) or a video (to find texts), or a list, a data set or a generator of them.
            index ([`RetrievalIndex`], *optional*): the collection.
            videos, texts (*optional*): or the collection as [`index`] takes it, encoded for this call.
            kwargs: as for [`ImageTextRetrievalPipeline`]; `query_type` is `"text"` or `"video"`.

        Returns:
            For each query a list, best first, of `"index"` (place in the collection), `"video"` or `"text"` (the item),
            `"score"` (matching logit plus cosine) and `"similarity"` (cosine).
        """
        return super().__call__(query, index=index, images=videos, texts=texts, **kwargs)
