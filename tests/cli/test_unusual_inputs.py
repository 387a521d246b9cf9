"""Inputs on which a command could hang, break its output or wait for the network."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_lavis.cli import output
from tests.cli.conftest import Result
from tests.cli.test_commands import ARGUMENTS
from tests.cli.test_output import Terminal

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def alarm() -> Iterator[None]:
    """Turn a command that waits for ever into a failure."""

    def stop(*_: Any) -> None:
        raise RuntimeError("the command hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    return path


@pytest.mark.usefixtures("alarm")
class TestSpecialFiles:
    @pytest.mark.parametrize("command", ARGUMENTS)
    def test_fifo(self, run: Run, photos: dict[str, Path], fifo: Path, command: str) -> None:
        """By its name, in a folder and by a pattern, a FIFO is an input that failed; the others are not affected."""
        for name in (fifo, fifo.parent, f"{fifo.parent}/*.png"):
            result = run(command, "--json", name, photos["coffee"], *ARGUMENTS[command])
            assert result.status == 1
            failed, worked = result.records
            assert failed["file"] == str(fifo) and "FIFO" in failed["error"]
            assert worked["file"] == str(photos["coffee"]) and "error" not in worked

    def test_device_and_link(self, run: Run, tmp_path: Path, fifo: Path) -> None:
        link = tmp_path / "link.png"
        link.symlink_to(fifo)
        result = run("caption", "--json", "/dev/zero", link)
        assert result.status == 1 and [record["file"] for record in result.records] == ["/dev/zero", str(link)]
        assert all("not a regular file" in record["error"] for record in result.records)

    def test_other_options(self, run: Run, photos: dict[str, Path], tmp_path: Path, fifo: Path) -> None:
        answers = run("answer", photos["coffee"], "--question", "what is this?", "--answers", fifo)
        assert answers.status == 2 and "not a regular file" in answers.err
        model = run("caption", photos["coffee"], model=str(fifo))
        assert model.status == 2 and str(fifo) in model.err
        converted = run("convert", "blip_caption", fifo, tmp_path / "out", model=None)
        assert converted.status != 0 and "FIFO" in converted.err and not (tmp_path / "out").exists()
        out = run("embed", photos["coffee"], "--output", tmp_path / "pipe.npz")
        assert out.status == 0
        os.mkfifo(tmp_path / "features.npz")
        written = run("embed", photos["coffee"], "--output", tmp_path / "features.npz")
        assert written.status == 2 and "FIFO" in written.err

    def test_model_folder_with_a_fifo(self, run: Run, photos: dict[str, Path], tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "config.json")  # transformers would wait for it
        result = run("caption", photos["coffee"], model=str(tmp_path))
        assert result.status == 2 and result.err.count("\n") == 1 and "config.json" in result.err


class TestNamesWithLineBreaks:
    NAME = "two\nlines\r\u2028and \x1b[31mcolor.png"

    @pytest.fixture
    def photo(self, photos: dict[str, Path], tmp_path: Path) -> Path:
        path = tmp_path / self.NAME
        path.write_bytes(photos["coffee"].read_bytes())
        return path

    @pytest.mark.parametrize("command", ["caption", "answer", "match", "embed"])
    def test_text_has_one_line(self, run: Run, photo: Path, command: str) -> None:
        arguments = {**ARGUMENTS, "match": ["--text", "a dog"]}[command]
        result = run(command, photo, *arguments)
        assert result.status == 0
        lines = result.out.splitlines()
        assert len(lines) == (2 if command == "match" else 1)  # a name, and a line for each text
        if command != "embed":
            assert lines[0].startswith(str(photo.parent) + r"/two\nlines\r\u2028and \x1b[31mcolor.png")
        assert "\x1b" not in result.out

    @pytest.mark.parametrize("command", ARGUMENTS)
    def test_json_has_the_name_itself(self, run: Run, photo: Path, command: str) -> None:
        result = run(command, "--json", photo.parent, *ARGUMENTS[command])
        assert [record["file"] for record in result.records] == [str(photo)]

    def test_errors_have_one_line(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / self.NAME
        path.write_text("no image")
        result = run("caption", path, tmp_path / "missing\nfile.png")
        assert result.status == 1 and len(result.err.splitlines()) == 2 and "\x1b" not in result.err
        assert r"two\nlines" in result.err and r"missing\nfile.png" in result.err


def test_progress_bar_is_not_redrawn_if_results_go_to_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    terminal = Terminal()
    with (tmp_path / "results.jsonl").open("w") as file:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr("sys.stdout", file)
        results = output.Results(as_json=True)
        count = 200
        for number in output.progress(list(range(count))):
            results.add({"file": number}, "")
    written = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in written] == list(range(count))
    # the bar itself is drawn at most ten times a second
    assert f"{count}/{count}" in terminal.getvalue() and terminal.getvalue().count("\r") < count / 4


class TestTexts:
    @pytest.mark.parametrize("text", ["", " ", "\n", "!!!"])
    @pytest.mark.parametrize("command", ["match", "embed", "answer"])
    def test_empty_texts_are_refused(self, run: Run, photos: dict[str, Path], command: str, text: str) -> None:
        flag = "--question" if command == "answer" else "--text"
        result = run(command, photos["coffee"], flag, text)
        assert result.status == 2 and result.out == "" and flag in result.err
        assert result.err.splitlines()[-1].count("error: ") == 1

    def test_one_empty_text_among_others(self, run: Run, photos: dict[str, Path]) -> None:
        result = run("match", photos["coffee"], "--text", "a dog", "")
        assert result.status == 2 and result.out == ""

    def test_empty_model(self, photos: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
        from modeling_lavis.cli.main import main

        assert main(["caption", str(photos["coffee"]), "--model", ""]) == 2
        assert capfd.readouterr().err.startswith("error: --model is an empty string.")


class TestGenerationOptions:
    def test_equal_the_pipeline(self, run: Run, models: dict[str, str], photos: dict[str, Path]) -> None:
        from modeling_lavis.pipelines.loading import load

        captioner = load("image-captioning", models["caption"], device="cpu")
        for options in (
            {"min_length": 8, "max_length": 9},
            {"min_new_tokens": 6, "max_new_tokens": 7},
            {"repetition_penalty": 5.0, "num_beams": 1, "max_new_tokens": 6},
        ):
            flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
            result = run("caption", "--json", photos["coffee"], *flags)
            expected = captioner(str(photos["coffee"]), **options)
            assert result.status == 0 and result.err == ""
            assert result.records[0]["captions"] == [row["generated_text"] for row in expected]

    def test_sampling(self, run: Run, photos: dict[str, Path]) -> None:
        """A tiny probability leaves the most likely token, as does a tiny temperature; a high one does not."""
        greedy = run("caption", "--json", photos["coffee"], "--num-beams", 1, "--max-new-tokens", 8).records
        assert run("caption", "--json", photos["coffee"], "--top-p", 1e-6, "--max-new-tokens", 8).records == greedy
        cold = run("caption", "--json", photos["coffee"], "--temperature", 1e-4, "--max-new-tokens", 8).records
        assert cold == greedy
        hot = ["--temperature", 100, "--num-return-sequences", 3, "--max-new-tokens", 8]
        captions = run("caption", "--json", photos["coffee"], *hot).records[0]["captions"]
        assert len(set(captions)) == 3

    @pytest.mark.parametrize(
        "wrong",
        [
            ["--top-p", "0"],
            ["--top-p", "1.1"],
            ["--temperature", "0"],
            ["--temperature", "nan"],
            ["--repetition-penalty", "-1"],
            ["--min-length", "0"],
            ["--min-length", "9", "--max-length", "8"],
            ["--min-new-tokens", "9", "--max-new-tokens", "8"],
            ["--min-length", "1000"],
        ],
    )
    def test_wrong_values(self, run: Run, photos: dict[str, Path], wrong: list[str]) -> None:
        result = run("caption", photos["coffee"], *wrong)
        assert result.status == 2 and result.out == "" and "Traceback" not in result.err


class TestBackground:
    def test_color(self, run: Run, tmp_path: Path) -> None:
        colors = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        alpha = np.zeros((32, 32, 1), np.uint8)
        alpha[:16] = 255
        Image.fromarray(np.concatenate([colors, alpha], axis=2)).save(tmp_path / "transparent.png")
        Image.fromarray(np.where(alpha == 0, 255, colors).astype(np.uint8)).save(tmp_path / "white.png")
        composed = run("embed", "--json", "--background", "white", tmp_path / "transparent.png")
        opaque = run("embed", "--json", tmp_path / "white.png")
        dropped = run("embed", "--json", tmp_path / "transparent.png")
        assert composed.err == "" and "background" in dropped.err
        features = [result.records[0]["image_features"] for result in (composed, opaque, dropped)]
        assert features[0] == features[1] and features[0] != features[2]

    def test_no_color(self, run: Run, photos: dict[str, Path]) -> None:
        result = run("embed", photos["coffee"], "--background", "nothing")
        assert result.status == 2 and result.err.startswith("error: --background is 'nothing'; expected")


class TestUnknownModels:
    """A command that cannot reach the Hub says so, once, within a few seconds."""

    def caption(self, endpoint: str, cache: Path, model: str, photo: Path, **environment: str) -> tuple[Any, float]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        variables.update(HF_ENDPOINT=endpoint, HF_HOME=str(cache), OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
        code = (
            "import sys, time, torch, transformers\nfrom modeling_lavis.cli.main import main\n"
            "import modeling_lavis.pipelines.loading\n"
            "begin = time.perf_counter()\nstatus = main(sys.argv[1:])\nprint(time.perf_counter() - begin)\n"
            "sys.exit(status)"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, "caption", str(photo), "--model", model],
            env={**variables, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return result, float(result.stdout.splitlines()[-1])

    def check(self, result: Any, seconds: float) -> None:
        assert result.returncode == 2, result.stderr
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: The model someone/unknown cannot be used: "), lines
        assert len(result.stdout.splitlines()) == 1
        assert seconds < 10, seconds

    def test_refused_connection(self, tmp_path: Path, photos: dict[str, Path]) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
            result, seconds = self.caption(endpoint, tmp_path, "someone/unknown", photos["coffee"])
        self.check(result, seconds)
        assert "cannot be reached" in result.stderr and "Check the name and the connection" in result.stderr

    def test_reported_before_torch_is_imported(self) -> None:
        code = (
            "import sys\nfrom modeling_lavis.cli.main import main\nmain(sys.argv[1:])\nsys.exit('torch' in sys.modules)"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        for name, message in (("no/such/model", "There is no folder"), ("someone/unknown", "HF_HUB_OFFLINE")):
            command = [sys.executable, "-c", code, "caption", "a.png", "--model", name]
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert result.returncode == 0 and message in result.stderr, result.stderr

    @pytest.mark.slow
    def test_silent_server(self, tmp_path: Path, photos: dict[str, Path]) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            result, seconds = self.caption(endpoint, tmp_path, "someone/unknown", photos["coffee"])
        self.check(result, seconds)

    @pytest.mark.slow
    def test_offline_by_choice(self, tmp_path: Path, photos: dict[str, Path]) -> None:
        result, seconds = self.caption(
            "http://127.0.0.1:1", tmp_path, "someone/unknown", photos["coffee"], HF_HUB_OFFLINE="1"
        )
        self.check(result, seconds)
        assert "HF_HUB_OFFLINE" in result.stderr

    @pytest.mark.slow
    def test_local_models_ask_nobody(self, tmp_path: Path, photos: dict[str, Path], models: dict[str, str]) -> None:
        begin = time.perf_counter()
        result, _ = self.caption("http://127.0.0.1:1", tmp_path, models["caption"], photos["coffee"])
        assert result.returncode == 0 and result.stderr == "", result.stderr
        assert time.perf_counter() - begin < 60
