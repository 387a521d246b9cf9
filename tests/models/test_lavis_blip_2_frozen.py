"""What is frozen in BLIP-2 stays so; repositories may leave it out; half precision keeps what is trained exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlip2ForPreTraining
from modeling_lavis.models.configuration_lavis_blip_2 import LORA_TARGET_MODULES, MODULES_NOT_TO_QUANTIZE
from tests.models.contract import shake
from tests.models.lavis_blip_2_cases import blip_2_config, one_image, pixels, prompts


def with_language_model(kind: str = "opt", **options: Any) -> LavisBlip2ForConditionalGeneration:
    torch.manual_seed(0)
    model = LavisBlip2ForConditionalGeneration(blip_2_config(language_model=kind, **options)).eval()
    shake(model)
    return model


def trainable(model: nn.Module) -> set[str]:
    return {name.partition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_frozen_through_loading_training_and_saving(tmp_path: Path) -> None:
    model = with_language_model()
    wanted = {"query_tokens", "ln_vision", "qformer", "language_projection"}
    assert trainable(model) == wanted
    model.save_pretrained(tmp_path)
    model = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path)
    assert trainable(model) == wanted
    model.train()
    assert trainable(model) == wanted
    assert model.training and model.qformer.training and not model.vision_model.training
    loss = model(**one_image(2), labels=one_image(2)["input_ids"]).loss
    loss.backward()
    assert all(p.grad is None for part in (model.vision_model, model.language_model) for p in part.parameters())
    assert model.query_tokens.grad.abs().sum() > 0


def test_everything_can_be_trained() -> None:
    model = with_language_model(freeze_vision=False, freeze_language_model=False).train()
    assert {"vision_model", "language_model"} <= trainable(model) and model.vision_model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trained_parts_stay_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    with_language_model().save_pretrained(tmp_path)
    model = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    for name, parameter in model.named_parameters():
        half = name.startswith(("vision_model.", "language_model."))
        assert parameter.dtype is (dtype if half else torch.float32), name
    assert model.dtype is dtype
    model.save_pretrained(tmp_path / "half")
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "half")  # without being told
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in model.parameters()]
    if dtype is torch.bfloat16:
        output = model(**one_image(2), labels=one_image(2)["input_ids"])
        exact = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(
            output.logits.float(), exact(**one_image(2)).logits, atol=0.1, rtol=0.1, check_dtype=False
        )
        assert model.generate(pixel_values=pixels(2), **prompts(2), max_new_tokens=3).shape == (2, 8)


def test_a_repository_without_the_frozen_parts(tmp_path: Path) -> None:
    model = with_language_model("opt")
    tower, language = tmp_path / "tower", tmp_path / "opt"
    model.vision_model.save_pretrained(tower)
    model.language_model.save_pretrained(language)
    model.save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    model.save_pretrained(tmp_path / "small", frozen_parts={"vision_model": tower, "language_model": str(language)})
    size = {name: sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")) for name in ("whole", "small")}
    assert size["small"] < size["whole"] and len(list((tmp_path / "whole").glob("*.safetensors"))) > 2
    for name in ("whole", "small"):
        loaded, info = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values()), (name, info)
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), (name, key)
        assert trainable(loaded) == trainable(model)
    assert model.config.frozen_parts is None
    # and once more, whole
    loaded.save_pretrained(tmp_path / "again")
    again = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(again.vision_model.cls_token, model.vision_model.cls_token)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    model = with_language_model()
    model.save_pretrained(tmp_path / "small", frozen_parts={"language_model": str(tmp_path / "nowhere")})
    with pytest.raises(OSError, match="leaves out its language_model.*nowhere"):
        LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "small")


def test_trained_parts_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vision_model cannot be left out"):
        with_language_model(freeze_vision=False).save_pretrained(tmp_path, frozen_parts={"vision_model": "elsewhere"})
    with pytest.raises(ValueError, match="language_model cannot be left out"):
        LavisBlip2ForPreTraining(blip_2_config()).save_pretrained(tmp_path, frozen_parts={"language_model": "x"})


def test_no_language_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="no language model"):
        LavisBlip2ForConditionalGeneration(blip_2_config())


@pytest.mark.parametrize("kind", ["opt", "t5", "llama"])
def test_lora_targets_exist(kind: str) -> None:
    peft = pytest.importorskip("peft")
    model = with_language_model(kind)
    for target in (LORA_TARGET_MODULES[kind], LORA_TARGET_MODULES["qformer"], LORA_TARGET_MODULES["vision"]):
        adapted = peft.get_peft_model(with_language_model(kind), peft.LoraConfig(r=2, target_modules=target))
        found = {name for name, _ in adapted.named_modules() if name.endswith("lora_A")}
        assert found
        part = target.partition("\\")[0]
        assert all(f".{part}." in name for name in found)
    names = {part for name, _ in model.named_modules() for part in name.split(".")}
    assert {"qformer", "ln_vision", "language_projection", "lm_head"} <= names & set(MODULES_NOT_TO_QUANTIZE)


def test_device_map_keeps_blocks_whole() -> None:
    accelerate = pytest.importorskip("accelerate")
    with torch.device("meta"):
        model = LavisBlip2ForConditionalGeneration(blip_2_config(language_model="opt"))
    sizes = accelerate.utils.compute_module_sizes(model)
    names = model._no_split_modules
    placed = accelerate.infer_auto_device_map(
        model, max_memory={0: sizes[""] // 3, 1: sizes[""] // 3, "cpu": sizes[""]}, no_split_module_classes=names
    )
    assert len(set(placed.values())) > 1
    for name in placed:  # no entry lies inside a block
        assert not any(name.startswith(f"{part}.") for part in _blocks(model)), name


def _blocks(model: nn.Module) -> list[str]:
    whole = {"EvaBlock", "QFormerLayer", "OPTDecoderLayer"}
    return [name for name, module in model.named_modules() if type(module).__name__ in whole]


def test_full_size_fits_on_the_meta_device() -> None:
    from modeling_lavis import LavisBlip2Config

    language = {"model_type": "opt", "hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240}
    config = LavisBlip2Config(text_config={**language, "num_hidden_layers": 32, "num_attention_heads": 32})
    with torch.device("meta"):
        model = LavisBlip2ForConditionalGeneration(config)
    total = sum(p.numel() for p in model.parameters())
    assert 3.7e9 < total < 3.8e9 and 1.0e8 < sum(p.numel() for p in model.parameters() if p.requires_grad) < 1.1e8


def test_language_models_of_other_kinds_generate() -> None:
    model = with_language_model("llama")
    ids = model.generate(
        pixel_values=pixels(2), **prompts(2, pad=0), max_new_tokens=4, num_return_sequences=2, num_beams=2
    )
    assert ids.shape[0] == 4
    single = model.generate(
        pixel_values=pixels(2)[1:], input_ids=prompts(2)["input_ids"][1:, 2:], max_new_tokens=4, do_sample=False
    )
    both = model.generate(pixel_values=pixels(2), **prompts(2, pad=0), max_new_tokens=4, do_sample=False)
    assert torch.equal(single[0, -4:], both[1, -4:]), "left padding changes nothing"


def test_bad_prompts_are_named() -> None:
    model = with_language_model()
    long = torch.full((1, 60), 7)
    with pytest.raises(ValueError, match="knows 40 positions"):
        model.generate(pixel_values=pixels(1), input_ids=long)
    with pytest.raises(ValueError, match="3 prompts do not fit 2 images"):
        model.generate(pixel_values=pixels(2), **prompts(3))
    with pytest.raises(ValueError, match="generate needs pixel_values"):
        model.generate(**prompts(1))
    stage = LavisBlip2ForPreTraining(blip_2_config())
    with pytest.raises(ValueError, match="no query_embeds"):
        stage.qformer(input_ids=torch.tensor([[2, 5, 3]]), encoder_hidden_states=torch.zeros(1, 5, 24))
    with pytest.raises(ValueError, match="9 wide"):
        stage.query_images(torch.zeros(1, 5, 9))
