# SPDX-License-Identifier: Apache-2.0
"""`--plot FILE` of the commands that measure something."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_lavis.cli.output import UsageError, check_output_file, one_line, warn

#: values of a match by their names in records, with the labels of their axes and their ranges
_MATCH = {"score": ("probability of a match", (0.0, 1.0)), "similarity": ("cosine of the features", None)}
_MOST_TEXTS = 4  # of more, all texts are one group


def add_plot_option(parser: Any, what: str) -> None:
    """Add `--plot`; `what` says what is drawn."""
    parser.add_argument("--plot", metavar="FILE", type=Path, help=f"draw {what}, .png or .svg")


def check_plot(path: Path | None) -> None:
    """
    Check the value of `--plot`, before long work.

    Raises:
        UsageError: the file cannot be written, or matplotlib is not installed.
    """
    if path is None:
        return
    from modeling_lavis.plots.figure import SUFFIXES, check_plot_file

    check_output_file(path, SUFFIXES, "--plot")
    try:
        check_plot_file(path)
    except ImportError as error:
        raise UsageError(f"--plot cannot be used: {error}") from error


def save_plot(path: Path, figure: Any) -> None:
    """Write a figure to the value of `--plot`, or say that there is nothing to draw if it is `None`."""
    if figure is None:
        warn(f"{one_line(str(path))} was not written: there is nothing to draw.", "warning")
        return
    from modeling_lavis.plots.figure import save_figure

    save_figure(figure, path)


# ---- evaluation ----


def evaluation_figure(found: Any, labels: Sequence[str] = ()) -> Any:
    """
    The figure of what an evaluation returned: recall over k; CIDEr of each caption; accuracy by type of question, or
    a confusion matrix of answers or classes.

    Args:
        found (`EvaluationResult` or `RetrievalRankings`): what an evaluation returned.
        labels (`Sequence[str]`, *optional*): names of the classes in their order.

    Returns:
        `matplotlib.figure.Figure`, or `None` if the data have nothing to compare with.
    """
    from modeling_lavis import plots
    from modeling_lavis.evaluation.rankings import RetrievalRankings

    if isinstance(found, RetrievalRankings):
        return _retrieval_figure(found)
    if not found.references:
        return None
    if "caption" in found.predictions[0]:
        return _caption_figure(found)
    by_type: dict[str, dict[str, float]] = {}
    for name, value in found.metrics.items():
        _, *kind = name.split("/", 2)
        if len(kind) == 2:
            by_type.setdefault(kind[0].replace("_", " "), {})[kind[1]] = value
    if by_type:
        return plots.bars_figure(by_type, "accuracy, %", 100)
    predicted = [entry["label"] if "label" in entry else entry["answer"] for entry in found.predictions]
    right = [_most_frequent(reference) for reference in found.references]
    return plots.confusion_figure(right, predicted, labels=labels)


def _most_frequent(reference: Any) -> str:
    """The name of a class, or the answer that most people gave."""
    return reference if isinstance(reference, str) else max(reference, key=reference.count)


def _caption_figure(found: Any) -> Any:
    from modeling_lavis import plots
    from modeling_lavis.evaluation.metrics import cider

    score = cider([entry["caption"] for entry in found.predictions], found.references)
    label = "CIDEr of a caption"
    return plots.histogram_figure({label: {"captions": score.per_image}}, marks={label: ("mean", score.score)})


def _retrieval_figure(found: Any) -> Any:
    from modeling_lavis import plots

    directions = (("text", found.image_to_text), (found.modality, found.text_to_image))
    places = {
        f"{name} retrieval": (places.tolist(), ranked.indices.shape[1])
        for (name, ranked), places in zip(directions, found.places())
    }
    own, others = found.scores()
    matching = "VTM" if found.modality == "video" else "ITM"
    score = f"{matching} logit + cosine" if found.reranked else "cosine"
    return plots.retrieval_figure(places, {"right pairs": own.numpy(), "other candidates": others.numpy()}, score)


# ---- matches ----


class MatchScores:
    """
    Scores of matches by text, for a histogram.

    Args:
        texts (`Sequence[str]`, *optional*): texts of which each is a group; without any, or of too many, all matches
            are one group.
    """

    def __init__(self, texts: Sequence[str] | None) -> None:
        self._groups = list(texts or ()) if len(texts or ()) <= _MOST_TEXTS else []
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, matches: Iterable[Mapping[str, Any]]) -> None:
        """Add matches with `text`, `score` and `similarity`."""
        for match in matches:
            group = match["text"] if match["text"] in self._groups else "pairs"
            for name in _MATCH:
                if match.get(name) is not None:
                    self._values.setdefault(name, {}).setdefault(group, []).append(match[name])

    def figure(self) -> Any:
        """The histogram, or `None` without matches."""
        return match_figure(self._values)


def match_figure(
    values: Mapping[str, Mapping[str, Sequence[float]]], marks: Mapping[str, float | None] | None = None
) -> Any:
    """
    Histograms of matching probabilities and cosines.

    Args:
        values (`Mapping[str, Mapping[str, Sequence[float]]]`): `"score"` and `"similarity"` by group.
        marks (`Mapping[str, float]`, *optional*): threshold of each.

    Returns:
        `matplotlib.figure.Figure`, or `None` without values.
    """
    from modeling_lavis import plots

    known = {name: groups for name in _MATCH if (groups := values.get(name)) and any(map(len, groups.values()))}
    if not known:
        return None
    return plots.histogram_figure(
        {_MATCH[name][0]: groups for name, groups in known.items()},
        marks={_MATCH[name][0]: ("threshold", mark) for name, mark in (marks or {}).items() if mark is not None},
        ranges={_MATCH[name][0]: limits for name in known if (limits := _MATCH[name][1]) is not None},
    )


# ---- verification ----


def verification_figure(comparisons: Iterable[Any]) -> Any:
    """
    The figure of comparisons of `verify`, or `None` if nothing was measured.

    Args:
        comparisons (`Iterable[Comparison]`): the comparisons.
    """
    from modeling_lavis import plots

    rows = []
    for entry in comparisons:
        if entry.agrees is None or entry.found is None:
            continue
        difference = None
        if not isinstance(entry.expected, str):
            difference = (float(entry.found) - entry.expected) / (entry.tolerance or 1.0)
            difference = math.inf if math.isnan(difference) else difference
        rows.append((f"{entry.title}: {entry.name}", difference, entry.agrees))
    return plots.differences_figure(rows) if rows else None


__all__ = [
    "MatchScores",
    "add_plot_option",
    "check_plot",
    "evaluation_figure",
    "match_figure",
    "save_plot",
    "verification_figure",
]
