"""What the page about BLIP-2 needs: converted recordings and photographs; and what its examples have to give."""

import json
from pathlib import Path
from typing import Any

from tests.documentation.materials import GOLDENS, TOKENIZER, caption_rows, changed, convert_recorded, photos, place


def prepare(folder: Path) -> dict[str, Any]:
    place(
        {
            "blip2_pretrained_opt2.7b.pth": "blip2_opt/checkpoint.pth",
            "blip2_pretrained.pth": "blip2/checkpoint.pth",
            "eva_vit_g.pth": "blip2/vision.pth",
            "eva_vit_g_of_opt.pth": "blip2_opt/vision.pth",
            "facebook/opt-2.7b": "blip2_opt/llm",
            "MODEL": "blip2_opt/llm",
        }
    )
    return {
        "repository": convert_recorded("blip2_opt", folder / "opt"),
        "matching_repository": convert_recorded("blip2_image_text_matching", folder / "matching"),
        "first_stage": convert_recorded("blip2", folder / "first-stage"),
        "photo": photos()["coffee"],
        "rows": caption_rows(),
    }


def commands(words: list[str]) -> list[str]:
    """The recordings of the two stages have encoders of their own, and sizes that full-size files need not be told."""
    recording = "blip2_opt" if "blip2_pretrained_opt2.7b.pth" in words else "blip2"
    settings = json.loads((GOLDENS / recording / "config.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in settings.items() if name in ("vision", "qformer", "text", "vit_model")}
    Path("sizes.json").write_text(json.dumps(settings))
    if recording == "blip2_opt":
        words = [word.replace("eva_vit_g.pth", "eva_vit_g_of_opt.pth") for word in words]
    return [*words, "--config", "sizes.json", "--tokenizer", str(TOKENIZER)]


def modules(weights: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in weights}


def check_conversions(names: dict[str, Any]) -> None:
    from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlip2ForPreTraining

    for folder in ("blip2-opt", "start"):
        LavisBlip2ForConditionalGeneration.from_pretrained(folder)
    LavisBlip2ForPreTraining.from_pretrained("stage-1")


def check_answers(names: dict[str, Any]) -> None:
    for texts in (names["caption"], names["answers"]):
        assert len(texts) == 1 and "photo of" not in texts[0] and "Question" not in texts[0]


def check_matching(names: dict[str, Any]) -> None:
    import torch

    assert names["similarity"].shape == (1, 2)
    with torch.no_grad():
        one = {name: value[1:] for name, value in names["texts"].items()}
        alone = names["matcher"](pixel_values=names["inputs"]["pixel_values"], **one, match_head="itm").logits
    torch.testing.assert_close(names["matched"].logits[1:], alone, atol=1e-5, rtol=1e-4)


def check_first_stage(names: dict[str, Any]) -> None:
    from modeling_lavis import LavisBlip2ForPreTraining

    assert names["trainer"].state.global_step == 2
    moved = modules(changed(LavisBlip2ForPreTraining.from_pretrained(names["first_stage"]), names["model"]))
    assert {"query_tokens", "qformer", "cls", "itm_head", "temp"} <= moved and "vision_model" not in moved


def check_second_stage(names: dict[str, Any]) -> None:
    from modeling_lavis import LavisBlip2ForConditionalGeneration

    before = LavisBlip2ForConditionalGeneration.from_pretrained(names["repository"])
    moved = modules(changed(before, names["model"]))
    assert {"query_tokens", "qformer", "language_projection"} <= moved
    assert not moved & {"vision_model", "language_model"}
    small = LavisBlip2ForConditionalGeneration.from_pretrained("blip2-small")
    assert not changed(names["model"], small)
    stored = sum(file.stat().st_size for file in Path("blip2-small").glob("*.safetensors"))
    assert stored < sum(value.numel() * value.element_size() for value in small.parameters())


def check_size(names: dict[str, Any]) -> None:
    import torch

    from modeling_lavis import LavisBlip2ForConditionalGeneration

    again = LavisBlip2ForConditionalGeneration.from_pretrained("blip2-8bit")
    assert again.language_model.model.decoder.layers[0].fc1.weight.dtype is torch.int8
    trained = {name for name, value in names["adapted"].named_parameters() if value.requires_grad}
    assert trained and all(".lora_" in name or ".language_projection." in name for name in trained)


CHECKS = {
    "From a checkpoint to a repository": check_conversions,
    "Captions and answers": check_answers,
    "Matching": check_matching,
    "The first stage": check_first_stage,
    "The second stage": check_second_stage,
    "Large models": check_size,
}
