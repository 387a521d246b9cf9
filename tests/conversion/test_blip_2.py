"""Conversion of BLIP-2, with image encoder and language model from separate files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, AutoProcessor

from conversion_scripts.convert_lavis_blip_2 import main
from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import GOLDENS, arguments
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS


def conversion_arguments(architecture: str, output: Path, /, **changes: Any) -> dict[str, Any]:
    """Arguments of `convert` for a golden set, with its image encoder and language model."""
    own: dict[str, Any] = {"vision_checkpoint": GOLDENS / architecture / "vision.pth"}
    if architecture in ("blip2_opt", "blip2_t5"):
        own["language_model"] = GOLDENS / architecture / "llm"
    return arguments(architecture, output, **{**own, **changes})


def test_dtypes_of_the_stored_weights(tmp_path: Path) -> None:
    convert(**conversion_arguments("blip2_opt", tmp_path / "out"))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    dtypes = {name.partition(".")[0]: value.dtype for name, value in stored.items()}
    assert dtypes["language_model"] == dtypes["vision_model"] == torch.float16
    assert dtypes["qformer"] == dtypes["language_projection"] == dtypes["query_tokens"] == torch.float32


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("blip2", {"vision_checkpoint": None}, "image encoder is missing.*--vision-checkpoint.*eva_vit_g"),
        ("blip2_opt", {"language_model": None}, "language model is missing.*--language-model"),
        ("blip2", {"language_model": GOLDENS / "blip2_opt" / "llm"}, "blip2 has no language model"),
        ("blip2_opt", {"language_model": GOLDENS / "blip2_t5" / "llm"}, "needs a causal language model"),
        (
            "blip2",
            {"vision_checkpoint": GOLDENS / "blip2_feature_extractor_clip_l" / "vision.pth"},
            "not an image encoder",
        ),
        ("blip2_opt", {"language_model": "/nowhere/at/all"}, "configuration of the language model .* cannot be read"),
    ],
    ids=["no encoder", "no language model", "unused", "wrong architecture", "wrong encoder", "no folder"],
)
def test_wrong_parts_raise(architecture: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        convert(**conversion_arguments(architecture, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def double_hidden_size(weights: dict[str, Any], hidden_size: int) -> dict[str, Any]:
    """Double every axis whose size is a multiple of the hidden size."""
    doubled = {}
    for name, tensor in weights.items():
        for axis in [axis for axis, size in enumerate(tensor.shape) if size and size % hidden_size == 0]:
            tensor = torch.cat([tensor, tensor], dim=axis)
        doubled[name] = tensor
    return doubled


def test_image_encoder_of_another_hidden_size_raises(tmp_path: Path) -> None:
    image_encoder = torch.load(GOLDENS / "blip2" / "vision.pth", weights_only=True)
    torch.save(double_hidden_size(image_encoder, image_encoder["pos_embed"].shape[-1]), tmp_path / "doubled.pth")
    given = conversion_arguments("blip2", tmp_path / "out", vision_checkpoint=tmp_path / "doubled.pth")
    with pytest.raises(ValueError, match="hidden_size is 48 in the configuration and 96 in the checkpoint"):
        convert(**given)
    for size in ("hidden_size", "mlp_ratio"):
        given["config"]["vision"].pop(size)
    with pytest.raises(
        ValueError, match="trained with an image encoder of hidden size 48, but the given one has hidden size 96"
    ):
        convert(**given)
    assert not (tmp_path / "out").exists()


def test_language_model_of_another_hidden_size_raises(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = GOLDENS / "blip2_opt" / "llm"
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.word_embed_proj_dim = 2 * config.hidden_size, 2 * config.word_embed_proj_dim
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "doubled")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "doubled")
    with pytest.raises(ValueError, match="not the one that the checkpoint was trained with"):
        convert(**conversion_arguments("blip2_opt", tmp_path / "out", language_model=tmp_path / "doubled"))
    state = torch.load(GOLDENS / "blip2_opt" / "checkpoint.pth", weights_only=True)
    own = {name: value for name, value in state.get("model", state).items() if not name.startswith("opt_model.")}
    torch.save({"model": own}, tmp_path / "own.pth")
    with pytest.raises(ValueError, match="of another shape.*\n.*opt_proj.weight"):
        convert(
            **conversion_arguments(
                "blip2_opt", tmp_path / "out", language_model=tmp_path / "doubled", checkpoint=tmp_path / "own.pth"
            )
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", ["blip2", "blip2_opt"])
def test_checkpoint_without_query_tokens_raises(architecture: str, tmp_path: Path) -> None:
    state = torch.load(GOLDENS / architecture / "checkpoint.pth", weights_only=True)
    state = {name: value for name, value in state.get("model", state).items() if name != "query_tokens"}
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="belongs to BLIP-2, but has no query tokens .query_tokens"):
        convert(**conversion_arguments(architecture, tmp_path / "out", checkpoint=tmp_path / "x.pth"))


def test_unused_image_encoder_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image encoder of its own"):
        convert(**conversion_arguments("blip2_image_text_matching", tmp_path / "out"))


def test_another_language_model_of_the_same_size_raises(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = GOLDENS / "blip2_opt" / "llm"
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="not the one that the checkpoint was trained with"):
        convert(**conversion_arguments("blip2_opt", tmp_path / "out", language_model=tmp_path / "other"))


def test_first_stage_checkpoint_to_second_stage_model(tmp_path: Path) -> None:
    sources = conversion_arguments(
        "blip2", tmp_path / "out", architecture="blip2_opt", language_model=GOLDENS / "blip2_opt" / "llm"
    )
    sources["config"] = {name: value for name, value in sources["config"].items() if name not in ("arch", "embed_dim")}
    report = convert(**sources)
    assert {name.partition(".")[0] for name in report.initialised} == {"language_projection"}


@pytest.mark.parametrize(("kind", "architecture"), [("llama", "blip2_opt"), ("bart", "blip2_t5")])
def test_second_stage_with_other_language_models(kind: str, architecture: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(GOLDENS / "blip2_opt" / "llm")
    sizes = {**LANGUAGE_MODELS[kind], "vocab_size": len(tokenizer)}
    auto_class = AutoModelForSeq2SeqLM if kind == "bart" else AutoModelForCausalLM
    language_model = auto_class.from_config(AutoConfig.for_model(**sizes))
    for part in (language_model, tokenizer):
        part.save_pretrained(tmp_path / kind)
    given = conversion_arguments("blip2", tmp_path / "out", architecture=architecture, language_model=tmp_path / kind)
    given["config"] = {name: value for name, value in given["config"].items() if name not in ("arch", "embed_dim")}
    assert {name.partition(".")[0] for name in convert(**given).initialised} == {"language_projection"}
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    image = Image.open(GOLDENS / "processors" / "images" / "coffee.png")
    ids = model.generate(**processor(images=image, text="a", return_tensors="pt"), max_new_tokens=3)
    assert model.config.text_config.model_type == kind and ids.shape[0] == 1


def test_conversion_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = conversion_arguments("blip2", tmp_path / "out")
    folder = GOLDENS / "blip2"
    options = ["--config", str(folder / "config.json"), "--tokenizer", str(given["tokenizer"])]
    options += ["--vision-checkpoint", str(folder / "vision.pth")]
    assert main(["blip2", str(folder / "checkpoint.pth"), str(tmp_path / "out"), *options]) == 0
    assert "LavisBlip2ForPreTraining" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["blip_caption", "x", "y"])


@pytest.mark.parametrize("folder", ["blip2", "blip2_feature_extractor_clip_l"])
def test_resized_positions_of_a_frozen_image_encoder(folder: str, tmp_path: Path) -> None:
    """parity: the original resizes in float32, but CLIP in the dtype of the file and with aligned corners."""
    golden = GOLDENS / folder
    settings = json.loads((golden / "config.json").read_text())
    side = settings["vision"]["image_size"] // settings["vision"]["patch_size"]
    options = {"config": settings, "vision_checkpoint": golden / "vision.pth", "tokenizer": GOLDENS / "tokenizer"}
    assert convert(settings["arch"], golden / "checkpoint.pth", tmp_path / "fits", **options).resized == {}
    settings["vision"]["image_size"] += settings["vision"]["patch_size"]
    report = convert(settings["arch"], golden / "checkpoint.pth", tmp_path / "out", **options)
    is_clip = folder.endswith("clip_l")
    table = torch.load(golden / "vision.pth", weights_only=True)["positional_embedding" if is_clip else "pos_embed"]
    table = table.reshape(-1, table.shape[-1])
    grid = table[1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side + 1, side + 1), mode="bicubic", align_corners=is_clip)[0].flatten(1).T
    stored = load_file(tmp_path / "out" / "model.safetensors")["vision_model.pos_embed"]
    before = (1, side**2 + 1, table.shape[-1])
    assert report.resized == {"vision_model.pos_embed": (before, tuple(stored.shape))}
    assert f"resized      vision_model.pos_embed {before} -> {tuple(stored.shape)}" in str(report)
    assert stored.dtype == (torch.float16 if is_clip else torch.float32)
    assert torch.equal(stored[0, 0], table[0].to(stored.dtype))
    torch.testing.assert_close(stored[0, 1:], grid.to(stored.dtype), rtol=0, atol=0)
