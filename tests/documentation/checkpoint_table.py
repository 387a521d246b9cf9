"""The README's table of architectures, made from the code and the facts about published checkpoints.

`python -m tests.documentation.checkpoint_table` writes it into the README.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[2] / "README.md"
START = "<!-- table of architectures: made by tests/documentation/checkpoint_table.py -->\n\n"
END = "\n<!-- end of the table -->"
#: metrics that stand in the table, the first group that a score has
_HEADLINES = (("CIDEr",), ("TR@1", "IR@1"), ("TR@1", "VR@1"), ("accuracy",))
_LICENCES = {"bsd-3-clause": "BSD-3-Clause", "opt-license": "OPT licence, for research"}


def _auto_classes(model_class: Any) -> Iterator[str]:
    """Auto classes that a head is registered with, as the table shows them, most specific ones first."""
    from transformers.models.auto import modeling_auto

    from modeling_lavis.models import auto_lavis

    for module, note in ((modeling_auto, ""), (auto_lavis, "¹")):
        for name, auto_class in vars(module).items():
            mapping = getattr(auto_class, "_model_mapping", None)
            if mapping is None or not name.startswith("AutoModelFor"):
                continue
            fitting = mapping.get(model_class.config_class, None)
            first = fitting[0] if isinstance(fitting, tuple) else fitting
            if model_class is first:
                yield f"`{name}`{note}"


def _scores(facts: dict[str, Any]) -> str:
    """Headline numbers of a checkpoint; of several splits of a data set the last, which is the test split."""
    shown: dict[str, str] = {}
    for score in facts["scores"]:
        for group in _HEADLINES:
            if all(name in score["metrics"] for name in group):
                values = [str(score["metrics"][name]) for name in group]
                named = [value if name == "accuracy" else f"{name} {value}" for name, value in zip(group, values)]
                dataset = score["dataset"].split(" (")[0].split(",")[0]
                shown[dataset] = f"{dataset} {', '.join(named)}"
                break
    return "; ".join(shown.values())


def _licence(facts: dict[str, Any]) -> str:
    licence = facts["licence"]
    name = _LICENCES[licence["name"] if licence["id"] == "other" else licence["id"]]
    return f"[{name}]({licence['link']})" if "link" in licence else name


def table() -> str:
    """The table, without the markers around it."""
    import modeling_lavis
    from modeling_lavis.hub import zoo

    heads: dict[str, list[str]] = {}
    for architecture in zoo.architectures():
        heads.setdefault(zoo.model_class_of(architecture), []).append(architecture)
    lines = [
        "| Architecture in LAVIS | Class | Auto class | Published checkpoints and scores | Licence |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in [*heads, "AlproModel"]:  # no architecture of LAVIS has only the encoders of ALPRO
        architectures = heads.get(name, [])
        entries = [entry for entry in zoo.entries().values() if entry.architecture in architectures]
        checkpoints, licences = [], []
        for entry in entries:
            facts, label = entry.facts, f"`{entry.model_type}`"
            if len(architectures) > 1:
                label = f"`{entry.architecture}` {label}"
            if not facts["own_checkpoint"]:
                label = f"`{facts['source'].rpartition('/')[2]}` to start from"
            scores = _scores(facts)
            checkpoints.append(f"{label}: {scores}" if scores else label)
            licences.append(_licence(facts))
        cells = (
            ", ".join(f"`{architecture}`" for architecture in architectures) or "(encoders of ALPRO)",
            f"`{name}`",
            "<br>".join(_auto_classes(getattr(modeling_lavis, name))) or "`AutoModel`",
            "<br>".join(checkpoints),
            "<br>".join(dict.fromkeys(licences)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def current() -> str:
    """The table that stands in the README."""
    return README.read_text(encoding="utf-8").split(START)[1].split(END)[0]


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    README.write_text(before + START + table() + END + rest.split(END)[1], encoding="utf-8")
