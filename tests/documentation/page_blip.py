"""What the page about BLIP needs: checkpoints of the original to convert."""

from pathlib import Path
from typing import Any

from tests.documentation.materials import place, with_sizes

CONFIGURATIONS = {
    "blip_coco_caption_base.pth": "blip_caption/config.json",
    "model_base_capfilt_large.pth": "transfer/blip_pretrain.config.json",
}


def prepare(folder: Path) -> dict[str, Any]:
    place(
        {
            "blip_coco_caption_base.pth": "blip_caption/checkpoint.pth",
            "model_base_capfilt_large.pth": "transfer/blip_pretrain.pth",
        }
    )
    return {}


def commands(words: list[str]) -> list[str]:
    return with_sizes(words, CONFIGURATIONS)


def check_conversions(names: dict[str, Any]) -> None:
    from modeling_lavis import LavisBlipForConditionalGeneration, LavisBlipForQuestionAnswering

    LavisBlipForConditionalGeneration.from_pretrained("blip-coco")
    LavisBlipForQuestionAnswering.from_pretrained("blip-for-vqa")


CHECKS = {"Caption, match, search": check_conversions}
