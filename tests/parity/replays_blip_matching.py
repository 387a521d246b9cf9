"""Replays of ALBEF and BLIP feature extraction, image-text matching, retrieval and pre-training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from modeling_lavis.interpretability import Explanation, explain, gradcam

from .blip_inputs import compare_tokenizer, tokens
from .converted import Converted
from .goldens import GoldenSet
from .ledger import Ledger
from .registry import replays
from .retrieval import compare_similarity_matrices
from .training import compare_gradients, pick, replay_training
from .training_inputs import RAMP_EPOCHS, training_inputs

# parity: texts of a similarity matrix are padded to this length, independently of training
MATRIX_TEXT_LENGTH = 35
# parity: itm_rank drops the first tokens of its input
DROPPED_TOKENS = 3
# recorded outputs of the text encoder in ALBEF's pre-training, which runs in other passes here
TEXT_TAPS = frozenset({"text_encoder_bert", "text_encoder_cls", "text_encoder_m_cls"})


@replays("albef_feature_extractor", "blip_feature_extractor")
def replay_features(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    model, images = run.model(), golden.inputs["image"]
    texts = tokens(run, golden.inputs["text_input"])
    with torch.no_grad():
        for mode, inputs in {
            "image": {"pixel_values": images},
            "text": texts,
            "image_and_text": {"pixel_values": images, **texts},
            "multimodal": {"pixel_values": images, **texts},
        }.items():
            output = model(**inputs)
            scope = f"extract_features.{mode}"
            for field, value in {
                "image_embeds": output.image_embeds,
                "image_embeds_proj": output.image_features,
                "text_embeds": output.text_embeds,
                "text_embeds_proj": output.text_features,
                "multimodal_embeds": output.multimodal_embeds,
            }.items():
                if ledger.records(f"{scope}.{field}"):
                    ledger.compare(f"{scope}.{field}", value)


@replays("blip_image_text_matching")
def replay_matching(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    model, images = run.model(), golden.inputs["image"]
    texts = tokens(run, golden.inputs["text_input"])
    with torch.no_grad():
        matched = model(pixel_values=images, **texts, match_head="itm")
        contrastive = model(pixel_values=images, **texts, match_head="itc")
    ledger.compare("image_embeds", matched.image_embeds)
    ledger.compare("forward.itm", matched.logits)
    # The original returns cosine similarities, without the temperature.
    ledger.compare("forward.itc", contrastive.logits_per_image * model.temp.detach())
    ledger.compare("forward.itc", contrastive.logits_per_text.T * model.temp.detach())
    _ranking(run, model, images)
    _matching_gradients(run, images, texts)
    _gradcam(run, images)


def _ranking(run: Converted, model: nn.Module, images: torch.Tensor) -> None:
    ids = run.ledger.feed("itm_rank.input_ids")[:, DROPPED_TOKENS:]
    texts = {"input_ids": ids, "attention_mask": (ids != run.golden.config["text"]["pad_token_id"]).long()}
    own = torch.arange(len(images))
    scores = model.score_pairs(images, texts, torch.stack([own, own], dim=1))
    run.ledger.compare("itm_rank.itm", scores.probabilities)
    features = model.get_image_features(images).pooler_output @ model.get_text_features(**texts).pooler_output.T
    run.ledger.compare("itm_rank.itc", features)


def _matching_gradients(run: Converted, images: torch.Tensor, texts: dict[str, torch.Tensor]) -> None:
    model, scope = run.model(), "itm_cross_entropy"
    logits = model(pixel_values=images, **texts, match_head="itm").logits
    # The labels are not recorded; 0, 1, 0, ... give the recorded loss.
    loss = F.cross_entropy(logits, torch.arange(len(logits)) % 2)
    run.ledger.compare(f"{scope}.loss", loss)
    loss.backward()
    compare_gradients(model, run.ledger, run.names, scope)


def _gradcam(run: Converted, images: torch.Tensor) -> None:
    model, ledger, golden = run.model(), run.ledger, run.golden
    pairs = len(golden.below("gradcam.maps."))
    if not pairs:
        return
    texts = tokens(run, golden.inputs["text_input"][:pairs])
    ledger.compare("gradcam.input_ids", texts["input_ids"])
    pixel_values = images[:pairs]
    explanation = gradcam(model, pixel_values, **texts, layer=golden.config["gradcam_block"])
    ledger.check(f"gradcam: {len(explanation.maps)} maps for {pairs} pairs", len(explanation.maps) == pairs)
    for number, own in enumerate(explanation.maps):
        ledger.compare(f"gradcam.maps.{number}", own)
    ledger.compare("gradcam.output", explanation.logits)
    for number, text in enumerate(golden.inputs["text_input"][:pairs]):
        found = _explain(run, images[number], text, golden.config["gradcam_block"])
        of_tokens = explanation.maps[number]
        ledger.check(f"explain {number}: mean of all tokens", _same_map(found.overall[0], of_tokens[1]))
        words = run.processor.tokenizer(text).word_ids()
        for word in range(len(found.words)):
            # the map of a token comes one place later, after the mean of all
            own = of_tokens[[place + 1 for place, other in enumerate(words) if other == word]].mean(dim=0)
            ledger.check(f"explain {number}: map of {found.words[word]!r}", _same_map(found.grids[word, 0], own))


def _same_map(own: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether maps are equal relative to the largest value, which is below the usual tolerances in a tiny model."""
    scale = expected.max()
    return bool(scale > 0) and torch.allclose(own / scale, expected / scale, atol=1e-3, rtol=1e-3)


def _explain(run: Converted, pixel_values: torch.Tensor, text: str, layer: int) -> Explanation:
    """Explain recorded pixel values, which a processor would make from an image."""

    def image_processor(images: Any, return_tensors: str) -> dict[str, torch.Tensor]:
        return {"pixel_values": pixel_values[None]}

    image_processor.background, image_processor.do_exif_transpose = "white", False  # type: ignore[attr-defined]
    processor = copy.copy(run.processor)
    processor.image_processor = image_processor
    return explain(run.model(), processor, Image.new("RGB", (96, 96)), text, layer=layer)


def _record(output: ModelOutput) -> dict[str, torch.Tensor]:
    """Outputs by their recorded names, without the scope."""
    intermediates = output.intermediates
    batch = len(output.image_embeds)
    inner = {
        **pick(output, "image_embeds", "text_embeds"),
        **pick(intermediates, "image_embeds_m", "text_embeds_m", "itm_logits", "itm_labels", "decoder_labels"),
        # One forward pass for positives and negatives here, two in the original.
        "encoder_output.last_hidden_state": intermediates["multimodal_embeds"][:batch],
        "encoder_output_neg.last_hidden_state": intermediates["multimodal_embeds"][batch:],
        "decoder_output.logits": intermediates.get("decoder_logits"),
        "decoder_output.loss": output.get("loss_lm"),
    }
    sims = pick(intermediates, *(f"sim_{way}{kind}" for way in ("i2t", "t2i") for kind in ("", "_m", "_targets")))
    return {
        **{f"intermediate_output.{name}": value for name, value in inner.items() if value is not None},
        **{f"sims.{name}": value for name, value in sims.items()},
    }


@torch.no_grad()
def _masked_language_modeling(model: nn.Module, output: ModelOutput) -> dict[str, torch.Tensor]:
    """Outputs of masked language modeling by their recorded names, without the scope."""
    intermediates, batch = output.intermediates, len(output.image_embeds)
    if "mlm_labels" not in intermediates:
        return {}
    return {
        "mlm.input_ids": intermediates["mlm_input_ids"],
        "mlm.labels": intermediates["mlm_labels"],
        # The passes of the original's text encoder; the last three are one pass here.
        "tap.text_encoder_bert.0": output.text_embeds,
        "tap.text_encoder_bert.1": intermediates["multimodal_embeds"][:batch],
        "tap.text_encoder_bert.2": intermediates["multimodal_embeds"][batch:],
        "tap.text_encoder_bert.3": intermediates["mlm_embeds"],
        # The MLM heads of this package run on masked tokens only, those of the original on all tokens.
        "tap.text_encoder_cls.0": model.mlm_head(intermediates["mlm_embeds"]),
        "tap.text_encoder_m_cls.0": model.mlm_head_m(intermediates["mlm_embeds_m"]),
    }


def _train(run: Converted, scope: str, model: nn.Module) -> None:
    golden = run.golden
    batch, alpha = training_inputs(run, golden.inputs), golden.alpha(RAMP_EPOCHS[golden.architecture])

    def forward(model: nn.Module) -> ModelOutput:
        return model(**batch, alpha=alpha, update_state=True, output_intermediates=True)

    def record(output: ModelOutput) -> dict[str, torch.Tensor]:
        return {**_record(output), **_masked_language_modeling(model, output)}

    replay_training(model, run.ledger, run.names, forward, record, scope, TEXT_TAPS)


@replays("albef_retrieval", "blip_retrieval")
def replay_retrieval(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    _train(run, "train", run.model())
    if golden.below("train_negative_all_rank."):
        _train(run, "train_negative_all_rank", run.model(negative_all_rank=True))
    texts = tokens(run, golden.inputs["retrieval_texts"], max_length=MATRIX_TEXT_LENGTH, padding="max_length")
    compare_similarity_matrices(golden, ledger, run.model(), golden.inputs["image"], texts)


@replays("albef_pretrain", "blip_pretrain")
def replay_pretraining(golden: GoldenSet, ledger: Ledger, scratch: Path) -> None:
    run = Converted(golden, ledger, scratch)
    compare_tokenizer(run)
    _train(run, "train", run.model())
