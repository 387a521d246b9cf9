"""Rows that a dataset can have: missing fields, values of other types, ids and labels that are not integers."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_lavis import AlproProcessor, LavisVideoProcessor
from modeling_lavis.data.collators import (
    CaptioningCollator,
    ClassificationCollator,
    ImagePairCollator,
    ImageTextCollator,
    QuestionAnsweringCollator,
    RowCollator,
    choose_caption,
    id_to_int,
    label_to_id,
    number_images,
)
from modeling_lavis.data.video_collators import VideoQuestionAnsweringCollator, VideoTextCollator
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer

SIZE = 32
IMAGE = Image.new("RGB", (20, 30), (200, 10, 10))
VIDEO = np.zeros((3, SIZE, SIZE, 3), np.uint8)
ROW = {
    "image": IMAGE,
    "images": [IMAGE, IMAGE],
    "video": VIDEO,
    "caption": "a dog",
    "sentence": "a dog",
    "question": "what is it?",
    "answer": "run",
    "label": 1,
    "image_id": 7,
    "video_id": 7,
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


@pytest.fixture(scope="module")
def processor(goldens: Path) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=SIZE), blip_tokenizer(goldens / "tokenizer"))


@pytest.fixture(scope="module")
def collators(goldens: Path, processor: LavisBlipProcessor) -> dict[str, RowCollator]:
    videos = AlproProcessor(LavisVideoProcessor(size=SIZE, num_frames=2), bert_tokenizer(goldens / "tokenizer"))
    return {
        "captions": CaptioningCollator(processor),
        "texts": ImageTextCollator(processor),
        "answers": QuestionAnsweringCollator(processor),
        "pairs": ImagePairCollator(processor),
        "classes": ClassificationCollator(processor),
        "videos": VideoTextCollator(videos, use_ids=True),
        "video answers": VideoQuestionAnsweringCollator(videos, label2id={"run": 0, "jump": 1}),
    }


NEEDED = {
    "captions": ("image", "caption"),
    "texts": ("image", "caption"),
    "answers": ("image", "question", "answer"),
    "pairs": ("images", "sentence"),
    "classes": ("image", "sentence"),
    "videos": ("video", "caption", "video_id"),
    "video answers": ("video", "question"),
}
OPTIONAL = {
    "texts": ("image_id", "image_ids", [7, 7, 7]),
    "pairs": ("label", "labels", [1, 1, 1]),
    "classes": ("label", "labels", [1, 1, 1]),
    "video answers": ("answer", "labels", [0, 0, 0]),
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_fields_are_in_all_rows_or_in_none(name: str, collators: dict[str, RowCollator]) -> None:
    field, key, expected = OPTIONAL[name]
    collate, bare = collators[name], without(field)
    assert collate([ROW, ROW, ROW])[key].tolist() == expected
    assert key not in collate([bare, {**ROW, field: None}])
    for rows, index in (([ROW, bare, ROW], 1), ([bare, ROW], 0), ([ROW, {**ROW, field: None}], 1)):
        with pytest.raises(ValueError, match=f"Row {index} of a batch has no '{field}', but other rows have one"):
            collate(rows)


@pytest.mark.parametrize("name", NEEDED)
def test_batches_without_rows_or_without_fields(name: str, collators: dict[str, RowCollator]) -> None:
    collate = collators[name]
    with pytest.raises(ValueError, match="got no rows"):
        collate([])
    with pytest.raises(ValueError, match="row of type tuple; expected a dict"):
        collate([("a.png", "a dog")])  # type: ignore[list-item]
    for field in NEEDED[name]:
        for row in (without(field), {"other": 1}):
            with pytest.raises(KeyError, match=f"needs the field '({'|'.join(NEEDED[name])})'.*columns="):
                collate([row])


WRONG = [
    ("captions", "caption", 5, ValueError, "caption of a row is 5; expected a string or a list"),
    ("captions", "caption", None, ValueError, "caption of a row is None"),
    ("captions", "caption", [], ValueError, "empty list of captions"),
    ("captions", "image", None, TypeError, "image of type NoneType"),
    ("captions", "image", {"path": None}, TypeError, "image of type NoneType"),
    ("captions", "image", {"bytes": b"none", "path": "a.png"}, OSError, "Cannot read the image a.png from its bytes"),
    ("captions", "image", {"bytes": b"none"}, OSError, "Cannot read the image without a name"),
    ("captions", "image", {"url": "a.png"}, TypeError, "image of type NoneType"),
    ("texts", "image_id", float("nan"), ValueError, "id of an image is nan"),
    ("answers", "answer", 3, ValueError, "answer of a row is 3; expected a string or a list"),
    ("answers", "answer", {"a": 1}, ValueError, "answer of a row is"),
    ("answers", "answer", [], ValueError, "empty list"),
    ("answers", "answer", ["a", None], ValueError, "NoneType at position 1"),
    ("answers", "weight", "much", ValueError, "weight of a row is 'much'; expected one number per answer"),
    ("answers", "weight", [0.5, 0.5], ValueError, "1 answers and 2 weights"),
    ("answers", "question", None, ValueError, "NoneType at position 0"),
    ("pairs", "images", None, ValueError, "images of type NoneType; expected a list of two"),
    ("pairs", "images", "a.png", ValueError, "images of type str"),
    ("pairs", "images", [IMAGE], ValueError, "1 images; expected two"),
    ("pairs", "sentence", 5, ValueError, "int at position 0"),
    ("pairs", "label", 0.5, ValueError, "label is 0.5; expected an integer, or one of"),
    ("classes", "label", 1.7, ValueError, "label is 1.7"),
    ("classes", "label", float("nan"), ValueError, "label is nan"),
    ("classes", "label", [1], ValueError, r"label is \[1\]"),
    ("video answers", "answer", 0.5, ValueError, "answer of a row is 0.5; expected a string, or the index"),
    ("video answers", "answer", ["run"], ValueError, "answer of a row is"),
    ("video answers", "video", {"bytes": b"none", "path": "a.mp4"}, OSError, "a.mp4.*from its bytes"),
    ("videos", "video", {"path": None}, ValueError, "video of type NoneType"),
    ("videos", "video_id", None, ValueError, "id of an image is None"),
]


@pytest.mark.parametrize(("name", "field", "value", "error", "message"), WRONG)
def test_values_of_other_types_are_named(
    name: str, field: str, value: Any, error: type[Exception], message: str, collators: dict[str, RowCollator]
) -> None:
    with pytest.raises(error, match=message):
        collators[name]([{**ROW, field: value}])


def test_values_that_libraries_return(collators: dict[str, RowCollator], tmp_path: Path) -> None:
    """Scalars and strings of NumPy and torch, columns of floats, encoded images."""
    buffer = io.BytesIO()
    IMAGE.save(buffer, "PNG")
    IMAGE.save(tmp_path / "a.png")
    expected = collators["captions"]([ROW])["pixel_values"]
    for image in ({"bytes": buffer.getvalue()}, {"path": str(tmp_path / "a.png")}, np.asarray(IMAGE)):
        assert torch.equal(collators["captions"]([{**ROW, "image": image}])["pixel_values"], expected)
    for caption in (np.str_("a dog"), np.array(["a dog"]), ("a dog",)):
        assert choose_caption(caption) == "a dog"
    for label in (1.0, np.int32(1), np.float32(1), torch.tensor(1), np.array(1), True, np.True_, np.str_("True")):
        assert collators["pairs"]([{**ROW, "label": label}])["labels"].tolist() == [1]
    for weight in (0.25, np.float32(0.25), torch.tensor(0.25), [0.25], np.array([0.25])):
        batch = collators["answers"]([{**ROW, "weight": weight}])
        assert batch["answer_weights"].tolist() == [0.25]
    pair = np.stack([np.asarray(IMAGE)] * 2)
    assert torch.equal(
        collators["pairs"]([{**ROW, "images": pair}])["pixel_values"], collators["pairs"]([ROW])["pixel_values"]
    )


@pytest.mark.parametrize("image_id", [7, 7.0, "7", "007", np.int64(7), np.float32(7), torch.tensor(7), np.array(7)])
def test_ids_that_are_integers(image_id: Any) -> None:
    assert id_to_int(image_id) == 7


def test_other_ids_are_hashed() -> None:
    others = [7.5, 7.25, "7.5x", "c1", -7, -100, 2**63, 2**200, float("inf"), "a" * 1000, (1, 2), [1, 3], ""]
    hashed = [id_to_int(image_id) for image_id in others]
    assert len(set(hashed)) == len(hashed) and min(hashed) > 2**40 and max(hashed) < 2**63
    assert torch.tensor(hashed).dtype == torch.int64
    # the same in every process
    assert id_to_int("c1") == int.from_bytes(hashlib.sha1(b"c1").digest()[:8], "big") // 2
    assert id_to_int(-100) == id_to_int("-100") != -100, "empty slots of the queue have this id"


def test_labels() -> None:
    names = {"no": 0, "yes": 1}
    assert [label_to_id(label, names) for label in ("yes", 1, 5, -100, 1.0, torch.tensor(0))] == [1, 1, 5, -100, 1, 0]
    for label in (0.5, None, float("nan"), float("inf"), [1], "maybe", True, np.array([1, 2])):
        with pytest.raises(ValueError, match="label"):
            label_to_id(label, names)


def test_numbers_of_images(processor: LavisBlipProcessor) -> None:
    """An evaluation set has images that the training set, from which the numbers are, does not have."""
    collate = ImageTextCollator(processor, image_numbers=number_images([{"image_id": 6818}, {"image_id": "x"}]))
    rows = [{**ROW, "image_id": image_id} for image_id in (6818, "x", 0, 1, 0, "new")]
    ids = collate(rows)["image_ids"].tolist()
    assert ids[:2] == [0, 1]
    assert ids[2] == ids[4] and len({*ids}) == 5, "other images than those numbered 0 and 1"
    with pytest.raises(KeyError, match="no 'image_id'.*column="):
        number_images([{"id": 3}])
    assert number_images([{"id": 3}, {"id": 4}, {"id": 3}], column="id") == {3: 0, 4: 1}


def test_options_of_texts_reach_every_text(processor: LavisBlipProcessor) -> None:
    options = {"padding": "max_length", "max_length": 12}
    for collator in (CaptioningCollator, ImageTextCollator, QuestionAnsweringCollator, ImagePairCollator):
        batch = collator(processor, text_options=options)([ROW])
        for name in {"input_ids", "attention_mask", "labels"} & set(batch):
            assert name == "labels" and collator is ImagePairCollator or batch[name].shape == (1, 12), name
    collate = QuestionAnsweringCollator(processor, text_options={"padding": "max_length", "cleaning": "question"})
    batch = collate([{**ROW, "question": "is it 3.5?", "answer": ["red " * 40]}])
    assert batch["input_ids"].shape[1] == processor.max_text_length < batch["labels"].shape[1], "answers stay whole"
    assert batch["input_ids"][0].tolist() == processor(text="is it 35?", padding="max_length")["input_ids"][0]
    cleaned = ImagePairCollator(processor, text_options={"cleaning": None})([{**ROW, "sentence": "a dog."}])
    assert cleaned["input_ids"].tolist() == processor(text="a dog.", cleaning=None)["input_ids"]


def test_what_a_transform_returns(processor: LavisBlipProcessor) -> None:
    sizes = iter((8, 9))
    for transform, message in (
        (lambda image: image, "returned Image; expected a tensor"),
        (lambda image: None, "returned NoneType"),
        (lambda image: torch.zeros(3, next(sizes), 8), r"shapes \[\(3, 8, 8\), \(3, 9, 8\)\]"),
    ):
        with pytest.raises(ValueError, match=message):
            CaptioningCollator(processor, transform=transform)([ROW, ROW])
    arrays = CaptioningCollator(processor, transform=lambda image: np.zeros((3, 8, 8), np.float32))
    assert arrays([ROW, ROW])["pixel_values"].shape == (2, 3, 8, 8)


def test_skipped_videos_and_optional_answers(collators: dict[str, RowCollator], tmp_path: Path) -> None:
    collate = collators["video answers"]
    skipping = VideoQuestionAnsweringCollator(collate.processor, label2id={"run": 0}, on_error="skip")
    broken = {**ROW, "video": str(tmp_path / "lost.mp4"), "answer": None}
    assert skipping([broken, ROW])["labels"].tolist() == [0]
    with pytest.raises(ValueError, match="None of the 1 videos.*\n.*bytes"):
        skipping([{**ROW, "video": {"bytes": b"x"}}])
