# SPDX-License-Identifier: Apache-2.0
"""Pipeline `video-text-retrieval`, the counterpart of `image-text-retrieval` for videos."""

from typing import Any

from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline, RetrievalIndex
from modeling_lavis.pipelines.video_inputs import VideoInputMixin


class VideoTextRetrievalPipeline(VideoInputMixin, ImageTextRetrievalPipeline):
    """
    Retrieves videos by text, or texts by video.

    Example:

    ```python
    >>> retriever = pipeline("video-text-retrieval", model="my-video-matcher")  # doctest: +SKIP
    >>> clips = retriever.index(videos=["beach.mp4", "forest.mp4"])  # doctest: +SKIP
    >>> retriever("a dog", index=clips, top_k=1)  # doctest: +SKIP
    [{'index': 0, 'video': 'beach.mp4', 'score': 4.2, 'similarity': 0.41}]

    ```
    """

    model_suffixes: tuple[str, ...] = ("ForVideoTextRetrieval",)

    def index(self, videos: Any = None, texts: Any = None, **kwargs: Any) -> RetrievalIndex:  # type: ignore[override]
        """
        Encode a collection of videos or of texts once, for many queries.

        Args:
            videos (*optional*): a list, a dataset or a generator of videos (paths, URLs, arrays, lists of frames) or of
                rows `{"video": ...}`, with a time range in seconds as `start` and `end` if only that part counts.
            texts (`list[str]`, *optional*): texts, instead of videos.
            kwargs: as for [`ImageTextRetrievalPipeline.index`].

        Returns:
            [`RetrievalIndex`].
        """
        return self._make_index(videos, texts, **kwargs)

    def __call__(  # type: ignore[override]
        self, query: Any, index: RetrievalIndex | None = None, videos: Any = None, texts: Any = None, **kwargs: Any
    ) -> Any:
        """
        Args:
            query: a text (to retrieve videos) or a video (to retrieve texts), or a list, a dataset or a generator of
                them.
            index ([`RetrievalIndex`], *optional*): the encoded collection.
            videos, texts (*optional*): a collection as in [`index`], which is encoded for this call only.
            kwargs: as for [`ImageTextRetrievalPipeline`]; `query_type` is `"text"` or `"video"`.

        Returns:
            For each query a list, best first, of `"index"` (index in the collection), `"video"` or `"text"` (the item;
            a video of a row also with its `"start"` and `"end"`), `"score"` (cosine similarity plus matching logit) and
            `"similarity"` (cosine similarity).
        """
        return super().__call__(query, index=index, images=videos, texts=texts, **kwargs)
