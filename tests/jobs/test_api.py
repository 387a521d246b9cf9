"""Jobs with models, from Python and from the command line."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from modeling_lavis import jobs
from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.pipelines.loading import load
from tests.pipelines.tiny_models import save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(embedded_images()[:10]):
        with PIL.Image.open(image.path) as opened:
            opened.convert("RGB").save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def captioner() -> Any:
    return load("image-captioning", embedded_model_path(), device="cpu")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_captions_and_scores_are_those_of_the_pipeline(pictures: Path, captioner: Any, tmp_path: Path) -> None:
    summary = jobs.caption(pictures, captioner, tmp_path / "out.jsonl", batch_size=4, num_beams=3)
    assert (summary.inputs, summary.written, summary.failed) == (11, 10, 1)
    rows = lines(tmp_path / "out.jsonl")
    found = captioner([row["file"] for row in rows], batch_size=4, num_beams=3)
    for row, (expected,) in zip(rows, found, strict=True):
        assert row["caption"] == expected["generated_text"]
        assert row["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert row["beam_score"] == pytest.approx(expected["beam_score"], abs=1e-4)
    assert jobs.caption(pictures, captioner, tmp_path / "out.jsonl", batch_size=4, num_beams=3).was_finished


def test_another_prompt_or_model_is_refused(pictures: Path, captioner: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    jobs.caption(pictures, captioner, output, num_beams=1)
    with pytest.raises(jobs.JobError, match=r"options\.prompt was null, now it is \"a\""):
        jobs.caption(pictures, captioner, output, num_beams=1, prompt="a")
    with pytest.raises(jobs.JobError, match=r"options\.num_beams was 1, now it is 2"):
        jobs.caption(pictures, captioner, output, num_beams=2)
    other = load("image-captioning", embedded_model_path(), device="cpu")
    with torch.no_grad():
        next(iter(other.model.parameters())).mul_(1.5)
    with pytest.raises(jobs.JobError, match=r"model\.weights was"):
        jobs.caption(pictures, other, output, num_beams=1)
    again = jobs.caption(pictures, captioner, output, num_beams=2, restart=True)
    assert again.written == 10 and not again.was_finished


def test_sampling_is_the_same_after_an_interruption(pictures: Path, captioner: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"do_sample": True, "num_beams": 1, "top_p": 0.9, "batch_size": 2, "block_size": 4}
    jobs.caption(pictures, captioner, tmp_path / "whole.jsonl", **options)
    run, calls = captioner.model.generate, []

    def stop(**kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(**kwargs)

    captioner.model.generate = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            jobs.caption(pictures, captioner, tmp_path / "part.jsonl", **options)
    finally:
        del captioner.model.generate
    torch.manual_seed(1)
    jobs.caption(pictures, captioner, tmp_path / "part.jsonl", **options)
    assert (tmp_path / "part.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    jobs.caption(pictures, captioner, tmp_path / "other.jsonl", seed=1, **options)
    assert (tmp_path / "other.jsonl").read_bytes() != (tmp_path / "whole.jsonl").read_bytes()


class TestScores:
    """Scores of generated texts, computed again from one pass over the whole text."""

    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Any:
        folder = save_model(tmp_path_factory.mktemp("captioner"), "ForConditionalGeneration", goldens / "tokenizer")
        return load("image-captioning", folder, device="cpu")

    def log_probabilities(self, run: Any, photo: Path, ids: torch.Tensor) -> torch.Tensor:
        pixels = run.processor(images=str(photo), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = run.model.encode_images(pixels)
            from transformers.modeling_outputs import BaseModelOutput

            encoded = BaseModelOutput(last_hidden_state=states)
            logits = run.model(decoder_input_ids=ids[:, :-1], encoder_outputs=encoded).logits
        return logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None])[0, :, 0]

    @pytest.mark.parametrize(
        "options", [{"num_beams": 1}, {"num_beams": 1, "do_sample": True, "temperature": 2.0}, {"num_beams": 3}]
    )
    def test_mean_log_probability(self, run: Any, photos: dict[str, Path], options: dict[str, Any]) -> None:
        generate, seen = run.model.generate, []
        run.model.generate = lambda **kwargs: seen.append(generate(**kwargs)) or seen[-1]
        try:
            torch.manual_seed(0)
            (result,) = run(str(photos["coffee"]), max_length=8, **options)
        finally:
            del run.model.generate
        ids = seen[0].sequences
        ids = ids[:, : int((ids != run.model.config.pad_token_id).sum())]
        found = self.log_probabilities(run, photos["coffee"], ids)
        assert result["score"] == pytest.approx(float(found.mean()), abs=1e-4)
        if options["num_beams"] > 1:
            # parity: the original divides by the length with the start token and without the end token
            ended = int(ids[0, -1] == run.model.config.eos_token_id)
            assert result["beam_score"] == pytest.approx(float(found.sum()) / (ids.shape[1] - ended), abs=1e-4)
        else:
            assert "beam_score" not in result

    def test_several_sequences_and_prompts(self, run: Any, photos: dict[str, Path]) -> None:
        files = [str(photos["coffee"]), str(photos["rocket"])]
        rows = run(files, prompt=["a dog", ""], batch_size=2, num_beams=3, num_return_sequences=2, max_new_tokens=4)
        for row in rows:
            assert row[0]["beam_score"] >= row[1]["beam_score"]
            assert all(entry["score"] < 0 for entry in row)
        alone = run(files[0], prompt="a dog", num_beams=3, num_return_sequences=2, max_new_tokens=4)
        assert [entry["score"] for entry in rows[0]] == pytest.approx([entry["score"] for entry in alone], abs=1e-4)


def test_match_answer_and_embed(pictures: Path, tmp_path: Path, goldens: Path) -> None:
    model = embedded_model_path()
    rows = [{"image": str(path), "caption": f"a dog {path.stem}"} for path in sorted(pictures.glob("?.png"))]
    own = list(jobs.match(rows, model, device="cpu"))
    assert [row["text"] for row in own] == [row["caption"] for row in rows]
    (several,) = jobs.match(rows[:1], model, text=["a", "b"], device="cpu")
    assert [match["text"] for match in several["matches"]] == ["a", "b"]
    jobs.embed(pictures, model, tmp_path / "features.parquet", device="cpu")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tmp_path / "features.parquet")
    features = np.stack([np.array(row, np.float32) for row in table["image_features"].to_pylist()])
    assert str(table.schema.field("image_features").type) == "list<element: float>"
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5) and len(features) == 10
    both = next(jobs.embed(rows, model, columns={"text": "caption"}, device="cpu"))
    assert {"image_features", "text_features", "text"} <= set(both)
    answerer = save_model(tmp_path / "vqa", "ForQuestionAnswering", goldens / "tokenizer")
    questions = [{"image": row["image"], "question": f"what is {n}?"} for n, row in enumerate(rows)]
    answers = list(jobs.answer(questions, answerer, device="cpu", max_new_tokens=3))
    assert [row["question"] for row in answers] == [row["question"] for row in questions]
    assert all(row["score"] < 0 and "answer" in row for row in answers)
    ranked = next(jobs.answer(questions, answerer, answers=["a dog", "red"], question="what?", device="cpu"))
    assert ranked["question"] == "what?" and len(ranked["answers"]) == 2


def test_videos(tmp_path: Path, goldens: Path) -> None:
    pytest.importorskip("av")
    from tests.models.video_clips import write_clip
    from tests.pipelines.tiny_video_models import save_video_model

    model = save_video_model(tmp_path / "model", "ForVideoTextRetrieval", goldens / "tokenizer")
    for name in ("a.mp4", "b.mkv"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        write_clip(tmp_path / "clips" / name, frames=12)
    (tmp_path / "clips" / "c.mp4").write_bytes(b"no video")
    summary = jobs.match(tmp_path / "clips", model, tmp_path / "out.jsonl", text="a dog", device="cpu")
    assert (summary.written, summary.failed) == (2, 1)
    jobs.embed(tmp_path / "clips", model, tmp_path / "shards", output_format="webdataset", device="cpu")
    again = list(jobs.embed(tmp_path / "shards", model, device="cpu"))
    assert [sorted(row) for row in again] == [["file", "video_features"]] * 2


def test_functions_for_other_engines(pictures: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(pictures.glob("*.png"))]
    function = pickle.loads(pickle.dumps(jobs.RowFunction("caption", embedded_model_path(), device="cpu", num_beams=1)))
    data = datasets.Dataset.from_dict({"image": paths})
    mapped = data.map(function, batched=True, batch_size=4)
    expected = list(jobs.caption(paths, embedded_model_path(), device="cpu", num_beams=1, batch_size=4))
    assert mapped["caption"][:] == [row.get("caption") for row in expected]
    assert [error != "" for error in mapped["error"]] == ["error" in row for row in expected]
    columns = jobs.RowFunction("caption", embedded_model_path(), keep_rows=True, device="cpu")(
        {"image": np.array(paths)}
    )
    assert list(columns)[0] == "image" and len(columns["caption"]) == len(paths)


def test_functions_give_the_same_columns_of_all_batches(pictures: Path) -> None:
    """Also of a first one without results; what the batch has under their names is kept under another one."""
    good, broken = str(pictures / "0.png"), str(pictures / "broken.png")
    function = jobs.RowFunction("caption", embedded_model_path(), device="cpu", num_beams=2)
    first = function({"image": [broken, broken], "caption": ["a", "b"]})
    second = function({"image": [good], "caption": ["c"]})
    assert list(first) == list(second) == ["original_caption", "caption", "score", "beam_score", "error"]
    assert first["caption"] == [None, None] and first["original_caption"] == ["a", "b"] and all(first["error"])
    matches = jobs.RowFunction("match", embedded_model_path(), device="cpu")
    assert list(matches({"image": [broken], "caption": ["a"]})) == ["text", "score", "similarity", "error"]


def test_functions_sample_differently_in_each_batch(pictures: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "do_sample": True, "num_beams": 1, "temperature": 5.0, "max_length": 12}
    function = jobs.RowFunction("caption", embedded_model_path(), **options)
    image = PIL.Image.open(pictures / "0.png").convert("RGB")
    same = [np.asarray(image), np.asarray(image)]
    paths = [str(path) for path in sorted(pictures.glob("?.png"))]
    one, other = ([function({"image": [path]})["caption"][0] for path in paths] for _ in range(2))
    assert one == other and function({"image": same[:1]}) == function({"image": same[1:]})
    link = pictures.parent / "link.png"
    link.unlink(missing_ok=True)
    link.symlink_to(paths[0])
    assert function({"image": [paths[0]]})["caption"] != function({"image": [str(link)]})["caption"]


def test_draft_decoding_is_close(captioner: Any, tmp_path: Path, photos: dict[str, Path]) -> None:
    from modeling_lavis.jobs.items import Item
    from modeling_lavis.jobs.media import opened_row

    with PIL.Image.open(photos["astronaut"]) as opened:
        large = opened.convert("RGB").resize((2048, 1536), PIL.Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    item = Item("large", {"image": str(tmp_path / "large.jpg")})
    with opened_row(item) as exact, opened_row(item, 224) as draft, opened_row(item, 4000) as whole:
        assert isinstance(exact["image"], str)
        assert draft["image"].size == (512, 384) and whole["image"].size == (2048, 1536)
        process = captioner.processor.image_processor
        first, second, third = (
            process(row["image"], return_tensors="pt")["pixel_values"] for row in (exact, draft, whole)
        )
    assert torch.equal(first, third)
    assert 0 < (first - second).abs().mean() < 0.05


# ---- the command ----


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_command(*arguments: object) -> tuple[int, str, str]:
        status = main([*map(str, arguments), "--device", "cpu"])
        return (status, *capfd.readouterr())

    return run_command


class TestCommand:
    def test_summary_and_status(self, run: Any, pictures: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.jsonl"
        status, out, err = run("caption", pictures, "--output", output, "--json", "--num-beams", 1)
        summary = json.loads(out)
        assert status == 1 and summary["written"] == 10 and summary["failed"] == 1 and "Traceback" not in err
        assert lines(Path(summary["failures"]))[0]["file"] == str(pictures / "broken.png")
        status, out, _ = run("caption", pictures, "--output", output, "--num-beams", 1)
        assert status == 1 and out == f"{output}: 10 of 11 inputs, 1 failed ({summary['failures']}), finished before\n"
        status, _, err = run("caption", pictures, "--output", output, "--num-beams", 2)
        assert status == 2 and "options.num_beams was 1, now it is 2" in err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--block-size", "4"], "--block-size cannot be used without --output"),
            (["--output", "x.csv"], "give a name that ends in .jsonl or .parquet"),
            (["--output", "x.jsonl", "--shard", "3/2"], "no part 3 of 2"),
            (["--output", "x.jsonl", "--columns", "image"], "expected NAME=COLUMN"),
        ],
    )
    def test_options_that_cannot_be_used(
        self,
        run: Any,
        pictures: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        status, out, err = run("caption", pictures, *arguments)
        assert status == 2 and message in err and out == ""
        assert list(tmp_path.iterdir()) == []

    def test_prefix_sampling_and_penalties(self, run: Any, pictures: Path, tmp_path: Path) -> None:
        options = [
            "--top-k",
            5,
            "--seed",
            3,
            "--repetition-penalty",
            1.2,
            "--no-repeat-ngram-size",
            2,
            "--prefix",
            "sks, ",
        ]
        run("caption", pictures, "--output", tmp_path / "a.jsonl", *options)
        run("caption", pictures, "--output", tmp_path / "b.jsonl", *options)
        rows = lines(tmp_path / "a.jsonl")
        assert rows == lines(tmp_path / "b.jsonl") and all(row["caption"].startswith("sks, ") for row in rows)

    def test_embed_and_match(self, run: Any, pictures: Path, tmp_path: Path) -> None:
        assert run("embed", pictures, "--output", tmp_path / "f.jsonl")[0] == 1
        assert len(lines(tmp_path / "f.jsonl")[0]["image_features"]) > 8
        assert run("match", pictures, "--output", tmp_path / "m.jsonl", "--text", "a man", "a dog")[0] == 1
        assert len(lines(tmp_path / "m.jsonl")[0]["matches"]) == 2
        status, _, err = run("embed", pictures, "--output", tmp_path / "f.npz", "--seed", 1)
        assert status == 2 and "written at once" in err


def test_metadata_has_no_parts(pictures: Path, captioner: Any) -> None:
    with pytest.raises(ValueError, match=r"shard cannot be used with metadata.jsonl.*merge-shards --output-format"):
        jobs.caption(pictures, captioner, pictures, output_format="metadata", shard="1/2")
    assert not (pictures / ".caption.job").exists()
