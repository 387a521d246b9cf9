# SPDX-License-Identifier: Apache-2.0
"""Pipeline `image-captioning`.

Shapes: B rows of a batch, T tokens.
"""

from typing import Any

from transformers import GenerationConfig

from modeling_lavis.evaluation.generating import generate_scored, split_generated, texts_with_scores, with_newline
from modeling_lavis.pipelines.base import LavisPipeline, stack_pixel_values


class ImageCaptioningPipeline(LavisPipeline):
    """
    Image captioning with the model's `generate`.

    Generation options come from the call, then from the model's generation config, then from the published defaults
    (three beams, at most 30 new tokens).

    Example:

    ```python
    >>> captioner = pipeline("image-captioning", model="my-captioner")  # doctest: +SKIP
    >>> captioner("beach.jpg", num_beams=3)  # doctest: +SKIP
    [{'generated_text': 'a dog on the beach', 'score': -0.42, 'beam_score': -0.38}]

    ```
    """

    model_suffixes = ("ForConditionalGeneration", "ForPreTraining")
    requires_generation = True
    preprocess_options = ("prompt",)
    postprocess_options = ("return_full_text", "prefix")
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(num_beams=3, max_new_tokens=30)

    def __call__(self, images: Any, prompt: str | list[str] | None = None, **kwargs: Any) -> Any:
        """
        Args:
            images: an image (path, URL, PIL image, array), a row `{"image": ..., "prompt": ...}`, or a list, a dataset
                or a generator of them.
            prompt (`str` or `list[str]`, *optional*): beginning of the captions, one for all images or one per image;
                the prompt of the processor by default.
            kwargs: options of `generate` (`num_beams`, `max_new_tokens`, `num_return_sequences`, ...) by name, in
                `generate_kwargs` or as `generation_config`; `return_full_text` (`bool`, defaults to `False`) keeps the
                prompt in the text; `prefix` (`str`) is put before each text as it is; `batch_size`, `num_workers` and
                `on_error`, see [`LavisPipeline`].

        Returns:
            For each image a list of `{"generated_text": str, "score": float}`, one per returned sequence. `score` is
            the mean log-probability of the generated tokens; with beams there is `beam_score`, too, by which the search
            chose the text.
        """
        options = {"prompt": prompt, **kwargs}
        return self._run(self._parse_inputs(images, options, "prompt"), **options)

    def preprocess(self, row: dict[str, Any]) -> dict[str, Any]:
        prompt = row.get("prompt")
        prompt = self.processor.prompt if prompt is None else self.get_text(row, "prompt")
        return {"pixel_values": self.get_pixel_values(row), "prompt": prompt}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        prompts = [row["prompt"] for row in rows]
        batch: dict[str, Any] = {"inputs": {"pixel_values": stack_pixel_values(rows)}, "prompts": prompts}
        if any(prompts) or self.processor.requires_prompt:
            batch["inputs"].update(self.processor.prompt_inputs(prompts, return_tensors="pt"))
        return batch

    def _forward(self, batch: dict[str, Any], generate_kwargs: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        prompt_length = batch["inputs"]["input_ids"].shape[1] if "input_ids" in batch["inputs"] else 1
        if getattr(self.processor, "language_model", None) == "seq2seq":
            prompt_length = 1  # the encoder takes the prompt; the decoder starts with one token
        options = with_newline(self.generation_options(generate_kwargs, prompt_length), self.model, self.processor)
        generated = generate_scored(self.model, batch["inputs"], options)
        rows = split_generated(generated, len(batch["prompts"]))
        return [{**row, "prompt": prompt} for row, prompt in zip(rows, batch["prompts"])]

    def postprocess(
        self, output: dict[str, Any], return_full_text: bool = False, prefix: str = ""
    ) -> list[dict[str, Any]]:
        if return_full_text:
            texts = self.processor.post_process_image_text_to_text(output["ids"])
        else:
            texts = self.processor.post_process_captions(output["ids"], prompt=output["prompt"])
        return texts_with_scores("generated_text", [prefix + text for text in texts], output)
