"""`--plot` of the commands: the figure has what the command measured, and files are checked before anything is."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from modeling_lavis.cli import plots
from modeling_lavis.cli.evaluate import PIPELINES
from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.evaluation.metrics import cider
from tests.cli.conftest import Result
from tests.cli.test_evaluate import write
from tests.evaluation.tiny_tasks import ANSWERS, caption_rows, image, pipeline_maker, question_rows

pytest.importorskip("matplotlib")

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def pipe(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    return pipeline_maker(tmp_path_factory.mktemp("models"), goldens)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that commands write."""
    found: list[Any] = []
    save = plots.save_plot

    def save_plot(path: Path, figure: Any) -> None:
        found.append(figure)
        save(path, figure)

    for verb in ("evaluate", "match", "capfilt", "verify", "train"):
        monkeypatch.setattr(f"modeling_lavis.cli.{verb}.save_plot", save_plot)
    return found


def outlines(axes: Any) -> dict[str, np.ndarray]:
    """Shares in percent by the label of a histogram."""
    return {patch.get_label(): patch.get_data()[0] for patch in axes.patches if not patch.get_fill()}


def edges(axes: Any) -> np.ndarray:
    return axes.patches[0].get_data()[1]


def texts(axes: Any) -> list[str]:
    return [text.get_text().strip() for text in axes.texts]


# ---- errors come first ----


@pytest.mark.parametrize(
    ("arguments", "path", "message"),
    [
        (["evaluate", "captioning", "--model", "none", "--data", "none"], "plot.pdf", "--plot is"),
        (["evaluate", "retrieval", "--model", "none", "--data", "none"], "missing/plot.png", "not a writable folder"),
        (["match", "x.png", "--model", "none", "--text", "a dog"], "plot.jpg", "ends in .png, .svg"),
        (["capfilt", "--captioner", "none", "--filter", "none", "--scores", "a.jsonl", "x.jsonl"], ".", "--plot is"),
        (["verify", "none", "--image", "none.png"], "plot", "--plot is"),
        pytest.param(
            *(["train", "small-captioning", "--train-data", "none", "--output", "none"], "plot.gif", "--plot is"),
            marks=pytest.mark.slow,  # its parser imports transformers
        ),
    ],
)
def test_files_are_checked_first(
    arguments: list[str], path: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--plot", str(tmp_path / path)]) == 2
    assert message in capfd.readouterr().err


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("modeling_lavis.import_utils.is_available", lambda name: name != "matplotlib")
    assert main(["verify", "none", "--image", "x.png", "--plot", str(tmp_path / "plot.png")]) == 2
    assert "modeling-lavis[plot]" in capfd.readouterr().err


def test_recordings_are_not_drawn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--image", "x.png", "--record", str(tmp_path / "x.json"), "--plot", str(tmp_path / "x.png")]
    assert main(["verify", "none", *arguments]) == 2
    assert "--plot is for comparisons" in capfd.readouterr().err


# ---- evaluation ----


@pytest.mark.slow
class TestEvaluation:
    def evaluate(
        self, run: Run, pipe: Any, folder: Path, task: str, head: str, rows: list[dict[str, Any]], *options: object
    ) -> dict[str, float]:
        data, plot = write(rows, folder), folder / "plot.svg"
        model = pipe(PIPELINES[task], head).model.name_or_path
        result = run("evaluate", task, "--data", data, "--plot", plot, "--json", *options, model=model)
        assert result.status == 0, result.err
        assert plot.read_text().startswith("<?xml") and "warning" not in result.err
        return result.records[0]["metrics"]

    def test_captions(self, run: Run, pipe: Any, tmp_path: Path, figures: list[Any]) -> None:
        output = tmp_path / "captions.json"
        metrics = self.evaluate(
            *(run, pipe, tmp_path, "captioning", "ForConditionalGeneration", caption_rows()),
            *("--num-beams", "2", "--max-new-tokens", "5", "--output", output),
        )
        (axes,) = figures[0].axes
        captions = [entry["caption"] for entry in json.loads(output.read_text())]
        references = [["a dog", "the dog"], ["two men", "men"], ["a cat", "the cat"], ["a man"], ["red"]]
        scores = cider(captions, references)
        ((label, shares),) = outlines(axes).items()
        assert label == "captions (5)"
        assert shares.tolist() == pytest.approx((20 * np.histogram(scores.per_image, edges(axes))[0]).tolist())
        assert axes.get_lines()[0].get_xdata()[0] == pytest.approx(metrics["cider"])

    def test_accuracy_by_type_and_answers(self, run: Run, pipe: Any, tmp_path: Path, figures: list[Any]) -> None:
        task = (run, pipe, tmp_path, "vqa", "ForQuestionAnswering")
        options = ["--answers", ",".join(ANSWERS), "--output", tmp_path / "answers.json"]
        metrics = self.evaluate(*task, question_rows(), *options)
        (axes,) = figures[0].axes
        drawn = dict(zip([label.get_text() for label in axes.get_yticklabels()], axes.patches, strict=True))
        assert {name: bar.get_width() for name, bar in drawn.items()} == {
            name.removeprefix("accuracy/answer_type/"): value for name, value in metrics.items() if "/" in name
        }
        rows = [{name: value for name, value in row.items() if name != "answer_type"} for row in question_rows()]
        self.evaluate(*task, rows, *options)
        axes = figures[1].axes[0]
        answers = [entry["answer"] for entry in json.loads((tmp_path / "answers.json").read_text())]
        pairs = Counter(zip([Counter(row["answer"]).most_common(1)[0][0] for row in rows], answers, strict=True))
        self.check_confusion(axes, pairs)

    def check_confusion(self, axes: Any, pairs: Counter) -> None:
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert set(names) == {name for pair in pairs for name in pair}
        expected = [pairs[right, predicted] for right in names for predicted in names]
        assert [int(text) for text in texts(axes)] == expected

    def test_classes(self, run: Run, pipe: Any, tmp_path: Path, figures: list[Any]) -> None:
        labels, output = tmp_path / "labels.json", tmp_path / "classes.json"
        labels.write_text(json.dumps({"no": 0, "maybe": 1, "yes": 2}))
        targets = ["yes", "no", "maybe", "yes", "no"]
        rows = [{"image": image(n), "sentence": "a dog", "label": name} for n, name in enumerate(targets)]
        options = ["--label2id", labels, "--output", output]
        metrics = self.evaluate(run, pipe, tmp_path, "classification", "ForImageAndTextClassification", rows, *options)
        predicted = [entry["label"] for entry in json.loads(output.read_text())]
        axes = figures[0].axes[0]
        self.check_confusion(axes, Counter(zip(targets, predicted, strict=True)))
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == [name for name in ("no", "maybe", "yes") if name in names]
        matrix = np.array([int(text) for text in texts(axes)]).reshape(len(names), -1)
        assert np.trace(matrix) / matrix.sum() == pytest.approx(metrics["accuracy"])

    def test_nothing_to_compare_with(self, run: Run, pipe: Any, tmp_path: Path) -> None:
        rows = [{name: value for name, value in row.items() if name != "answer"} for row in question_rows()]
        model = pipe(PIPELINES["vqa"], "ForQuestionAnswering").model.name_or_path
        options = ["--answers", "yes,no", "--columns", "answer=", "--plot", tmp_path / "plot.png"]
        result = run("evaluate", "vqa", "--data", write(rows, tmp_path), *options, model=model)
        assert result.status == 0 and "there is nothing to draw" in result.err
        assert not (tmp_path / "plot.png").exists()

    def test_retrieval(self, run: Run, tmp_path: Path, figures: list[Any]) -> None:
        """Two captions of each image, of which one is that of another image."""
        images = embedded_images()
        rows = [
            {"image": PIL.Image.open(images[n].path), "image_id": n, "caption": images[(n + wrong) % 12].caption}
            for n in range(12)
            for wrong in (0, 5)
        ]
        options = ["--data", write(rows, tmp_path), "--k", 10, "--plot", tmp_path / "plot.png", "--json"]
        result = run("evaluate", "retrieval", *options, model=embedded_model_path())
        assert result.status == 0, result.err
        metrics = result.records[0]["metrics"]
        recall, scores = figures[0].axes
        for line, direction in zip(recall.get_lines(), ("text", "image"), strict=True):
            assert line.get_label() == f"{direction} retrieval" and list(line.get_xdata()) == list(range(1, 11))
            for k in (1, 5, 10):
                assert line.get_ydata()[k - 1] == pytest.approx(metrics[f"{direction}_recall@{k}"])
        assert 0 < metrics["image_recall@1"] < 100
        assert scores.get_xlabel() == "ITM logit + cosine"
        counts = {label: int(label.rpartition("(")[2][:-1]) for label in outlines(scores)}
        assert sum(counts.values()) == 120 and list(counts)[0].startswith("right pairs")
        with PIL.Image.open(tmp_path / "plot.png") as picture:
            assert picture.width == 770


# ---- other commands ----


@pytest.mark.slow
def test_matches(run: Run, tmp_path: Path, figures: list[Any]) -> None:
    """Of files, and of a collection, the same."""
    files = [str(entry.path) for entry in embedded_images()]
    named = ["woman teacher", "man singer"]
    options = ["--plot", tmp_path / "plot.png", "--json", *files]
    result = run("match", *options, "--text", *named, model=embedded_model_path())
    assert result.status == 0, result.err
    probability, cosine = figures[0].axes
    assert (probability.get_xlabel(), cosine.get_xlabel()) == ("probability of a match", "cosine of the features")
    for axes, name in ((probability, "score"), (cosine, "similarity")):
        for number, text in enumerate(named):
            values = [record["matches"][number][name] for record in result.records]
            expected = 100 * np.histogram(values, edges(axes))[0] / 12
            assert outlines(axes)[f"{text} (12)"].tolist() == pytest.approx(expected.tolist())
    output = ["--output", tmp_path / "matches.jsonl"]
    assert run("match", *output, *options, "--text", *named, model=embedded_model_path()).status == 0
    for first, second in zip(figures[0].axes, figures[1].axes, strict=True):
        for label, shares in outlines(first).items():
            assert outlines(second)[label].tolist() == pytest.approx(shares.tolist())
    many = [f"text {number}" for number in range(5)]
    assert run("match", *options, "--text", *many, model=embedded_model_path()).status == 0
    assert list(outlines(figures[2].axes[0])) == ["pairs (60)"]


@pytest.mark.slow
def test_scores_of_capfilt(tmp_path: Path, figures: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    captions = [entry.caption for entry in embedded_images()[:4]]
    lines = [{"image": str(entry.path), "text": captions} for entry in embedded_images()[:4]]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = ["--captioner", embedded_model_path(), "--filter", embedded_model_path(), "--device", "cpu"]
    output = ["--output", str(tmp_path / "clean.jsonl"), "--decoding", "beam", "--min-score", "0.4"]
    options = ["--plot", str(tmp_path / "plot.svg"), "--media-root", "/"]
    assert main(["capfilt", str(rows), *model, *output, *options]) == 0, capfd.readouterr().err
    scores = [json.loads(line) for line in (tmp_path / "clean.jsonl.scores.jsonl").read_text().splitlines()]
    probability, cosine = figures[0].axes
    for axes, name in ((probability, "score"), (cosine, "similarity")):
        for source, count in (("web", 16), ("synthetic", 4)):
            values = [entry[name] for record in scores for entry in record[source]]
            expected = 100 * np.histogram(values, edges(axes))[0] / count
            assert outlines(axes)[f"{source} texts ({count})"].tolist() == pytest.approx(expected.tolist())
    assert probability.get_lines()[0].get_xdata()[0] == 0.4 and not cosine.get_lines()


@pytest.mark.slow
def test_differences_of_verify(
    tmp_path: Path, photos: dict[str, Path], figures: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Against a recording of which one number was changed."""
    file, image_options = tmp_path / "recording.json", ["--image", str(photos["coffee"])]
    arguments = ["verify", embedded_model_path(), *image_options]
    assert main([*arguments, "--record", str(file)]) == 0
    recording = json.loads(file.read_text())
    changed = next(
        (output["expected"], name)
        for output in recording["outputs"]
        for name, value in output["expected"].items()
        if isinstance(value, float)
    )
    changed[0][changed[1]] += 1.0
    file.write_text(json.dumps(recording))
    plot = tmp_path / "plot.png"
    assert main([*arguments, "--recording", str(file), "--plot", str(plot), "--json"]) == 1
    out = capfd.readouterr().out
    report = json.loads(out[out.index('{"') if out.index("{") else 0 :].splitlines()[-1])
    (axes,) = figures[0].axes
    names = [f"{entry['title']}: {entry['name']}" for entry in report["comparisons"]]
    assert [label.get_text() for label in axes.get_yticklabels()] == names and plot.exists()
    good, bad = (points.get_offsets().tolist() for points in axes.collections)
    assert [row for _, row in bad] == [n for n, entry in enumerate(report["comparisons"]) if not entry["agrees"]]
    assert len(bad) == 1 and bad[0][0] == -3.0 and all(abs(difference) < 1 for difference, _ in good)


@pytest.mark.slow
def test_values_that_were_not_measured_are_left_out() -> None:
    def entry(name: str, expected: Any, found: Any, agrees: bool | None, tolerance: float = 0.5) -> Any:
        return SimpleNamespace(
            title="task", name=name, expected=expected, found=found, agrees=agrees, tolerance=tolerance
        )

    assert plots.verification_figure([entry("CIDEr", 1.0, None, None)]) is None
    rows = [entry("CIDEr", 133.0, 133.25, True), entry("SPICE", 20.0, None, None)]
    rows += [entry("loss", 1.0, float("nan"), False), entry("score", 1.0, 1.0, True, tolerance=0.0)]
    (axes,) = plots.verification_figure(rows).axes
    good, bad = (points.get_offsets().tolist() for points in axes.collections)
    assert good == [[0.5, 0], [0.0, 2]] and bad == [[3.0, 1]]


@pytest.mark.slow
def test_curves_of_train(tmp_path: Path, figures: list[Any]) -> None:
    from tests.cli.test_train import command

    plot = tmp_path / "curves.svg"
    flags = ("--plot", str(plot), "--logging-steps", "1", "--gradient-accumulation-steps", "1")
    assert main(command("small-captioning", tmp_path, *flags)) == 0
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = figures[0].axes[0]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in losses.get_lines()}
    known = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    assert drawn["loss"] == tuple(map(list, zip(*known, strict=True))) and len(known) == 2
    assert plot.exists() and (tmp_path / "run" / "curves.png").exists()


# ---- contact sheets of the worst predictions ----


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The cells of the sheets that commands draw."""
    from modeling_lavis.cli import contact_sheet

    found: list[list[Any]] = []
    draw = contact_sheet.draw_cells

    def draw_cells(given: list[Any], columns: int = 4) -> PIL.Image.Image:
        found.append(given)
        return draw(given, columns)

    monkeypatch.setattr(contact_sheet, "draw_cells", draw_cells)
    return found


def lines_of(cell: Any) -> dict[str, str]:
    return {label: text for label, text, _ in cell.lines}


def is_image(cell: Any, expected: PIL.Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(cell.image), np.asarray(expected)))


@pytest.mark.slow
class TestExamples:
    def evaluate(self, run: Run, pipe: Any, folder: Path, task: str, head: str, rows: Any, *options: object) -> None:
        model = pipe(PIPELINES[task], head).model.name_or_path
        sheet = folder / "worst.png"
        result = run("evaluate", task, "--data", write(rows, folder), "--examples", sheet, *options, model=model)
        assert result.status == 0, result.err
        with PIL.Image.open(sheet) as drawn:
            assert drawn.width > 500

    def test_captions_with_the_lowest_scores(self, run: Run, pipe: Any, tmp_path: Path, cells: list[Any]) -> None:
        output = tmp_path / "captions.json"
        task = (run, pipe, tmp_path, "captioning", "ForConditionalGeneration")
        self.evaluate(*task, caption_rows(), "--max-new-tokens", 5, "--output", output)
        captions = {entry["image_id"]: entry["caption"] for entry in json.loads(output.read_text())}
        assert len(cells[0]) == 5
        scores = [float(lines_of(cell)["CIDEr"]) for cell in cells[0]]
        assert scores == sorted(scores)
        for cell in cells[0]:
            (image_id,) = [n for n in captions if is_image(cell, image(n))]
            own = lines_of(cell)
            assert own["caption"] == captions[image_id]
            assert image_id != 4 or own["right"] == "a dog; the dog"

    def test_wrong_answers_come_first(self, run: Run, pipe: Any, tmp_path: Path, cells: list[Any]) -> None:
        self.evaluate(run, pipe, tmp_path, "vqa", "ForQuestionAnswering", question_rows(), "--answers", "yes,no")
        assert len(cells[0]) == 5
        is_right = [lines_of(cell)["answer"] in lines_of(cell)["right"].split("; ") for cell in cells[0]]
        assert is_right == sorted(is_right)
        for cell in cells[0]:
            (row,) = [row for row in question_rows() if row["question"] == lines_of(cell)["question"]]
            assert is_image(cell, row["image"]) and set(lines_of(cell)["right"].split("; ")) == set(row["answer"])

    def test_pairs_of_images_and_sure_mistakes(self, run: Run, pipe: Any, tmp_path: Path, cells: list[Any]) -> None:
        rows = [
            {"images": [image(n), image(n + 1)], "sentence": f"a dog {n}", "label": label}
            for n, label in enumerate(("True", "False") * 8)
        ]
        self.evaluate(run, pipe, tmp_path, "nlvr", "ForImagesAndTextClassification", rows)
        assert len(cells[0]) == 12 and cells[0][0].image.size == (80, 40)
        signed = []
        for cell in cells[0]:
            (_, sentence, _), (label, predicted, _), (_, right, _) = cell.lines
            row = rows[int(sentence.rpartition(" ")[2])]
            assert right == row["label"] and is_image(
                SimpleNamespace(image=cell.image.crop((0, 0, 40, 40))), row["images"][0]
            )
            signed.append(float(label.rpartition(" ")[2]) * (1 if predicted == right else -1))
        assert signed == sorted(signed)

    @pytest.mark.parametrize(
        ("task", "options", "message"),
        [
            ("captioning", ["--examples", "x.svg"], "--examples is x.svg; expected a file name that ends in .png"),
            ("captioning", ["--examples", "x.png", "--streaming"], "which --streaming cannot"),
            ("retrieval", ["--examples", "x.png"], "--examples cannot be used with the task retrieval"),
        ],
    )
    def test_errors(self, run: Run, task: str, options: list[str], message: str) -> None:
        result = run("evaluate", task, "--data", "none", *options, model="none")
        assert result.status == 2 and message in result.err
