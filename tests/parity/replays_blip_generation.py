"""Replays of ALBEF and BLIP captioning and question answering."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from .blip_inputs import compare_tokenizer, tokens
from .converted import Converted
from .generation import replay_generate
from .goldens import GoldenSet, call_numbers
from .ledger import Ledger
from .registry import replays
from .training import pick, replay_training
from .training_inputs import RAMP_EPOCHS, training_inputs

# Arguments of the recorded calls. `default` stands for the original's defaults, which the converted
# generation_config.json must have.
BEAM3 = {"num_beams": 3, "max_length": 20, "min_length": 5}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "greedy": {**BEAM3, "num_beams": 1},
    "beam3": BEAM3,
    "beam3_penalty": {**BEAM3, "repetition_penalty": 1.5},
    # parity: the original always samples with this repetition penalty and with top_k
    "nucleus": {
        "do_sample": True,
        "num_beams": 1,
        "max_length": 20,
        "min_length": 5,
        "top_p": 0.9,
        "top_k": 50,
        "repetition_penalty": 1.1,
        "num_return_sequences": 2,
    },
}


def _record(output: ModelOutput) -> dict[str, torch.Tensor]:
    """Outputs by their recorded names, without the scope."""
    intermediates = output.intermediates
    inner = {
        **pick(output, "image_embeds"),
        **pick(intermediates, "decoder_labels", "image_embeds_m"),
        "decoder_output.logits": output.logits,
        "decoder_output.loss": intermediates.get("decoder_loss", output.loss_lm),
        "encoder_output.last_hidden_state": output.encoder_last_hidden_state,
    }
    if "multimodal_embeds_m" in intermediates:
        inner["encoder_output_m.last_hidden_state"] = intermediates["multimodal_embeds_m"]
    return {f"intermediate_output.{name}": value for name, value in inner.items()}


@replays("blip_caption")
def replay_caption(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    images, model = golden.inputs["image"], run.model()
    prompts = run.processor.prompt_inputs([golden.config["prompt"]] * len(images))
    for case in golden.cases("generate"):
        scope = f"generate.{case}"
        ids = replay_generate(model, ledger, scope, {"pixel_values": images, **prompts}, CASES[case])
        captions = run.processor.post_process_captions(ids, golden.config["prompt"], cut="characters")
        ledger.compare_value(scope, captions)

    batch = training_inputs(run, golden.inputs)

    def forward(model: nn.Module) -> ModelOutput:
        return model(**batch, output_intermediates=True)

    replay_training(run.model(), ledger, run.names, forward, _record)


@replays("albef_vqa", "blip_vqa")
def replay_answers(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    model = run.model()
    inputs = {"pixel_values": golden.inputs["image"], **tokens(run, golden.inputs["text_input"])}
    for case in golden.cases("predict_answers.generate"):
        scope = f"predict_answers.generate.{case}"
        ids = replay_generate(model, ledger, scope, inputs, CASES[case])
        ledger.compare_value(scope, run.processor.post_process_answers(ids))
    _ranked_answers(run, model, inputs)
    _train_answers(run)


def _ranked_answers(run: Converted, model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    answers, ledger = run.golden.inputs["answer_list"], run.ledger
    candidates = run.processor.answer_candidates(answers)

    def best(inputs: dict[str, torch.Tensor], **options: int) -> list[str]:
        ranked = model.rank_answers(**inputs, **candidates, **options)
        named = run.processor.post_process_ranked_answers(ranked, answers, top_k=1)
        ledger.check(
            "rank_answers: best is not the first candidate", bool((ranked.best == ranked.candidates[:, 0]).all())
        )
        return [row[0]["answer"] for row in named]

    for name in run.golden.strings:
        if match := re.fullmatch(r"predict_answers\.rank(\d+)", name):
            k = int(match.group(1))
            ledger.compare_value(name, best(inputs, num_candidates=k))
            _decoder_logits(run, model, inputs, candidates, k, f"{name}.tap.text_decoder")
        elif name == "predict_answers.single_question":
            texts = tokens(run, run.golden.inputs["text_input"][:1])
            ledger.compare_value(name, best({"pixel_values": inputs["pixel_values"][:1], **texts}))


@torch.no_grad()
def _decoder_logits(
    run: Converted, model: nn.Module, inputs: dict[str, torch.Tensor], candidates: dict[str, Any], k: int, scope: str
) -> None:
    """Compare the logits of the original's two ranking passes: of the first token, and of the candidates."""
    call_numbers(run.golden.below(f"{scope}."))
    states = model.encode_questions(**inputs)
    mask = inputs["attention_mask"]
    start = torch.full((len(states), 1), model.config.bos_token_id)
    first, _ = model.text_decoder(start, encoder_hidden_states=states, encoder_attention_mask=mask)
    run.ledger.compare(f"{scope}.0", first)
    answers = candidates["answer_input_ids"]
    best = first[:, 0].softmax(dim=-1)[:, answers[:, 1]].topk(k, dim=1).indices.flatten()
    logits, _ = model.text_decoder(
        answers[best],
        attention_mask=candidates["answer_attention_mask"][best],
        encoder_hidden_states=states.repeat_interleave(k, dim=0),
        encoder_attention_mask=mask.repeat_interleave(k, dim=0),
    )
    run.ledger.compare(f"{scope}.1", logits)


def _train_answers(run: Converted) -> None:
    batch = training_inputs(run, run.golden.inputs)

    def forward(model: nn.Module) -> ModelOutput:
        if not hasattr(model, "vision_model_m"):
            return model(**batch, output_intermediates=True)
        alpha = run.golden.alpha(RAMP_EPOCHS[run.golden.architecture])
        return model(**batch, alpha=alpha, update_state=True, output_intermediates=True)

    replay_training(run.model(), run.ledger, run.names, forward, _record)
