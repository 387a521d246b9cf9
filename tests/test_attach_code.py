"""Code in the folder of a trained model: by a function, by a command, and by registration before saving."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_lavis import (
    AlproConfig,
    AlproForVideoTextRetrieval,
    AlproProcessor,
    LavisBlipForConditionalGeneration,
    LavisBlipProcessor,
    LavisVideoProcessor,
)
from modeling_lavis.cli.main import main
from modeling_lavis.hub.portable import attach_code
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from tests.models import alpro_cases
from tests.pipelines.tiny_models import save_model
from tests.test_portable_code import run_without_package

LOAD = """
import sys
sys.modules["modeling_lavis"] = None  # importing it raises, even if it is installed
import transformers
model = getattr(transformers, {auto!r}).from_pretrained({folder!r}, trust_remote_code=True)
processor = transformers.AutoProcessor.from_pretrained({folder!r}, trust_remote_code=True)
for loaded in (model, processor):
    assert type(loaded).__module__.startswith("transformers_modules"), type(loaded)
print(type(model).__name__, type(processor).__name__)
"""


def train_captioner(folder: Path, goldens: Path) -> Trainer:
    """One step of a tiny captioner by a plain Trainer that also saves the processor."""
    source = save_model(folder / "start", "ForConditionalGeneration", goldens / "tokenizer")
    processor = LavisBlipProcessor.from_pretrained(source)
    row = {
        "pixel_values": torch.zeros(3, 32, 32),
        **{key: torch.tensor([600, 5, 3]) for key in ("input_ids", "labels")},
    }
    arguments = TrainingArguments(str(folder / "run"), max_steps=1, save_steps=1, report_to="none", use_cpu=True)
    trainer = Trainer(
        LavisBlipForConditionalGeneration.from_pretrained(source),
        arguments,
        train_dataset=[row],
        processing_class=processor,
    )
    trainer.train()
    return trainer


def loads_without_package(folder: Path, auto: str, cache: Path) -> str:
    result = run_without_package(LOAD.format(folder=str(folder), auto=auto), cache)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


@pytest.mark.slow
def test_command_on_what_a_trainer_saved(tmp_path: Path, goldens: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = train_captioner(tmp_path, goldens)
    trainer.save_model(str(tmp_path / "final"))
    checkpoint = tmp_path / "run" / "checkpoint-1"
    for folder in (checkpoint, tmp_path / "final"):
        assert not list(folder.glob("*.py"))
    capfd.readouterr()
    assert main(["attach-code", str(checkpoint), str(tmp_path / "final"), "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["folder"] for line in lines] == [str(checkpoint), str(tmp_path / "final")]
    assert lines[0]["files"] == sorted(path.name for path in checkpoint.glob("*.py")) != []
    for folder in (checkpoint, tmp_path / "final"):
        found = loads_without_package(folder, "AutoModelForImageTextToText", tmp_path / "modules")
        assert found == "LavisBlipForConditionalGeneration LavisBlipProcessor"
    again = type(trainer.model).from_pretrained(checkpoint)  # the checkpoint is otherwise the same
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.slow
def test_registered_classes_carry_code_at_every_save(
    tmp_path: Path, goldens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train_captioner(tmp_path, goldens)
    model: Any = trainer.model
    processor: Any = trainer.processing_class
    classes = (type(model.config), type(model), type(processor), type(processor.image_processor))
    for kind in classes:
        monkeypatch.setattr(kind, "_auto_class", None)  # registration is undone after the test
    type(model.config).register_for_auto_class()
    type(model).register_for_auto_class("AutoModelForImageTextToText")
    type(processor).register_for_auto_class()
    for name in ("first", "second"):
        trainer.save_model(str(tmp_path / name))
    found = loads_without_package(tmp_path / "second", "AutoModelForImageTextToText", tmp_path / "modules")
    assert found == "LavisBlipForConditionalGeneration LavisBlipProcessor"


def test_a_folder_names_no_code_that_it_lacks(tmp_path: Path, goldens: Path) -> None:
    """A model of a repository with code that is saved elsewhere, as after training, has no code there."""
    source = save_model(tmp_path / "source", "ForConditionalGeneration", goldens / "tokenizer")
    attach_code(source)
    named = json.loads((source / "config.json").read_text())["auto_map"]
    model = LavisBlipForConditionalGeneration.from_pretrained(source)
    for save in (model.save_pretrained, model.config.save_pretrained):
        save(tmp_path / "elsewhere")
        assert "auto_map" not in json.loads((tmp_path / "elsewhere" / "config.json").read_text())
    model.save_pretrained(source)
    assert json.loads((source / "config.json").read_text())["auto_map"] == named == model.config.auto_map
    model.config.auto_map = {**named, "AutoModel": "org/name--modeling_lavis_blip.LavisBlipForConditionalGeneration"}
    model.save_pretrained(tmp_path / "elsewhere")
    kept = json.loads((tmp_path / "elsewhere" / "config.json").read_text())["auto_map"]
    assert kept == {"AutoModel": "org/name--modeling_lavis_blip.LavisBlipForConditionalGeneration"}


@pytest.mark.slow
def test_videos(tmp_path: Path, goldens: Path) -> None:
    """The configuration of a video processor inside a processor, and of one that stands alone."""
    folder = tmp_path / "alpro"
    config: AlproConfig = alpro_cases.CASES[0].config()
    AlproForVideoTextRetrieval(config).save_pretrained(folder)
    tokenizer = bert_tokenizer(str(goldens / "tokenizer"))
    AlproProcessor(LavisVideoProcessor(size=32, num_frames=2), tokenizer).save_pretrained(folder)
    attach_code(folder)
    assert loads_without_package(folder, "AutoModel", tmp_path / "modules").endswith(" AlproProcessor")
    (folder / "processor_config.json").unlink()
    LavisVideoProcessor(size=32).save_pretrained(folder)
    attach_code(folder)
    stored = json.loads((folder / "video_preprocessor_config.json").read_text())
    assert stored["auto_map"]["AutoVideoProcessor"] == "video_processing_lavis.LavisVideoProcessor"


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def no_class(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": {"a": 1}}')


def a_function(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["LavisImageProcessor"]}')


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: None, "no config.json; expected a folder written by"),
        (adapter, "has an adapter.* Merge"),
        (no_json, "config.json is not valid JSON"),
        (a_list, "config.json contains a list, expected a JSON object"),
        (no_class, "names None in `architectures`; expected a model class"),
        (a_function, "names 'LavisImageProcessor' in `architectures`; expected a model class"),
    ],
)
def test_folders_without_a_model(
    write: Callable[[Path], None], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((OSError, ValueError), match=message):
        attach_code(tmp_path)
    assert main(["attach-code", str(tmp_path)]) == 1
    assert "error: " in capfd.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
