"""The verbs on a model of videos: files, folders and patterns, good and broken ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_lavis.pipelines.loading import load
from tests.cli.conftest import Ran
from tests.models.video_clips import write_clip
from tests.pipelines.tiny_video_models import ANSWERS, save_video_model

Run = Callable[..., Ran]
ARGUMENTS: dict[str, list[str]] = {
    "answer": ["--question", "what is it doing?"],
    "match": ["--text", "a dog", "the man"],
    "embed": [],
}
HEADS = {"answer": "ForVideoQuestionAnswering", "match": "ForVideoTextRetrieval", "embed": "Model"}


@pytest.fixture(scope="module")
def video_models(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, str]:
    return {
        verb: str(save_video_model(tmp_path_factory.mktemp(verb), head, goldens / "tokenizer"))
        for verb, head in HEADS.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("films")
    write_clip(made / "a.mp4", frames=12)
    write_clip(made / "b.mkv", frames=20)
    (made / "in").mkdir()
    write_clip(made / "in" / "c.gif", frames=6, codec="gif", pixel_format="rgb8")
    (made / "notes.txt").write_text("no video")
    (made / "cover.png").write_bytes(b"no video either")
    return made


@pytest.mark.parametrize("verb", ARGUMENTS)
class TestEveryVerb:
    def test_files_folders_and_patterns(self, run: Run, video_models: Any, folder: Path, verb: str) -> None:
        names = [str(folder / name) for name in ("a.mp4", "b.mkv", "in/c.gif")]
        for inputs, found in (([folder], names), ([f"{folder}/*.m*"], names[:2]), (names, names)):
            ran = run(verb, "--json", "--batch-size", 2, *inputs, *ARGUMENTS[verb], model=video_models[verb])
            assert ran.status == 0 and ran.err == ""
            assert [record["file"] for record in ran.records] == found
            assert not any("error" in record for record in ran.records)

    def test_broken_files_do_not_stop_the_others(
        self, run: Run, video_models: Any, folder: Path, tmp_path: Path, verb: str
    ) -> None:
        (tmp_path / "empty.mp4").write_bytes(b"")
        (tmp_path / "text.webm").write_text("no video at all")
        inputs = [tmp_path / "empty.mp4", folder / "a.mp4", tmp_path / "text.webm", tmp_path / "missing.avi"]
        ran = run(verb, "--json", *inputs, *ARGUMENTS[verb], model=video_models[verb])
        assert ran.status == 1 and "Traceback" not in ran.err
        assert [record["file"] for record in ran.records] == [str(path) for path in inputs]
        failed = [record for record in ran.records if "error" in record]
        assert [Path(record["file"]).name for record in failed] == ["empty.mp4", "text.webm", "missing.avi"]
        for record in failed:
            assert record["file"] in record["error"] and f"error: {record['error']}\n" in ran.err

    def test_folder_without_videos(self, run: Run, video_models: Any, tmp_path: Path, verb: str) -> None:
        (tmp_path / "picture.png").touch()
        ran = run(verb, tmp_path, *ARGUMENTS[verb], model=video_models[verb])
        assert ran.status == 1 and ran.err.startswith(f"error: No video in the folder {tmp_path}; looked for .3gp .avi")


def test_answers_equal_the_pipeline(run: Run, video_models: dict[str, str], folder: Path) -> None:
    name = str(folder / "a.mp4")
    answerer = load("video-question-answering", video_models["answer"], device="cpu")
    expected = answerer(name, question="what?", top_k=2)
    ran = run("answer", "--json", "--question", "what?", "--top-k", 2, name, model=video_models["answer"])
    assert ran.records == [{"file": name, "question": "what?", "answers": expected}]
    assert {row["answer"] for row in expected} < set(ANSWERS.values())
    plain = run("answer", "--question", "what?", "--top-k", 2, name, model=video_models["answer"])
    assert plain.out.splitlines()[0] == f"{name}: {expected[0]['answer']}  {expected[0]['score']:.3f}"


def test_matches_equal_the_pipeline(run: Run, video_models: dict[str, str], folder: Path) -> None:
    name = str(folder / "b.mkv")
    matcher = load("video-text-matching", video_models["match"], device="cpu")
    ran = run("match", "--json", name, "--text", "a dog", "the man", model=video_models["match"])
    assert ran.records == [{"file": name, "matches": matcher(name, text=["a dog", "the man"])}]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_features_go_into_a_file(
    run: Run, video_models: dict[str, str], folder: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"features{suffix}"
    ran = run("embed", "--output", output, folder, "--text", "a dog", model=video_models["embed"])
    assert ran.status == 0 and ran.out == f"{output}: 3 videos, 1 texts\n"
    stored = dict(np.load(output)) if suffix == ".npz" else json.loads(output.read_text())
    assert set(stored) == {"files", "video_features", "texts", "text_features"}
    assert np.asarray(stored["video_features"]).shape == (3, 16)


def test_captions_need_another_model(run: Run, video_models: dict[str, str], folder: Path) -> None:
    ran = run("caption", folder, model=video_models["answer"])
    assert ran.status == 2 and ran.out == "" and ran.err.count("\n") == 1
    assert "image-captioning cannot use AlproForVideoQuestionAnswering" in ran.err


@pytest.mark.parametrize("wrong", [["--answers", "run,jump"], ["--num-beams", "2"], ["--answers", "a", "--top-k", "1"]])
def test_the_answers_are_those_of_the_model(
    run: Run, video_models: dict[str, str], folder: Path, wrong: list[str]
) -> None:
    ran = run("answer", "--question", "what?", *wrong, folder, model=video_models["answer"])
    assert ran.status == 2 and ran.out == ""
    assert "is a classifier over a fixed answer list" in ran.err and wrong[0] in ran.err
