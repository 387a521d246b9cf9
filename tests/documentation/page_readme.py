"""What the README needs: small stand-ins for published checkpoints, images and videos."""

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from tests.documentation.materials import TOKENIZER, photos, place, with_sizes

CONFIGURATIONS = dict.fromkeys(("blip_coco_caption_base.pth", "model_base_caption.pth"), "blip_caption/config.json")


def save_blip_of_transformers(folder: Path) -> None:
    """A random model and processor of transformers' own BLIP classes."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": 602, "bos_token_id": 600, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = transformers.BlipConfig(
        vision_config={**sizes, "intermediate_size": 128, "image_size": 32, "patch_size": 16},
        text_config={**sizes, **tokens, "intermediate_size": 48, "encoder_hidden_size": 32},
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)


def prepare(folder: Path) -> dict[str, Any]:
    from tests.models.video_clips import write_clip
    from tests.pipelines.tiny_models import save_model
    from tests.pipelines.tiny_video_models import save_video_model

    # from_pretrained takes a folder of that name before it asks the Hub
    save_blip_of_transformers(folder / "Salesforce" / "blip-image-captioning-base")
    place(dict.fromkeys(CONFIGURATIONS, "blip_caption/checkpoint.pth"))
    for name in ("holiday", "films"):
        (folder / name).mkdir()
    for path in photos().values():
        shutil.copy(path, folder / "holiday")
    shutil.copy(photos()["coffee"], "photo.jpg")
    (folder / "photos").mkdir()
    for split, names in (("train", ("coffee", "chelsea")), ("val", ("coffee",))):
        rows = [{"image": f"{name}.png", "caption": "a dog in the house"} for name in names]
        (folder / "photos" / f"{split}.json").write_text(json.dumps(rows))
    for name in ("coffee", "chelsea"):
        Image.open(photos()[name]).convert("RGB").save(folder / "photos" / f"{name}.png")
    write_clip(folder / "films" / "one.mp4", frames=12)
    save_model(folder / "FOLDER_OR_REPOSITORY", "ForQuestionAnswering", TOKENIZER)
    save_model(folder / "trained", "ForQuestionAnswering", TOKENIZER)
    save_video_model(folder / "VIDEO_MODEL", "ForVideoTextRetrieval", TOKENIZER)
    return {}


def commands(words: list[str]) -> list[str] | None:
    if words[0] == "page":  # it ends when it is interrupted; tests/demo has its tests
        return None
    return with_sizes(words, CONFIGURATIONS) if words[0] == "convert" else words


def check_models(names: dict[str, Any]) -> None:
    assert len(names["output"]) == 1 and isinstance(names["caption"][0]["generated_text"], str)


CHECKS = {"modeling_lavis": check_models}
