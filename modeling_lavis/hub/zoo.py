# SPDX-License-Identifier: Apache-2.0
"""The published checkpoints of LAVIS: typed access to their settings and facts.

`zoo.json` holds the published settings by architecture and model type, in the form of a golden set's `config.json`;
only what the shapes of the weights cannot say. Where a checkpoint comes from, how it was trained and what it scores is
in `model_cards/<architecture>__<model_type>.yaml`, the source of the model cards. Nothing is in both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).resolve().parent
SETTINGS_FILE = _HERE / "zoo.json"
_INSTALLED_FACTS = _HERE / "model_cards"  # where setup.cfg puts the folder of that name at the top of a source tree
FACTS_FOLDER = _INSTALLED_FACTS if _INSTALLED_FACTS.is_dir() else _HERE.parent.parent / "model_cards"


@dataclass(frozen=True)
class ZooEntry:
    """One published variant of an architecture.

    Args:
        architecture: name of the original, for example `"blip_retrieval"`.
        model_type: name of the variant, for example `"coco"`.
        settings: published settings that no shape shows.
    """

    architecture: str
    model_type: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`architecture__model_type`, the name of the facts file."""
        return f"{self.architecture}__{self.model_type}"

    @property
    def facts(self) -> dict[str, Any]:
        """What is known about the checkpoint; see `model_cards/README.md` for the entries."""
        return read_facts(FACTS_FOLDER / f"{self.name}.yaml")

    @property
    def source(self) -> str:
        """Address of the published file."""
        return str(self.facts["source"])


def read_facts(path: Path) -> dict[str, Any]:
    """Read a facts file.

    Raises:
        OSError: it is missing. ValueError: it is no YAML mapping.
    """
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {error}. Correct it.") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} holds a {type(facts).__name__}, expected a YAML mapping.")
    return facts


@cache
def entries() -> dict[tuple[str, str], ZooEntry]:
    """All published variants by (architecture, model type)."""
    table = json.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    return {
        (architecture, model_type): ZooEntry(architecture, model_type, settings)
        for architecture, types in table.items()
        for model_type, settings in types.items()
    }


def get(architecture: str, model_type: str) -> ZooEntry:
    """The published variant of a name.

    Raises:
        ValueError: there is none; lists those of the architecture.
    """
    if (architecture, model_type) in entries():
        return entries()[architecture, model_type]
    types = [known for name, known in entries() if name == architecture]
    raise ValueError(
        f"{architecture} has no published model type {model_type!r}; it has {', '.join(types) or 'none at all'}."
    )


def find(architecture: str, model_type: str | None, checkpoint: str) -> ZooEntry | None:
    """The variant that is asked for, or the one that the checkpoint's address belongs to.

    Args:
        architecture: what is to be made.
        model_type: variant asked for, or `None`.
        checkpoint: path or URL of the checkpoint.

    Returns:
        The entry; `None` when no variant is asked for and the address belongs to none of the architecture, or to
        several with different settings.

    Raises:
        ValueError: there is no such variant.
    """
    if model_type is not None:
        return get(architecture, model_type)
    found = [entry for entry in entries().values() if entry.architecture == architecture and entry.source == checkpoint]
    return found[0] if len(found) == 1 else None


def is_published_file(entry: ZooEntry, checkpoint: str) -> bool:
    """Tell whether a path or URL names the published file itself, so that the published scores are its own."""
    return checkpoint == entry.source or Path(checkpoint).name == entry.source.rpartition("/")[2]
