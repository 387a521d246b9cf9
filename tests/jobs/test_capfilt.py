"""CapFilt: scores of web texts and captions, what is kept, and data sets of it that training reads."""

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from modeling_lavis import jobs
from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.jobs.selection import Selection, Statistics, Thresholds
from modeling_lavis.pipelines.loading import load


def scored(*pairs: tuple[float | None, float]) -> list[dict[str, Any]]:
    return [{"text": f"text {score}", "score": score, "similarity": cosine} for score, cosine in pairs]


RECORDS: list[Mapping[str, Any]] = [
    {"file": "0", "web": scored((0.9, 0.1)), "synthetic": scored((0.8, 0.5))},
    {"file": "1", "web": scored((0.2, 0.4)), "synthetic": scored((0.7, 0.3), (0.1, 0.9))},
    {"file": "2", "web": scored((0.4, 0.2)), "synthetic": scored((0.3, 0.6))},
    {"file": "3", "web": [], "synthetic": scored((None, 0.7))},
]


class TestSelection:
    @pytest.mark.parametrize(
        ("options", "expected", "images"),
        [
            ({}, (0.5, None), [1, 0, 1, 2]),
            ({"min_score": 0.0}, (0.0, None), [3, 0, 0, 1]),
            ({"min_similarity": 0.35}, (None, 0.35), [1, 0, 3, 0]),
            ({"min_score": 0.5, "min_similarity": 0.35}, (0.5, 0.35), [0, 0, 1, 3]),
            ({"score_quantile": 0.5}, (0.4, None), [1, 1, 1, 1]),
            ({"texts": "web", "score_quantile": 0.5}, (0.4, None), [0, 2, 0, 2]),
            ({"texts": "synthetic", "similarity_quantile": 1.0}, (None, 0.9), [0, 0, 1, 3]),
            ({"texts": "best"}, (0.5, None), [0, 1, 1, 2]),
        ],
    )
    def test_what_is_kept(self, options: Any, expected: tuple[Any, Any], images: list[int]) -> None:
        selection = Selection(**options)
        thresholds = selection.thresholds(RECORDS)
        assert (thresholds.score, thresholds.similarity) == expected
        statistics = Statistics.of(RECORDS, selection, thresholds)
        assert list(statistics.images.values()) == images
        kept = [entry for record in RECORDS for entry in selection.candidates(record) if thresholds.keeps(entry)]
        assert sum(known["kept"] for known in statistics.texts.values()) == len(kept)

    def test_means_and_margins(self) -> None:
        statistics = Statistics.of(RECORDS[:2], Selection(), Thresholds(0.5, None))
        assert statistics.texts["synthetic"] == {
            "texts": 3,
            "kept": 2,
            "mean_score": 0.5333,
            "mean_score_kept": 0.75,
            "mean_similarity": 0.5667,
            "mean_similarity_kept": 0.4,
        }
        assert Thresholds(0.5, 0.3).margin({"score": 0.9, "similarity": 0.2}) == pytest.approx(-0.1)
        assert Thresholds(0.5, None).margin({"score": None, "similarity": 0.2}) == -math.inf

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"texts": "none"}, "texts is 'none'; expected one of both, web, synthetic, best"),
            ({"min_score": 1.5}, "min_score is 1.5; expected a number from 0 to 1"),
            ({"min_similarity": -2}, "min_similarity is -2; expected a number from -1 to 1"),
            ({"min_score": 0.5, "score_quantile": 0.5}, "two forms of one threshold"),
        ],
    )
    def test_values_that_cannot_be_used(self, options: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Selection(**options)


MODEL = embedded_model_path()


@pytest.fixture(scope="module")
def pipes() -> tuple[Any, Any]:
    return tuple(load(task, MODEL, device="cpu") for task in ("image-captioning", "image-text-matching"))  # type: ignore[return-value]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Records whose texts belong to the image, to another one, or are missing, and some that fail."""
    images = embedded_images()
    (tmp_path / "photos").mkdir()
    records: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        shutil.copy(image.path, tmp_path / "photos" / f"{number}.png")
        text: Any = [image.caption, images[number - 5].caption, [images[number - 3].caption, image.caption], None][
            number % 4
        ]
        records.append({"image": f"photos/{number}.png", "text": text, "source": number})
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    records.insert(3, {"image": "photos/broken.png", "text": "a dog", "source": -1})
    records.insert(
        5, {"image": "photos/2.png", "text": 7, "source": -2}
    )  # fails, and the next one of the name does not
    records.append({"image": "photos/2.png", "text": "a dog", "source": -3})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(rows: Any, output: Any, pipes: Any, **options: Any) -> jobs.CapFiltSummary:
    return jobs.capfilt(rows, *pipes, output, **{"batch_size": 4, "block_size": 4, **options})


@pytest.mark.slow
def test_scores_are_those_of_the_pipelines(rows: Path, pipes: Any, tmp_path: Path) -> None:
    summary = run(rows, tmp_path / "clean.jsonl", pipes, decoding="beam", examples=2, keep=["source"])
    assert (summary.scoring.inputs, summary.scoring.written, summary.failed) == (15, 13, 2)
    captioner, matcher = pipes
    found = lines(tmp_path / "clean.jsonl.scores.jsonl")
    for row in found:
        (caption,) = captioner(row["file"], num_beams=3)
        assert [entry["text"] for entry in row["synthetic"]] == [caption["generated_text"]]
        entries = [*row["web"], *row["synthetic"]]
        for entry, expected in zip(entries, matcher(row["file"], text=[entry["text"] for entry in entries])):
            assert entry["text"] == expected["text"]
            assert entry["score"] == pytest.approx(expected["score"], abs=1e-4)
            assert entry["similarity"] == pytest.approx(expected["similarity"], abs=1e-4)
    kept = lines(tmp_path / "clean.jsonl")
    expected_rows = [
        [entry["text"] for entry in [*row["web"], *row["synthetic"]] if entry["score"] >= 0.5] for row in found
    ]
    assert [row["caption"] for row in kept] == [texts for texts in expected_rows if texts]
    assert summary.statistics is not None and sum(summary.statistics.images.values()) == 13
    assert kept[-1]["source"] == -3 and kept[-1]["image"] == "photos/2.png"
    assert [example["kept"] for example in summary.examples] == [True, True, False, False]
    scores = [example["score"] for example in summary.examples]
    assert scores == sorted(scores, reverse=True) and scores[1] >= 0.5 > scores[2]


@pytest.mark.slow
def test_training_reads_every_form(rows: Path, pipes: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from modeling_lavis import load_data, make_collator

    scores = tmp_path / "scores.jsonl"
    run(rows, tmp_path / "clean.jsonl", pipes, scores=scores)
    wanted = [row["caption"] for row in lines(tmp_path / "clean.jsonl")]
    run(rows, tmp_path / "clean.parquet", pipes, scores=scores)
    run(rows, tmp_path / "photos", pipes, scores=scores, output_format="metadata")
    run(rows, tmp_path / "shards", pipes, scores=scores, output_format="webdataset")
    (tmp_path / "elsewhere").mkdir()
    run(rows, tmp_path / "elsewhere" / "clean.jsonl", pipes, scores=scores)
    sources = [tmp_path / "clean.jsonl", tmp_path / "clean.parquet", tmp_path / "photos", tmp_path / "shards"]
    loaded = [load_data(source, "pretraining") for source in sources]
    loaded.append(load_data(tmp_path / "elsewhere" / "clean.jsonl", "pretraining", media_root="/"))
    for data in loaded:
        assert list(data["caption"]) == wanted
        batch = make_collator("pretraining", pipes[0].processor)([data[0], data[1]])
        assert batch["pixel_values"].shape[0] == 2
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "photos"), split="train")
    assert list(folder["caption"]) == wanted
    # shards as input: their texts are web texts, and do not stay the captions
    run(tmp_path / "shards", tmp_path / "again", pipes, output_format="webdataset", decoding="beam")
    captions = [row["web"] for row in lines(tmp_path / "again.scores.jsonl")]
    assert [[entry["text"] for entry in own] for own in captions] == wanted
    assert len(load_data(tmp_path / "again", "captioning")) == len(wanted)


@pytest.mark.slow
def test_interrupted_in_both_jobs(rows: Path, pipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeling_lavis.jobs.caption_filter import CaptionFilter
    from modeling_lavis.jobs.filtering import _Selecting

    quiet = tmp_path / "quiet.jsonl"
    run(rows, quiet, pipes)
    output = tmp_path / "stopped.jsonl"
    journals = {
        "scoring": tmp_path / "stopped.jsonl.scores.jsonl.job" / "journal.jsonl",
        "selecting": tmp_path / "stopped.jsonl.job" / "journal.jsonl",
    }
    steps, result = CaptionFilter.steps, _Selecting._result
    for place, journal in journals.items():
        calls: list[int] = []

        def stop(place: str = place, journal: Path = journal, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == {"scoring": 3, "selecting": 6}[place]:
                end = time.monotonic() + 10
                while not journal.read_text() and time.monotonic() < end:  # another thread writes
                    time.sleep(0.01)
                raise KeyboardInterrupt

        def stopping_steps(self: Any, **options: Any) -> Any:
            prepare, compute = steps(self, **options)
            return prepare, lambda rows: (stop(), compute(rows))[1]

        with monkeypatch.context() as patch:
            if place == "scoring":
                patch.setattr(CaptionFilter, "steps", stopping_steps)
            else:
                patch.setattr(_Selecting, "_result", lambda self, *args: (stop(), result(self, *args))[1])
            with pytest.raises(KeyboardInterrupt):
                run(rows, output, pipes)
        assert not output.exists()
        assert 1 <= journal.read_text().count("\n") < 4  # some of the four blocks
    run(rows, output, pipes)
    assert output.read_bytes() == quiet.read_bytes()
    assert Path(f"{output}.scores.jsonl").read_bytes() == Path(f"{quiet}.scores.jsonl").read_bytes()


@pytest.mark.slow
def test_another_selection_needs_no_model(rows: Path, pipes: Any, tmp_path: Path) -> None:
    from modeling_lavis.jobs.caption_filter import CaptionFilter

    output, scores = tmp_path / "clean.jsonl", tmp_path / "clean.jsonl.scores.jsonl"
    first = run(rows, output, pipes)
    with pytest.raises(jobs.JobError, match=r"selection\.min_score was null, now it is 0\.9"):
        run(rows, output, pipes, min_score=0.9)
    before = scores.stat().st_mtime_ns
    strict = run(rows, output, pipes, min_score=0.99, scores=scores, restart=True)
    assert strict.scoring.was_finished and scores.stat().st_mtime_ns == before
    assert strict.selection is not None and first.selection is not None
    assert strict.selection.written < first.selection.written
    with pytest.raises(jobs.JobError, match="options.top_p was 0.9, now it is 0.5"):
        run(rows, output, pipes, min_score=0.99, top_p=0.5)
    again = run(rows, output, pipes, top_p=0.5, restart=True)
    assert not again.scoring.was_finished and CaptionFilter(*pipes)._share_pixels
    (tmp_path / "other.jsonl").write_text(rows.read_text() + rows.read_text())
    with pytest.raises(jobs.JobError, match="input"):
        run(tmp_path / "other.jsonl", tmp_path / "b.jsonl", pipes, scores=scores, top_p=0.5)


@pytest.mark.slow
def test_parts_are_merged(rows: Path, pipes: Any, tmp_path: Path) -> None:
    data = [tmp_path / "photos" / f"{number}.png" for number in range(12)]
    for part in (1, 2):
        run(data, None, pipes, scores=tmp_path / f"{part}.jsonl", shard=f"{part}/2")
    jobs.merge_shards([tmp_path / "2.jsonl", tmp_path / "1.jsonl"], tmp_path / "all.jsonl")
    merged = run(data, tmp_path / "merged.jsonl", pipes, scores=tmp_path / "all.jsonl", score_quantile=0.5)
    assert merged.scoring.was_finished
    run(data, tmp_path / "whole.jsonl", pipes, score_quantile=0.5)
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(ValueError, match="quantiles are those of all parts"):
        run(data, tmp_path / "x.jsonl", pipes, shard="1/2")
    with pytest.raises(ValueError, match="read only once"):
        run(iter(data), tmp_path / "x.jsonl", pipes)


@pytest.mark.slow
def test_precision_and_recall_of_the_filter(pipes: Any, tmp_path: Path) -> None:
    """Each embedded image with its own name and with those of all others."""
    images = embedded_images()
    records = [{"image": str(image.path), "text": [other.caption for other in images]} for image in images]
    run(records, None, pipes, scores=tmp_path / "scores.jsonl", decoding="beam")
    pairs = [
        (entry["score"], entry["text"] == image.caption)
        for image, row in zip(images, lines(tmp_path / "scores.jsonl"), strict=True)
        for entry in row["web"]
    ]
    assert len(pairs) == 144
    kept = [is_own for score, is_own in pairs if score >= 0.5]
    assert sum(kept) / 12 >= 0.75 and sum(kept) / len(kept) >= 0.9


@pytest.mark.slow
def test_command(rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output, sheet = tmp_path / "clean.jsonl", tmp_path / "examples.png"
    arguments = ["capfilt", str(rows), "--captioner", MODEL, "--filter", MODEL, "--device", "cpu"]
    assert main([*arguments, "--output", str(output), "--examples", str(sheet), "--json"]) == 1
    record = json.loads(capfd.readouterr().out)
    assert record["scoring"]["failed"] == 2 and record["statistics"]["thresholds"]["score"] == 0.5
    with PIL.Image.open(sheet) as image:
        assert image.width > 500 and len(image.getcolors(1 << 24)) > 50
    assert main([*arguments, "--output", str(output)]) == 1
    out = capfd.readouterr().out
    assert "probability at least 0.5" in out and "images with both: " in out
    for extra, message in (
        (["--texts", "web"], "Give --output"),
        (["--scores", "a.jsonl", "--texts", "web"], "--texts cannot be used without --output"),
        (["--output", "x.jsonl", "--min-score", "2"], "min_score is 2.0"),
        (["--output", "x", "--output-format", "txt"], "output_format is 'txt'"),
    ):
        assert main([*arguments, *extra]) == 2
        assert message in capfd.readouterr().err


@pytest.mark.slow
def test_outputs_are_no_inputs(rows: Path, pipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the same command is given again, either."""
    monkeypatch.chdir(tmp_path)
    first = run("*.jsonl", "clean.jsonl", pipes)
    again = run("*.jsonl", "clean.jsonl", pipes)
    assert first.scoring.inputs == again.scoring.inputs == 15 and again.scoring.was_finished
    for options, message in (
        ({"scores": "clean.jsonl"}, "one file"),
        ({"scores": "scores.parquet"}, "ends in .jsonl"),
        ({"columns": {"question": "q"}}, "reads the columns image, text"),
        ({"decoding": "greedy"}, "expected nucleus or beam"),
    ):
        with pytest.raises(ValueError, match=message):
            run("*.jsonl", "clean.jsonl", pipes, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clean.jsonl", "clean"])
def test_a_recipe_trains_on_the_output(
    rows: Path, pipes: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("datasets")
    run(rows, tmp_path / name, pipes, output_format=None if name.endswith("jsonl") else "webdataset")
    train = ["train", "small-captioning", "--train-data", tmp_path / name, "--output", tmp_path / "run"]
    assert main([*map(str, train), "--max_steps", "2", "--use_cpu"]) == 0
    assert f"saved in {tmp_path / 'run'}" in capfd.readouterr().out
    (state,) = (tmp_path / "run").glob("checkpoint-2/trainer_state.json")
    assert json.loads(state.read_text())["global_step"] == 2
    assert load("image-captioning", tmp_path / "run", device="cpu")(str(tmp_path / "photos" / "0.png"), max_length=4)
