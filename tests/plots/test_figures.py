"""What is drawn equals the data: artists are read back. Files are whole, PNG or SVG by their suffix."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("matplotlib")

from modeling_lavis.plots import (
    bars_figure,
    check_plot_file,
    confusion_figure,
    differences_figure,
    histogram_figure,
    retrieval_figure,
    save_figure,
)
from modeling_lavis.plots.retrieval import recall_over_k
from modeling_lavis.training.curves import curves_figure, draw_curves

pytestmark = pytest.mark.slow

LOG = [
    {"loss": 2.0, "loss_itc": 1.5, "learning_rate": 1e-4, "grad_norm": 3.0, "step": 1},
    {"loss": 1.0, "loss_itc": 0.5, "learning_rate": 5e-5, "step": 2},
    {"eval_accuracy": 0.25, "eval_runtime": 3.0, "step": 1},
    {"eval_accuracy": 0.5, "eval_runtime": 3.0, "step": 2},
]


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


# ---- curves ----


def test_curves_are_those_of_the_log() -> None:
    losses, metrics, rates = curves_figure(LOG).axes
    assert lines(losses) == {"loss": ([1, 2], [2.0, 1.0]), "loss_itc": ([1, 2], [1.5, 0.5])}
    assert lines(metrics) == {"eval_accuracy": ([1, 2], [0.25, 0.5])}
    assert lines(rates) == {"learning_rate": ([1, 2], [1e-4, 5e-5])}
    assert [axes.get_ylabel() for axes in (losses, metrics, rates)] == ["loss", "metric", "learning rate"]
    assert curves_figure([]) is None


def test_many_curves_differ_in_color_or_line() -> None:
    (axes,) = curves_figure([{f"loss_{name}": 1.0 for name in "abcdefghijklmnopq"} | {"step": 1}]).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 17


# ---- retrieval ----


def test_recall_over_k() -> None:
    places = [1, 3, 0, 2, 3]
    assert recall_over_k(places, 4).tolist() == pytest.approx([20.0, 40.0, 80.0, 80.0])
    for k in (1, 2, 3, 4):
        assert recall_over_k(places, 4)[k - 1] == pytest.approx(100 * sum(0 < place <= k for place in places) / 5)


def test_retrieval_is_drawn() -> None:
    right, other = [2.0, 3.0, 2.5], [0.0, 1.0, 0.5, 0.25, -math.inf]
    figure = retrieval_figure(
        {"text retrieval": ([1, 2], 2), "image retrieval": ([1, 0, 3], 30)},
        {"right pairs": right, "other candidates": other},
        "ITM logit + cosine",
    )
    recall, scores = figure.axes
    drawn = lines(recall)
    assert drawn["text retrieval"] == ([1, 2], [50.0, 100.0])
    assert drawn["image retrieval"][0] == list(range(1, 31))
    assert drawn["image retrieval"][1] == pytest.approx([100 / 3] * 2 + [200 / 3] * 28)
    assert [line.get_markevery() for line in recall.get_lines()] == [[0], [0, 4, 9]]
    assert [label.get_text() for label in recall.get_xticklabels()] == ["1", "2", "5", "10", "20"]
    assert scores.get_xlabel() == "ITM logit + cosine"
    check_histogram(scores, {"right pairs (3)": right, "other candidates (4)": other[:4]})


def check_histogram(axes: Any, groups: dict[str, list[float]]) -> None:
    """The outlines of a panel are the histograms of the groups, in percent of each."""
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert [patch.get_label() for patch in outlines] == list(groups)
    for patch, values in zip(outlines, groups.values(), strict=True):
        share, edges, _ = patch.get_data()
        assert share.sum() == pytest.approx(100)
        assert share.tolist() == pytest.approx((100 * np.histogram(values, edges)[0] / len(values)).tolist())
    colors = [patch.get_edgecolor() for patch in outlines]
    assert len(set(colors)) == len(colors)


# ---- histograms ----


def test_histograms_with_thresholds() -> None:
    values = {"web texts": [0.1, 0.2, 0.9], "synthetic texts": [0.8, 0.95]}
    cosines = {"web texts": [0.3], "synthetic texts": [0.1, 0.2]}
    figure = histogram_figure(
        {"probability": values, "cosine": cosines},
        marks={"probability": ("threshold", 0.5)},
        ranges={"probability": (0, 1)},
    )
    left, right = figure.axes
    check_histogram(left, {f"{name} ({len(group)})": group for name, group in values.items()})
    check_histogram(right, {f"{name} ({len(group)})": group for name, group in cosines.items()})
    assert left.get_xlim() == (0, 1) and [line.get_xdata()[0] for line in left.get_lines()] == [0.5]
    assert texts(left) == [" threshold 0.5"] and texts(right) == []
    assert len(figure.legends) == 1
    assert histogram_figure({"x": {"all": [1.0, 1.0]}}).legends == []
    with pytest.raises(ValueError, match="no values of 'x'"):
        histogram_figure({"x": {"all": [math.nan]}})


# ---- classes ----


def test_confusion_matrix_is_drawn() -> None:
    targets = ["no", "yes", "yes", "maybe", "yes"]
    predictions = ["no", "no", "yes", "yes", "yes"]
    axes = confusion_figure(targets, predictions, labels=["no", "maybe", "never", "yes"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no", "maybe", "yes"]
    expected = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 2]])
    assert np.array([int(text) for text in texts(axes)]).reshape(3, 3).tolist() == expected.tolist()
    shares = axes.images[0].get_array()
    assert np.allclose(shares, 100 * expected / expected.sum(axis=1, keepdims=True))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "right")


def test_rare_classes_are_one() -> None:
    targets = ["a"] * 5 + ["b"] * 3 + [f"rare {number}" for number in range(20)]
    axes = confusion_figure(targets, ["a"] * 5 + ["z"] * 3 + targets[8:], max_classes=3).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "(others)"]
    assert [int(text) for text in texts(axes)] == [5, 0, 0, 0, 0, 3, 0, 0, 20]
    with pytest.raises(ValueError, match="2 right classes and 1 predictions"):
        confusion_figure(["a", "b"], ["a"])


# ---- bars and differences ----


def test_bars_are_sorted() -> None:
    figure = bars_figure({"answer type": {"number": 40.0, "yes/no": 80.5}, "question type": {"what": 55.0}}, "accuracy")
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [80.5, 40.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["yes/no", "number"]
    assert [bar.get_width() for bar in second.patches] == [55.0] and second.get_xlabel() == "accuracy"
    assert texts(first) == ["80.5", "40.0"]
    with pytest.raises(ValueError, match="no values of 'accuracy'"):
        bars_figure({}, "accuracy")


def test_differences_in_units_of_the_tolerance() -> None:
    rows = [("TR@1", 0.5, True), ("caption", None, True), ("answer", None, False), ("loss", -40.0, False)]
    (axes,) = differences_figure(rows).axes
    good, bad = (points.get_offsets().tolist() for points in axes.collections)
    assert good == [[0.5, 0], [0.0, 1]] and bad == [[0.0, 2], [-3.0, 3]]
    assert [text.strip() for text in texts(axes)] == ["text equal", "text differs", "-40"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["TR@1", "caption", "answer", "loss"]


# ---- files ----


def test_suffix_decides_the_form(tmp_path: Path) -> None:
    def save(name: str) -> None:
        save_figure(bars_figure({"type": {"yes/no": 80.5}}, "accuracy, %"), tmp_path / name)

    save("bars.PNG")
    with PIL.Image.open(tmp_path / "bars.PNG") as picture:
        assert picture.format == "PNG" and picture.width == 770
    save("bars.svg")
    svg = (tmp_path / "bars.svg").read_text()
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"yes/no", "80.5", "accuracy, %", "type"} <= set(found)  # text, not outlines of letters
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before:
        save(name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before  # equal, and nothing else


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken:
        def savefig(self, path: Path, **options: Any) -> None:
            path.write_bytes(b"half")
            raise OSError("disk full")

    (tmp_path / "plot.png").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        save_figure(Broken(), tmp_path / "plot.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("plot.png", b"old")]


def test_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.png").mkdir()
    for path, kind, message in (
        (tmp_path / "plot.pdf", ValueError, "ends in .png or .svg"),
        (tmp_path / "plot", ValueError, "ends in .png or .svg"),
        (tmp_path / "missing" / "plot.png", OSError, "missing is not a folder"),
        (tmp_path / "folder.png", OSError, "is a folder"),
    ):
        with pytest.raises(kind, match=message):
            check_plot_file(path)
    assert check_plot_file(str(tmp_path / "plot.svg")) == tmp_path / "plot.svg"
    monkeypatch.setattr("modeling_lavis.import_utils.is_available", lambda name: name != "matplotlib")
    with pytest.raises(ImportError, match=r"matplotlib.*modeling-lavis\[plot\]"):
        check_plot_file(tmp_path / "plot.svg")


def test_settings_of_the_user_stay(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert draw_curves(LOG, tmp_path / "curves.svg")
    assert dict(matplotlib.rcParams) == before
