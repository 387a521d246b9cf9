"""Commands with video models: files, folders, glob patterns, broken files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeling_lavis.pipelines.loading import load
from tests.cli.conftest import Result
from tests.models.video_clips import write_clip
from tests.pipelines.tiny_video_models import ANSWERS, save_video_model

Run = Callable[..., Result]
ARGUMENTS: dict[str, list[str]] = {
    "answer": ["--question", "what is it doing?"],
    "match": ["--text", "a dog", "the man"],
    "embed": [],
}
HEADS = {"answer": "ForVideoQuestionAnswering", "match": "ForVideoTextRetrieval", "embed": "Model"}


@pytest.fixture(scope="module")
def video_models(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, str]:
    return {
        command: str(save_video_model(tmp_path_factory.mktemp(command), head, goldens / "tokenizer"))
        for command, head in HEADS.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    write_clip(made / "a.mp4", frames=12)
    write_clip(made / "b.mkv", frames=20)
    (made / "in").mkdir()
    write_clip(made / "in" / "c.gif", frames=6, codec="gif", pixel_format="rgb8")
    (made / "notes.txt").write_text("no video")
    (made / "cover.png").write_bytes(b"no video either")
    return made


@pytest.mark.parametrize("command", ARGUMENTS)
class TestEveryCommand:
    def test_files_folders_and_patterns(self, run: Run, video_models: Any, folder: Path, command: str) -> None:
        names = [str(folder / name) for name in ("a.mp4", "b.mkv", "in/c.gif")]
        for inputs, found in (([folder], names), ([f"{folder}/*.m*"], names[:2]), (names, names)):
            result = run(
                command, "--json", "--batch-size", 2, *inputs, *ARGUMENTS[command], model=video_models[command]
            )
            assert result.status == 0 and result.err == ""
            assert [record["file"] for record in result.records] == found
            assert not any("error" in record for record in result.records)

    def test_broken_files_are_reported(
        self, run: Run, video_models: Any, folder: Path, tmp_path: Path, command: str
    ) -> None:
        (tmp_path / "empty.mp4").write_bytes(b"")
        (tmp_path / "text.webm").write_text("no video at all")
        inputs = [tmp_path / "empty.mp4", folder / "a.mp4", tmp_path / "text.webm", tmp_path / "missing.avi"]
        result = run(command, "--json", *inputs, *ARGUMENTS[command], model=video_models[command])
        assert result.status == 1 and "Traceback" not in result.err
        assert [record["file"] for record in result.records] == [str(path) for path in inputs]
        failed = [record for record in result.records if "error" in record]
        assert [Path(record["file"]).name for record in failed] == ["empty.mp4", "text.webm", "missing.avi"]
        for record in failed:
            assert record["file"] in record["error"] and f"error: {record['error']}\n" in result.err

    def test_folder_without_videos(self, run: Run, video_models: Any, tmp_path: Path, command: str) -> None:
        (tmp_path / "image.png").touch()
        result = run(command, tmp_path, *ARGUMENTS[command], model=video_models[command])
        assert result.status == 1 and result.err.startswith(
            f"error: No video in the folder {tmp_path}; looked for .3gp .avi"
        )


def test_answers_equal_the_pipeline(run: Run, video_models: dict[str, str], folder: Path) -> None:
    name = str(folder / "a.mp4")
    answerer = load("video-question-answering", video_models["answer"], device="cpu")
    expected = answerer(name, question="what?", top_k=2)
    result = run("answer", "--json", "--question", "what?", "--top-k", 2, name, model=video_models["answer"])
    assert result.records == [{"file": name, "question": "what?", "answers": expected}]
    assert {row["answer"] for row in expected} < set(ANSWERS.values())
    plain = run("answer", "--question", "what?", "--top-k", 2, name, model=video_models["answer"])
    assert plain.out.splitlines()[0] == f"{name}: {expected[0]['answer']}  {expected[0]['score']:.3f}"


def test_matches_equal_the_pipeline(run: Run, video_models: dict[str, str], folder: Path) -> None:
    name = str(folder / "b.mkv")
    matcher = load("video-text-matching", video_models["match"], device="cpu")
    result = run("match", "--json", name, "--text", "a dog", "the man", model=video_models["match"])
    assert result.records == [{"file": name, "matches": matcher(name, text=["a dog", "the man"])}]


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_features_in_a_file(run: Run, video_models: dict[str, str], folder: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"features{suffix}"
    result = run("embed", "--output", output, folder, "--text", "a dog", model=video_models["embed"])
    assert result.status == 0 and result.out == f"{output}: 3 videos, 1 texts\n"
    stored = dict(np.load(output)) if suffix == ".npz" else json.loads(output.read_text())
    assert set(stored) == {"files", "video_features", "texts", "text_features"}
    assert np.asarray(stored["video_features"]).shape == (3, 16)


def test_caption_with_a_video_model_is_an_error(run: Run, video_models: dict[str, str], folder: Path) -> None:
    result = run("caption", folder, model=video_models["answer"])
    assert result.status == 2 and result.out == "" and result.err.count("\n") == 1
    assert "image-captioning cannot use AlproForVideoQuestionAnswering" in result.err


@pytest.mark.parametrize("wrong", [["--answers", "run,jump"], ["--num-beams", "2"], ["--answers", "a", "--top-k", "1"]])
def test_options_of_generation_and_ranking_are_errors(
    run: Run, video_models: dict[str, str], folder: Path, wrong: list[str]
) -> None:
    result = run("answer", "--question", "what?", *wrong, folder, model=video_models["answer"])
    assert result.status == 2 and result.out == ""
    assert "is a classifier over a fixed answer list" in result.err and wrong[0] in result.err
