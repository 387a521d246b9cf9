"""Tiny random BLIP models with a processor, saved as repositories; valid and corrupt image files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import modeling_lavis
from modeling_lavis import LavisBlipConfig, LavisBlipProcessor, LavisImageProcessor

SIZE = 32


def save_model(folder: Path, head: str, tokenizer: Path, prompt: str = "", **options: object) -> Path:
    """Save a random model of the class `LavisBlip<head>` and its processor, and return the folder."""
    processor = LavisBlipProcessor(LavisImageProcessor(size=SIZE), _tokenizer(tokenizer), prompt=prompt)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    config = LavisBlipConfig(
        vision_config={**sizes, "image_size": SIZE, "patch_size": 16},
        text_config={**sizes, "vocab_size": 602, "intermediate_size": 48, "max_position_embeddings": 64},
        projection_dim=16,
        queue_size=8,
        cls_token_id=2,
        eos_token_id=3,
        bos_token_id=600,
        enc_token_id=601,
        initializer_range=0.3,
        **options,
    )
    torch.manual_seed(0)
    model = getattr(modeling_lavis, f"LavisBlip{head}")(config)
    if model.can_generate():
        model.generation_config.max_length = 8  # random models seldom generate the end token, so texts would be long
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> object:
    from modeling_lavis.models.processing_lavis_blip import blip_tokenizer

    return blip_tokenizer(str(folder))


def save_images_of_every_mode(folder: Path) -> list[Path]:
    """Save an image in each mode that image files can have, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    rgb = Image.fromarray(values[..., :3])
    images = {
        "1.png": rgb.convert("1"),
        "L.png": rgb.convert("L"),
        "LA.png": Image.fromarray(values[..., :2], "LA"),
        "P.gif": rgb.convert("P"),
        "RGB.jpg": rgb,
        "RGBA.png": Image.fromarray(values),
        "CMYK.jpg": rgb.convert("CMYK"),
        "I16.png": Image.fromarray(values[..., 0].astype(np.uint16) * 257),
        "F.tiff": Image.fromarray(values[..., 0].astype(np.float32) / 255),
    }
    if int(Image.__version__.partition(".")[0]) >= 13:  # earlier versions cannot read the YCbCr files they write
        images["YCbCr.tiff"] = rgb.convert("YCbCr")
    paths = []
    for name, image in images.items():
        image.save(folder / name)
        paths.append(folder / name)
    return paths


def save_corrupt_images(folder: Path, photo: Path) -> list[Path]:
    """Write a truncated file, a text file and an empty file; return them and a path that does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "truncated.png").write_bytes(photo.read_bytes()[:2000])
    (folder / "renamed.png").write_text("not an image\n")
    (folder / "empty.jpg").write_bytes(b"")
    return [folder / name for name in ("truncated.png", "renamed.png", "empty.jpg", "missing.png")]
