"""Row changes: what they do to images and to words, what they refuse, and in a collator."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis.data.collation import make_collator
from modeling_lavis.data.row_changes import ChangedRows, RowChanges
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import blip_tokenizer

COLORS = {"red": "#ff0000", "green": "#00ff00", "yellow": "#ffff00", "black": "#000000"}


def picture() -> PIL.Image.Image:
    """Red on the left, black elsewhere."""
    image = PIL.Image.new("RGB", (3, 2))
    image.putpixel((0, 0), (255, 10, 0))
    return image


def values(image: Any) -> list[list[int]]:
    return np.asarray(image)[0].tolist()


def test_words_follow_the_image() -> None:
    changes = RowChanges(mirror_words={"left": "right"}, color_words=COLORS)
    row = {"image": picture(), "question": "Red left of a green leftmost redwood, right?", "answer": "yes"}
    changed = changes.apply(row, mirror=True, channels=(1, 0, 2))
    assert changed["question"] == "Green right of a red leftmost redwood, left?" and changed["answer"] == "yes"
    assert values(changed["image"]) == [[0, 0, 0], [0, 0, 0], [10, 255, 0]]
    assert row["question"].startswith("Red left") and values(row["image"])[0] == [255, 10, 0]
    assert changes.apply(row) == row


def test_captions_and_pairs_change() -> None:
    changes = RowChanges(mirror_words={"left": "right"}, columns={"caption": "texts"})
    row = changes.apply({"images": [picture(), picture()], "texts": ["left", "none"]}, mirror=True)
    assert row["texts"] == ["right", "none"]
    assert [values(image)[2] for image in row["images"]] == [[255, 10, 0]] * 2


def test_only_colors_with_words_are_drawn() -> None:
    changes = RowChanges(color_probability=1.0, color_words=COLORS)
    generator = torch.Generator().manual_seed(0)

    def drawn(text: str) -> set[tuple[str, tuple[int, ...]]]:
        rows = [changes({"image": picture(), "sentence": text}, generator) for _ in range(60)]
        return {(row["sentence"], tuple(values(row["image"])[0])) for row in rows}

    assert drawn("yellow") == {("yellow", (255, 10, 0)), ("yellow", (10, 255, 0))}
    assert {text for text, _ in drawn("a red one")} == {"a red one", "a green one"}
    assert len(drawn("none")) == 6


@pytest.mark.parametrize("kind", ["image", "array", "tensor", "alpha"])
def test_kinds_of_images(kind: str) -> None:
    image: Any = picture()
    if kind == "array":
        image = np.asarray(image)
    elif kind == "tensor":
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    elif kind == "alpha":
        image.putalpha(128)
    changed = RowChanges().apply({"image": image}, True, (2, 0, 1), np.eye(3))["image"]
    found = np.moveaxis(np.asarray(changed), 0, -1) * 255 if kind == "tensor" else np.asarray(changed)
    np.testing.assert_allclose(found[0, 2], [0, 255, 10] + [128] * (kind == "alpha"), atol=1e-4)


def test_mixtures_keep_grays() -> None:
    changes = RowChanges(mix_probability=1.0)
    gray = PIL.Image.new("RGB", (1, 1), (90, 90, 90))
    torch.manual_seed(0)
    assert values(changes({"image": gray})["image"]) == [[90, 90, 90]]
    colors = {tuple(values(changes({"image": picture()})["image"])[0]) for _ in range(20)}
    assert len(colors) == 20 and all(0 <= value <= 255 for color in colors for value in color)


def test_draws_repeat() -> None:
    changes = RowChanges(0.5, {"left": "right"}, 0.5, mix_probability=0.5)
    rows = [
        changes({"image": picture(), "sentence": "left"}, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2, 3)
    ]
    assert values(rows[0]["image"]) == values(rows[1]["image"])
    assert len({str(values(row["image"])) for row in rows}) > 1


def test_turned_images_and_their_words() -> None:
    words = {"left of": "above", "right of": "below"}
    changes = RowChanges(flip_words={"above": "below"}, transpose_words=words, mirror_words={"left": "right"})
    row = {"image": picture(), "question": "Left of above a square?"}
    flipped = changes.apply(row, flip=True)
    assert flipped["question"] == "Left of below a square?"
    assert np.asarray(flipped["image"])[1].tolist() == [[255, 10, 0], [0, 0, 0], [0, 0, 0]]
    turned = changes.apply(row, mirror=True, transpose=True)
    assert turned["question"] == "Below left of a square?"  # right of above, transposed
    assert turned["image"].size == (2, 3) and np.asarray(turned["image"])[2].tolist() == [[255, 10, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", ["image", "float", "tensor"])
def test_named_colors_are_exchanged_pixel_by_pixel(kind: str) -> None:
    changes = RowChanges(color_words={"yellow": "#ffff00", "blue": "#0099ff"}, palette_distance=20)
    colors = np.array([[[255, 255, 0], [0, 150, 250], [130, 130, 130]]], np.uint8)
    image: Any = PIL.Image.fromarray(colors)
    if kind == "float":
        image = colors.astype(np.float32) / 255
    elif kind == "tensor":
        image = torch.from_numpy(colors).permute(2, 0, 1)
    row = {"image": image, "sentence": "Blue beside yellow, on gray"}
    changed = changes.apply(row, palette={"yellow": "blue", "blue": "yellow"})
    assert changed["sentence"] == "Yellow beside blue, on gray"
    found = np.asarray(changed["image"])
    found = np.moveaxis(found, 0, -1) if kind == "tensor" else found * (255 if kind == "float" else 1)
    # the difference from the named color is kept, within what an image can hold
    np.testing.assert_allclose(found[0], [[0, 153, 255], [255, 252, 0], [130, 130, 130]], atol=1e-3)


def test_every_change_is_drawn() -> None:
    changes = RowChanges(
        0.5, flip_probability=0.5, transpose_probability=0.5, palette_probability=0.5, color_words=COLORS
    )
    square = PIL.Image.new("RGB", (2, 2), (100, 100, 100))
    square.putpixel((0, 0), (255, 0, 0))
    square.putpixel((1, 0), (0, 255, 0))
    torch.manual_seed(0)
    views = {np.asarray(changes({"image": square})["image"]).tobytes() for _ in range(400)}
    assert len(views) == 4 * 12  # the pair of pixels at four sides, in two of four colors in both orders


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mirror_probability": 2}, "mirror_probability is 2; expected a number from 0 to 1"),
        ({"mirror_words": {"left": "right", "west": "right"}}, "expected each word in one pair only"),
        ({"color_words": {"red": "reddish"}}, "color_words has 'reddish' for 'red'"),
        ({"color_words": {"red": "#f00", "scarlet": "#ff0000"}}, "expected another color for each word"),
        ({"mix_probability": 0.5, "color_words": {"red": "#f00"}}, "colors without names"),
        ({"flip_words": {"up": "down", "down": "top"}}, "flip_words is .*expected each word in one pair only"),
        ({"palette_probability": 0.5}, "exchanges the colors of color_words"),
        ({"palette_distance": 0}, "palette_distance is 0; expected a positive number"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowChanges(**options)


def test_in_a_collator(goldens: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    processor = LavisBlipProcessor(
        LavisImageProcessor(size=3, do_normalize=False), blip_tokenizer(goldens / "tokenizer")
    )
    collator = make_collator(
        "vqa",
        processor,
        image_root=tmp_path,
        columns={"question": "text"},
        on_bad_row="skip",
        row_changes={"mirror_probability": 1.0, "mirror_words": {"left": "right"}},
    )
    batch = collator([{"image": "a.png", "text": "on the left?", "answer": "yes"}])
    plain = make_collator("vqa", processor, image_root=tmp_path)([{"image": "a.png", "question": "on the right?",
                                                                  "answer": "yes"}])  # fmt: skip
    assert torch.equal(batch["pixel_values"], plain["pixel_values"].flip(-1))
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    changed = ChangedRows(make_collator("vqa", processor), RowChanges())
    assert pickle.loads(pickle.dumps(changed)).processor is not None
