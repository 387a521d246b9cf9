"""The training script of the embedded model, for a few steps on the embedded images."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForPreTraining, AutoProcessor

from modeling_lavis.embedded import embedded_images

from .example_scripts import load_script

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")
training = load_script("train_embedded_model")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The embedded images as a train and a val split."""
    entries = [{"image": str(image.path), "caption": image.caption} for image in embedded_images()]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.json").write_text(json.dumps(entries[:8]), encoding="utf-8")
    (tmp_path / "set" / "val.json").write_text(json.dumps(entries[8:]), encoding="utf-8")
    return tmp_path / "set"


@pytest.mark.parametrize("momentum", [False, True])
def test_train_two_steps(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture, momentum: bool) -> None:
    output = tmp_path / "model"
    arguments = ["--data", str(dataset), "--output", str(output), "--max-steps", "2", "--batch-size", "4", "--cpu"]
    arguments += ["--warmup-steps", "0", "--logging-steps", "1"] + ["--momentum"] * momentum
    assert training.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "'loss': 'nan'" not in printed and printed.count("'loss'") == 2

    model = AutoModelForPreTraining.from_pretrained(output, dtype=torch.float32).eval()
    assert not any("_m." in name or "queue" in name for name, _ in model.state_dict().items())
    processor = AutoProcessor.from_pretrained(output)
    batch = processor(images=Image.open(embedded_images()[0].path), text="red apple", return_tensors="pt")
    similarity = model(**batch).logits_per_image
    assert similarity.shape == (1, 1) and torch.isfinite(similarity).all()
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "$" not in card
    assert ("--momentum" in card) == momentum


@pytest.mark.slow
def test_start_from_an_earlier_model(dataset: Path, tmp_path: Path) -> None:
    common = ["--data", str(dataset), "--batch-size", "4", "--cpu", "--max-steps", "1", "--warmup-steps", "0"]
    first, same, moved = tmp_path / "first", tmp_path / "same", tmp_path / "moved"
    assert training.main([*common, "--output", str(first)]) == 0
    assert training.main([*common, "--output", str(same), "--start-from", str(first), "--blend", "1"]) == 0
    assert training.main([*common, "--output", str(moved), "--start-from", str(first), "--caption-weight", "3"]) == 0
    weights = [AutoModelForPreTraining.from_pretrained(path).state_dict() for path in (first, same, moved)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert (first / "tokenizer.json").read_text() == (moved / "tokenizer.json").read_text()
    assert (moved / "README.md").read_text(encoding="utf-8").count("python examples/train_embedded_model.py") == 2


def test_missing_dataset_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(["--data", str(tmp_path), "--output", str(tmp_path / "model")]) == 1
    assert "build_emoji_dataset.py" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_random_affine_moves_pixels_and_keeps_colors() -> None:
    image = Image.new("RGB", (128, 128), "white")
    image.paste((200, 30, 30), (32, 32, 96, 96))
    bent = np.asarray(training.random_affine(image, random.Random(0)))
    before = np.asarray(image)
    assert (bent != before).any()
    assert tuple(bent[64, 64]) == (200, 30, 30) and tuple(bent[0, 0]) == (255, 255, 255)
    colored = (bent[..., 1] < 140).sum() / (64 * 64)
    assert 0.6 < colored < 1.6


def test_random_affine_uses_its_random_numbers() -> None:
    class Middle(random.Random):
        """Draws the middle of the first three intervals and the upper ends of the others."""

        calls = 0

        def uniform(self, a: float, b: float) -> float:
            self.calls += 1
            return b if self.calls > 3 else (a + b) / 2

    image = Image.new("RGB", (100, 100), "white")
    image.paste((0, 0, 0), (40, 40, 60, 60))
    rows, columns = np.nonzero(np.asarray(training.random_affine(image, Middle()))[..., 0] < 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (45, 64, 45, 64)


def test_tokenizer_round_trip() -> None:
    captions = ["man running: medium-light skin tone, facing right", "four o’clock", "face with open eyes", "T-shirt"]
    tokenizer = training.train_tokenizer(captions)
    processor = training.make_processor(tokenizer)
    for caption, expected in zip(captions, processor.clean(captions), strict=True):
        ids = processor(text=caption)["input_ids"][0]
        assert processor.post_process_captions([ids]) == [expected]
        assert tokenizer(caption)["input_ids"] == ids


def test_distillation_ramp() -> None:
    class State:
        epoch = 1.0

    model = training.LavisBlipForPreTraining(training.make_config(training.train_tokenizer(["a b"]), True))
    training.RampDistillation(epochs=4).on_step_begin(None, State(), None, model=model)
    assert model.distill_alpha == pytest.approx(0.25 * model.config.alpha)
