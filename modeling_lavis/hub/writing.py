# SPDX-License-Identifier: Apache-2.0
"""Writing a repository so that it is there whole or not at all, one shard in memory at a time."""

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

WEIGHTS_PATTERN = "model{suffix}.safetensors"
INDEX_NAME = "model.safetensors.index.json"


def check_output(output: Path, overwrite: bool) -> None:
    """Raise when a repository cannot be written to `output`; creates nothing.

    Raises:
        FileExistsError: it is a file, or a folder with something in it and `overwrite` is off, or one that is no
            repository of a model.
        OSError: the folder above cannot be written to.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise FileExistsError(f"{output} is not a folder. Give the path of a folder that does not exist yet.")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"{output} exists and is not empty. Give another folder, or say that it is to be replaced "
                "(--overwrite)."
            )
        # A mistyped path must not cost a home folder or a history.
        if not (output / "config.json").is_file() or (output / ".git").exists():
            what = "a git clone" if (output / ".git").exists() else "no model repository (it has no config.json)"
            raise FileExistsError(f"{output} is not replaced, because it is {what}. Give another folder, or empty it.")
    above = _first_existing(output.absolute().parent)
    if not above.is_dir():
        raise NotADirectoryError(f"{output} cannot be written: {above} is not a folder. Give another path.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{output} cannot be written: no permission to write in {above}. Give another path.")


def _first_existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@dataclass(frozen=True)
class Written:
    """
    What [`write_shards`] has written.

    Args:
        files: names of the weight files.
        not_finite: names of weights that hold NaN or infinite numbers.
    """

    files: tuple[str, ...]
    not_finite: tuple[str, ...]


@contextlib.contextmanager
def whole_folder(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder next to `output`, which takes its place when the block ends well.

    When the block raises, the temporary folder (and any folder created above it) is removed and `output` is as it
    was. An existing folder is replaced by two renames; if the second fails, the first is taken back.

    Raises:
        OSError: see [`check_output`].
    """
    check_output(output, overwrite)
    output = output.absolute()
    missing = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    work = _sibling(output, "partial")
    try:
        yield work
        _take_place(work, output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _sibling(output: Path, kind: str) -> Path:
    # Not tempfile.mkdtemp: its folders can be read by their owner only, and this one becomes the repository.
    folder = output.parent / f".{output.name}.{kind}-{secrets.token_hex(4)}"
    folder.mkdir()
    return folder


def _take_place(work: Path, output: Path) -> None:
    if not output.exists():
        os.rename(work, output)
        return
    old = _sibling(output, "replaced")
    os.rename(output, old / output.name)
    try:
        os.rename(work, output)
    except BaseException:
        os.rename(old / output.name, output)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_shards(
    folder: Path,
    targets: Mapping[str, Tensor],
    value_of: Callable[[str], Tensor],
    dtype_of: Callable[[str], torch.dtype],
    max_shard_size: str,
) -> Written:
    """Write weights as safetensors, in shards with an index when one file does not hold them.

    Args:
        folder: where.
        targets: meta tensors by name; they say the shapes.
        value_of: gives the value of a name; called once for each, when its shard is written.
        dtype_of: gives the dtype in which a name is stored.
        max_shard_size: size of the largest file, for example `"5GB"`.

    Returns:
        Names of the weight files, and of the weights that hold NaN or infinite numbers.

    Raises:
        OSError: the disk is too small.
    """
    planned = {name: torch.empty(tensor.shape, dtype=dtype_of(name), device="meta") for name, tensor in targets.items()}
    split = split_torch_state_dict_into_shards(planned, filename_pattern=WEIGHTS_PATTERN, max_shard_size=max_shard_size)
    need, free = sum(tensor.nbytes for tensor in planned.values()), shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            f"The weights need {need:,} bytes and {folder.parent} has {free:,} left. Make room and try again."
        )
    not_finite = []
    for file_name, names in split.filename_to_tensors.items():
        shard: dict[str, Tensor] = {}
        used: set[int] = set()
        for name in names:
            tensor = value_of(name).to(planned[name].dtype).contiguous()
            # safetensors refuses two names for one memory; a copy (a momentum twin, say) needs its own.
            if tensor.data_ptr() in used:
                tensor = tensor.clone()
            used.add(tensor.data_ptr())
            if not _is_finite(tensor):
                not_finite.append(name)
            shard[name] = tensor
        save_file(shard, folder / file_name, metadata={"format": "pt"})
        os.chmod(folder / file_name, folder.stat().st_mode & 0o666)  # safetensors lets the owner alone read it
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Written(tuple(split.filename_to_tensors), tuple(not_finite))


def _is_finite(tensor: Tensor) -> bool:
    """Whether there is neither a NaN nor an infinite number; unlike `isfinite`, it needs no memory of its own."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    smallest, largest = tensor.aminmax()  # a NaN anywhere makes both NaN
    return math.isfinite(smallest) and math.isfinite(largest)
