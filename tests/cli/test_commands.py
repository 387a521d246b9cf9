"""Commands with tiny models on photos: output, files, errors and exit status."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
from PIL import Image

from modeling_lavis.cli.main import main
from modeling_lavis.pipelines.loading import load
from tests.cli.conftest import Result
from tests.pipelines.tiny_models import save_corrupt_images, save_images_of_every_mode

Run = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS: dict[str, list[str]] = {
    "caption": ["--max-new-tokens", "4"],
    "answer": ["--question", "what is this?", "--max-new-tokens", "3"],
    "match": ["--text", "a dog", "the man"],
    "embed": [],
}


def assert_close(left: Any, right: Any, tolerance: float = 1e-4) -> None:
    """JSON values are equal, numbers up to a tolerance."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            assert_close(left[name], right[name], tolerance)
    elif isinstance(left, list):
        assert len(left) == len(right)
        for pair in zip(left, right):
            assert_close(*pair, tolerance)
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=tolerance)
    else:
        assert left == right


@pytest.mark.parametrize("command", ARGUMENTS)
class TestEveryCommand:
    def test_broken_files_are_reported(self, run: Run, photos: dict[str, Path], tmp_path: Path, command: str) -> None:
        bad = save_corrupt_images(tmp_path, photos["astronaut"])
        inputs = [bad[0], photos["coffee"], bad[1], bad[2], photos["rocket"], bad[3]]
        result = run(command, "--json", "--batch-size", 2, *inputs, *ARGUMENTS[command])
        assert result.status == 1
        assert [record["file"] for record in result.records] == [str(path) for path in inputs]
        failed = [record for record in result.records if "error" in record]
        assert [record["file"] for record in failed] == [str(path) for path in bad]
        for path, record in zip(bad, failed):
            assert set(record) == {"file", "error"} and path.name in record["error"]
            assert f"error: {record['error']}\n" in result.err
        assert result.err.count("error:") == 4 and "Traceback" not in result.err
        good = run(command, "--json", photos["coffee"], photos["rocket"], *ARGUMENTS[command])
        assert good.status == 0 and good.err == ""
        again = [record for record in result.records if "error" not in record]
        assert len(again) == 2
        for left, right in zip(again, good.records, strict=True):
            assert_close(left, right)

    def test_folders_and_glob_patterns(
        self, run: Run, photos: dict[str, Path], tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("b.png", "a.png", "in/ü.png", ".hidden.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(photos["chelsea"].read_bytes())
        (tmp_path / "notes.txt").write_text("not an image")
        monkeypatch.chdir(tmp_path.parent)
        folder = Path(tmp_path.name)
        whole = run(command, "--json", folder, *ARGUMENTS[command])
        assert [record["file"] for record in whole.records] == [str(folder / n) for n in ("a.png", "b.png", "in/ü.png")]
        matched = run(command, "--json", f"{folder}/*.png", *ARGUMENTS[command])
        assert [record["file"] for record in matched.records] == [str(folder / n) for n in ("a.png", "b.png")]
        recursive = run(command, "--json", f"{folder}/**/*.png", *ARGUMENTS[command])
        assert len(recursive.records) == 3
        assert whole.status == matched.status == recursive.status == 0

    def test_no_matching_files(self, run: Run, tmp_path: Path, command: str) -> None:
        (tmp_path / "empty").mkdir()
        result = run(command, "--json", tmp_path / "empty", f"{tmp_path}/*.jpg", tmp_path, *ARGUMENTS[command])
        assert result.status == 1
        assert [record["error"].split(";")[0] for record in result.records] == [
            f"No image in the folder {tmp_path / 'empty'}",
            f"No file matches {tmp_path}/*.jpg.",
            f"No image in the folder {tmp_path}",
        ]

    def test_images_of_every_mode(self, run: Run, tmp_path: Path, command: str) -> None:
        paths = save_images_of_every_mode(tmp_path)
        result = run(command, "--json", tmp_path, *ARGUMENTS[command])
        assert result.status == 0
        assert result.err.startswith("warning: An image has transparent pixels.") and result.err.count("\n") == 1
        assert sorted(record["file"] for record in result.records) == sorted(map(str, paths))

    def test_model_of_another_task(
        self, run: Run, models: dict[str, str], photos: dict[str, Path], command: str
    ) -> None:
        wrong = models["caption" if command == "answer" else "answer"]
        result = run(command, photos["coffee"], *ARGUMENTS[command], model=wrong)
        assert result.status == 2 and result.out == ""
        assert re.match(
            rf"error: The model {wrong} cannot be used: .* cannot use LavisBlipFor\w+; it needs", result.err
        )
        assert result.err.count("\n") == 1

    @pytest.mark.parametrize("content", [None, "{", '{"model_type": "lavis_blip", "vision_config": 3}'])
    def test_unusable_repository(
        self, run: Run, photos: dict[str, Path], tmp_path: Path, command: str, content: str | None
    ) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        result = run(command, photos["coffee"], *ARGUMENTS[command], model=str(tmp_path))
        assert result.status == 2 and result.out == ""
        assert result.err.startswith(f"error: The model {tmp_path} cannot be used: ") and result.err.count("\n") == 1

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (["--device", "abacus"], "--device is abacus, which cannot be used"),
            (["--dtype", "float8"], "invalid choice: 'float8'"),
            (["--batch-size", "0"], "'0' is not a positive integer"),
            (["--colour", "red"], "unrecognized arguments: --colour"),
        ],
    )
    def test_wrong_arguments(
        self, run: Run, photos: dict[str, Path], command: str, wrong: list[str], message: str
    ) -> None:
        result = run(command, photos["coffee"], *ARGUMENTS[command], *wrong)
        assert result.status == 2 and result.out == "" and message in result.err

    def test_bfloat16(self, run: Run, photos: dict[str, Path], command: str) -> None:
        made = {
            dtype: run(command, "--json", "--dtype", dtype, photos["coffee"], *ARGUMENTS[command])
            for dtype in ("bfloat16", "float32")
        }
        assert [result.status for result in made.values()] == [0, 0]
        (low,), (exact,) = (result.records for result in made.values())
        assert low.keys() == exact.keys() and low["file"] == exact["file"] == str(photos["coffee"])
        if command in ("match", "embed"):
            assert_close(low, exact, tolerance=0.05)
            assert low != exact, "bfloat16 rounds"


#: commands that no table of arguments names
OTHER_COMMANDS = (
    "explain",
    "capfilt",
    "merge-shards",
    "index",
    "search",
    "evaluate",
    "convert",
    "export",
    "zoo",
    "verify",
    "attach-code",
    "publish",
    "recipes",
    "train",
    "page",
    "demo",
)


class TestCaption:
    def test_equals_the_pipeline(self, run: Run, models: dict[str, str], photos: dict[str, Path]) -> None:
        files = [str(path) for path in photos.values()]
        captioner = load("image-captioning", models["caption"], device="cpu")
        options = ["--prompt", "a dog", "--num-beams", 4, "--max-length", 7, "--num-return-sequences", 2]
        result = run("caption", "--json", *options, *files)
        expected = captioner(files, prompt="a dog", num_beams=4, max_length=7, num_return_sequences=2)
        assert_close(
            result.records,
            [
                {
                    "file": file,
                    "captions": [row["generated_text"] for row in rows],
                    "scores": [row["score"] for row in rows],
                }
                for file, rows in zip(files, expected)
            ],
        )
        plain = run("caption", *options, *files)
        lines = [f"{record['file']}: {caption}" for record in result.records for caption in record["captions"]]
        assert plain.out.splitlines() == lines and plain.err == ""

    def test_num_return_sequences(self, run: Run, photos: dict[str, Path]) -> None:
        result = run("caption", "--num-return-sequences", 4, "--max-new-tokens", 2, "--json", photos["coffee"])
        assert result.status == 0 and len(result.records[0]["captions"]) == 4
        result = run("caption", "--num-return-sequences", 4, "--num-beams", 2, photos["coffee"])
        assert result.status == 2 and "needs at least as many beams" in result.err

    def test_max_length_excludes_max_new_tokens(self, run: Run, photos: dict[str, Path]) -> None:
        result = run("caption", "--max-length", 5, "--max-new-tokens", 4, photos["coffee"])
        assert result.status == 2 and "not allowed with argument" in result.err

    def test_file_names_that_are_not_unicode(self, run: Run, photos: dict[str, Path], tmp_path: Path) -> None:
        name = os.fsdecode(b"half \xff.png")
        try:
            (tmp_path / name).write_bytes(photos["coffee"].read_bytes())
        except OSError:
            pytest.skip("this file system takes Unicode names only")
        plain = run("caption", "--max-new-tokens", 2, tmp_path)
        assert plain.status == 0 and r"half \udcff.png: " in plain.out
        result = run("caption", "--json", "--max-new-tokens", 2, tmp_path)
        assert result.records[0]["file"] == str(tmp_path / name)


class TestAnswer:
    def test_answers_from_a_list_or_a_file(self, run: Run, photos: dict[str, Path], tmp_path: Path) -> None:
        lines, array = tmp_path / "lines.txt", tmp_path / "array.json"
        lines.write_text("dog\nthe man\n\nred house\ndog\n", encoding="utf-8")
        array.write_text(json.dumps(["dog", "the man", "red house"]))
        rankings = [
            run("answer", "--json", "--question", "what?", "--answers", answers, "--top-k", 2, photos["coffee"])
            for answers in ("dog, the man,red house", lines, array)
        ]
        assert rankings[0].records == rankings[1].records == rankings[2].records
        rows = rankings[0].records[0]["answers"]
        assert len(rows) == 2 and rows[0]["score"] >= rows[1]["score"]
        plain = run("answer", "--question", "what?", "--answers", lines, "--top-k", 2, photos["coffee"])
        assert plain.out.splitlines()[0] == f"{photos['coffee']}: {rows[0]['answer']}  {rows[0]['score']:.3f}"

    def test_generated_answers(self, run: Run, models: dict[str, str], photos: dict[str, Path]) -> None:
        answerer = load("image-question-answering", models["answer"], device="cpu")
        result = run("answer", "--json", "--question", "what is this?", "--max-new-tokens", 3, photos["coffee"])
        expected = answerer(photos["coffee"], question="what is this?", max_new_tokens=3)
        assert result.records == [{"file": str(photos["coffee"]), "question": "what is this?", "answers": expected}]

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ([], "There is no question. Give --question."),
            (["--question", "what?", "--top-k", "3"], "--top-k cannot be used without --answers"),
            (["--question", "what?", "--answers", "a,b", "--num-beams", "2"], "cannot be used with --answers"),
            (["--question", "what?", "--answers", " , "], "contains no answer"),
            (
                ["--question", "what?", "--answers", "missing.txt"],
                "--answers is missing.txt, but there is no such file",
            ),
        ],
    )
    def test_wrong_arguments(self, run: Run, photos: dict[str, Path], wrong: list[str], message: str) -> None:
        result = run("answer", photos["coffee"], *wrong)
        assert result.status == 2 and result.out == "" and message in result.err

    @pytest.mark.parametrize("content", [b"[1, 2]", b"[broken", b"\xff\xfe\x00x"])
    def test_broken_answer_files(self, run: Run, photos: dict[str, Path], tmp_path: Path, content: bytes) -> None:
        (tmp_path / "answers.json").write_bytes(content)
        result = run("answer", photos["coffee"], "--question", "what?", "--answers", tmp_path / "answers.json")
        assert result.status == 2 and "answers.json" in result.err and result.err.count("\n") == 1

    def test_model_is_required(self, run: Run, photos: dict[str, Path]) -> None:
        result = run("answer", photos["coffee"], "--question", "what?", model=None)
        assert result.status == 2 and "required: --model" in result.err


class TestMatch:
    def test_equals_the_pipeline(self, run: Run, models: dict[str, str], photos: dict[str, Path]) -> None:
        files, texts = [str(path) for path in photos.values()], ["a dog", "the man", "red house"]
        matcher = load("image-text-matching", models["match"], device="cpu", batch_size=8)
        result = run("match", "--json", *files, "--text", *texts[:2], "--text", texts[2])
        assert [record["file"] for record in result.records] == files
        assert [record["matches"] for record in result.records] == matcher(files, text=texts)
        plain = run("match", files[0], "--text", "a dog")
        row = matcher(files[0], text="a dog")[0]
        expected = f"{files[0]}\n  match {row['score']:.3f}  cosine {row['similarity']:+.3f}  a dog\n"
        assert plain.out == expected

    def test_text_is_required(self, run: Run, photos: dict[str, Path]) -> None:
        assert run("match", photos["coffee"]).status == 2


class TestEmbed:
    def read(self, path: Path) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return list(arrays["files"]), arrays["image_features"], list(arrays["texts"]), arrays["text_features"]
        if path.suffix == ".json":
            data = json.loads(path.read_text())
            return data["files"], np.array(data["image_features"]), data["texts"], np.array(data["text_features"])
        with safetensors.safe_open(path, "np") as file:
            names = {key: json.loads(value) for key, value in file.metadata().items()}
            return names["files"], file.get_tensor("image_features"), names["texts"], file.get_tensor("text_features")

    @pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors"])
    def test_files(
        self, run: Run, models: dict[str, str], photos: dict[str, Path], tmp_path: Path, suffix: str
    ) -> None:
        paths, texts = [str(path) for path in photos.values()], ["a dog", "naïve 猫"]
        output = tmp_path / f"features{suffix}"
        output.write_text("old")
        result = run("embed", "--output", output, *paths, "--text", *texts)
        assert result.status == 0 and result.out == f"{output}: 4 images, 2 texts\n"
        files, image_features, names, text_features = self.read(output)
        extractor = load("multimodal-feature-extraction", models["embed"], device="cpu")
        assert files == paths and names == texts
        expected = [row["image_features"] for row in extractor(paths, features="image_features")]
        np.testing.assert_allclose(image_features, expected, atol=1e-5)
        expected = [row["text_features"] for row in extractor(text=texts)]
        np.testing.assert_allclose(text_features, expected, atol=1e-5)
        assert list(tmp_path.iterdir()) == [output]

    def test_texts_alone_on_stdout(self, run: Run) -> None:
        result = run("embed", "--text", "a dog", "a man")
        assert [record["text"] for record in result.records] == ["a dog", "a man"]
        assert all(np.linalg.norm(record["text_features"]) == pytest.approx(1, abs=1e-4) for record in result.records)

    def test_failed_inputs_are_not_in_the_file(self, run: Run, photos: dict[str, Path], tmp_path: Path) -> None:
        output = tmp_path / "features.json"
        result = run("embed", "--json", "--output", output, tmp_path / "missing.png", photos["coffee"])
        assert result.status == 1
        assert [sorted(record) for record in result.records] == [["error", "file"], ["files", "output", "texts"]]
        data = json.loads(output.read_text())
        assert data["files"] == [str(photos["coffee"])] and "texts" not in data

    def test_no_file_when_all_inputs_failed(self, run: Run, tmp_path: Path) -> None:
        result = run("embed", "--output", tmp_path / "features.npz", tmp_path / "missing.png")
        assert result.status == 1 and "was not written" in result.err and not list(tmp_path.iterdir())

    def test_failed_write_keeps_the_old_file(
        self, run: Run, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = tmp_path / "features.npz"
        output.write_text("old")

        def savez(file: Any, **arrays: Any) -> None:
            file.write(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr(np, "savez", savez)
        result = run("embed", "--output", output, photos["coffee"])
        assert result.status == 1 and "no space left" in result.err
        assert list(tmp_path.iterdir()) == [output] and output.read_text() == "old"

    def test_wrong_outputs(self, run: Run, photos: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "folder.npz").mkdir()
        for name, message in (
            ("features.pt", "ends in .npz"),
            ("folder.npz", "is a folder"),
            ("missing/features.npz", "not a writable folder"),
        ):
            result = run("embed", "--output", tmp_path / name, photos["coffee"])
            assert result.status == 2 and message in result.err
        assert run("embed").status == 2


class TestConvert:
    def test_convert_and_caption(self, run: Run, goldens: Path, photos: dict[str, Path], tmp_path: Path) -> None:
        """A recorded checkpoint is converted, and the result captions a photo."""
        folder = goldens / "blip_caption"
        options = ["--config", folder / "config.json", "--tokenizer", goldens / "tokenizer"]
        result = run("convert", "blip_caption", folder / "checkpoint.pth", tmp_path / "model", *options, model=None)
        assert result.status == 0 and (tmp_path / "model" / "README.md").is_file()
        result = run("caption", "--json", photos["coffee"], model=str(tmp_path / "model"))
        assert result.status == 0 and isinstance(result.records[0]["captions"][0], str)

    def test_errors(self, run: Run, tmp_path: Path) -> None:
        result = run("convert", "blip_caption", tmp_path / "missing.pth", tmp_path / "model", model=None)
        assert result.status == 1 and "missing.pth" in result.err and not list(tmp_path.iterdir())
        assert run("convert", "blip_caption", model=None).status == 2


class TestDemo:
    @pytest.fixture
    def photo_captions(self, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Captions of photos that replace the embedded images, because the tiny model has another vocabulary."""
        names = [
            "a woman in a suit",
            "a cat",
            "a red cup of coffee with a very long name that needs two lines",
            "rocket",
        ]
        images = [SimpleNamespace(path=path, caption=name) for path, name in zip(photos.values(), names)]
        monkeypatch.setattr("modeling_lavis.cli.demo.demo_images", lambda: images)
        return names

    def test_table_and_sheet(
        self, run: Run, photo_captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "120")
        result = run("demo")
        assert result.status == 0 and result.err == ""
        lines = result.out.splitlines()
        assert [line.split("  ")[0] for line in lines[2:6]] == [
            name if len(name) <= 37 else name[:34] + "..." for name in photo_captions
        ]
        assert lines[-1] == "Contact sheet: modeling_lavis_demo.png"
        with Image.open("modeling_lavis_demo.png") as sheet:
            assert sheet.format == "PNG" and sheet.width > 1000
            assert len(sheet.getcolors(1 << 20) or []) > 1000, "the photos are not on the sheet"
        assert os.listdir() == ["modeling_lavis_demo.png"]

    def test_json(self, run: Run, photo_captions: list[str], models: dict[str, str], tmp_path: Path) -> None:
        result = run("demo", "--json", "--output", tmp_path / "sheet.png")
        *rows, summary = result.records
        assert [row["name"] for row in rows] == photo_captions and summary["images"] == 4
        assert summary["contact_sheet"] == str(tmp_path / "sheet.png") and (tmp_path / "sheet.png").is_file()
        files = [row["file"] for row in rows]
        searcher = load("image-text-retrieval", models["demo"], device="cpu")
        for row, found, texts in zip(
            rows, searcher(photo_captions, images=files, top_k=4), searcher(files, texts=photo_captions)
        ):
            assert row["rank"] == 1 + [files.index(row["file"]) == hit["index"] for hit in found].index(True)
            assert row["best_match"] == texts[0]["text"]
        assert summary["images_found_by_the_name"] == sum(row["rank"] == 1 for row in rows)

    def test_embedded_model(self, run: Run, tmp_path: Path) -> None:
        """`make demo`: without options, most of the embedded images are captioned and retrieved correctly."""
        result = run("demo", "--json", "--output", tmp_path / "sheet.png", model=None)
        *rows, summary = result.records
        assert result.status == 0 and result.err == "" and summary["images"] == len(rows) >= 8
        for name in ("captions_equal_to_the_name", "names_found_by_the_image", "images_found_by_the_name"):
            assert summary[name] >= len(rows) / 2
        captions = run("caption", "--json", *(row["file"] for row in rows), model=None)
        assert [record["captions"] for record in captions.records] == [[row["caption"]] for row in rows]

    def test_wrong_output(self, run: Run, tmp_path: Path) -> None:
        result = run("demo", "--output", tmp_path / "sheet.jpg")
        assert result.status == 2 and "ends in .png" in result.err


class TestCommand:
    def python(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "modeling_lavis", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            timeout=300,
        )

    def test_subprocess(self, models: dict[str, str], photos: dict[str, Path], tmp_path: Path) -> None:
        """In the C locale: one line on stdout per caption, one line on stderr per broken file, the exit status."""
        (tmp_path / "фото.png").write_bytes(photos["chelsea"].read_bytes())
        (tmp_path / "broken.png").write_text("not an image")
        environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        options = ["--model", models["caption"], "--device", "cpu", "--max-new-tokens", "3"]
        result = self.python("caption", *options, tmp_path, **environment)
        assert result.returncode == 1, result.stderr.decode()
        assert result.stdout.count(b"\n") == 1 and result.stdout.startswith(os.fsencode(tmp_path))
        assert result.stderr.count(b"\n") == 1 and b"broken.png" in result.stderr

    @pytest.mark.slow
    def test_demo_has_no_warnings_of_other_packages(self, tmp_path: Path) -> None:
        result = self.python("demo", "--device", "cpu", "--output", tmp_path / "sheet.png")
        assert (result.returncode, result.stderr.decode()) == (0, "")

    @pytest.mark.slow
    def test_closed_pipe(self, models: dict[str, str], photos: dict[str, Path]) -> None:
        command = [sys.executable, "-m", "modeling_lavis", "caption", "--model", models["caption"], "--device", "cpu"]
        command += ["--json", "--max-new-tokens", "2", "--batch-size", "1", *map(str, list(photos.values()) * 3)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=300) in (0, 1) and b"Traceback" not in errors and b"Exception" not in errors

    def test_help_lists_commands_without_importing_torch(self) -> None:
        code = "import sys; from modeling_lavis.cli.main import main; print(main(['--help']), 'torch' in sys.modules)"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert result.stdout.splitlines()[-1] == "0 False"
        commands = re.findall(r"^    ([a-z-]+)\s", result.stdout, re.MULTILINE)
        assert commands == [*ARGUMENTS, *OTHER_COMMANDS]

    @pytest.mark.parametrize("command", [*ARGUMENTS, *OTHER_COMMANDS])
    def test_help_of_every_command(self, capfd: pytest.CaptureFixture[str], command: str) -> None:
        assert main([command, "--help"]) == 0
        assert f"usage: modeling-lavis {command}" in capfd.readouterr().out

    def test_missing_package_is_named(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """The arguments of `train` need transformers' Trainer, which needs accelerate."""
        monkeypatch.setattr("modeling_lavis.import_utils.is_available", lambda module: module != "accelerate")
        assert main(["train", "blip-caption-coco"]) == 1
        error = capfd.readouterr().err
        assert error.startswith("error: ") and 'pip install "modeling-lavis[train]"' in error

    def test_version_and_unknown_commands(self, capfd: pytest.CaptureFixture[str]) -> None:
        import modeling_lavis

        assert main(["--version"]) == 0
        assert capfd.readouterr().out == f"modeling-lavis {modeling_lavis.__version__}\n"
        assert main([]) == 2 and "list the training recipes" in capfd.readouterr().err
        assert main(["describe"]) == 2
