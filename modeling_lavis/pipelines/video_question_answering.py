# SPDX-License-Identifier: Apache-2.0
"""`video-question-answering`: a video and a question in, answers of the model's list out.

Letters: B rows of a batch.
"""

from typing import Any

from torch import Tensor

from modeling_lavis.pipelines.base import one_picture_per_row
from modeling_lavis.pipelines.video_inputs import VideoInputMixin


class VideoQuestionAnsweringPipeline(VideoInputMixin):
    """
    Answers questions about videos from the list that the model was trained on (`config.id2label`).

    Example:

    ```python
    >>> answerer = pipeline("video-question-answering", model="my-video-answerer")  # doctest: +SKIP
    >>> answerer("dog.mp4", question="what is the dog doing?", top_k=1)  # doctest: +SKIP
    [{'answer': 'run', 'score': 0.83}]

    ```
    """

    heads = ("ForVideoQuestionAnswering",)
    preprocess_options = ("question", "start", "end")
    postprocess_options = ("top_k",)
    input_name = "video"

    def __call__(self, videos: Any, question: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            videos: a video (path, URL, array, list of frames), a row `{"video": ..., "question": ...}`, or a list, a
                data set or a generator of them.
            question (`str` or `list[str]`, *optional*): one question for all, or one each; several for one video.
            kwargs: `top_k` (how many answers come back, default 5), `start` and `end` (seconds of the part that is
                looked at, also in rows), `batch_size`, `num_workers`, `on_error` (see [`LavisPipeline`]).

        Returns:
            For each question a list of `{"answer": str, "score": probability}`, best first.
        """
        options = {"question": question, **kwargs}
        return self._run(self._deal(videos, options, "question", "start", "end"), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"question": self.text(row, "question"), "pixel_values": self.pixels(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = self.tokens([row["question"] for row in rows], cleaning="question")
        return {"pixel_values_videos": one_picture_per_row(rows), **tokens}

    def _forward(self, batch: dict[str, Any]) -> list[Tensor]:
        return list(self.model(**batch, first_token_only=True).logits)

    def postprocess(self, output: Tensor, top_k: int | None = 5) -> list[dict[str, Any]]:
        (ranked,) = self.processor.post_process_classification(output[None], self.model.config.id2label, top_k)
        return [{"answer": row["label"], "score": row["score"]} for row in ranked]
