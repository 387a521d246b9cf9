"""Replays of the BLIP-2 architectures.

Shapes: B batch size, N image tokens, Q query tokens, T text tokens, D hidden size, P projection dimension.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from modeling_lavis.hub.blip2 import load_tokenizer

from .blip_inputs import compare_tokenizer, tokens
from .converted import Converted
from .generation import replay_generate
from .goldens import GoldenSet
from .ledger import Ledger
from .names import Names
from .registry import replays
from .retrieval import compare_similarity_matrices
from .training import replay_training
from .training_inputs import training_inputs

# parity: texts of a similarity matrix are padded to this length, independently of training
MATRIX_TEXT_LENGTH = 35
BEAM3 = {"num_beams": 3, "max_length": 20, "min_length": 5}
CAPTION_CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "greedy": {**BEAM3, "num_beams": 1},
    "beam3": BEAM3,
    # parity: the original always uses top_k
    "nucleus": {**BEAM3, "num_beams": 1, "do_sample": True, "top_p": 0.9, "top_k": 50},
}
NEW3 = {"num_beams": 3, "max_new_tokens": 20, "min_length": 5}
LANGUAGE_CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "greedy": {**NEW3, "num_beams": 1},
    "beam3": NEW3,
    "beam3_penalties": {**NEW3, "repetition_penalty": 1.5, "length_penalty": -1.0},
    "beam3_two_captions": {**NEW3, "num_return_sequences": 2, "max_new_tokens": 12},
    "nucleus": {
        "do_sample": True,
        "num_beams": 1,
        "max_new_tokens": 15,
        "min_length": 5,
        "top_p": 0.9,
        "top_k": 50,
        "temperature": 0.8,
    },
}
# defaults of the original for answers, and the recorded case with other lengths
ANSWERS = {"num_beams": 5, "max_new_tokens": 10, "min_length": 1, "length_penalty": -1.0}
ANSWERS3 = {**ANSWERS, "num_beams": 3, "max_new_tokens": 20, "min_length": 5}


@replays("blip2", "blip2_feature_extractor", "blip2_image_text_matching")
def replay_first_stage(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    # The original has one class where this package has three, so some outputs come from another converted class.
    pretraining = run if golden.architecture == "blip2" else Converted(golden, ledger, scratch, "blip2")
    features = run if golden.architecture == "blip2_feature_extractor" else None
    features = features or Converted(golden, ledger, scratch, "blip2_feature_extractor")
    matching = run.model() if golden.architecture != "blip2_feature_extractor" else pretraining.model()
    with torch.no_grad():
        _features(features, features.model())
        _parts(run, run.model())
        _matching(run, matching)
    _captions(pretraining)
    texts = tokens(run, golden.inputs["retrieval_texts"], max_length=MATRIX_TEXT_LENGTH, padding="max_length")
    compare_similarity_matrices(golden, ledger, matching, golden.inputs["image"], texts)
    if golden.below("train."):
        _train_first_stage(pretraining, ledger, "train", "1.0.2")
    if (golden.folder / "outputs_main.json").exists():
        newer = GoldenSet(golden.folder, "outputs_main")
        own = Ledger(newer)
        own.feed("image_id")
        _train_first_stage(pretraining, own, "train_main", "main")
        _train_first_stage(pretraining, own, "train_main_image_id", "main", image_ids=newer.tensors["image_id"])
        own.close()


def _features(run: Converted, model: nn.Module) -> None:
    """Compare features; the recorded texts are not truncated."""
    texts = tokens(run, run.golden.inputs["text_input"], truncation=False, max_length=None)
    images = {"pixel_values": run.golden.inputs["image"]}
    for mode, inputs in {"image": images, "text": texts, "multimodal": {**images, **texts}}.items():
        output = model(**inputs)
        for field, value in {
            "image_embeds": output.image_embeds,
            "image_embeds_proj": output.image_features,
            "text_embeds": output.text_embeds,
            "text_embeds_proj": output.text_features,
            "multimodal_embeds": output.multimodal_embeds,
        }.items():
            if run.ledger.records(f"extract_features.{mode}.{field}"):
                run.ledger.compare(f"extract_features.{mode}.{field}", value)


def _parts(run: Converted, model: nn.Module) -> None:
    ledger, images = run.ledger, run.golden.inputs["image"]
    states = model.encode_images(images)
    ledger.compare("forward_image.image_embeds", states)
    ledger.compare("forward_image.query_output", model.query_images(states).last_hidden_state)
    texts = tokens(run, run.golden.inputs["text_input"], padding="max_length")
    ledger.compare("forward_text.input_ids", texts["input_ids"])
    ledger.compare("forward_text.output", model.encode_texts(**texts)[:, 0])


def _matching(run: Converted, model: nn.Module) -> None:
    ledger, images, given = run.ledger, run.golden.inputs["image"], run.golden.inputs["text_input"]
    texts = tokens(run, given, padding="max_length")
    logits = model(pixel_values=images, **texts, match_head="itm").logits
    ledger.compare("compute_itm.output", logits[:, 1])
    # The original supports texts of equal length only, so pairs were recorded one by one.
    for number in range(len(run.golden.below("forward.itm."))):
        single = {"pixel_values": images[number : number + 1], **tokens(run, given[number : number + 1])}
        ledger.compare(f"forward.itm.{number}", model(**single, match_head="itm").logits)
        cosine = model(**single, match_head="itc").logits_per_image * model.temp
        ledger.compare(f"forward.itc.{number}", cosine)


def _captions(run: Converted) -> None:
    model, ledger, images = run.model(), run.ledger, {"pixel_values": run.golden.inputs["image"]}
    for case in run.golden.cases("generate"):
        ids = replay_generate(model, ledger, f"generate.{case}", images, CAPTION_CASES[case])
        ledger.compare_value(f"generate.{case}", run.processor.post_process_captions(ids))


def _train_first_stage(run: Converted, ledger: Ledger, scope: str, objective: str, **more: torch.Tensor) -> None:
    batch = training_inputs(run, run.golden.inputs)

    def forward(model: nn.Module) -> ModelOutput:
        return model(**batch, **more, output_intermediates=True)

    replay_training(run.model(objective=objective), ledger, run.names, forward, lambda output: {}, scope)


@replays("blip2_opt", "blip2_t5")
def replay_second_stage(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    _tokenizers(run)
    model, images = run.model(), golden.inputs["image"]
    given = golden.inputs["prompts"]
    every = [given[number % len(given)] for number in range(len(images))]
    for case in golden.cases("generate"):
        scope, prompt, options = f"generate.{case}", golden.config["prompt"], LANGUAGE_CASES.get(case, NEW3)
        if case == "prompts":
            prompt = every
        elif case.startswith("prompt"):
            prompt = given[int(case.removeprefix("prompt"))]
        prompts = [prompt] * len(images) if isinstance(prompt, str) else prompt
        inputs = {"pixel_values": images, **run.processor.prompt_inputs(prompts)}
        ids = replay_generate(model, ledger, scope, inputs, options)
        ledger.compare_value(scope, run.processor.post_process_captions(ids, prompts))
    _answers(run, model)
    _train_second_stage(run)


def _tokenizers(run: Converted) -> None:
    """Compare the tokenizers of the language model and of the Q-Former, which the original loads without using it."""
    ledger, golden, kind = run.ledger, run.golden, run.golden.architecture.removeprefix("blip2_")
    queries = load_tokenizer(golden.tokenizer_folder)
    ledger.compare_value(
        "tokenizer",
        {
            "length": len(queries),
            "pad": queries.pad_token_id,
            "cls": queries.cls_token_id,
            "sep": queries.sep_token_id,
            "mask": queries.mask_token_id,
            "bos_DEC": queries.bos_token_id,
            "enc_ENC": None,
        },
    )
    for name in golden.below("tokenized."):
        texts = golden.inputs[name.removeprefix("tokenized.")]
        ledger.compare(name, queries(texts, padding=True, return_tensors="pt")["input_ids"])
    tokenizer = run.processor.tokenizer
    for name in [name for name in golden.strings if name.startswith(f"{kind}_tokenizer.")]:
        what = name.split(".", 1)[1]
        if what == "newline":
            own = tokenizer("\n", add_special_tokens=False)["input_ids"]
            ledger.compare_value(name, own)
            if own and kind == "opt":
                ledger.check("newline_token_id", run.processor.newline_token_id == own[0])
        else:
            ledger.compare_value(name, tokenizer(golden.inputs[what])["input_ids"])


def _answers(run: Converted, model: nn.Module) -> None:
    golden, images = run.golden, run.golden.inputs["image"]
    for case in golden.cases("predict_answers"):
        scope = f"predict_answers.{case}"
        template = golden.inputs["prompt_template"] if case == "template" else "{}"
        prompts = run.processor.question_inputs(golden.inputs["questions"], template)
        options = ANSWERS if case == "default" else ANSWERS3
        ids = replay_generate(model, run.ledger, scope, {"pixel_values": images, **prompts}, options)
        run.ledger.compare_value(scope, run.processor.post_process_answers(ids))


class _NamesWithEncoder(Names):
    """Names of modules, including `t5_encoder`, the recorded name of the encoder of the language model."""

    def module(self, name: str) -> str:
        return "language_model.encoder" if name == "t5_encoder" else super().module(name)


def _train_second_stage(run: Converted) -> None:
    golden, batch = run.golden, training_inputs(run, run.golden.inputs)
    if golden.architecture == "blip2_t5":
        run.ledger.compare("train.t5.decoder_attention_mask", batch["decoder_attention_mask"])

    def forward(model: nn.Module) -> ModelOutput:
        return model(**batch, output_intermediates=True)

    def record(output: ModelOutput) -> dict[str, torch.Tensor]:
        kind = golden.architecture.removeprefix("blip2_")
        return {f"{kind}.{name}": value for name, value in output.intermediates.items()}

    replay_training(run.model(), run.ledger, _NamesWithEncoder.of(golden.architecture), forward, record)
