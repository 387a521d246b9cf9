# SPDX-License-Identifier: Apache-2.0
"""What the models of the page are, what they cannot do, and what the page does with what it is sent."""

import os
import re
from html import escape
from pathlib import Path

from modeling_lavis.demo.models import TASKS_OF_KINDS, Kind, PageModel

TITLES: dict[Kind, str] = {"caption": "Captions", "answer": "Questions", "match": "Matching", "search": "Search"}
_FAMILIES = {"albef": "ALBEF", "alpro": "ALPRO", "lavis_blip": "BLIP", "lavis_blip_2": "BLIP-2"}
_LIMITS: dict[Kind, str] = {
    "caption": "A caption is a likely text, not a fact: it may name what is not in the image, and it repeats the "
    "biases of the texts that the model was trained on.",
    "answer": "An answer is given to every question, also to one that the image does not answer; it may be wrong.",
    "match": "A probability of a match tells texts apart that are about the image. It does not prove that a text is "
    "true, and counting, reading and positions are weak.",
    "search": "A search ranks what is there: its first result may be far from what was meant.",
}
_OF_ALL = "The model must not be used to identify people, or to decide about them. It knows English only."


def tab_title(kind: Kind, modality: str) -> str:
    """Name of a tab."""
    return TITLES[kind] if modality == "image" else f"{TITLES[kind]} (videos)"


def is_embedded(entry: PageModel) -> bool:
    """Whether a model is the one that the package contains."""
    from modeling_lavis.embedded import embedded_model_path

    return os.path.isdir(entry.name) and os.path.samefile(entry.name, embedded_model_path())


def card_section(folder: str | os.PathLike[str], heading: str) -> str | None:
    """The text below a heading of the model card in a folder, as plain lines; `None` if it has none."""
    path = Path(folder) / "README.md"
    if not path.is_file():
        return None
    card = path.read_text(encoding="utf-8", errors="replace")[:200_000]
    found = re.search(rf"^## {heading}\s*$(.*?)(?=^#|\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else None


def description(entry: PageModel) -> str:
    """What a model is, in a sentence."""
    model = entry.model
    family = _FAMILIES.get(model.config.model_type, model.config.model_type)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    size = f", {millions:,.1f} million parameters" if millions else ", an exported graph"
    # the path of a folder is nothing for visitors
    name = (
        "The embedded model"
        if is_embedded(entry)
        else Path(entry.name).name
        if os.path.isdir(entry.name)
        else entry.name
    )
    return f"{name}: {type(model).__name__} of the family {family}{size}."


def warning(entry: PageModel) -> str | None:
    """What has to be known before a result of the model is read; only the embedded model has such a thing."""
    if not is_embedded(entry):
        return None
    return (
        "This is the small model that comes with the package. It knows emoji on a white background and nothing else: "
        "for a photo it names some emoji. Start the page with --model FOLDER for a published checkpoint."
    )


def limits(entry: PageModel) -> list[str]:
    """What a model cannot do: the section of its card, then what holds for its tasks."""
    found = []
    for heading in ("Limits", "Limitations"):
        if os.path.isdir(entry.name) and (text := card_section(entry.name, heading)):
            items = re.split(r"^- ", text, flags=re.MULTILINE) if text.startswith("- ") else [text]
            found += [" ".join(item.split()) for item in items if item.strip()]
    return [*found, *(_LIMITS[kind] for kind in entry.pipelines), _OF_ALL]


def about(models: list[PageModel], tabs: list[tuple[Kind, PageModel]], max_upload: str) -> str:
    """The tab as HTML."""
    parts = []
    for entry in models:
        items = "".join(f"<li>{escape(text)}</li>" for text in limits(entry))
        parts.append(f"<h2>{escape(description(entry))}</h2><h3>What it cannot do</h3><ul>{items}</ul>")
    present = {(kind, entry.modality) for kind, entry in tabs}
    missing = [
        f"<li>{escape(tab_title(kind, modality))}: a model for <code>{task}</code></li>"
        for kind, tasks in TASKS_OF_KINDS.items()
        for modality, task in tasks.items()
        if (kind, modality) not in present
    ]
    if missing:
        parts.append(f"<h2>Tabs of other models</h2><p>With <code>--model</code>:</p><ul>{''.join(missing)}</ul>")
    parts.append(
        "<h2>What the page does with what it is sent</h2><p>Everything is computed on the machine that serves the "
        "page, which asks no other one. Uploads are temporary files, removed within an hour and when the page ends; "
        f"nothing is recorded. A file may have {escape(max_upload)}.</p>"
    )
    return f'<div class="about">{"".join(parts)}</div>'


__all__ = ["about", "card_section", "description", "is_embedded", "limits", "tab_title", "warning"]
