"""`explain` on every head: words, sizes and scores; maps against their definitions.

Shapes: T text tokens, N image tokens, P patches.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from modeling_lavis import explain
from modeling_lavis.interpretability import gradcam
from tests.interpretability.heads import HEIGHT, NAMES, TEXT, WIDTH, Head, make_head, picture
from tests.models.alpro_cases import FRAMES
from tests.models.contract import perturb
from tests.models.lavis_blip_2_cases import QUERIES
from tests.models.lavis_blip_cases import PATCH, SIZE
from tests.models.tiny_tokenizers import KINDS, tiny_model, tiny_processor

METHODS = ("gradcam", "relevance", "rollout", "attention")
SIDE = SIZE // PATCH
Make = Callable[[str], Head]


@pytest.fixture(scope="module")
def head(goldens: Path) -> Make:
    return lambda name: make_head(name, goldens / "tokenizer")


def assert_maps_equal(actual: Tensor, expected: Tensor) -> None:
    """Compare relative to the largest value, since maps of tiny models are below the usual tolerances."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(actual / scale, expected / scale, atol=1e-4, rtol=1e-4)


def inputs_of(head: Head) -> dict[str, Tensor]:
    texts = head.processor(text=[head.text], text_format="encoder", return_tensors="pt")
    pixels = head.processor.image_processor(images=[head.picture], return_tensors="pt")
    return {**pixels, **{name: texts[name] for name in ("input_ids", "attention_mask")}}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_every_head(head: Make, name: str, method: str) -> None:
    case = head(name)
    found = explain(case.model, case.processor, **case.arguments, method=method)
    is_similarity = "similarity" in name or "features" in name
    assert found.words == ([TEXT] if is_similarity else case.words.split())
    pictures = FRAMES if name.startswith("alpro") else 2 if "nlvr" in name else 1
    assert found.grids.shape == (len(found.words), pictures, SIDE, SIDE)
    assert found.overall.shape == (pictures, SIDE, SIDE)
    assert torch.isfinite(found.grids).all() and (found.grids >= 0).all()
    assert (found.grids.sum(dim=(1, 2, 3)) > 0).any() and not found.grids.requires_grad
    size = (SIZE, SIZE) if name.startswith("alpro") else (WIDTH, HEIGHT)
    for number, shown in enumerate(found.pictures):
        assert shown.size == size and found.map(0, number).shape == size[::-1]
    assert found.method == method and (found.layer is None) == (method in ("relevance", "rollout"))
    has_queries = name.startswith("blip-2") or name in ("opt", "t5")
    assert (found.queries is not None) == has_queries
    if found.queries is not None:
        assert found.queries.grids.shape == (QUERIES, 1, SIDE, SIDE) and found.queries.words[0] == "query 0"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["blip retrieval", "albef nlvr", "alpro retrieval", "opt"])
def test_model_is_left_as_it_was(head: Make, name: str, method: str) -> None:
    case = head(name)
    case.model.train()
    next(iter(case.model.children())).eval()
    modes = [module.training for module in case.model.modules()]
    before = implementations(case.model)
    assert "eager" not in before
    explain(case.model, case.processor, **case.arguments, method=method)
    with pytest.raises(ValueError, match="Layer 99"):
        explain(case.model, case.processor, **case.arguments, layer=99)
    assert implementations(case.model) == before
    assert [module.training for module in case.model.modules()] == modes
    language_model = set(case.model.language_model.modules()) if name == "opt" else set()
    # its hooks are transformers' own, which stay once it has returned attention weights
    own = [part for part in case.model.modules() if part not in language_model]
    assert not any(module._forward_hooks for module in own)
    assert all(parameter.grad is None for parameter in case.model.parameters())


def implementations(model: Any) -> list[str]:
    return [part.config._attn_implementation for part in model.modules() if isinstance(part, PreTrainedModel)]


# ---- scores ----


def test_score_is_that_of_the_model(head: Make) -> None:
    case = head("blip retrieval")
    with torch.no_grad():
        logits = case.model(**inputs_of(case), match_head="itm").logits[0]
    found = explain(case.model, case.processor, case.picture, TEXT)
    other = explain(case.model, case.processor, case.picture, TEXT, target="mismatch")
    assert found.score == pytest.approx(logits.softmax(-1)[1].item(), abs=1e-5)
    assert found.score + other.score == pytest.approx(1) and found.target == "match"
    assert not torch.allclose(found.grids, other.grids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albef answering", "blip answering", "opt", "t5"])
def test_score_of_an_answer_is_its_likelihood(head: Make, name: str) -> None:
    case = head(name)
    found = explain(case.model, case.processor, **case.arguments)
    if name in ("opt", "t5"):
        prompt = case.processor.prompt_inputs(case.text)
        answers = case.processor.answer_candidates([case.target], template="{}" + case.text)
    else:
        prompt = {key: value for key, value in inputs_of(case).items() if key != "pixel_values"}
        answers = case.processor.answer_candidates([case.target])
    pixels = case.processor.image_processor(images=[case.picture], return_tensors="pt")
    ranked = case.model.rank_answers(**pixels, **prompt, **answers)
    written = answers["answer_input_ids"].shape[1] - (0 if name in ("opt", "t5") else 1)
    if name in ("opt", "t5"):
        assert found.score == pytest.approx(ranked.scores.item() / written, abs=1e-4)
    else:  # ranking smooths the labels, as in training
        logits = case.model(**pixels, **prompt, decoder_input_ids=answers["answer_input_ids"]).logits[0, :-1]
        expected = -F.cross_entropy(logits, answers["answer_input_ids"][0, 1:])
        assert found.score == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip captioning", "blip answering", "blip-2 captions", "opt", "t5"])
def test_generated_texts(head: Make, name: str) -> None:
    """Without a target, the text that the model generates is explained, also for a model in training mode."""
    case = head(name)
    found = explain(case.model, case.processor, case.picture, case.text, method="attention")
    again = explain(case.model.train(), case.processor, case.picture, case.text, target=None)
    assert found.target == again.target and found.score == pytest.approx(again.score, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["relevance", "attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_language_models_of_every_kind(kind: str, method: str) -> None:
    processor = tiny_processor(kind)
    model = tiny_model(kind, processor).eval()
    perturb(model)
    for prompt in (None, "a photo of"):
        found = explain(model, processor, picture(), prompt, target="two cats", method=method)
        assert found.words == ["two", "cats"] and (found.grids.amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adds BOS (Llama)", "adds EOS (T5)"])
def test_query_tokens_in_the_place_of_placeholders(kind: str) -> None:
    plain, placed = tiny_processor(kind), tiny_processor(kind, num_query_tokens=QUERIES)
    model = tiny_model(kind, plain).eval()
    perturb(model)
    placed.tokenizer.add_tokens(["<image>"], special_tokens=True)
    model.resize_token_embeddings(len(placed.tokenizer))
    options = {"text": "a photo of", "target": "two cats"}
    expected = explain(model, plain, picture(), **options)
    model.config.image_token_id = placed.image_token_id
    found = explain(model, placed, picture(), **options)
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    assert_maps_equal(found.grids, expected.grids)


def test_classes_by_name_and_number(head: Make) -> None:
    case = head("albef entailment")
    case.model.config.id2label = {0: "no", 1: "yes"}
    by_name = explain(case.model, case.processor, case.picture, TEXT, target="yes")
    by_number = explain(case.model, case.processor, case.picture, TEXT, target=1)
    likely = explain(case.model, case.processor, case.picture, TEXT)
    assert by_name.score == by_number.score and by_number.target == "yes"
    assert likely.score >= 0.5
    with pytest.raises(ValueError, match="'maybe', which is not a class of the model; expected one of 'no', 'yes'"):
        explain(case.model, case.processor, case.picture, TEXT, target="maybe")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("blip retrieval", {"text": None}, "reads a text beside the picture; pass text="),
        ("blip retrieval", {"text": "!"}, "has no words after cleaning"),
        ("blip retrieval", {"text": ["a"]}, "expected one string"),
        ("blip retrieval", {"target": "dog"}, "expected 'match', 'mismatch' or 'similarity'"),
        ("blip retrieval", {"method": "gradient"}, "expected one of 'gradcam', 'relevance'"),
        ("blip retrieval", {"method": "relevance", "layer": 1}, "relevance uses all layers"),
        ("blip retrieval", {"layer": 7}, r"Layer 7 .* choose one of \[0, 1, 2, 3\]"),
        ("albef retrieval", {"layer": 0}, r"Layer 0 .* choose one of \[1, 2, 3\]"),
        ("blip captioning", {"target": 3}, "expected the text whose probability"),
        ("blip nlvr", {"image": "photo.jpg"}, "takes two images"),
    ],
)
def test_errors(head: Make, name: str, options: dict[str, Any], message: str) -> None:
    case = head(name)
    with pytest.raises(ValueError, match=message):
        explain(case.model, case.processor, **{**case.arguments, **options})


def test_heads_without_a_score(head: Make) -> None:
    case = head("blip retrieval")
    with pytest.raises(ValueError, match="LavisViTModel has no score to explain"):
        explain(case.model.vision_model, case.processor, case.picture, TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albef features", "blip similarity", "blip-2 features"])
def test_similarity(head: Make, name: str) -> None:
    case = head(name)
    inputs = inputs_of(case)
    with torch.no_grad():
        images = case.model.get_image_features(inputs.pop("pixel_values")).pooler_output
        cosines = case.model.compare_features(images, case.model.get_text_features(**inputs).pooler_output)
    found = explain(case.model, case.processor, **case.arguments)
    assert found.score == pytest.approx(cosines.item(), abs=1e-5) and found.target == "similarity"


def test_inference_mode_and_no_grad(head: Make) -> None:
    case = head("blip retrieval")
    expected = explain(case.model, case.processor, case.picture, TEXT).grids
    with torch.inference_mode():
        assert_maps_equal(explain(case.model, case.processor, case.picture, TEXT).grids.clone(), expected)
    with torch.no_grad():
        assert_maps_equal(explain(case.model, case.processor, case.picture, TEXT).grids, expected)


def test_frozen_models(head: Make) -> None:
    case = head("blip retrieval")
    expected = explain(case.model, case.processor, case.picture, TEXT).grids
    case.model.requires_grad_(False)
    assert_maps_equal(explain(case.model, case.processor, case.picture, TEXT).grids, expected)


# ---- maps against their definitions ----


@pytest.mark.parametrize("name", ["albef retrieval", "blip retrieval"])
def test_gradcam_of_matching(head: Make, name: str) -> None:
    """The maps of `gradcam`, which are those of the original, averaged over the tokens of a word."""
    case = head(name)
    found = explain(case.model, case.processor, case.picture, TEXT, layer=2)
    inputs = inputs_of(case)
    (tokens,) = gradcam(case.model, **inputs, layer=2).maps
    assert_maps_equal(found.overall[0], tokens[1])
    words = case.processor.tokenizer(TEXT).word_ids()
    for number in range(len(found.words)):
        positions = [place + 1 for place, word in enumerate(words) if word == number]  # after the mean of all tokens
        assert_maps_equal(found.grids[number, 0], tokens[positions].mean(dim=0))


@pytest.mark.slow
def test_gradcam_of_captions(head: Make) -> None:
    """Each word has the map of its own log-probability, from the positions that predict it."""
    case = head("blip captioning")
    model, tokenizer = case.model, case.processor.tokenizer
    found = explain(model, case.processor, case.picture, target=TEXT, layer=1)
    ids = torch.tensor([[model.config.bos_token_id, *tokenizer(TEXT)["input_ids"][1:]]])
    pixels = case.processor.image_processor(images=[case.picture], return_tensors="pt")
    model.set_attn_implementation("eager")
    output = model(**pixels, decoder_input_ids=ids, output_attentions=True)
    attention = output.cross_attentions[1]
    log_probabilities = output.logits[0].log_softmax(-1)
    words = tokenizer(TEXT).word_ids()
    for number in range(len(found.words)):
        places = [place for place, word in enumerate(words) if word == number]
        score = sum(log_probabilities[place - 1, ids[0, place]] for place in places)
        (gradient,) = torch.autograd.grad(score, attention, retain_graph=True)
        maps = (attention * gradient.relu()).detach().mean(dim=1)[0, :, 1:]
        expected = maps[[place - 1 for place in places]].mean(dim=0)
        assert_maps_equal(found.grids[number, 0].flatten(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albef retrieval", "blip retrieval"])
def test_attention_of_one_layer(head: Make, name: str) -> None:
    case = head(name)
    found = explain(case.model, case.processor, case.picture, TEXT, method="attention", layer=3)
    case.model.set_attn_implementation("eager")
    with torch.no_grad():
        output = case.model(**inputs_of(case), match_head="itm", output_attentions=True)
    expected = output.cross_attentions[-1].mean(dim=1)[0, 1:-1, 1:]
    assert_maps_equal(found.overall.flatten(), expected.mean(dim=0))


def recorded(model: Any, call: Callable[[], Any]) -> Mapping[str, Tensor]:
    """Attention weights by the name of the module, averaged over the heads, of a call with eager attention."""
    model.set_attn_implementation("eager")
    weights: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], Tensor):
                weights[name] = output[1].mean(dim=-3)

        return keep

    hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    with torch.no_grad():
        call()
    for handle in hooks:
        handle.remove()
    return weights


def half(weights: Tensor) -> Tensor:
    return (weights + torch.eye(len(weights))) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albef retrieval", "blip retrieval"])
def test_rollout_is_a_product_of_matrices(head: Make, name: str) -> None:
    """Over all text and image tokens together, each layer is one matrix whose rows sum to 1."""
    case = head(name)
    inputs = inputs_of(case)
    weights = recorded(case.model, lambda: case.model(**inputs, match_head="itm"))
    found = explain(case.model, case.processor, case.picture, TEXT, method="rollout")
    texts, images = inputs["input_ids"].shape[1], SIDE * SIDE + 1
    total = torch.eye(texts + images)
    for number in range(2):
        layer = torch.eye(texts + images)
        layer[texts:, texts:] = half(weights[f"vision_model.blocks.{number}.attn"][0])
        total = layer @ total
    for number in range(4):
        layer = torch.eye(texts + images)
        layer[:texts, :texts] = half(weights[f"text_encoder.encoder.layer.{number}.attention.self"][0])
        total = layer @ total
        cross = weights.get(f"text_encoder.encoder.layer.{number}.crossattention.self")
        if cross is not None:
            layer = torch.eye(texts + images)
            layer[:texts, :texts] /= 2
            layer[:texts, texts:] = cross[0] / 2
            total = layer @ total
    torch.testing.assert_close(total.sum(dim=1), torch.ones(texts + images))
    assert_maps_equal(found.overall.flatten(), total[1 : texts - 1, texts + 1 :].mean(dim=0))


@pytest.mark.slow
def test_rollout_of_videos_is_a_product_of_matrices(head: Make) -> None:
    """Over all positions of all frames together."""
    case = head("alpro retrieval")
    texts = dict(case.processor(text=[TEXT], return_tensors="pt"))
    clips = case.processor.video_processor([case.picture], return_tensors="pt")
    weights = recorded(case.model, lambda: case.model(**clips, **texts, match_head="vtm"))
    found = explain(case.model, case.processor, case.picture, TEXT, method="rollout")
    positions = SIDE * SIDE + 1
    total = torch.eye(FRAMES * positions)

    def place(frame: int, position: int) -> int:
        return frame * positions + position

    for number in range(2):
        temporal = weights[f"vision_model.blocks.{number}.temporal_attn"][0]  # (N, F, F)
        spatial = weights[f"vision_model.blocks.{number}.attn"][0]  # (F, N, N)
        layer = torch.eye(FRAMES * positions)
        for position in range(1, positions):
            rows = [place(frame, position) for frame in range(FRAMES)]
            layer[torch.tensor(rows)[:, None], torch.tensor(rows)] = half(temporal[position])
        total = layer @ total
        total = torch.block_diag(*(half(frame) for frame in spatial)) @ total
        class_rows = [place(frame, 0) for frame in range(FRAMES)]
        total[class_rows] = total[class_rows].mean(dim=0)
    pooled = total.unflatten(0, (FRAMES, positions)).mean(dim=0)  # (N, F * N)
    length = texts["input_ids"].shape[1]
    states = torch.cat([torch.zeros(length, pooled.shape[1]), pooled])
    for number in range(case.model.config.text_config.fusion_layer, 4):
        states = half(weights[f"text_encoder.encoder.layer.{number}.attention.self"][0]) @ states
    expected = states[1 : length - 1].mean(dim=0).unflatten(0, (FRAMES, positions))[:, 1:]
    assert_maps_equal(found.overall.flatten(1), expected)


@pytest.mark.slow
def test_words_over_queries_over_patches(head: Make) -> None:
    """In matching, query tokens read the words, and then attend to patches, in the same layer."""
    case = head("blip-2 retrieval")
    inputs = inputs_of(case)
    weights = recorded(case.model, lambda: case.model(**inputs, match_head="itm"))
    found = explain(case.model, case.processor, case.picture, TEXT, method="attention", layer=2)
    own = weights["qformer.encoder.layer.2.attention.self"][0]
    patches = weights["qformer.encoder.layer.2.crossattention.self"][0, :, 1:]
    expected = own[:QUERIES, QUERIES + 1 : -1].T @ patches
    assert_maps_equal(found.overall.flatten(), expected.mean(dim=0))
    assert found.queries is not None
    assert_maps_equal(found.queries.grids.flatten(1), patches)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradcam", "attention"])
def test_frames_share_the_map_of_their_position(head: Make, method: str) -> None:
    """The sum over the frames is the map of the positions alone, which the text attends to."""
    case = head("alpro retrieval")
    texts = dict(case.processor(text=[TEXT], return_tensors="pt"))
    clips = case.processor.video_processor([case.picture], return_tensors="pt")
    found = explain(case.model, case.processor, case.picture, TEXT, method=method, layer=2)
    case.model.set_attn_implementation("eager")
    output = case.model(**clips, **texts, match_head="vtm", output_attentions=True)
    attention = output.attentions[-2]  # of the layers that run in the matching pass: 1, 2, 3
    weight = torch.ones(())
    if method == "gradcam":
        (weight,) = torch.autograd.grad(output.logits[0, 1], attention)
    length = texts["input_ids"].shape[1]
    joint = (attention * weight.clamp(min=0)).detach().mean(dim=1)[0, 1 : length - 1, length + 1 :]
    assert_maps_equal(found.overall.sum(dim=0).flatten(), joint.mean(dim=0))
    torch.testing.assert_close(found.shares.sum(dim=1), torch.ones(len(found.words)))
    assert (found.shares.std(dim=1) > 1e-4).all()  # frames differ


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blip nlvr", "albef nlvr"])
def test_maps_of_two_images_follow_them(head: Make, name: str) -> None:
    """What is shown as the second image is what the model got as such."""
    case = head(name)
    first, second = case.picture
    found = explain(case.model, case.processor, [first, second], TEXT, method="attention")
    same = explain(case.model, case.processor, [first, first], TEXT, method="attention")
    assert found.pictures[1].tobytes() == second.tobytes() != first.tobytes()
    assert not torch.allclose(found.grids[:, 1], same.grids[:, 1], rtol=1e-3)
