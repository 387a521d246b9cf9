"""Recordings of tiny models in the place of published checkpoints: a mirror folder, and entries with their sizes."""

import shutil
from pathlib import Path

import pytest

from modeling_lavis.hub import zoo
from modeling_lavis.hub.downloads import file_name
from modeling_lavis.hub.families import family_of
from tests.conversion.golden_sets import GOLDENS, TOKENIZER, settings


def tiny_entry(architecture: str, model_type: str) -> zoo.ZooEntry:
    """The published checkpoint with the sizes of its recording, which cannot be inferred from such small weights."""
    published = zoo.get(architecture, model_type)
    return zoo.ZooEntry(architecture, model_type, {**published.settings, **settings(architecture)})


def use_tiny_entries(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[zoo.ZooEntry]:
    """Replace published checkpoints in the zoo by tiny ones, for the length of a test."""
    found = [tiny_entry(*name.split("/")) for name in names]
    for entry in found:
        monkeypatch.setitem(zoo.entries(), (entry.architecture, entry.model_type), entry)
    return found


def write_tiny_mirror(folder: Path, *entries: zoo.ZooEntry) -> Path:
    """Write the recordings under the names of the published files, with tokenizer, encoders and language models."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(TOKENIZER, folder / "bert-base-uncased", dirs_exist_ok=True)
    for entry in entries:
        recording = GOLDENS / entry.architecture
        shutil.copy(recording / "checkpoint.pth", folder / file_name(entry.source))
        published = family_of(entry.architecture).published_parts
        parts = {} if published is None else published(entry.settings)
        if "vision_checkpoint" in parts:
            shutil.copy(recording / "vision.pth", folder / file_name(parts["vision_checkpoint"]))
        if "language_model" in parts:
            shutil.copytree(recording / "llm", folder / parts["language_model"], dirs_exist_ok=True)
    return folder
