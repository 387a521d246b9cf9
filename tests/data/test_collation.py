"""`make_collator`: the collator and the published transform of every task and family, and training with them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_lavis import AlbefProcessor, AlproProcessor, LavisBlip2Processor, LavisVideoProcessor
from modeling_lavis.data.checks import SkipBadRows
from modeling_lavis.data.collation import COLLATIONS, make_collator, training_transform
from modeling_lavis.data.collators import ImagePairCollator, open_row_image
from modeling_lavis.data.columns import TASKS
from modeling_lavis.data.loading import load_data
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from modeling_lavis.training.bad_rows import BadRowReport
from tests.data.data_files import encoded, picture, write_caption_shards, write_json, write_pictures
from tests.models.video_clips import write_clip

SIZE = 16


def image_processor(**options: Any) -> LavisImageProcessor:
    return LavisImageProcessor(size=SIZE, **options)


@pytest.fixture(scope="module")
def processors(goldens: Path) -> dict[str, Any]:
    folder = goldens / "tokenizer"
    return {
        "albef": AlbefProcessor(image_processor(), bert_tokenizer(folder)),
        "blip": LavisBlipProcessor(image_processor(), blip_tokenizer(folder)),
        "blip-2": LavisBlip2Processor(image_processor(), blip_tokenizer(folder)),
        "alpro": AlproProcessor(LavisVideoProcessor(size=SIZE, num_frames=2), bert_tokenizer(folder)),
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", frames=8)


def rows_of(task: str, clip: Path) -> list[dict[str, Any]]:
    values = {
        "image": picture("red"),
        "images": [picture("red"), encoded("blue")],
        "video": str(clip),
        "caption": ["a dog"],
        "question": "what is it?",
        "sentence": "the left one",
        "label": 1,
        "answer": "run" if task == "video-qa" else ["run", "run"],
    }
    row = {column.name: values[column.name] for column in TASKS[task].needed()}
    return [row, {**row, TASKS[task].media.name: values[TASKS[task].media.name]}]


def test_every_task_has_a_collator() -> None:
    assert set(COLLATIONS) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("training", [False, True])
def test_every_task(task: str, training: bool, processors: dict[str, Any], clip: Path) -> None:
    processor = processors["alpro" if "video" in task else "blip"]
    labels = {"run": 0, "jump": 1} if task == "video-qa" else None
    collate = make_collator(task, processor, training=training, label2id=labels)
    for rows in (rows_of(task, clip), list(load_data(rows_of(task, clip), task))):
        batch = collate(rows)
        pixels = batch["pixel_values_videos" if "video" in task else "pixel_values"]
        frames = (2,) if "video" in task or task == "nlvr" else ()
        assert pixels.shape == (2, *frames, 3, SIZE, SIZE) and batch["input_ids"].shape[0] == 2
        has_targets = task not in ("retrieval", "pretraining", "video-retrieval")
        assert ("labels" in batch) == has_targets and (batch.get("return_loss") is True) == (not has_targets)


def test_published_transforms(processors: dict[str, Any]) -> None:
    augmented = {name: training_transform(processor).augment for name, processor in processors.items()}
    assert augmented == {"albef": True, "blip": True, "blip-2": False, "alpro": True}
    image = picture("red", (40, 30))
    for name in ("albef", "blip", "blip-2"):
        transform = make_collator("captioning", processors[name], training=True).transform
        assert transform(image).shape == (3, SIZE, SIZE) and transform.scale == (0.5, 1.0)
    video = training_transform(processors["alpro"])
    assert (video.image_size, video.num_frames, video.sampling) == (SIZE, 2, "headtail")
    collate = make_collator("nlvr", processors["blip"], training=True)
    assert isinstance(collate, ImagePairCollator) and collate.swap
    assert not make_collator("nlvr", processors["blip"]).swap  # type: ignore[attr-defined]
    assert make_collator("nlvr", processors["blip"]).transform is None  # type: ignore[attr-defined]


def test_training_sees_what_evaluation_sees(processors: dict[str, Any]) -> None:
    """Normalization, background and orientation are those of the processor."""
    options = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.8, 0.7], "background": "white"}
    processor = LavisBlipProcessor(image_processor(**options), processors["blip"].tokenizer)
    clear = PIL.Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    transform = training_transform(processor, augment=False)
    expected = processor.image_processor([clear], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(transform(clear), expected, rtol=0, atol=1e-6)
    plain = training_transform(processors["blip"], augment=False)
    torch.testing.assert_close(
        plain(clear), processors["blip"].image_processor([clear], return_tensors="pt")["pixel_values"][0]
    )


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flips_can_be_turned_off(processors: dict[str, Any], probability: float) -> None:
    options = {"flip_probability": probability, "augment": False, "min_scale": 1.0}
    halves = PIL.Image.new("RGB", (SIZE, SIZE))
    halves.paste((255, 255, 255), (0, 0, SIZE // 2, SIZE))
    for name in ("blip", "alpro"):
        transform = training_transform(processors[name], **options)
        made = transform([halves] * 4)[0] if name == "alpro" else transform(halves)
        assert (made[0, 8, 2] > made[0, 8, 13]) == (probability == 0.0)


def test_prompts_of_rows(goldens: Path, processors: dict[str, Any]) -> None:
    rows = [{"image": encoded("red"), "caption": "a dog", "prompt": prompt} for prompt in ("a", "a man in")]
    processor = LavisBlip2Processor(image_processor(), processors["blip-2"].tokenizer, language_model="causal")
    labels = make_collator("generative-pretraining", processor)(rows)["labels"]
    expected = processor.caption_labels(["a dog"] * 2, prompt=["a", "a man in"])["labels"]
    assert torch.equal(labels, expected)
    same = make_collator("generative-pretraining", processor)([{**row, "prompt": None} for row in rows])["labels"]
    assert torch.equal(same, processor.caption_labels(["a dog"] * 2)["labels"])


@pytest.mark.parametrize("form", ["path", "pathlike", "bytes", "mapping", "PIL", "array", "tensor"])
def test_forms_of_images(form: str, tmp_path: Path, processors: dict[str, Any]) -> None:
    path = tmp_path / "a.png"
    picture("blue").save(path)
    image = {
        "path": str(path),
        "pathlike": path,
        "bytes": path.read_bytes(),
        "mapping": {"bytes": path.read_bytes(), "path": None},
        "PIL": picture("blue"),
        "array": np.asarray(picture("blue")),
        "tensor": torch.from_numpy(np.array(picture("blue"))).permute(2, 0, 1),
    }[form]
    expected = processors["blip"].image_processor([str(path)], return_tensors="pt")["pixel_values"]
    collate = make_collator("captioning", processors["blip"])
    assert torch.equal(collate([{"image": image, "caption": "a"}])["pixel_values"], expected)
    open_row_image(image)


@pytest.mark.parametrize("form", ["path", "bytes", "mapping", "decoder", "frames"])
def test_forms_of_videos(form: str, clip: Path, processors: dict[str, Any]) -> None:
    content = clip.read_bytes()
    rows: list[dict[str, Any]] = [{"video": str(clip), "caption": "a"}]
    expected = make_collator("video-retrieval", processors["alpro"])(rows)["pixel_values_videos"]
    if form == "decoder":  # what datasets decodes a column of videos to
        rows[0]["video"] = SimpleNamespace(_hf_encoded={"path": str(clip), "bytes": None})
    elif form == "frames":
        import av

        with av.open(str(clip)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rows = list(load_data([{"video": frames, "caption": "a"}], "video-retrieval"))
    else:
        rows[0]["video"] = {"path": str(clip), "bytes": content, "mapping": {"bytes": content, "path": "b.mp4"}}[form]
    found = make_collator("video-retrieval", processors["alpro"])(rows)["pixel_values_videos"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if form != "frames" else 0.05)


def test_wrong_arguments(processors: dict[str, Any]) -> None:
    blip, alpro = processors["blip"], processors["alpro"]
    with pytest.raises(ValueError, match="no task 'caption'"):
        make_collator("caption", blip)
    with pytest.raises(ValueError, match="is about videos, which a LavisBlipProcessor does not process"):
        make_collator("video-qa", blip, label2id={})
    with pytest.raises(ValueError, match="is about images"):
        make_collator("captioning", alpro)
    with pytest.raises(ValueError, match="needs label2id: .*load_label2id"):
        make_collator("video-qa", alpro)
    with pytest.raises(ValueError, match="has no classes"):
        make_collator("captioning", blip, label2id={"a": 0})
    with pytest.raises(ValueError, match="on_bad_row is 'keep'"):
        make_collator("captioning", blip, on_bad_row="keep")
    with pytest.raises(ValueError, match="give training=True"):
        make_collator("captioning", blip, transform_options={"augment": False})
    blip_of_strips = LavisBlipProcessor(LavisImageProcessor(size={"height": 16, "width": 32}), blip.tokenizer)
    with pytest.raises(ValueError, match="training transforms make squares"):
        make_collator("captioning", blip_of_strips, training=True)
    with pytest.raises(TypeError, match="on_bad_row='skip'"):
        BadRowReport(make_collator("captioning", blip))


# ---- with the Trainer ----


class Tiny(torch.nn.Module):
    """A model that learns the mean of its pixel values."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        self.seen.append(len(pixel_values))
        return {"loss": (pixel_values.mean() - self.bias) ** 2}


def train(data: Any, collate: Any, output: Path, workers: int = 2, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=4,
        dataloader_num_workers=workers,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        **options,
    )
    callbacks = [BadRowReport(collate)] if isinstance(collate, SkipBadRows) else []
    trainer = Trainer(Tiny(), arguments, data_collator=collate, train_dataset=data, callbacks=callbacks)  # type: ignore[arg-type]
    trainer.train()
    return trainer


def test_bad_rows_are_reported(tmp_path: Path, processors: dict[str, Any]) -> None:
    names = write_pictures(tmp_path)
    rows = [{"image": name, "caption": "a dog"} for name in [*names, "none.png"] * 4]
    data = load_data(write_json(tmp_path / "train.json", rows), "captioning")
    collate = make_collator("captioning", processors["blip"], training=True, on_bad_row="skip")
    trainer = train(data, collate, tmp_path / "out", num_train_epochs=2)
    (entry,) = [entry for entry in trainer.state.log_history if "skipped_rows" in entry]
    assert entry["skipped_rows"] == 8 and trainer.state.global_step == 10


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("source", ["paths", "shards", "pictures", "column"])
def test_training_with_workers(tmp_path: Path, processors: dict[str, Any], source: str, streaming: bool) -> None:
    from datasets import Dataset, Image

    names = write_pictures(tmp_path / "images") * 4
    rows = [{"image": f"images/{name}", "caption": "a dog"} for name in names]
    data: Any = None
    if source == "paths":
        data = write_json(tmp_path / "train.json", rows)
    elif source == "shards":
        for index in range(4):
            write_caption_shards(tmp_path / f"shards{index}", 1)
        data = str(tmp_path / "shards*" / "*.tar")
    elif source == "pictures":
        data = [{"image": picture("red"), "caption": "a dog"} for _ in rows]
    else:
        columns = {"image": [str(tmp_path / row["image"]) for row in rows], "caption": ["a dog"] * len(rows)}
        data = Dataset.from_dict(columns).cast_column("image", Image())
    loaded = load_data(data, "captioning", streaming=streaming)
    collate = make_collator("captioning", processors["blip"], training=True)
    options = {"max_steps": 8} if streaming else {"num_train_epochs": 2}
    trainer = train(loaded, collate, tmp_path / "out", **options)
    assert trainer.state.global_step == 8 and trainer.model.bias.abs() > 0  # type: ignore[union-attr]
