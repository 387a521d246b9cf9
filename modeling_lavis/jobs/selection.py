# SPDX-License-Identifier: Apache-2.0
"""Which texts of an image are kept, by the scores of a filter, and statistics of that."""

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

SOURCES = ("web", "synthetic")
TEXTS = ("both", *SOURCES, "best")
OUTCOMES = ("both", "web", "synthetic", "none")


@dataclass(frozen=True)
class Selection:
    """
    Options of a selection. A text is kept if its scores are at least the thresholds that are given.

    Args:
        texts (`str`, *optional*, defaults to `"both"`): texts that are considered: `"web"`, `"synthetic"`, `"both"`, or
            `"best"`, the one of an image with the highest probability.
        min_score (`float`, *optional*): threshold of the probability of a match (ITM); 0.5 if no threshold is given,
            where the filter calls a pair matched.
        min_similarity (`float`, *optional*): threshold of the cosine (ITC).
        score_quantile (`float`, *optional*): instead of `min_score`, the share of all considered texts, from 0 to 1,
            whose probabilities are below the threshold.
        similarity_quantile (`float`, *optional*): the same for the cosine.

    Raises:
        ValueError: a value is out of range, or there are two forms of a threshold.
    """

    texts: str = "both"
    min_score: float | None = None
    min_similarity: float | None = None
    score_quantile: float | None = None
    similarity_quantile: float | None = None

    def __post_init__(self) -> None:
        if self.texts not in TEXTS:
            raise ValueError(f"texts is {self.texts!r}; expected one of {', '.join(TEXTS)}.")
        for name, lowest in (
            ("min_score", 0.0),
            ("min_similarity", -1.0),
            ("score_quantile", 0.0),
            ("similarity_quantile", 0.0),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= 1:
                raise ValueError(f"{name} is {value!r}; expected a number from {lowest:g} to 1.")
        for minimum, quantile in (("min_score", "score_quantile"), ("min_similarity", "similarity_quantile")):
            if getattr(self, minimum) is not None and getattr(self, quantile) is not None:
                raise ValueError(f"{minimum} and {quantile} are two forms of one threshold. Give one of them.")

    def as_dict(self) -> dict[str, Any]:
        """The options."""
        return asdict(self)

    def candidates(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The considered texts of a record of scores, with their `source`."""
        sources = SOURCES if self.texts in ("both", "best") else (self.texts,)
        found = [{**entry, "source": source} for source in sources for entry in record[source]]
        if self.texts == "best" and found:
            found = [max(found, key=lambda entry: (_number(entry["score"]), _number(entry["similarity"])))]
        return found

    def thresholds(self, records: Iterable[Mapping[str, Any]]) -> "Thresholds":
        """The thresholds for records of scores, which are read if there are quantiles; 16 bytes per text are held."""
        score, similarity = self.min_score, self.min_similarity
        if self.score_quantile is not None or self.similarity_quantile is not None:
            values = {name: array("d") for name in ("score", "similarity")}
            for record in records:
                for entry in self.candidates(record):
                    for name, known in values.items():
                        known.append(_number(entry[name]))
            if values["score"]:
                score = _quantile(values["score"], self.score_quantile, score)
                similarity = _quantile(values["similarity"], self.similarity_quantile, similarity)
        elif score is None and similarity is None:
            score = 0.5
        return Thresholds(score, similarity)


def _quantile(values: Any, quantile: float | None, given: float | None) -> float | None:
    return given if quantile is None else float(np.quantile(np.frombuffer(values), quantile, method="higher"))


def _number(value: float | None) -> float:
    return -math.inf if value is None else value  # a score that is not finite is written as null


@dataclass(frozen=True)
class Thresholds:
    """
    What the scores of a text have to be at least.

    Args:
        score (`float`, *optional*): the probability of a match.
        similarity (`float`, *optional*): the cosine.
    """

    score: float | None
    similarity: float | None

    def margin(self, entry: Mapping[str, Any]) -> float:
        """How far a text is above the thresholds, by the score that is nearer to its own; negative below."""
        pairs = ((entry["score"], self.score), (entry["similarity"], self.similarity))
        margins = [_number(value) - least for value, least in pairs if least is not None]
        return min(margins, default=math.inf)

    def keeps(self, entry: Mapping[str, Any]) -> bool:
        """Whether a text is kept."""
        return self.margin(entry) >= 0


@dataclass
class Statistics:
    """
    What a selection kept.

    Args:
        thresholds (`Thresholds`): its thresholds.
        images (`dict[str, int]`): images by what is left of them: `"both"`, `"web"`, `"synthetic"` or `"none"`.
        texts (`dict[str, dict[str, Any]]`): for web and synthetic texts their number, how many are kept, and the means
            of the scores of all and of those that are kept.
    """

    thresholds: Thresholds
    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], selection: Selection, thresholds: Thresholds) -> "Statistics":
        """Statistics of records of scores."""
        statistics = cls(thresholds)
        sums = {source: {"texts": 0, "kept": 0, "score": 0.0, "similarity": 0.0} for source in SOURCES}
        kept_sums = {source: {"score": 0.0, "similarity": 0.0} for source in SOURCES}
        for record in records:
            present = set()
            for entry in selection.candidates(record):
                source = entry["source"]
                sums[source]["texts"] += 1
                is_kept = thresholds.keeps(entry)
                for name in ("score", "similarity"):
                    sums[source][name] += entry[name] or 0.0
                    kept_sums[source][name] += (entry[name] or 0.0) * is_kept
                if is_kept:
                    sums[source]["kept"] += 1
                    present.add(source)
            statistics.images["both" if len(present) == 2 else next(iter(present), "none")] += 1
        for source, known in sums.items():
            count, kept = int(known["texts"]), int(known["kept"])
            statistics.texts[source] = {"texts": count, "kept": kept}
            for name in ("score", "similarity"):
                statistics.texts[source][f"mean_{name}"] = round(known[name] / count, 4) if count else None
                mean = round(kept_sums[source][name] / kept, 4) if kept else None
                statistics.texts[source][f"mean_{name}_kept"] = mean
        return statistics

    def as_dict(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return asdict(self)


__all__ = ["OUTCOMES", "SOURCES", "TEXTS", "Selection", "Statistics", "Thresholds"]
