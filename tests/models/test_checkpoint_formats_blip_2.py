"""Checkpoints in transformers' BLIP-2 format: equal outputs after loading and after saving in that format."""

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
from tests.models.contract import perturb
from tests.models.lavis_blip_2_cases import CLS, LANGUAGE_MODELS, PATCH, QUERIES, SIZE, VOCAB, pixels, prompts, texts

IMAGE = VOCAB - 1


def transformers_config(kind: str = "opt", **options: Any) -> Blip2Config:
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


def transformers_model(model_class: Any, config: Blip2Config) -> Any:
    torch.manual_seed(0)
    model = model_class(config).eval()
    perturb(model)
    with torch.no_grad():
        model.query_tokens.normal_()
    return model


def image_prompt(placeholders: bool, kind: str) -> dict[str, torch.Tensor]:
    made = prompts(2, pad=LANGUAGE_MODELS[kind]["pad_token_id"])
    if placeholders:
        image_tokens = torch.full((2, QUERIES), IMAGE)
        made = {
            "input_ids": torch.cat([image_tokens, made["input_ids"].clamp(max=IMAGE - 1)], dim=1),
            "attention_mask": torch.cat([torch.ones_like(image_tokens), made["attention_mask"]], dim=1),
        }
    return {"pixel_values": pixels(2), **made}


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_outputs_equal_transformers(kind: str, tmp_path: Path) -> None:
    model = transformers_model(Blip2ForConditionalGeneration, transformers_config(kind, image_token_index=IMAGE))
    model.save_pretrained(tmp_path)
    ours, loading = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    inputs = image_prompt(True, kind)
    more = {"decoder_input_ids": torch.tensor([[0, 7, 8], [0, 9, 10]])} if kind == "t5" else {}
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs, **more).logits, model(**inputs, **more).logits, atol=2e-5, rtol=1e-4)
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        options = {**options, "max_new_tokens": 6, "do_sample": False}
        assert torch.equal(ours.generate(**inputs, **options), model.generate(**inputs, **options))


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_prepended_queries_equal_placeholders(kind: str, tmp_path: Path) -> None:
    model = transformers_model(Blip2ForConditionalGeneration, transformers_config(kind, image_token_index=IMAGE))
    model.save_pretrained(tmp_path)
    ours = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path)
    inputs = image_prompt(True, kind)
    prepended = {**inputs, **{name: inputs[name][:, QUERIES:] for name in ("input_ids", "attention_mask")}}
    found = ours.generate(**inputs, max_new_tokens=5)
    without_placeholders = ours.generate(**prepended, max_new_tokens=5)
    assert torch.equal(found[:, -5:], without_placeholders[:, -5:])


def load_in_transformers(ours: Any, folder: Path, their_class: Any, config: Blip2Config) -> tuple[Any, dict[str, Any]]:
    """Save a model in transformers' format and load it with transformers; returns model and loading info."""
    ours.save_pretrained(folder, save_original_format=True)
    return their_class.from_pretrained(folder, config=config, output_loading_info=True)


def perturbed_model(origin: str, our_class: Any, their_class: Any, config: Blip2Config, folder: Path) -> Any:
    """A model of this package with perturbed weights: loaded from transformers' format, from its own, or new."""
    transformers_model(their_class, config).save_pretrained(folder / "theirs")
    new_head = our_class is LavisBlip2ForPreTraining  # transformers has no captioning head
    ours = our_class.from_pretrained(folder / "theirs", cls_token_id=CLS, allow_new_weights=new_head).eval()
    if origin != "transformers format":
        ours = our_class(ours.config).eval()
    perturb(ours)
    if origin == "own format":
        ours.save_pretrained(folder / "ours")
        ours = our_class.from_pretrained(folder / "ours").eval()
    return ours


ORIGINS = pytest.mark.parametrize("origin", ["transformers format", "own format", "new"])


@ORIGINS
@pytest.mark.parametrize("their_class", [Blip2ForConditionalGeneration, Blip2Model])
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_save_original_format_of_generation_models(kind: str, their_class: Any, origin: str, tmp_path: Path) -> None:
    config = transformers_config(kind, image_token_index=IMAGE)
    ours = perturbed_model(origin, LavisBlip2ForConditionalGeneration, their_class, config, tmp_path)
    back, loading = load_in_transformers(ours, tmp_path / "back", their_class, config)
    assert not any(loading.values()), loading
    inputs = image_prompt(True, kind)
    more = {"decoder_input_ids": torch.tensor([[0, 7, 8], [0, 9, 10]])} if kind == "t5" else {}
    with torch.no_grad():
        torch.testing.assert_close(back(**inputs, **more).logits, ours(**inputs, **more).logits, atol=2e-5, rtol=1e-4)
    if their_class is Blip2ForConditionalGeneration:
        options = {"max_new_tokens": 6, "do_sample": False}
        assert torch.equal(back.generate(**inputs, **options), ours.generate(**inputs, **options))


def test_retrieval_outputs_equal_transformers(tmp_path: Path) -> None:
    config = transformers_config(qformer={"use_qformer_text_input": True})
    model = transformers_model(Blip2ForImageTextRetrieval, config)
    model.save_pretrained(tmp_path)
    ours, loading = LavisBlip2ForImageTextRetrieval.from_pretrained(
        tmp_path, output_loading_info=True, cls_token_id=CLS
    )
    # transformers' format has no temperature
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
def test_save_original_format_of_retrieval_models(our_class: Any, origin: str, tmp_path: Path) -> None:
    """ITC and ITM outputs are equal; transformers' class has neither a temperature nor a captioning head."""
    config = transformers_config(qformer={"use_qformer_text_input": True})
    ours = perturbed_model(origin, our_class, Blip2ForImageTextRetrieval, config, tmp_path)
    back, loading = load_in_transformers(ours, tmp_path / "back", Blip2ForImageTextRetrieval, config)
    left_over = {name for name in loading["unexpected_keys"] if not name.startswith("cls.predictions.")}
    assert left_over == {"temp"} and not loading["missing_keys"] and not loading["mismatched_keys"], loading
    inputs = {"pixel_values": pixels(2), **texts(2)}
    with torch.no_grad():
        found = back(**inputs, use_image_text_matching_head=True).logits_per_image
        torch.testing.assert_close(found, ours(**inputs, match_head="itm").logits, atol=2e-5, rtol=1e-4)
        cosine = back(**inputs, use_image_text_matching_head=False).logits_per_image
        expected = ours(**inputs, match_head="itc").logits_per_image * ours.temp
        torch.testing.assert_close(cosine, expected, atol=2e-5, rtol=1e-4)


def test_features_equal_transformers(tmp_path: Path) -> None:
    """The projection models of transformers and `LavisBlip2Model` load from a retrieval checkpoint."""
    config = transformers_config(qformer={"use_qformer_text_input": True})
    whole = transformers_model(Blip2ForImageTextRetrieval, config)
    whole.save_pretrained(tmp_path / "theirs")
    ours = LavisBlip2Model.from_pretrained(tmp_path / "theirs", cls_token_id=CLS)
    perturbed = LavisBlip2Model.from_pretrained(tmp_path / "theirs", cls_token_id=CLS)
    perturb(perturbed)
    perturbed.save_pretrained(tmp_path / "back", save_original_format=True)
    images, text_inputs = pixels(2), texts(2)
    for folder, model in (("theirs", ours), ("back", perturbed)):
        vision = Blip2VisionModelWithProjection.from_pretrained(tmp_path / folder, config=config)
        text = Blip2TextModelWithProjection.from_pretrained(tmp_path / folder, config=config)
        with torch.no_grad():
            found = model(pixel_values=images, **text_inputs)
            expected = vision(pixel_values=images).image_embeds
            torch.testing.assert_close(found.image_features, expected, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(found.text_features, text(**text_inputs).text_embeds, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(ours.vision_proj.weight, perturbed.vision_proj.weight)
