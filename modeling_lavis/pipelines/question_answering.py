# SPDX-License-Identifier: Apache-2.0
"""Pipeline `image-question-answering`.

Shapes: B questions of a batch, T tokens.
"""

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig

from modeling_lavis.evaluation.generating import generate_scored, split_generated, texts_with_scores, with_newline
from modeling_lavis.pipelines.base import LavisPipeline, check_positive, stack_pixel_values
from modeling_lavis.pipelines.loading import unwrap_adapters


class ImageQuestionAnsweringPipeline(LavisPipeline):
    """
    Visual question answering: generates answers, or ranks a list of answers with `rank_answers`.

    An answer does not depend on the other questions of its batch: padding is masked even if the model's `generate`
    attends to it (`attend_question_padding`).

    Example:

    ```python
    >>> answerer = pipeline("image-question-answering", model="my-answerer")  # doctest: +SKIP
    >>> answerer("beach.jpg", question="what animal is this?")  # doctest: +SKIP
    [{'answer': 'dog', 'score': -0.21, 'beam_score': -0.21}]
    >>> answerer("beach.jpg", question="what animal is this?", answers=["cat", "dog"])  # doctest: +SKIP
    [{'answer': 'dog', 'score': -1.63}, {'answer': 'cat', 'score': -7.4}]

    ```
    """

    model_suffixes = ("ForQuestionAnswering", "ForConditionalGeneration")
    required_attributes = ("encode_images",)
    preprocess_options = ("question",)
    forward_options = ("answers", "num_candidates", "length_normalization")
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
            images: an image (path, URL, PIL image, array), a row `{"image": ..., "question": ...}`, or a list, a
                dataset or a generator of them.
            question (`str` or `list[str]`, *optional*): one question for all images or one per image; or several
                questions for one image.
            answers (`list[str]`, *optional*): answers to rank, instead of generating one.
            kwargs: with `answers`, `top_k` (number of answers to return, defaults to 5), `num_candidates` (number of
                answers whose log-likelihood is computed, selected by their first token; 128 by default, all of them
                with a language model) and, with a language model, `length_normalization` (`"sum"`, the default, or
                `"mean"` of the log-likelihoods of an answer's tokens). Without, options of `generate` (`num_beams`,
                `max_new_tokens`, ...), whose own `top_k` goes into `generate_kwargs`. `batch_size`, `num_workers` and
                `on_error`, see [`LavisPipeline`].

        Returns:
            For each question a list of `{"answer": str, "score": float}`. With `answers`, scores are log-likelihoods,
            best first. The score of a generated answer is the mean log-probability of its tokens; with beams there is
            `beam_score`, too, by which the search chose it.
        """
        options = {"question": question, **kwargs}
        if answers is not None:
            options["answers"] = answers
        return self._run(self._parse_inputs(images, options, "question"), **options)

    @classmethod
    def check_model(cls, model: Any, task: str) -> None:
        """Raise `ValueError` if the model does not answer questions."""
        super().check_model(model, task)
        inner = unwrap_adapters(model)
        if not (hasattr(inner, "rank_answers") or getattr(inner, "answers_prompts", False)):
            raise ValueError(
                f"{task} cannot use {type(inner).__name__}; it needs a model that ranks answers or takes questions as "
                "prompts. Load a checkpoint for question answering, or one with a language model."
            )

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**options)
        if (answers := forward.pop("answers", None)) is not None:
            if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers) or not len(answers):
                raise ValueError(f"answers is {answers!r}; expected a list of at least one string.")
            forward["answers"] = list(answers)
            postprocess["answers"] = list(answers)
        if postprocess.get("top_k") is not None:
            check_positive("top_k", postprocess["top_k"])
        if forward.get("num_candidates") is not None:
            check_positive("num_candidates", forward["num_candidates"])
        if "length_normalization" in forward and not getattr(unwrap_adapters(self.model), "answers_prompts", False):
            raise ValueError(
                f"length_normalization is for language models; {type(unwrap_adapters(self.model)).__name__} ranks "
                "answers by the sum over their tokens, as it was trained. Leave it out."
            )
        return preprocess, forward, postprocess

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"question": self.get_text(row, "question"), "pixel_values": self.get_pixel_values(row)}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        questions = [row["question"] for row in rows]
        if getattr(self.model, "answers_prompts", False):
            tokens = dict(self.processor.question_inputs(questions, return_tensors="pt"))
        else:
            tokens = self.tokenize(questions, cleaning="question")
        return {"pixel_values": stack_pixel_values(rows), **tokens}

    def _forward(
        self,
        batch: dict[str, Any],
        answers: list[str] | None = None,
        num_candidates: int | None = None,
        length_normalization: str | None = None,
        generate_kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        name = type(unwrap_adapters(self.model)).__name__
        if answers is not None and not hasattr(self.model, "rank_answers"):
            raise ValueError(f"{name} only generates answers and cannot rank them; omit answers=.")
        if answers is not None:
            candidates = self._ensure_tensor_on_device(self.processor.answer_candidates(answers), self.device)
            options = {"num_candidates": num_candidates, "length_normalization": length_normalization}
            options = {name: value for name, value in options.items() if value is not None}
            output = self.model.rank_answers(**batch, **candidates, **options)
            return list(zip(output.candidates, output.scores))
        if not self.model.can_generate():
            raise ValueError(f"{name} only ranks answers; pass a list of them as answers=.")
        if getattr(self.model, "answers_prompts", False):
            # decoder-only models return the prompt before the answer
            prompt = 0 if self.model.config.is_encoder_decoder else batch["input_ids"].shape[1]
            options = with_newline(self.generation_options(generate_kwargs, prompt or 1), self.model, self.processor)
            generated = generate_scored(self.model, batch, options)
            return split_generated(generated._replace(ids=generated.ids[:, prompt:]), len(batch["pixel_values"]))
        options = self.generation_options(generate_kwargs)
        # an explicit mask overrides attend_question_padding
        inputs = {**batch, "encoder_attention_mask": batch["attention_mask"]}
        return split_generated(generate_scored(self.model, inputs, options), len(batch["pixel_values"]))

    def postprocess(self, output: Any, answers: list[str] | None = None, top_k: int | None = 5) -> list[dict[str, Any]]:
        if answers is None:
            return texts_with_scores("answer", self.processor.post_process_answers(output["ids"]), output)
        candidates, scores = output
        ranked = [
            {"answer": answers[index], "score": score} for index, score in zip(candidates.tolist(), scores.tolist())
        ]
        return ranked[:top_k]
