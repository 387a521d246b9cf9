"""Conversion of published checkpoints by name, on recordings of tiny models in a mirror folder."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_lavis.cli.main import main
from modeling_lavis.hub import convert, zoo, zoo_conversion
from modeling_lavis.hub.repository_check import check_repository
from modeling_lavis.hub.writing import INDEX_NAME
from tests.conversion.golden_sets import checkpoint
from tests.conversion.zoo_mirror import use_tiny_entries, write_tiny_mirror

ALPRO = ("alpro_retrieval/msrvtt", "alpro_retrieval/didemo", "alpro_qa/msrvtt", "alpro_qa/msvd")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model_class"),
    [
        ("blip_caption/base_coco", "LavisBlipForConditionalGeneration"),
        ("albef_vqa__vqav2", "AlbefForQuestionAnswering"),
        ("blip2-opt-pretrain-opt2.7b", "LavisBlip2ForConditionalGeneration"),
        ("blip2_t5/pretrain_flant5xl", "LavisBlip2ForConditionalGeneration"),
        ("blip2/pretrain", "LavisBlip2ForPreTraining"),
    ],
)
def test_command_makes_a_finished_repository(
    name: str, model_class: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = zoo.by_name(name)
    (entry,) = use_tiny_entries(monkeypatch, f"{known.architecture}/{known.model_type}")
    mirror = write_tiny_mirror(tmp_path / "mirror", entry)
    arguments = ["convert", "--zoo", name, str(tmp_path / "repository"), "--mirror", str(mirror), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model_type"] == entry.model_type and report["initialised"] == {}
    source = checkpoint(entry.architecture)
    assert report["source"] == {
        "url": entry.source,
        "size": source.stat().st_size,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    assert entry.source in (tmp_path / "repository" / "README.md").read_text()
    assert type(AutoModel.from_pretrained(tmp_path / "repository")).__name__ == model_class
    AutoProcessor.from_pretrained(tmp_path / "repository")
    check_repository(tmp_path / "repository", entry)


@pytest.mark.slow
def test_family_goes_on_after_a_failure_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = use_tiny_entries(monkeypatch, *ALPRO)
    mirror = write_tiny_mirror(tmp_path / "mirror", *entries)
    damaged = mirror / "alpro_didemo_retrieval.pt"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:1000])
    command = ["convert", "--all", "alpro", str(tmp_path / "zoo"), "--mirror", str(mirror)]

    assert main([*command, "--json"]) == 1
    printed = capsys.readouterr()
    results = {result["name"]: result for result in json.loads(printed.out)}
    assert [result["status"] for result in results.values()] == ["converted", "failed", "converted", "converted"]
    assert "truncated" in results["alpro_retrieval__didemo"]["message"]
    assert results["alpro_qa__msvd"]["report"]["source"]["url"].endswith("alpro_msvd_qa.pth")
    assert "alpro_retrieval__didemo: failed" in printed.err
    folders = {entry.repository for entry in entries}
    assert {path.name for path in (tmp_path / "zoo").iterdir()} == folders - {"alpro-retrieval-didemo"}

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "zoo").rglob("*.safetensors")}
    damaged.write_bytes(whole)
    assert main(command) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["alpro_retrieval__msrvtt", "finished"],
        ["alpro_retrieval__didemo", "converted"],
        ["alpro_qa__msrvtt", "finished"],
        ["alpro_qa__msvd", "finished"],
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before

    weights = tmp_path / "zoo" / "alpro-qa-msvd" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(command) == 1
    assert "alpro_qa__msvd: failed" in (printed := capsys.readouterr()).err and "--overwrite" in printed.out
    assert main([*command, "--overwrite"]) == 0
    check_repository(tmp_path / "zoo" / "alpro-qa-msvd", entries[3])


@pytest.mark.slow
def test_family_is_uploaded_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was finished before: its upload may have failed."""
    (entry,) = use_tiny_entries(monkeypatch, "alpro_qa/msvd")
    mirror, pushed = write_tiny_mirror(tmp_path / "mirror", entry), []

    def push(folder: Path, repo_id: str) -> str:
        pushed.append((folder.name, repo_id))
        if len(pushed) == 1:
            raise OSError("no connection")
        return f"https://hub.example/{repo_id}"

    for module in (convert, zoo_conversion):
        monkeypatch.setattr(module, "publish_conversion", push)
    statuses = [
        zoo_conversion.convert_all([entry], tmp_path / "zoo", mirror=mirror, push_to_hub="org")[0].status
        for _ in range(2)
    ]
    assert statuses == ["failed", "finished"]
    assert pushed == [("alpro-qa-msvd", "org/alpro-qa-msvd")] * 2


@pytest.mark.slow
def test_check_finds_what_is_wrong_with_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry, other) = use_tiny_entries(monkeypatch, "blip_retrieval/coco", "blip_retrieval/flickr")
    mirror = write_tiny_mirror(tmp_path / "mirror", entry)
    folder = tmp_path / "repository"
    zoo_conversion.convert_entry(entry, folder, mirror=mirror, max_shard_size="100KB")
    check_repository(folder, entry)
    with pytest.raises(ValueError, match="is a repository of something else"):
        check_repository(folder, other)
    for damage, problem in (
        (lambda: sorted(folder.glob("model-*.safetensors"))[1].unlink(), "missing or damaged"),
        (lambda: (folder / "tokenizer.json").write_text("{"), "not a whole repository"),
        (lambda: (folder / "config.json").write_text("{"), "not a whole repository"),
        (lambda: (folder / "README.md").unlink(), "not a whole repository"),
        (lambda: (folder / INDEX_NAME).write_text("[" * 100_000), "is not an index of weights"),
        (lambda: (folder / INDEX_NAME).write_text('{"metadata": {}, "weight_map": {"a": "../b"}}'), "its own folder"),
    ):
        zoo_conversion.convert_entry(entry, folder, mirror=mirror, max_shard_size="100KB", overwrite=True)
        damage()
        with pytest.raises((OSError, ValueError), match=problem):
            check_repository(folder, entry)


@pytest.mark.slow
def test_checkpoint_of_ones_own_with_a_trained_image_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that trained the image encoder saves it, so the published one is left out."""
    (entry,) = use_tiny_entries(monkeypatch, "blip2/pretrain")
    mirror = write_tiny_mirror(tmp_path / "mirror", entry)
    state = dict(torch.load(checkpoint("blip2"), weights_only=True)["model"])
    encoder = torch.load(mirror / "eva_vit_g.pth", weights_only=True)
    depth = entry.settings["vision"]["depth"]
    state |= {
        f"visual_encoder.{name}": value.float()
        for name, value in encoder.items()
        if not name.startswith((f"blocks.{depth}.", "norm.", "head."))
    }
    torch.save({"model": state}, tmp_path / "own.pth")
    report = zoo_conversion.convert_entry(entry, tmp_path / "own", checkpoint=tmp_path / "own.pth", mirror=mirror)
    assert not report.initialised and report.source is None
    assert "no published score is claimed" in (tmp_path / "own" / "README.md").read_text().replace("\n", " ")


def test_invalid_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, message in (
        (["--zoo", "blip_caption/base", "out"], 1, "such as blip_caption/base_coco"),
        (["--all", "clip", "out"], 1, "expected one of albef, alpro, blip, blip2"),
        (
            ["--zoo", "blip_caption/base_coco", "--model-type", "base_coco", "out"],
            2,
            "--model-type is part of the name",
        ),
        (["blip_caption", "file.pth", "out", "--mirror", "folder"], 2, "--mirror is for --zoo and --all"),
        (["--zoo", "blip_caption/base_coco", "--all", "blip", "out"], 2, "not allowed with"),
        (
            ["--all", "alpro", "out", "--push-to-hub", "org/name"],
            1,
            "'org/name/alpro-retrieval-msrvtt' is not the name",
        ),
        (["--zoo", "blip_caption/base_coco"], 2, "required: OUTPUT"),
        (["--zoo", "blip_caption/base_coco", str(tmp_path / "out"), "--mirror", str(tmp_path)], 1, "has no blip_coco"),
    ):
        assert main(["convert", *arguments]) == status, arguments
        assert message in capsys.readouterr().err, arguments


def test_names_of_repositories_and_files_are_unique() -> None:
    entries = list(zoo.entries().values())
    assert len({entry.repository for entry in entries}) == len(entries) == 41
    assert sum(len(zoo_conversion.entries_of(family)) for family in zoo.FAMILIES) == 38
    assert len({entry.source for entry in entries}) == len({entry.source.rpartition("/")[2] for entry in entries})
    for entry in entries:
        for name in (entry.name, f"{entry.architecture}/{entry.model_type}", entry.repository):
            assert zoo.by_name(name) is entry
