# SPDX-License-Identifier: Apache-2.0
"""The record of the code in a repository: which release it is from, and the SHA-256 of every file."""

import base64
import importlib.metadata
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import modeling_lavis
from modeling_lavis.files import sha256_of
from modeling_lavis.hub.json_files import read_object, write_object

#: name of the record
CODE_RECORD = "modeling_lavis_code.json"
#: folder of this package whose files can be attached
MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"
#: configurations that can name attached classes in `auto_map`
CONFIGURATIONS = ("config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_DISTRIBUTION = "modeling-lavis"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CODE_FILE = re.compile(r"\w+\.py", re.ASCII)


@dataclass(frozen=True)
class AttachedCode:
    """
    What `modeling_lavis_code.json` says about the code of a repository.

    Args:
        version (`str`): version of this package that the files are from.
        sha256 (`Mapping[str, str]`): SHA-256 of every file in hexadecimal digits, by the name of the file.
    """

    version: str
    sha256: Mapping[str, str]

    @property
    def is_release(self) -> bool:
        """Whether the version is a release, and not one in development."""
        return not re.search(r"dev|\+", self.version)


def attached_code(folder: str | os.PathLike[str]) -> AttachedCode | None:
    """
    Read which release the code of a repository is from.

    Args:
        folder (`str` or `os.PathLike`): folder of the repository.

    Returns:
        [`AttachedCode`], or `None` without a record: the folder has no code, or code that was attached otherwise.

    Raises:
        ValueError: If the record is not one that `attach_code` writes.
    """
    path = Path(folder) / CODE_RECORD
    if not path.is_file():
        return None
    content = read_object(path)
    version, sha256 = content.get("version"), content.get("sha256")
    if (
        not isinstance(version, str)
        or not isinstance(sha256, dict)
        or not all(_CODE_FILE.fullmatch(name) and _SHA256.fullmatch(str(value)) for name, value in sha256.items())
    ):
        raise ValueError(f"{path} does not name a version and the SHA-256 of files. {_again(folder)}")
    return AttachedCode(version, sha256)


def is_model_class(name: object) -> bool:
    """Whether a configuration's entry of `architectures` is the name of a model class of this package."""
    is_public = isinstance(name, str) and name in modeling_lavis.__all__
    return is_public and hasattr(getattr(modeling_lavis, str(name)), "config_class")


def write_record(folder: Path, files: Iterable[Path]) -> None:
    """Write the record of `files`, which this package has attached."""
    write_object(
        folder / CODE_RECORD,
        {
            "distribution": _DISTRIBUTION,
            "version": modeling_lavis.__version__,
            "folder": "modeling_lavis/models",
            "sha256": {path.name: sha256_of(path) for path in files},
        },
    )


def check_attached_code(folder: str | os.PathLike[str]) -> list[str]:
    """
    Compare the code of a repository with its record and, if it is from the installed version, with the installed files.

    Args:
        folder (`str` or `os.PathLike`): folder of the repository.

    Returns:
        `list[str]`: What is wrong, in one sentence each. Empty for a folder without code, and for one with exactly the
        files that its record names.

    Raises:
        ValueError: If the record or a configuration cannot be read.
    """
    folder = Path(folder)
    code, referenced = attached_code(folder), _referenced_files(folder)
    present = {path.name for path in folder.glob("*.py")}
    if code is None:
        if not present and not referenced:
            return []
        which = min(present | referenced)
        return [f"There is no {CODE_RECORD}, which says what release {which} is from. {_again(folder)}"]
    listed = set(code.sha256)
    changed = {name for name in listed & present if sha256_of(folder / name) != code.sha256[name]}
    other = set()
    if code.version == modeling_lavis.__version__:
        installed = installed_code()
        other = {name for name in listed if installed.get(name) != code.sha256[name]}
    return [
        *(f"{name}, which {CODE_RECORD} lists, is missing. {_again(folder)}" for name in sorted(listed - present)),
        *(f"{name} is not among the files that {CODE_RECORD} lists. Delete it." for name in sorted(present - listed)),
        *(
            f"{name} is not that of version {code.version}, by its SHA-256. {_again(folder)}"
            for name in sorted(changed)
        ),
        *(
            f"{name} of version {code.version} has another SHA-256 in {CODE_RECORD} than in the installed package. "
            f"{_again(folder)}"
            for name in sorted(other - changed)
        ),
        *(
            f"auto_map names {name}, which {CODE_RECORD} does not list. {_again(folder)}"
            for name in sorted(referenced - listed)
        ),
    ]


def installed_code() -> dict[str, str]:
    """
    SHA-256 of the files that can be attached, in hexadecimal digits by name. They are those of the installed wheel,
    which records them, so that a change after the installation is noticed; in a source tree, those of the files.
    """
    found = {path.name: sha256_of(path) for path in MODELS_FOLDER.glob("*.py")}
    try:
        recorded = importlib.metadata.distribution(_DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        return found
    for file in recorded:
        path = Path(str(file.locate()))
        if file.hash is not None and file.hash.mode == "sha256" and path.name in found and path.parent == MODELS_FOLDER:
            padding = "=" * (-len(file.hash.value) % 4)
            found[path.name] = base64.urlsafe_b64decode(file.hash.value + padding).hex()
    return found


def unchanged_files(folder: Path) -> list[Path]:
    """Attached files of a folder that are those of its record."""
    try:
        code = attached_code(folder)
    except ValueError:  # an invalid record
        return []
    recorded = {folder / name: value for name, value in code.sha256.items()} if code is not None else {}
    return [path for path, value in recorded.items() if path.is_file() and sha256_of(path) == value]


def _referenced_files(folder: Path) -> set[str]:
    """Names of files that `auto_map` of a configuration names."""
    names: set[str] = set()
    for path in (folder / name for name in CONFIGURATIONS):
        auto_map = read_object(path).get("auto_map") if path.is_file() else None
        for entry in auto_map.values() if isinstance(auto_map, dict) else ():
            # an entry for tokenizers is a list with a place for each kind
            references = entry if isinstance(entry, list) else [entry]
            names |= {f"{str(reference).partition('.')[0]}.py" for reference in references if reference is not None}
    return names


def _again(folder: str | os.PathLike[str]) -> str:
    return f"Attach the code again: modeling-lavis attach-code {folder}"


__all__ = [
    "CODE_RECORD",
    "AttachedCode",
    "attached_code",
    "check_attached_code",
    "installed_code",
    "is_model_class",
    "unchanged_files",
    "write_record",
]
