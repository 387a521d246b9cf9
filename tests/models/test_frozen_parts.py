"""Frozen parts of BLIP-2: training, half precision, and repositories that leave them out."""

import json
from pathlib import Path

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlip2ForPreTraining, LavisBlip2Model
from modeling_lavis.models.configuration_lavis_blip_2 import MODULES_NOT_TO_QUANTIZE
from tests.models.lavis_blip_2_cases import (
    LANGUAGE_MODELS,
    blip_2_config,
    one_image,
    pixels,
    prompts,
    second_stage,
    trainable_modules,
)


def test_frozen_after_loading_and_training(tmp_path: Path) -> None:
    model = second_stage("opt")
    expected = {"query_tokens", "ln_vision", "qformer", "language_projection"}
    assert trainable_modules(model) == expected
    model.save_pretrained(tmp_path)
    model = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path)
    assert trainable_modules(model) == expected
    model.train()
    assert trainable_modules(model) == expected
    assert model.training and model.qformer.training and not model.vision_model.training
    loss = model(**one_image(2), labels=one_image(2)["input_ids"]).loss
    loss.backward()
    assert all(p.grad is None for part in (model.vision_model, model.language_model) for p in part.parameters())
    assert model.query_tokens.grad.abs().sum() > 0


def test_freezing_can_be_switched_off() -> None:
    model = second_stage("opt", freeze_vision=False, freeze_language_model=False).train()
    assert {"vision_model", "language_model"} <= trainable_modules(model) and model.vision_model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trained_parts_stay_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    second_stage("opt").save_pretrained(tmp_path)
    model = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    for name, parameter in model.named_parameters():
        half = name.startswith(("vision_model.", "language_model."))
        assert parameter.dtype is (dtype if half else torch.float32), name
    assert model.dtype is dtype
    model.save_pretrained(tmp_path / "half")
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "half")  # dtype from the checkpoint
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in model.parameters()]
    if dtype is torch.bfloat16:
        output = model(**one_image(2), labels=one_image(2)["input_ids"])
        exact = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(
            output.logits.float(), exact(**one_image(2)).logits, atol=0.1, rtol=0.1, check_dtype=False
        )
        assert model.generate(pixel_values=pixels(2), **prompts(2), max_new_tokens=3).shape == (2, 8)


def test_repository_without_frozen_parts(tmp_path: Path) -> None:
    model = second_stage("opt")
    vision, language = tmp_path / "vision", tmp_path / "opt"
    model.vision_model.save_pretrained(vision)
    model.language_model.save_pretrained(language)
    model.save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    model.save_pretrained(tmp_path / "small", frozen_parts={"vision_model": vision, "language_model": str(language)})
    size = {name: sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")) for name in ("whole", "small")}
    assert size["small"] < size["whole"] and len(list((tmp_path / "whole").glob("*.safetensors"))) > 2
    for name in ("whole", "small"):
        loaded, info = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), (name, info)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), (name, key)
        assert trainable_modules(loaded) == trainable_modules(model)
    assert model.config.frozen_parts is None
    # saved again with all parts
    loaded.save_pretrained(tmp_path / "again")
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(again.vision_model.cls_token, model.vision_model.cls_token)


def test_missing_frozen_part_raises(tmp_path: Path) -> None:
    model = second_stage("opt")
    model.save_pretrained(tmp_path / "small", frozen_parts={"language_model": str(tmp_path / "nowhere")})
    with pytest.raises(OSError, match="leaves out its language_model.*nowhere"):
        LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "small")


@pytest.mark.parametrize("part", ["vision_model", "language_model", "query_tokens"])
def test_missing_weights_raise(part: str, tmp_path: Path) -> None:
    model = second_stage("opt")
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(part)}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(ValueError, match=f"no weights for {part}, which would be .*initialized.*frozen_parts"):
        LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path)


def test_missing_weights_of_a_trained_part_are_initialized(tmp_path: Path) -> None:
    model = second_stage("opt", freeze_vision=False)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("vision_model")}
    model.save_pretrained(tmp_path, state_dict=kept)
    _, info = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] and all(name.startswith("vision_model.") for name in info["missing_keys"])


@pytest.mark.parametrize("part", ["vision_config", "qformer_config", "text_config"])
def test_mismatched_hidden_sizes_raise(part: str, tmp_path: Path) -> None:
    second_stage("opt").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config[part]["hidden_size"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit its configuration: weights have other shapes"):
        LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path)


def test_leaving_out_trained_parts_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vision_model cannot be left out"):
        second_stage("opt", freeze_vision=False).save_pretrained(tmp_path, frozen_parts={"vision_model": "elsewhere"})
    with pytest.raises(ValueError, match="language_model cannot be left out"):
        LavisBlip2ForPreTraining(blip_2_config()).save_pretrained(tmp_path, frozen_parts={"language_model": "x"})


def test_modules_not_to_quantize_exist() -> None:
    names = {name for name, _ in second_stage("opt").named_modules()}
    parts = {"qformer", "ln_vision", "language_projection", "language_model.lm_head"}
    assert parts <= names & set(MODULES_NOT_TO_QUANTIZE)


def test_frozen_parts_of_other_hidden_sizes_raise(tmp_path: Path) -> None:
    model = second_stage("opt")
    LavisBlip2Model(blip_2_config(vision={"hidden_size": 32})).vision_model.save_pretrained(tmp_path / "vision")
    sizes = {**LANGUAGE_MODELS["opt"], "hidden_size": 32, "word_embed_proj_dim": 32}
    del sizes["model_type"]
    OPTForCausalLM(OPTConfig(**sizes)).save_pretrained(tmp_path / "opt")
    for name, folder in (("vision_model", "vision"), ("language_model", "opt")):
        model.save_pretrained(tmp_path / name, frozen_parts={name: str(tmp_path / folder)})
        with pytest.raises(ValueError, match=f"{name} .*{folder}.*does not fit.*trained with"):
            LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / name)
