# SPDX-License-Identifier: Apache-2.0
"""Pipeline `video-question-answering`."""

from typing import Any

from torch import Tensor

from modeling_lavis.pipelines.base import check_positive, stack_pixel_values
from modeling_lavis.pipelines.video_inputs import VideoInputMixin


class VideoQuestionAnsweringPipeline(VideoInputMixin):
    """
    Video question answering with a classifier over the answers of the checkpoint (`config.id2label`).

    Example:

    ```python
    >>> answerer = pipeline("video-question-answering", model="my-video-answerer")  # doctest: +SKIP
    >>> answerer("dog.mp4", question="what is the dog doing?", top_k=1)  # doctest: +SKIP
    [{'answer': 'run', 'score': 0.83}]

    ```
    """

    model_suffixes = ("ForVideoQuestionAnswering",)
    preprocess_options = ("question", "start", "end")
    postprocess_options = ("top_k",)
    input_name = "video"

    def __call__(self, videos: Any, question: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video (path, URL, array, list of frames), a row `{"video": ..., "question": ...}`, or a list, a
                dataset or a generator of them.
            question (`str` or `list[str]`, *optional*): one question for all videos or one per video; or several
                questions for one video.
            kwargs: `top_k` (number of answers to return, defaults to 5), `start` and `end` (time range in seconds; also
                as keys of rows), `batch_size`, `num_workers` and `on_error`, see [`LavisPipeline`].

        Returns:
            For each question a list of `{"answer": str, "score": float}` with the probabilities of the answers, best
            first.
        """
        options = {"question": question, **kwargs}
        return self._run(self._parse_inputs(videos, options, "question", "start", "end"), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"question": self.get_text(row, "question"), "pixel_values": self.get_pixel_values(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = self.tokenize([row["question"] for row in rows], cleaning="question")
        return {"pixel_values_videos": stack_pixel_values(rows), **tokens}

    def _forward(self, batch: dict[str, Any]) -> list[Tensor]:
        return list(self.model(**batch, first_token_only=True).logits)

    def postprocess(self, output: Tensor, top_k: int | None = 5) -> list[dict[str, Any]]:
        if top_k is not None:
            check_positive("top_k", top_k)
        (ranked,) = self.processor.post_process_classification(output[None], self.model.config.id2label, top_k)
        return [{"answer": row["label"], "score": row["score"]} for row in ranked]
