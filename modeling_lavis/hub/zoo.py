# SPDX-License-Identifier: Apache-2.0
"""Typed access to the settings and facts of LAVIS's published checkpoints.

`zoo.json` contains the published settings by architecture and model type, in the form of `tests/goldens/*/config.json`,
limited to what cannot be inferred from the shapes of the weights. The origin, training and scores of a checkpoint are
in `model_cards/<architecture>__<model_type>.yaml`, from which the model cards are made. Nothing is in both.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).resolve().parent
SETTINGS_FILE = _HERE / "zoo.json"
_INSTALLED_FACTS = _HERE / "model_cards"  # setup.cfg installs the top-level folder of that name here
FACTS_FOLDER = _INSTALLED_FACTS if _INSTALLED_FACTS.is_dir() else _HERE.parent.parent / "model_cards"


@dataclass(frozen=True)
class ZooEntry:
    """
    A published model type of an architecture.

    Args:
        architecture (`str`): original name of the architecture, for example `"blip_retrieval"`.
        model_type (`str`): name of the model type, for example `"coco"`.
        settings (`Mapping[str, Any]`): published settings that cannot be inferred from shapes.
    """

    architecture: str
    model_type: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`architecture__model_type`, the name of the facts file."""
        return f"{self.architecture}__{self.model_type}"

    @property
    def repository(self) -> str:
        """Name of the converted repository, for example `"blip-caption-base-coco"`, as a folder and on the Hub."""
        return f"{self.architecture}-{self.model_type}".replace("_", "-").lower()

    @property
    def family(self) -> str:
        """Family of the architecture, one of [`FAMILIES`]."""
        return family_name(self.architecture)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the model is for; one of [`TASKS`]."""
        return _ARCHITECTURES[self.architecture][1]

    @property
    def facts(self) -> dict[str, Any]:
        """Facts about the checkpoint; `model_cards/README.md` describes the entries."""
        return read_facts(FACTS_FOLDER / f"{self.name}.yaml")

    @property
    def source(self) -> str:
        """URL of the published checkpoint."""
        return str(self.facts["source"])


# Class of the model, and its tasks under the names that recipes have; a feature extractor is not trained.
_ARCHITECTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "albef_pretrain": ("AlbefForPreTraining", ("pretraining",)),
    "albef_feature_extractor": ("AlbefModel", ("features",)),
    "albef_retrieval": ("AlbefForImageTextRetrieval", ("retrieval",)),
    "albef_vqa": ("AlbefForQuestionAnswering", ("vqa",)),
    "albef_nlvr": ("AlbefForImagesAndTextClassification", ("nlvr",)),
    "albef_classification": ("AlbefForImageAndTextClassification", ("classification",)),
    "alpro_retrieval": ("AlproForVideoTextRetrieval", ("video-retrieval",)),
    "alpro_qa": ("AlproForVideoQuestionAnswering", ("video-qa",)),
    "blip_pretrain": ("LavisBlipForPreTraining", ("pretraining",)),
    "blip_retrieval": ("LavisBlipForImageTextRetrieval", ("retrieval",)),
    "blip_image_text_matching": ("LavisBlipForImageTextRetrieval", ("retrieval",)),
    "blip_feature_extractor": ("LavisBlipModel", ("features",)),
    "blip_caption": ("LavisBlipForConditionalGeneration", ("captioning",)),
    "blip_vqa": ("LavisBlipForQuestionAnswering", ("vqa",)),
    "blip_nlvr": ("LavisBlipForImagesAndTextClassification", ("nlvr",)),
    "blip_classification": ("LavisBlipForImageAndTextClassification", ("classification",)),
    "blip2": ("LavisBlip2ForPreTraining", ("pretraining", "captioning", "retrieval")),
    "blip2_feature_extractor": ("LavisBlip2Model", ("features",)),
    "blip2_image_text_matching": ("LavisBlip2ForImageTextRetrieval", ("retrieval",)),
    "blip2_opt": ("LavisBlip2ForConditionalGeneration", ("captioning", "vqa")),
    "blip2_t5": ("LavisBlip2ForConditionalGeneration", ("captioning", "vqa")),
}
#: tasks of published checkpoints
TASKS = tuple(dict.fromkeys(task for _, tasks in _ARCHITECTURES.values() for task in tasks))
FAMILIES = ("albef", "alpro", "blip", "blip2")


def architectures() -> list[str]:
    """Return the names of all architectures that can be converted."""
    return list(_ARCHITECTURES)


def model_class_of(architecture: str) -> str:
    """
    Return the name of the model class of an architecture.

    Raises:
        ValueError: If there is no such architecture. The message lists the known ones.
    """
    if architecture not in _ARCHITECTURES:
        raise ValueError(f"Unknown architecture {architecture!r}; expected one of: {', '.join(_ARCHITECTURES)}.")
    return _ARCHITECTURES[architecture][0]


def family_name(architecture: str) -> str:
    """
    Return the family that an architecture is named after, one of [`FAMILIES`].

    Raises:
        ValueError: If its name does not start with that of a family.
    """
    name = architecture.partition("_")[0]
    if name not in FAMILIES:
        raise ValueError(f"Unknown architecture {architecture!r}; its name must start with one of {FAMILIES}.")
    return name


def read_facts(path: Path) -> dict[str, Any]:
    """
    Read a facts file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is not a YAML mapping.
    """
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}. Correct it.") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} contains a {type(facts).__name__}, expected a YAML mapping.")
    return facts


@cache
def entries() -> dict[tuple[str, str], ZooEntry]:
    """Return all published model types by architecture and model type."""
    table = json.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    return {
        (architecture, model_type): ZooEntry(architecture, model_type, settings)
        for architecture, types in table.items()
        for model_type, settings in types.items()
    }


def get(architecture: str, model_type: str) -> ZooEntry:
    """
    Return a published model type.

    Raises:
        ValueError: If there is no such model type. The message lists those of the architecture.
    """
    if (architecture, model_type) in entries():
        return entries()[architecture, model_type]
    types = [known for name, known in entries() if name == architecture]
    raise ValueError(f"{architecture} has no published model type {model_type!r}; it has {', '.join(types) or 'none'}.")


def by_name(name: str) -> ZooEntry:
    """
    Return a published model type by its name.

    Args:
        name (`str`): `ARCHITECTURE/MODEL_TYPE`, for example `"blip_caption/base_coco"`, with `__` instead of `/`, or
            the name of the repository, `"blip-caption-base-coco"`.

    Raises:
        ValueError: If there is none of that name. The message lists close ones.
    """
    for entry in entries().values():
        if name in (entry.name, f"{entry.architecture}/{entry.model_type}", entry.repository):
            return entry
    known = {f"{entry.architecture}/{entry.model_type}" for entry in entries().values()}
    close = difflib.get_close_matches(name.replace("__", "/"), known, n=5, cutoff=0.4) or sorted(known)[:5]
    raise ValueError(
        f"There is no published checkpoint {name!r:.120}; expected ARCHITECTURE/MODEL_TYPE, such as "
        f"{', '.join(close)}. `modeling-lavis zoo` lists all."
    )


def find(architecture: str, model_type: str | None, checkpoint: str) -> ZooEntry | None:
    """
    Return the requested model type, or the one that the checkpoint's URL belongs to.

    Args:
        architecture (`str`): the architecture to convert to.
        model_type (`str`, *optional*): the requested model type.
        checkpoint (`str`): path or URL of the checkpoint.

    Returns:
        [`ZooEntry`] or `None`: The entry. `None` if no model type is requested and the checkpoint is the URL of none of
        the architecture's model types, or of several.

    Raises:
        ValueError: If there is no such model type.
    """
    if model_type is not None:
        return get(architecture, model_type)
    found = [entry for entry in entries().values() if entry.architecture == architecture and entry.source == checkpoint]
    return found[0] if len(found) == 1 else None


def is_published_file(entry: ZooEntry, checkpoint: str) -> bool:
    """Return whether a path or URL names the published checkpoint itself, to which the published scores apply."""
    return checkpoint == entry.source or Path(checkpoint).name == entry.source.rpartition("/")[2]
