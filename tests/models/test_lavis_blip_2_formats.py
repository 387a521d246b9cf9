"""transformers' own BLIP-2 and ours: the same weights give the same results, in both directions of loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval

from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlip2ForImageTextRetrieval
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


def test_our_weights_in_their_class(tmp_path: Path) -> None:
    config = their_config("opt", image_token_index=IMAGE)
    model = theirs(Blip2ForConditionalGeneration, config)
    model.save_pretrained(tmp_path / "theirs")
    ours = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "theirs")
    shake(ours)
    ours.save_pretrained(tmp_path / "ours", save_original_format=True)
    back, loading = Blip2ForConditionalGeneration.from_pretrained(
        tmp_path / "ours", config=config, output_loading_info=True
    )
    assert not any(loading.values()), loading
    inputs = question(True, "opt")
    with torch.no_grad():
        torch.testing.assert_close(back(**inputs).logits, ours(**inputs).logits, atol=2e-5, rtol=1e-4)


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
