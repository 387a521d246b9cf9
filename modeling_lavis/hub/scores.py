# SPDX-License-Identifier: Apache-2.0
"""Published metrics of a checkpoint, and how they are measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modeling_lavis.hub import zoo
from modeling_lavis.hub.cards import common_facts

_JAVA = ("METEOR", "SPICE")


@dataclass(frozen=True)
class Score:
    """
    Published metrics on one data set.

    Args:
        task (`str`): name of the task, a key of `evaluations` in `common.yaml`.
        dataset (`str`): name of the data set.
        split (`str`): name of the split.
        metrics (`Mapping[str, float]`): published values by name, in points of 100.
        options (`Mapping[str, Any]`, *optional*): options of the evaluation that they were published with.
        unmeasured (`str`, *optional*): why they cannot be measured, for example because the answers are secret.
        origin (`str`, *optional*, defaults to `""`): where they stand.
        note (`str`, *optional*): remark for the reader.

    Raises:
        ValueError: If the task or a metric is unknown.
    """

    task: str
    dataset: str
    split: str
    metrics: Mapping[str, float]
    options: Mapping[str, Any] = field(default_factory=dict)
    unmeasured: str | None = None
    origin: str = ""
    note: str | None = None

    def __post_init__(self) -> None:
        known = common_facts()["evaluations"]
        if self.task not in known:
            raise ValueError(f"The task of a score is {self.task!r:.80}; expected one of {', '.join(known)}.")
        names = known[self.task]["metrics"]
        if not isinstance(self.metrics, Mapping) or not self.metrics or not set(self.metrics) <= set(names):
            raise ValueError(f"The metrics of a score are {self.metrics!r:.80}; expected some of {', '.join(names)}.")
        if not all(type(value) in (int, float) for value in self.metrics.values()):
            raise ValueError(f"The metrics of a score are {self.metrics!r:.80}; expected numbers.")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Score":
        """
        Make it from a mapping of its fields.

        Raises:
            ValueError: If a field is unknown or missing.
        """
        known = set(cls.__dataclass_fields__)
        if not isinstance(content, Mapping) or not {"task", "dataset", "split", "metrics"} <= set(content) <= known:
            raise ValueError(f"A score is {content!r:.120}; expected task, dataset, split, metrics, {sorted(known)}.")
        return cls(**content)

    @property
    def needs_answers(self) -> bool:
        """Whether a list of answers was ranked."""
        return "num_candidates" in self.options


def published_scores(entry: zoo.ZooEntry) -> list[Score]:
    """
    Published metrics of a checkpoint; empty for some of them.

    Args:
        entry ([`~modeling_lavis.hub.zoo.ZooEntry`]): the checkpoint.
    """
    origins = common_facts()["origins"]
    return [
        Score.from_dict({**content, "origin": origins[content["origin"]]["name"]}) for content in entry.facts["scores"]
    ]


def measure_score(
    model: Any,
    processor: Any,
    data: Any,
    score: Score,
    *,
    split: str | None = None,
    answers: Sequence[str] | None = None,
    java_metrics: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    data_options: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """
    Measure the metrics of a score, in the way that they were published.

    Args:
        model (`PreTrainedModel`): the model.
        processor (`ProcessorMixin`): its processor.
        data (`str`, `os.PathLike` or rows): the data set, as `load_data` reads it.
        score ([`Score`]): what was published.
        split (`str`, *optional*): split of a folder.
        answers (`Sequence[str]`, *optional*): list of answers that is ranked.
        java_metrics (`bool`, *optional*, defaults to `False`): also METEOR and SPICE, which need Java.
        batch_size (`int`, *optional*, defaults to 32), num_workers (`int`, *optional*, defaults to 0): see the
            evaluations.
        data_options (`Mapping[str, Any]`, *optional*): further options of `load_data`.

    Returns:
        Metrics by their published names in points of 100, and the reason why a metric was not measured.

    Raises:
        OSError, ValueError: If the data cannot be read, or do not fit the task or the model.
    """
    from modeling_lavis.data.loading import load_data
    from modeling_lavis.evaluation.tasks import evaluate

    facts = common_facts()["evaluations"][score.task]
    options: dict[str, Any] = {**score.options, "batch_size": batch_size, "num_workers": num_workers}
    if score.needs_answers:
        if answers is None:
            raise ValueError(
                f"The score on {score.dataset} comes from ranking a list of answers, which is missing. Give it"
                " (answers): LAVIS's answer_list.json of the data set, or the answers of the training data."
            )
        options["answers"] = list(answers)
    if facts["task"] == "captioning":
        options["java_metrics"] = java_metrics
    rows = load_data(data, facts["task"], split=split, **dict(data_options or {}))
    found = evaluate(facts["task"], model, processor, rows, **options)
    measured: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name in score.metrics:
        source, factor = facts["metrics"][name]
        if source in found:
            measured[name] = float(found[source]) * factor
        elif name in _JAVA and not java_metrics:
            reasons[name] = f"{name} needs Java (java_metrics)"
        else:
            reasons[name] = f"the evaluation gives no {source}"
    return measured, reasons


__all__ = ["Score", "measure_score", "published_scores"]
