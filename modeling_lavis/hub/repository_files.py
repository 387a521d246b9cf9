# SPDX-License-Identifier: Apache-2.0
"""The files of a repository: which ones of a folder are published, and what is wrong with them."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open

from modeling_lavis.hub.attached_code import CODE_RECORD, CONFIGURATIONS, check_attached_code, is_model_class
from modeling_lavis.hub.json_files import read_object
from modeling_lavis.hub.writing import INDEX_NAME, SHARD_NAME, WEIGHTS_NAME
from modeling_lavis.model_card import metadata_problems
from modeling_lavis.models.configuration_base import FrozenPart

CARD = "README.md"
_PROCESSORS = CONFIGURATIONS[1:]

#: files that a model, its processor or its code is loaded from, apart from weights and code
_LOADED = (
    INDEX_NAME,
    CODE_RECORD,
    *CONFIGURATIONS,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
#: other files of a repository; the last three are of a training run
_BESIDE = (
    CARD,
    "LICENSE*",
    "NOTICE*",
    ".gitattributes",
    ".eval_results/*.yaml",
    "recipe.json",
    "curves.png",
    "*_results.json",
)
#: what a run leaves beside its model, and what is of this machine only
_LEFT_OUT = (
    ".git",
    ".cache",
    "__pycache__",
    ".ipynb_checkpoints",
    ".DS_Store",
    "checkpoint-*",
    "runs",
    "training_args.bin",
    "trainer_state.json",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
)
#: names that are only there while a file is written
_UNFINISHED = ("*.partial-*", "*.incomplete", "*.tmp")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
#: weights that a repository may have of an earlier model
_WEIGHTS_OF_A_MODEL = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
)


class FolderError(ValueError):
    """
    Raised for a folder that cannot be published.

    Args:
        folder (`Path`): the folder.
        problems (`Iterable[str]`): what is wrong, one sentence or two each.
    """

    def __init__(self, folder: Path, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        found = "".join(f"\n- {problem}" for problem in self.problems)
        super().__init__(f"{folder} is not ready to be published:{found}")


@dataclass(frozen=True)
class RepositoryFile:
    """
    A file of a repository.

    Args:
        path (`str`): its path in the repository, with slashes.
        local (`Path`): the file on this machine.
        size (`int`): its size in bytes.
    """

    path: str
    local: Path
    size: int


@dataclass(frozen=True)
class FolderListing:
    """
    The files of a folder, sorted into those that are published and those that are not.

    Args:
        files (`tuple[RepositoryFile, ...]`): what is published, sorted by path.
        left_out (`tuple[str, ...]`): what stays here, files and folders (which end with a slash).
        unknown (`tuple[str, ...]`): files that do not belong to a model and were neither included nor excluded.
        problems (`tuple[str, ...]`): files that cannot be published: pickles, unfinished files, devices.
    """

    files: tuple[RepositoryFile, ...]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def size(self) -> int:
        """Size of all published files in bytes."""
        return sum(file.size for file in self.files)


def list_folder(folder: Path, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> FolderListing:
    """
    Sort the files of a folder.

    Args:
        folder (`Path`): folder of a model.
        include (`Iterable[str]`, *optional*): patterns of further files to publish, such as `"figures/*.pdf"`. Pickles
            are never published.
        exclude (`Iterable[str]`, *optional*): patterns of files to leave out.

    Returns:
        [`FolderListing`].
    """
    include, exclude = tuple(include), tuple(exclude)
    pictures = _pictures_of_card(folder / CARD)
    files: list[RepositoryFile] = []
    left_out: list[str] = []
    unknown: list[str] = []
    problems: list[str] = []
    for path, local in _walk(folder, lambda path: _fits(path, (*_LEFT_OUT, *exclude)), left_out):
        unfinished = _unfinished_part(path)
        if unfinished:
            problems.append(
                f"{unfinished} is what an interrupted command was writing. Delete it, and repeat that command."
            )
        elif not local.is_file():
            problems.append(f"{path} is not a regular file. Delete it.")
        elif _is_pickle(local):
            problems.append(
                f"{path} is a pickle, which runs code when it is loaded. Save weights as safetensors, or leave it out: "
                f"--exclude {path!r}."
            )
        elif _is_known(path) or path in pictures or _fits(path, include):
            files.append(RepositoryFile(path, local, local.stat().st_size))
        else:
            unknown.append(path)
    files.sort(key=lambda file: file.path)
    return FolderListing(tuple(files), tuple(sorted(left_out)), tuple(sorted(unknown)), tuple(problems))


def check_folder(folder: Path, listing: FolderListing) -> list[str]:
    """
    Check that a folder is a whole repository: weights, configurations, processor, code and card.

    Args:
        folder (`Path`): folder of a model.
        listing ([`FolderListing`]): its files.

    Returns:
        `list[str]`: what is wrong, one sentence or two each.
    """
    present = {file.path for file in listing.files}
    problems = [*listing.problems]
    problems += [
        f"{path} is not a file of a model. Delete it, leave it out by --exclude {path!r}, or publish it by --include "
        f"{path!r}."
        for path in listing.unknown
    ]
    for check in (_check_config, _check_weights, _check_processor, _check_json, _check_card):
        problems += check(folder, present)
    try:
        problems += check_attached_code(folder)
    except ValueError as error:
        problems.append(str(error))
    return list(dict.fromkeys(problems))


def replaced_files(remote: Iterable[str], listing: FolderListing) -> list[str]:
    """
    Files of a repository on the Hub that belong to the model that is replaced: weights, which might be loaded instead
    of the new ones, and configurations and code that the new one does not have. Other files, such as pictures, stay.

    Args:
        remote (`Iterable[str]`): paths in the repository.
        listing ([`FolderListing`]): what is published.

    Returns:
        `list[str]`: paths to delete, sorted.
    """
    new = {file.path for file in listing.files}
    old = (*_WEIGHTS_OF_A_MODEL, *_LOADED, "*.py")
    return sorted(path for path in set(remote) - new if "/" not in path and _fits(path, old))


def _walk(folder: Path, leave_out: Any, left_out: list[str]) -> Iterator[tuple[str, Path]]:
    """Paths in the repository, with slashes, and files on this machine, without those that `leave_out` says."""
    for parent, folders, names in os.walk(folder):
        place = Path(parent)
        for name in sorted(folders):
            path = (place / name).relative_to(folder).as_posix()
            if leave_out(path) or (place / name).is_symlink():  # a link to a folder may lead anywhere
                folders.remove(name)
                left_out.append(f"{path}/")
        folders.sort()
        for name in sorted(names):
            path = (place / name).relative_to(folder).as_posix()
            if leave_out(path):
                left_out.append(path)
            else:
                yield path, place / name


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _unfinished_part(path: str) -> str | None:
    """The path of the file, or of a folder that it is in, with a name that is only there during writing."""
    places = [Path(path), *Path(path).parents]
    return next((place.as_posix() for place in reversed(places) if _fits(place.name, _UNFINISHED)), None)


def _is_known(path: str) -> bool:
    if "/" not in path and (path == WEIGHTS_NAME or SHARD_NAME.fullmatch(path) or path.endswith(".py")):
        return True  # shards and code that do not belong here are reported with a better reason than others
    return any(path.count("/") == pattern.count("/") and fnmatchcase(path, pattern) for pattern in (*_LOADED, *_BESIDE))


def _is_pickle(path: Path) -> bool:
    """Whether a file has the suffix or the first bytes of a pickle, or of an archive as `torch.save` writes it."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    if path.suffix == ".safetensors":  # whose first bytes are a length, which may be any
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or (len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5)


def _pictures_of_card(path: Path) -> set[str]:
    """Paths of the pictures that a card shows."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # reported by the check of the card
        return set()
    targets = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text) + re.findall(r"<img[^>]*\ssrc=[\"']([^\"']+)", text)
    return {target.removeprefix("./") for target in targets if target.lower().endswith(_IMAGE_SUFFIXES)}


def _check_config(folder: Path, present: set[str]) -> list[str]:
    if "config.json" not in present:
        if (folder / "adapter_config.json").is_file():
            return ["It has an adapter and no model. Merge the adapter (merge_and_unload), and save the result."]
        return ["It has no config.json. Give a folder that save_pretrained, a Trainer or a conversion wrote."]
    try:
        config = read_object(folder / "config.json")
    except ValueError as error:
        return [str(error)]
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    problems = []
    if not is_model_class(name):
        problems.append(f"config.json names {name!r:.80} in `architectures`; expected a model class of modeling_lavis.")
    parts = config.get("frozen_parts")
    if not isinstance(parts, (dict, type(None))):
        problems.append(f"config.json has {parts!r:.80} as frozen_parts; expected a mapping.")
        parts = None
    for part, place in (parts or {}).items():
        try:
            source = FrozenPart.read(part, place).source
        except ValueError as error:
            problems.append(f"config.json: {error}")
            continue
        if os.path.isabs(source) or source.startswith((".", "~")) or os.path.exists(source):
            problems.append(
                f"config.json takes the {part} from {source}, a folder of this machine. Publish that part, and give "
                "its Hub id in frozen_parts."
            )
    return problems


def _check_weights(folder: Path, present: set[str]) -> list[str]:
    shards = {path for path in present if SHARD_NAME.fullmatch(path)}
    problems = []
    needed: dict[str, set[str]] = {}
    if INDEX_NAME in present:
        try:
            weight_map = read_object(folder / INDEX_NAME).get("weight_map")
        except ValueError as error:
            return [str(error)]
        if not isinstance(weight_map, dict) or not weight_map:
            return [f"{INDEX_NAME} has no weight_map. Save the model again."]
        for key, shard in weight_map.items():
            needed.setdefault(str(shard), set()).add(key)
        problems += [
            f"{shard}, which {INDEX_NAME} names, is missing. Save the model again." for shard in needed.keys() - present
        ]
    if WEIGHTS_NAME in present and (INDEX_NAME in present or shards):
        problems.append(f"It has {WEIGHTS_NAME} and shards, of which one is of another save. Delete what is old.")
    elif WEIGHTS_NAME not in present and INDEX_NAME not in present:
        problems.append(f"It has neither {WEIGHTS_NAME} nor {INDEX_NAME}. Save the model as safetensors.")
    problems += [f"{shard} is not named by {INDEX_NAME}. Delete it." for shard in sorted(shards - needed.keys())]
    for name in sorted({*shards, *({WEIGHTS_NAME} & present)}):
        try:
            with safe_open(folder / name, "pt") as file:
                keys = set(file.keys())
        except (SafetensorError, OSError) as error:
            problems.append(f"{name} is damaged: {error}. Save the model again.")
            continue
        missing = needed.get(name, set()) - keys
        if missing:
            problems.append(f"{name} lacks {min(missing)}, which {INDEX_NAME} says it has. Save the model again.")
    return problems


def _check_processor(folder: Path, present: set[str]) -> list[str]:
    if present.isdisjoint(_PROCESSORS):
        return ["It has no processor. Save the one of the model into it: processor.save_pretrained(folder)."]
    return []


def _check_json(folder: Path, present: set[str]) -> list[str]:
    problems = []
    for path in sorted(present):
        if path.endswith(".json") and path not in ("config.json", INDEX_NAME, CODE_RECORD):  # which are checked already
            try:
                read_object(folder / path)
            except ValueError as error:
                problems.append(str(error))
    return problems


def _check_card(folder: Path, present: set[str]) -> list[str]:
    if CARD not in present:
        return [f"It has no model card, {CARD}. Conversions and training runs write one."]
    try:
        card = ModelCard((folder / CARD).read_text(encoding="utf-8"))
    except Exception as error:  # of the YAML parser, or of an entry with another form than the Hub's
        return [f"The metadata of {CARD} are not valid: {' '.join(str(error).split())}"]
    data = card.data.to_dict()
    if not data:
        return [f"{CARD} has no metadata, the YAML block between two lines of `---` at its start."]
    problems = [f"{CARD}: {problem}" for problem in metadata_problems(cast(ModelCardData, card.data))]
    if not data.get("license"):
        problems.append(f"{CARD} states no licence. Add `license:` to its metadata.")
    if data.get("library_name") not in ("transformers", "modeling_lavis"):
        problems.append(f"{CARD} has library_name {data.get('library_name')!r}; expected transformers.")
    return problems


__all__ = ["FolderError", "FolderListing", "RepositoryFile", "check_folder", "list_folder", "replaced_files"]
