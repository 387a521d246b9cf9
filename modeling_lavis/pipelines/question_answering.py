# SPDX-License-Identifier: Apache-2.0
"""`image-question-answering`: a picture and a question in, answers out, free or from a list.

Letters: B questions of a batch, A answers in the list, k candidates, n answers per question, L tokens.
"""

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig

from modeling_lavis.pipelines.base import LavisPipeline, one_picture_per_row


class ImageQuestionAnsweringPipeline(LavisPipeline):
    """
    Answers questions about pictures: freely by `generate`, or by ranking a closed list with `rank_answers`.

    An answer does not depend on the other questions of its batch: padding is masked also where the model's own
    `generate` attends to it (`attend_question_padding`).

    Example:

    ```python
    >>> answerer = pipeline("image-question-answering", model="my-answerer")  # doctest: +SKIP
    >>> answerer("beach.jpg", question="what animal is this?")  # doctest: +SKIP
    [{'answer': 'dog'}]
    >>> answerer("beach.jpg", question="what animal is this?", answers=["cat", "dog"])  # doctest: +SKIP
    [{'answer': 'dog', 'score': -1.63}, {'answer': 'cat', 'score': -7.4}]

    ```
    """

    heads = ("ForQuestionAnswering", "ForConditionalGeneration")
    methods = ("encode_images",)
    preprocess_options = ("question",)
    forward_options = ("answers", "num_candidates")
    postprocess_options = ("top_k",)
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(num_beams=3, max_new_tokens=10)
    _non_generation_params = ("top_k",)

    def __call__(
        self,
        images: Any,
        question: str | list[str] | None = None,
        answers: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Args:
            images: a picture (path, URL, PIL image, array), a row `{"image": ..., "question": ...}`, or a list, a
                data set or a generator of them.
            question (`str` or `list[str]`, *optional*): one question for all, or one each; several for one picture.
            answers (`list[str]`, *optional*): rank these instead of answering freely.
            kwargs: for a list of answers, `top_k` (how many come back, default 5) and `num_candidates` (how many are
                scored whole after a first look at their first token, default 128). Otherwise options of `generate`
                (`num_beams`, `max_new_tokens`, ...); its own `top_k` goes in `generate_kwargs=`. `batch_size`,
                `num_workers`, `on_error` (see [`LavisPipeline`]).

        Returns:
            For each question a list of `{"answer": str}`, or for ranked answers of `{"answer": str, "score": float}`,
            best first; a score is a log-likelihood, so 0 would be certain.
        """
        options = {"question": question, **kwargs}
        if answers is not None:
            options["answers"] = answers
        return self._run(self._deal(images, options, "question"), **options)

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` when the model has no head for answers."""
        super().check_model(model, task)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not (hasattr(inner, "rank_answers") or getattr(inner, "answers_prompts", False)):
            raise ValueError(
                f"{task} cannot use {type(inner).__name__}; it needs a model that ranks answers or takes questions as "
                "prompts. Give a checkpoint that was trained for questions, or one with a language model."
            )

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if (answers := forward.pop("answers", None)) is not None:
            if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers) or not len(answers):
                raise ValueError(f"answers is {answers!r}; expected a list of at least one string.")
            forward["answers"] = list(answers)
            postprocess["answers"] = list(answers)
        return preprocess, forward, postprocess

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"question": self.text(row, "question"), "pixel_values": self.pixels(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        questions = [row["question"] for row in rows]
        if getattr(self.model, "answers_prompts", False):
            tokens = dict(self.processor.question_inputs(questions, return_tensors="pt"))
        else:
            tokens = self.tokens(questions, cleaning="question")
        return {"pixel_values": one_picture_per_row(rows), **tokens}

    def _forward(
        self,
        batch: dict[str, Any],
        answers: list[str] | None = None,
        num_candidates: int = 128,
        generate_kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        if answers is not None and not hasattr(self.model, "rank_answers"):
            raise ValueError(f"{type(self.model).__name__} answers freely and ranks no list; leave answers= out.")
        if answers is not None:
            listed = self._ensure_tensor_on_device(self.processor.answer_candidates(answers), self.device)
            output = self.model.rank_answers(**batch, **listed, num_candidates=num_candidates)
            return list(zip(output.candidates, output.scores))
        if not self.model.can_generate():
            raise ValueError(f"{type(self.model).__name__} only ranks answers; give a list as answers=.")
        if getattr(self.model, "answers_prompts", False):
            # What goes on from the prompt begins with it.
            prompt = 0 if self.model.config.is_encoder_decoder else batch["input_ids"].shape[1]
            ids = self.model.generate(**batch, **self.generation_options(generate_kwargs, prompt or 1))[:, prompt:]
            return list(ids.view(len(batch["pixel_values"]), -1, ids.shape[-1]))
        options = self.generation_options(generate_kwargs)
        # Given here, the mask holds whatever attend_question_padding says.
        ids = self.model.generate(**batch, encoder_attention_mask=batch["attention_mask"], **options)
        return list(ids.view(len(batch["pixel_values"]), -1, ids.shape[-1]))  # (B, n, L)

    def postprocess(self, output: Any, answers: list[str] | None = None, top_k: int | None = 5) -> list[dict[str, Any]]:
        if answers is None:
            return [{"answer": text} for text in self.processor.post_process_answers(output)]
        candidates, scores = output
        ranked = [
            {"answer": answers[index], "score": score} for index, score in zip(candidates.tolist(), scores.tolist())
        ]
        return ranked[:top_k]
