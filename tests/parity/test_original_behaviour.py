"""The corner cases of `original_behaviour.json`: recorded behavior of the original, and behavior of this package.

Each case of a supported architecture needs an entry in `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.evaluation.retrieval import similarity_matrices
from modeling_lavis.hub.convert import convert
from modeling_lavis.interpretability.gradcam import gradcam

from .blip_inputs import tokens
from .converted import Converted
from .goldens import GoldenSet, golden_folders, goldens_root, read_json
from .ledger import Ledger
from .registry import PLANNED

FILE = goldens_root() / "original_behaviour.json"
ROWS = read_json(FILE)["rows"] if FILE.exists() else []

CASES: dict[tuple[str, str], Callable[[dict[str, Any], Path], None]] = {}


def case(architecture: str, about: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the test of a recorded case: a function `(row, scratch folder)`."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        CASES[architecture, about] = function
        return function

    return register


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corner_cases")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['arch']}: {row['case']}")
def test_corner_case(row: dict[str, Any], scratch: Path) -> None:
    if row["arch"] in PLANNED:
        pytest.skip(f"{row['arch']}: {PLANNED[row['arch']]}")
    assert (row["arch"], row["case"]) in CASES, "an unknown case; add its test to CASES"
    CASES[row["arch"], row["case"]](row, scratch)


def recorded_set(architecture: str) -> GoldenSet:
    """The first golden set of an architecture."""
    for folder in golden_folders():
        golden = GoldenSet(folder)
        if golden.architecture == architecture:
            return golden
    pytest.skip(f"no golden set of {architecture}")


@cache
def converted(architecture: str, scratch: Path) -> Converted:
    """Convert each architecture once for all cases."""
    golden = recorded_set(architecture)
    return Converted(golden, Ledger(golden), scratch / architecture)


def batch(run: Converted, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """The recorded images and texts."""
    given = run.golden.inputs
    return {"pixel_values": given["image"][rows], **tokens(run, given["text_input"][rows])}


@case("blip_classification", "training forward, use_distill=True")
@case("blip_classification", "training forward, use_distill=False")
def _classification_trains(row: dict[str, Any], scratch: Path) -> None:
    assert "error" in row
    run = converted("blip_classification", scratch)
    distill = row["case"].endswith("True")
    output = run.model(use_distill=distill)(**batch(run), labels=run.golden.inputs["label"])
    plain = torch.nn.functional.cross_entropy(output.logits, run.golden.inputs["label"])
    assert torch.isclose(output.loss, plain) != distill


@case("albef_pretrain", "training forward with a batch of one")
@case("blip_pretrain", "training forward with a batch of one")
@case("blip_retrieval", "training forward with a batch of one")
def _batch_of_one_raises(row: dict[str, Any], scratch: Path) -> None:
    assert "error" in row
    run = converted(row["arch"], scratch)
    with pytest.raises(ValueError, match="negative for every row"):
        run.model().train()(**batch(run, slice(0, 1)), return_loss=True)


@case("albef_classification", "training forward, use_distill=False")
@case("albef_nlvr", "training forward, use_distill=False")
@case("albef_retrieval", "training forward, use_distill=False")
@case("albef_vqa", "training forward, use_distill=False")
def _trains_without_distillation(row: dict[str, Any], scratch: Path) -> None:
    """The original crashes for three of these four."""
    run = converted(row["arch"], scratch)
    model = run.model(use_distill=False).train()
    output = model(**training_batch(run))
    output.loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert torch.isfinite(output.loss)
    assert missing == []


def training_batch(run: Converted) -> dict[str, Any]:
    """Training inputs of an ALBEF head."""
    given = run.golden.inputs
    if "image0" in given:
        images = torch.stack([given["image0"], given["image1"]], dim=1)
        return {"pixel_values": images, **tokens(run, given["text_input"]), "labels": given["label"]}
    inputs = batch(run)
    if "label" in given:
        return {**inputs, "labels": given["label"]}
    if "n_answers" in given:
        counts = given["n_answers"].tolist()
        answers = iter(given["answer"])
        return {**inputs, **run.processor.answer_labels([[next(answers) for _ in range(count)] for count in counts])}
    return {**inputs, "image_ids": given["image_id"], "return_loss": True}


@case("albef_retrieval", "training forward without torch.distributed.init_process_group")
def _training_without_process_group(row: dict[str, Any], scratch: Path) -> None:
    assert row["result"] == "no error"
    assert not torch.distributed.is_initialized()
    run = converted(row["arch"], scratch)
    assert torch.isfinite(run.model()(**training_batch(run)).loss)


@case("albef_retrieval", "batch of 3 with queue_size 8 (not a multiple)")
def _queue_wraps_around(row: dict[str, Any], scratch: Path) -> None:
    assert "error" in row
    run = converted(row["arch"], scratch)
    model, size = run.model(), run.golden.config["queue_size"]
    start = int(model.queue_ptr)
    inputs = batch(run, slice(0, 3))
    steps = size // 3 + 1
    for number in range(steps):
        ids = torch.arange(3) + 3 * number
        model(**inputs, image_ids=ids, return_loss=True, update_state=True)
    assert int(model.queue_ptr) == (start + 3 * steps) % size
    expected_ids = range(3 * steps - size, 3 * steps)
    assert sorted(model.idx_queue[0].tolist()) == list(expected_ids)


@case("albef_vqa", "predict_answers, use_distill=False (random weights)")
def _ranking_without_distillation(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    answers = run.golden.inputs["answer_list"]
    inputs = {**batch(run), **run.processor.answer_candidates(answers)}
    plain, distilled = run.model(use_distill=False), run.model()
    assert distilled.has_momentum_encoders and not plain.has_momentum_encoders
    ranked, expected = plain.rank_answers(**inputs), distilled.rank_answers(**inputs)
    assert torch.equal(ranked.candidates, expected.candidates) and torch.equal(ranked.scores, expected.scores)
    # the recorded answers are those of random weights; that there are some is all they say
    assert len(row["result"]) == len(run.golden.inputs["text_input"])


@case("albef_vqa", "tensors of the model changed by predict_answers under eval()")
def _answering_keeps_the_state(row: dict[str, Any], scratch: Path) -> None:
    assert row["result"]["changed_tensors"] > 0
    run = converted(row["arch"], scratch)
    answers = run.golden.inputs["answer_list"]
    model = run.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.rank_answers(**batch(run), **run.processor.answer_candidates(answers))
    model.generate(**batch(run), max_new_tokens=4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@case("albef_nlvr", "does the momentum branch use text_encoder_m?")
def _unused_momentum_text_encoder(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    inputs = {**training_batch(run), "alpha": run.golden.alpha(epochs=2)}

    def loss_without(module: str | None) -> torch.Tensor:
        model = run.model()
        if module:
            for parameter in getattr(model, module).parameters():
                parameter.data.zero_()
        return model(**inputs).loss

    plain = loss_without(None)
    same = {name: torch.equal(plain, loss_without(name)) for name in ("text_encoder_m", "vision_model_m", "cls_head_m")}
    recorded = row["result"]
    recorded_losses = {
        name: recorded[f"loss_with_{name.replace('vision_model', 'visual_encoder')}_zeroed"] for name in same
    }
    assert same == {name: loss == recorded["loss"] for name, loss in recorded_losses.items()}


@case("blip_retrieval", "all image ids of the batch equal (no negative left)")
def _equal_image_ids_raise(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    ids = torch.zeros_like(run.golden.inputs["image_id"])
    with pytest.raises(ValueError, match="image_ids are equal"):
        run.model().train()(**batch(run), image_ids=ids, return_loss=True)


@case("albef_feature_extractor", "extract_features(mode='text') without an image key")
@case("blip_feature_extractor", "extract_features(mode='text') without an image key")
def _features_of_texts_alone(row: dict[str, Any], scratch: Path) -> None:
    assert row.get("result", "no error") == "no error"
    run = converted(row["arch"], scratch)
    model = run.model()
    output, whole = model(**tokens(run, run.golden.inputs["text_input"])), model(**batch(run))
    assert output.image_embeds is None and whole.image_embeds is not None
    torch.testing.assert_close(output.text_embeds, whole.text_embeds)


@case("blip_retrieval", "compute_sim_matrix with k_test larger than the number of texts")
def _k_test_is_clipped(row: dict[str, Any], scratch: Path) -> None:
    assert "error" in row
    run = converted(row["arch"], scratch)
    texts, images = tokens(run, run.golden.inputs["retrieval_texts"]), run.golden.inputs["image"]
    many = similarity_matrices(run.model(), images, texts, k=10 * len(texts["input_ids"]))
    assert (many.i2t > -100).all()
    assert torch.allclose(many.i2t, many.t2i.T)


@case(
    "blip_image_text_matching",
    "compute_gradcam with 6 instead of 12 heads (12 heads and a 24x24 grid are fixed in it)",
)
def _gradcam_of_any_size(row: dict[str, Any], scratch: Path) -> None:
    run = converted("blip_retrieval", scratch)
    model, inputs = run.model(), batch(run)
    config = model.config
    side = config.vision_config.image_size // config.vision_config.patch_size
    maps = gradcam(model, **inputs, layer=config.text_config.num_hidden_layers - 1).maps
    assert {tuple(one.shape) for one in maps} == {(inputs["input_ids"].shape[1] + 1, side, side)}


@case("blip_caption", "generate(num_beams=3, num_captions=2): number of strings for a batch of 4")
def _several_captions(row: dict[str, Any], scratch: Path) -> None:
    run = converted("blip_caption", scratch)
    images = run.golden.inputs["image"]
    prompts = run.processor.prompt_inputs([run.golden.config["prompt"]] * len(images))
    ids = run.model().generate(images, **prompts, num_beams=3, num_return_sequences=2, max_new_tokens=10)
    assert len(ids) == row["result"]
    # Unlike in the original, the captions of an image differ.
    assert not any(torch.equal(first, second) for first, second in ids.view(len(images), 2, -1))


@case("blip_caption", "constructed with prompt=None (the default)")
def _no_prompt(row: dict[str, Any], scratch: Path) -> None:
    assert "error" in row
    run = converted("blip_caption", scratch)
    model, images = run.model(), run.golden.inputs["image"]
    ids = model.generate(images, max_new_tokens=10)
    assert (ids[:, 0] == model.config.bos_token_id).all()
    empty = run.processor.prompt_inputs([""] * len(images))
    assert empty["input_ids"].tolist() == [[model.config.bos_token_id]] * len(images)
    assert torch.equal(model.generate(images, **empty, max_new_tokens=10), ids)
    captions = run.processor.post_process_captions(ids, "")
    assert captions == [run.processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
    assert all(captions)


@case("blip_caption", "decoding steps: does generate use the key/value cache?")
def _cache(row: dict[str, Any], scratch: Path) -> None:
    assert row["result"]["cache_used"] is False
    run = converted("blip_caption", scratch)
    model, images = run.model(), run.golden.inputs["image"]
    lengths: list[int] = []
    embeddings = model.text_decoder.bert.embeddings
    embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(_length(args, kwargs)), with_kwargs=True
    )
    prompts = run.processor.prompt_inputs([run.golden.config["prompt"]] * len(images))
    model.generate(images, **prompts, num_beams=1, max_new_tokens=10)
    assert lengths[0] == prompts["input_ids"].shape[1]
    assert set(lengths[1:]) == {1}


def _length(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    return (args[0] if args else kwargs["input_ids"]).shape[1]


@case("runner", "momentum copies have requires_grad False, so the 1.0.2 checkpoint rule drops them")
def _checkpoint_of_the_runner(row: dict[str, Any], scratch: Path) -> None:
    """Checkpoints of the original's runner have no momentum encoders, except for constants and tied names."""
    for architecture, recorded in row["result"].items():
        if architecture in PLANNED:
            continue
        golden = recorded_set(architecture)
        model = torch.load(golden.checkpoint, map_location="cpu", weights_only=True)["model"]
        momentum_keys = {key for key in model if key.split(".")[0].endswith("_m")}
        kept = {key: value for key, value in model.items() if key not in momentum_keys - set(recorded["kept_momentum"])}
        # the recorded count applies to models with as many layers
        if len(model) == recorded["state_dict"]:
            assert len(kept) == recorded["kept"]
        assert len(kept) < len(model)
        torch.save({"model": kept}, scratch / "saved.pth")
        report = convert(
            architecture,
            scratch / "saved.pth",
            scratch / f"{architecture}_without_momentum",
            config=golden.folder / "config.json",
            tokenizer=golden.tokenizer_folder,
        )
        assert {name.split(".")[0] for name in report.initialised} - {"queue_ptr"} == {
            key.split(".")[0].replace("visual_encoder", "vision_model") for key in momentum_keys
        }


def clips(run: Converted) -> torch.Tensor:
    """The recorded videos `(B, F, C, H, W)`; the original has channels before frames."""
    return run.golden.inputs["video"].transpose(1, 2)


@case("alpro_retrieval", "training forward without torch.distributed.init_process_group")
@case("alpro_retrieval", "training forward with a batch of one")
def _video_training_without_process_group(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    texts, model = run.golden.inputs["text_input"], run.model()
    assert not torch.distributed.is_initialized()
    if "batch of one" in row["case"]:
        with pytest.raises(ValueError, match="negative"):
            model.train()(clips(run)[:1], **tokens(run, texts[:1]), return_loss=True)
    else:
        assert torch.isfinite(model(clips(run), **tokens(run, texts), return_loss=True).loss)


@case("alpro_qa", "one frame less than n_frms")
def _other_frame_counts(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    texts, fewer = tokens(run, run.golden.inputs["text_input"]), clips(run)[:, :-1]
    with torch.no_grad():
        with pytest.raises(ValueError, match="interpolate_pos_encoding"):
            run.model()(fewer, **texts)
        logits = run.model()(fewer, **texts, interpolate_pos_encoding=True).logits
    assert torch.isfinite(logits).all() and len(logits) == len(fewer)


@case("blip2", "training forward without torch.distributed.init_process_group")
@case("blip2", "training forward with a batch of one")
def _first_stage_training_without_process_group(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    rows = slice(0, 1) if "batch of one" in row["case"] else slice(None)
    assert not torch.distributed.is_initialized()
    assert torch.isfinite(run.model()(**batch(run, rows), return_loss=True).loss)


@case("blip2", "generate with default arguments")
def _captioning_with_the_qformer(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    ids = run.model().generate(pixel_values=run.golden.inputs["image"][:1])
    texts = run.processor.post_process_captions(ids)
    assert len(texts) == len(row["result"]) and texts[0].strip()


@case("blip2_image_text_matching", "texts of different token lengths in one batch")
def _texts_of_different_lengths(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    texts = ["a dog", "two people are riding bicycles down a busy street"]
    images = run.golden.inputs["image"][:2]
    with torch.no_grad():
        both = run.model()(pixel_values=images, **tokens(run, texts), match_head="itm").logits
        alone = run.model()(pixel_values=images[:1], **tokens(run, texts[:1]), match_head="itm").logits
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=1e-4)


@case("blip2_t5", "generate with a list of prompts of another length than the batch")
def _wrong_number_of_prompts_raises(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    images = run.golden.inputs["image"]
    prompts = run.processor.prompt_inputs(["a photo of"] * (len(images) + 1))
    with pytest.raises(ValueError, match=str(len(images) + 1)):
        run.model().generate(pixel_values=images, **prompts)


@case("blip2_t5", "generate(use_nucleus_sampling=True) with the default num_beams=5 (beam sampling)")
@case("blip2_opt", "generate(use_nucleus_sampling=True, num_captions=2): number of strings for a batch of 3")
def _sampled_captions(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    images = run.golden.inputs["image"][:3]
    inputs = {"pixel_values": images, **run.processor.prompt_inputs(["a photo of"] * len(images))}
    beams = {"num_beams": 5} if run.golden.architecture == "blip2_t5" else {"num_return_sequences": 2, "num_beams": 1}
    ids = run.model().generate(**inputs, do_sample=True, top_p=0.9, max_new_tokens=8, **beams)
    texts = run.processor.post_process_captions(ids)
    assert len(texts) == (row["result"] if isinstance(row["result"], int) else len(images))


@case("blip2_opt", "predict_answers")
def _answers_of_the_language_model(row: dict[str, Any], scratch: Path) -> None:
    run = converted(row["arch"], scratch)
    images = run.golden.inputs["image"]
    questions = run.processor.question_inputs(["what color is the ball?"] * len(images), "Question: {} Answer:")
    ids = run.model().generate(pixel_values=images, **questions, max_new_tokens=5)
    assert len(run.processor.post_process_answers(ids)) == len(images)
