"""transformers' own BLIP-2 and ours: the same weights give the same results, in both directions of loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Model,
    Blip2TextModelWithProjection,
    Blip2VisionModelWithProjection,
)

from modeling_lavis import (
    LavisBlip2ForConditionalGeneration,
    LavisBlip2ForImageTextRetrieval,
    LavisBlip2ForPreTraining,
    LavisBlip2Model,
)
from tests.models.contract import shake
from tests.models.lavis_blip_2_cases import CLS, LANGUAGE_MODELS, PATCH, QUERIES, SIZE, VOCAB, pixels, prompts, texts

IMAGE = VOCAB - 1


def their_config(kind: str = "opt", **options: Any) -> Blip2Config:
    return Blip2Config(
        vision_config={
            "image_size": SIZE,
            "patch_size": PATCH,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.02,
        },
        qformer_config={
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 40,
            **options.pop("qformer", {}),
        },
        text_config=dict(LANGUAGE_MODELS[kind]),
        num_query_tokens=QUERIES,
        image_text_hidden_size=8,
        **options,
    )


def theirs(model_class: Any, config: Blip2Config) -> Any:
    torch.manual_seed(0)
    model = model_class(config).eval()
    shake(model)
    with torch.no_grad():
        model.query_tokens.normal_()
    return model


def question(placeholders: bool, kind: str) -> dict[str, torch.Tensor]:
    made = prompts(2, pad=LANGUAGE_MODELS[kind]["pad_token_id"])
    if placeholders:
        front = torch.full((2, QUERIES), IMAGE)
        made = {
            "input_ids": torch.cat([front, made["input_ids"].clamp(max=IMAGE - 1)], dim=1),
            "attention_mask": torch.cat([torch.ones_like(front), made["attention_mask"]], dim=1),
        }
    return {"pixel_values": pixels(2), **made}


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_their_repository_gives_their_results(kind: str, tmp_path: Path) -> None:
    model = theirs(Blip2ForConditionalGeneration, their_config(kind, image_token_index=IMAGE))
    model.save_pretrained(tmp_path)
    ours, loading = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    inputs = question(True, kind)
    more = {"decoder_input_ids": torch.tensor([[0, 7, 8], [0, 9, 10]])} if kind == "t5" else {}
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs, **more).logits, model(**inputs, **more).logits, atol=2e-5, rtol=1e-4)
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        options = {**options, "max_new_tokens": 6, "do_sample": False}
        assert torch.equal(ours.generate(**inputs, **options), model.generate(**inputs, **options))


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_queries_in_front_equal_placeholders(kind: str, tmp_path: Path) -> None:
    model = theirs(Blip2ForConditionalGeneration, their_config(kind, image_token_index=IMAGE))
    model.save_pretrained(tmp_path)
    ours = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path)
    inputs = question(True, kind)
    in_front = {**inputs, **{name: inputs[name][:, QUERIES:] for name in ("input_ids", "attention_mask")}}
    found = ours.generate(**inputs, max_new_tokens=5)
    other = ours.generate(**in_front, max_new_tokens=5)
    assert torch.equal(found[:, -5:], other[:, -5:])


def for_their_class(ours: Any, folder: Path, their_class: Any, config: Blip2Config) -> tuple[Any, dict[str, Any]]:
    """A model of ours in one of their classes, and what was wrong with the names in between."""
    ours.save_pretrained(folder, save_original_format=True)
    return their_class.from_pretrained(folder, config=config, output_loading_info=True)


def ours_from(origin: str, our_class: Any, their_class: Any, config: Blip2Config, folder: Path) -> Any:
    """A model of ours with weights of its own: loaded from theirs, loaded from ours, or made here."""
    theirs(their_class, config).save_pretrained(folder / "theirs")
    ours = our_class.from_pretrained(folder / "theirs", cls_token_id=CLS).eval()
    if origin != "theirs":
        ours = our_class(ours.config).eval()
    shake(ours)
    if origin == "a repository of ours":
        ours.save_pretrained(folder / "ours")
        ours = our_class.from_pretrained(folder / "ours").eval()
    return ours


ORIGINS = pytest.mark.parametrize("origin", ["theirs", "a repository of ours", "made here"])


@ORIGINS
@pytest.mark.parametrize("their_class", [Blip2ForConditionalGeneration, Blip2Model])
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_our_weights_in_their_class(kind: str, their_class: Any, origin: str, tmp_path: Path) -> None:
    config = their_config(kind, image_token_index=IMAGE)
    ours = ours_from(origin, LavisBlip2ForConditionalGeneration, their_class, config, tmp_path)
    back, loading = for_their_class(ours, tmp_path / "back", their_class, config)
    assert not any(loading.values()), loading
    inputs = question(True, kind)
    more = {"decoder_input_ids": torch.tensor([[0, 7, 8], [0, 9, 10]])} if kind == "t5" else {}
    with torch.no_grad():
        torch.testing.assert_close(back(**inputs, **more).logits, ours(**inputs, **more).logits, atol=2e-5, rtol=1e-4)
    if their_class is Blip2ForConditionalGeneration:
        options = {"max_new_tokens": 6, "do_sample": False}
        assert torch.equal(back.generate(**inputs, **options), ours.generate(**inputs, **options))


def test_matching_repository(tmp_path: Path) -> None:
    config = their_config(qformer={"use_qformer_text_input": True})
    model = theirs(Blip2ForImageTextRetrieval, config)
    model.save_pretrained(tmp_path)
    ours, loading = LavisBlip2ForImageTextRetrieval.from_pretrained(
        tmp_path, output_loading_info=True, cls_token_id=CLS
    )
    # their format has no temperature
    assert loading["missing_keys"] == {"temp"} and not loading["unexpected_keys"]
    inputs = {"pixel_values": pixels(2), **texts(2)}
    with torch.no_grad():
        matched = model(**inputs, use_image_text_matching_head=True).logits_per_image
        torch.testing.assert_close(ours(**inputs, match_head="itm").logits, matched, atol=2e-5, rtol=1e-4)
        cosine = model(**inputs, use_image_text_matching_head=False).logits_per_image
        found = ours(**inputs, match_head="itc").logits_per_image * ours.temp
        torch.testing.assert_close(found, cosine, atol=2e-5, rtol=1e-4)
    assert torch.allclose(ours.temp, torch.tensor(0.07))


@ORIGINS
@pytest.mark.parametrize("our_class", [LavisBlip2ForImageTextRetrieval, LavisBlip2ForPreTraining])
def test_our_matching_in_their_class(our_class: Any, origin: str, tmp_path: Path) -> None:
    """Their class compares and matches as ours does; it has neither a temperature nor a head for captions."""
    config = their_config(qformer={"use_qformer_text_input": True})
    ours = ours_from(origin, our_class, Blip2ForImageTextRetrieval, config, tmp_path)
    back, loading = for_their_class(ours, tmp_path / "back", Blip2ForImageTextRetrieval, config)
    left_over = {name for name in loading["unexpected_keys"] if not name.startswith("cls.predictions.")}
    assert left_over == {"temp"} and not loading["missing_keys"] and not loading["mismatched_keys"], loading
    inputs = {"pixel_values": pixels(2), **texts(2)}
    with torch.no_grad():
        found = back(**inputs, use_image_text_matching_head=True).logits_per_image
        torch.testing.assert_close(found, ours(**inputs, match_head="itm").logits, atol=2e-5, rtol=1e-4)
        cosine = back(**inputs, use_image_text_matching_head=False).logits_per_image
        expected = ours(**inputs, match_head="itc").logits_per_image * ours.temp
        torch.testing.assert_close(cosine, expected, atol=2e-5, rtol=1e-4)


def test_features_in_both_directions(tmp_path: Path) -> None:
    """Their two towers with projections are parts of a matching repository, as our feature extractor is."""
    config = their_config(qformer={"use_qformer_text_input": True})
    whole = theirs(Blip2ForImageTextRetrieval, config)
    whole.save_pretrained(tmp_path / "theirs")
    ours = LavisBlip2Model.from_pretrained(tmp_path / "theirs", cls_token_id=CLS)
    shaken = LavisBlip2Model.from_pretrained(tmp_path / "theirs", cls_token_id=CLS)
    shake(shaken)
    shaken.save_pretrained(tmp_path / "back", save_original_format=True)
    images, words = pixels(2), texts(2)
    for folder, model in (("theirs", ours), ("back", shaken)):
        vision = Blip2VisionModelWithProjection.from_pretrained(tmp_path / folder, config=config)
        text = Blip2TextModelWithProjection.from_pretrained(tmp_path / folder, config=config)
        with torch.no_grad():
            found = model(pixel_values=images, **words)
            expected = vision(pixel_values=images).image_embeds
            torch.testing.assert_close(found.image_features, expected, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(found.text_features, text(**words).text_embeds, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(ours.vision_proj.weight, shaken.vision_proj.weight)
