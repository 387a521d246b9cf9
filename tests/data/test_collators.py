"""Collators: rows of every task to training batches."""

import pickle
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Image

from modeling_lavis.data.collators import (
    CaptioningCollator,
    ClassificationCollator,
    ImagePairCollator,
    ImageTextCollator,
    QuestionAnsweringCollator,
    number_images,
    swap_left_right,
)
from modeling_lavis.data.transforms import ImageTrainTransform, blip_image_train
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import blip_tokenizer

SIZE = 32


@pytest.fixture(scope="module")
def processor(goldens: Path) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=SIZE), blip_tokenizer(goldens / "tokenizer"))


@pytest.fixture(scope="module")
def root(goldens: Path) -> Path:
    return goldens / "processors" / "images"


ROWS = [
    {"image": "coffee.png", "caption": "A white cup!", "image_id": "c1", "question": "what is it?", "answer": ["cup"]},
    {"image": "rocket.jpg", "caption": "a rocket", "image_id": "r1", "question": "is it day?", "answer": ["no", "no"]},
    {"image": "coffee.png", "caption": "a table", "image_id": "c1", "question": "how many?", "answer": ["1", "2", "1"]},
]


def test_captioning(processor, root: Path) -> None:
    batch = CaptioningCollator(processor, image_root=root)(ROWS)
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "labels"}
    assert batch["pixel_values"].shape == (3, 3, SIZE, SIZE)
    expected = processor.caption_labels([row["caption"] for row in ROWS])
    assert torch.equal(batch["labels"], expected["labels"]) and batch["input_ids"][0, 0] == processor.bos_token_id


def test_one_of_several_captions_is_sampled(processor, root: Path) -> None:
    rows = [{"image": "coffee.png", "caption": ["a cup", "a table with a cup"]}]
    collate = CaptioningCollator(processor, image_root=root)
    assert {collate(rows)["labels"].shape[1] for _ in range(30)} == {4, 7}


def test_image_text_retrieval(processor, root: Path) -> None:
    collate = ImageTextCollator(processor, image_root=root, text_options={"padding": "max_length", "max_length": 12})
    batch = collate(ROWS)
    assert batch["return_loss"] is True and batch["input_ids"].shape == (3, 12)
    assert (batch["input_ids"][:, 0] == processor.tokenizer.cls_token_id).all()
    ids = batch["image_ids"]
    assert ids.dtype == torch.int64 and ids[0] == ids[2] != ids[1] and (ids >= 0).all()
    numbers = number_images(ROWS)
    assert numbers == {"c1": 0, "r1": 1}
    numbered = ImageTextCollator(processor, image_root=root, image_numbers=numbers)(ROWS)
    assert numbered["image_ids"].tolist() == [0, 1, 0]
    rows = [{"image": row["image"], "caption": row["caption"]} for row in ROWS]
    assert "image_ids" not in collate(rows)
    assert collate([{**row, "image_id": 7} for row in rows])["image_ids"].tolist() == [7, 7, 7]


def test_question_answering(processor, root: Path) -> None:
    rows = [
        *ROWS,
        {"image": "rocket.jpg", "question": "where?", "answer": ["sky"], "dataset": "vg"},
        {"image": "rocket.jpg", "question": "where?", "answer": ["sky", "air"], "weight": [0.6, 0.3]},
        {"image": "rocket.jpg", "question": "where?", "answer": "sky", "weight": 0.5},
    ]
    batch = QuestionAnsweringCollator(processor, image_root=root)(rows)
    assert batch["answer_counts"].tolist() == [1, 1, 2, 1, 2, 1]
    torch.testing.assert_close(batch["answer_weights"], torch.tensor([1.0, 1.0, 2 / 3, 1 / 3, 0.2, 0.6, 0.3, 0.5]))
    decoded = [processor.tokenizer.decode(row[row != -100][1:-1]) for row in batch["labels"]]
    assert decoded == ["cup", "no", "1", "2", "sky", "sky", "air", "sky"]
    assert batch["input_ids"].shape[0] == len(rows)


def test_image_pairs_with_swap(processor, root: Path) -> None:
    rows = [
        {"images": ["coffee.png", "rocket.jpg"], "sentence": "The Left one is bright.", "label": "True"},
        {"images": ["rocket.jpg", "coffee.png"], "sentence": "both are red", "label": "False"},
    ] * 8
    plain = ImagePairCollator(processor, image_root=root)(rows)
    assert plain["pixel_values"].shape == (16, 2, 3, SIZE, SIZE) and plain["labels"].tolist() == [1, 0] * 8
    collate = ImagePairCollator(processor, image_root=root, swap=True, generator=torch.Generator().manual_seed(0))
    batch = collate(rows)
    swapped = [torch.equal(batch["pixel_values"][i], plain["pixel_values"][i].flip(0)) for i in range(16)]
    kept = [torch.equal(batch["pixel_values"][i], plain["pixel_values"][i]) for i in range(16)]
    assert 2 < sum(swapped) < 14 and [not one for one in swapped] == kept
    assert batch["labels"].tolist() == plain["labels"].tolist()
    texts = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    sentences = [text.strip() for text in texts]
    original_ids, swapped_ids = (processor(text=text, cleaning=None)["input_ids"][0] for text in PAIR_SENTENCES)
    for number in range(0, 16, 2):
        row = batch["input_ids"][number][batch["attention_mask"][number] == 1].tolist()
        assert row == (swapped_ids if swapped[number] else original_ids), sentences[number]
    assert len(set(sentences[1::2])) == 1


PAIR_SENTENCES = ("the left one is bright", "the right one is bleft")


def test_swap_left_right() -> None:
    assert swap_left_right("left of the right, leftmost") == "right of the left, rightmost"
    assert swap_left_right("nothing here") == "nothing here"


def test_classification(processor, root: Path) -> None:
    rows = [
        {"image": "coffee.png", "sentence": "a cup", "label": name}
        for name in ("entailment", "neutral", "contradiction")
    ]
    collate = ClassificationCollator(processor, image_root=root)
    assert collate(rows)["labels"].tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="'cat' is none of"):
        collate([{**rows[0], "label": "cat"}])
    images = [{"image": "coffee.png", "label": 5}, {"image": "rocket.jpg", "label": 3}]
    batch = ClassificationCollator(processor, image_root=root, default_text="a picture")(images)
    assert batch["labels"].tolist() == [5, 3] and batch["input_ids"].shape[0] == 2
    with pytest.raises(KeyError, match="'sentence'.*columns="):
        collate(images)
    assert "labels" not in collate([{"image": "coffee.png", "sentence": "a cup"}])


def test_rows_of_a_dataset(processor, root: Path) -> None:
    paths = [str(root / row["image"]) for row in ROWS]
    data = Dataset.from_dict({"photo": paths, "caption": [row["caption"] for row in ROWS]})
    expected = CaptioningCollator(processor, image_root=root)(ROWS)
    for feature in (Image(), Image(decode=False)):
        rows = list(data.cast_column("photo", feature))
        batch = CaptioningCollator(processor, columns={"image": "photo"})(rows)
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_training_transform_and_workers(processor, root: Path) -> None:
    collate = CaptioningCollator(processor, transform=blip_image_train(SIZE), image_root=root)
    first, second = collate(ROWS)["pixel_values"], collate(ROWS)["pixel_values"]
    assert first.shape == (3, 3, SIZE, SIZE) and not torch.equal(first, second)
    again = pickle.loads(pickle.dumps(collate))
    assert again(ROWS)["pixel_values"].shape == first.shape
    loader = torch.utils.data.DataLoader(ROWS * 2, batch_size=3, num_workers=1, collate_fn=collate)
    batches = [batch["pixel_values"] for batch in loader]
    assert len(batches) == 2 and torch.isfinite(batches[0]).all() and not torch.equal(*batches)


def test_missing_image_raises(processor, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="lost.png"):
        CaptioningCollator(processor, image_root=root)([{"image": "lost.png", "caption": "a"}])


def test_kept_images_are_read_once(processor, root: Path, tmp_path: Path) -> None:
    row = {"image": "a.png", "sentence": "a cup"}
    (tmp_path / "a.png").write_bytes((root / "coffee.png").read_bytes())
    plain = ClassificationCollator(processor, image_root=tmp_path)([row])["pixel_values"]
    collate = ClassificationCollator(processor, image_root=tmp_path, keep_images=True)
    crop = ImageTrainTransform(SIZE, min_scale=1.0, augment=False, flip_probability=0.0)
    cropping = ClassificationCollator(processor, crop, image_root=tmp_path, keep_images=True)
    first = cropping([row, row])["pixel_values"]
    assert torch.equal(collate([row])["pixel_values"], plain)
    assert collate.open_image("a.png") is collate.open_image("a.png")
    (tmp_path / "a.png").unlink()
    assert torch.equal(collate([row, row])["pixel_values"], plain.expand(2, -1, -1, -1))
    assert torch.equal(cropping([row, row])["pixel_values"], first)
