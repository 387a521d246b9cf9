# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run that are whole or not there: written beside, renamed when complete, renamed before deletion.

Folders that are being written or deleted are called `_partial-checkpoint-N`, `_replaced-checkpoint-N` and
`_removed-checkpoint-N`, which no program takes for a checkpoint and no upload to the Hub includes.
"""

import json
import os
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"
_PARTIAL, _REPLACED, _REMOVED = _PREFIXES = "_partial-", "_replaced-", "_removed-"

#: where the files of a model are written before they are complete
PARTIAL_MODEL = f"{_PARTIAL}model"


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    Find the last whole checkpoint of a run.

    Other than transformers' `get_last_checkpoint` it skips a folder that was not written to its end, as a killed
    [`~transformers.Trainer`] leaves it.

    Args:
        folder (`str` or `os.PathLike`): output folder of the run.

    Returns:
        `str` or `None`: the folder of the checkpoint; `None` if there is none.
    """
    for path in reversed(list_checkpoints(folder)):
        if _is_whole(path):
            return str(path)
    return None


def list_checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The folders `checkpoint-N` of a run, sorted by N."""
    if not os.path.isdir(folder):
        return []
    found = [(match, path) for path in Path(folder).iterdir() if (match := _NAME.fullmatch(path.name)) is not None]
    return [path for match, path in sorted(found, key=lambda entry: int(entry[0][1])) if path.is_dir()]


def _is_whole(path: Path) -> bool:
    """Whether there are weights and transformers' file of the state, which is written last."""
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    has_weights = any(file.suffix in (".safetensors", ".bin") or file.is_dir() for file in path.iterdir())
    return isinstance(state, dict) and has_weights


def partial_folder(folder: str | os.PathLike, step: int) -> Path:
    """Where the checkpoint of a step is written before it is complete."""
    return Path(folder) / f"{_PARTIAL}checkpoint-{step}"


def publish(partial: str | os.PathLike, target: str | os.PathLike) -> None:
    """
    Give a complete folder its name. A folder of that name is replaced.

    Args:
        partial (`str` or `os.PathLike`): the complete folder; not there any more if another process was faster.
        target (`str` or `os.PathLike`): its name, on the same file system.
    """
    target = Path(target)
    if not os.path.isdir(partial):
        return
    replaced = target.with_name(_REPLACED + target.name)
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(target, replaced)
    os.replace(partial, target)
    shutil.rmtree(replaced, ignore_errors=True)


def remove(path: str | os.PathLike) -> None:
    """Delete a checkpoint, so that no half of it is left under its name."""
    path = Path(path)
    doomed = path.with_name(_REMOVED + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def rotate(folder: str | os.PathLike, limit: int | None, best: str | os.PathLike | None = None) -> None:
    """
    Delete the oldest checkpoints of a run.

    Args:
        folder (`str` or `os.PathLike`): output folder of the run.
        limit (`int`, *optional*): number of checkpoints to keep; all if it is not positive.
        best (`str` or `os.PathLike`, *optional*): checkpoint to keep in addition to the last one.
    """
    found = list_checkpoints(folder)
    if limit is None or limit <= 0:
        return
    kept = {found[-1].name, Path(best).name if best is not None else ""} if found else set()
    surplus = len(found) - max(limit, sum(path.name in kept for path in found))
    for path in [path for path in found if path.name not in kept][: max(surplus, 0)]:
        remove(path)


def recover(folder: str | os.PathLike) -> None:
    """Delete what a killed process has not finished writing or deleting, and bring back what it was replacing."""
    if not os.path.isdir(folder):
        return
    for path in sorted(Path(folder).iterdir()):
        prefix = next((prefix for prefix in _PREFIXES if path.name.startswith(prefix)), None)
        if prefix is None or not (path.name == PARTIAL_MODEL or _NAME.fullmatch(path.name.removeprefix(prefix))):
            continue
        original = path.with_name(path.name.removeprefix(prefix))
        if prefix == _REPLACED and not original.exists():
            os.replace(path, original)
        else:
            shutil.rmtree(path, ignore_errors=True)


def move_files(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Move files of a folder into another on the same file system, each at once, and delete the emptied folder."""
    for path in sorted(Path(source).rglob("*")):
        if path.is_file():
            place = Path(target) / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
    shutil.rmtree(source, ignore_errors=True)


__all__ = [
    "last_checkpoint",
    "list_checkpoints",
    "move_files",
    "partial_folder",
    "publish",
    "recover",
    "remove",
    "rotate",
]
