# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of a repository, with one shard in memory at a time."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modeling_lavis.models.modeling_base import remove_abandoned, unfinished_folder
from modeling_lavis.progress import Progress, Shown

WEIGHTS_PATTERN = "model{suffix}.safetensors"
WEIGHTS_NAME = WEIGHTS_PATTERN.format(suffix="")
INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
#: names of the files if there are several, as huggingface_hub gives them
SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def check_output(output: Path, overwrite: bool) -> None:
    """
    Check that a repository can be written to `output`, without creating anything.

    Args:
        output (`Path`): folder of the repository.
        overwrite (`bool`): whether a model repository in that place may be replaced.

    Raises:
        FileExistsError: If `output` is a file, or a folder that is not empty and may not be replaced.
        OSError: If the parent folder cannot be written to.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise FileExistsError(f"{output} is not a folder. Give the path of a folder that does not exist yet.")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"{output} exists and is not empty. Give another folder, or allow it to be replaced (--overwrite)."
            )
        # A mistyped path must not delete a home folder or a git history.
        if not (output / "config.json").is_file() or (output / ".git").exists():
            what = "a git clone" if (output / ".git").exists() else "not a model repository (it has no config.json)"
            raise FileExistsError(f"{output} is not replaced, because it is {what}. Give another folder, or empty it.")
    parent = _first_existing(output.absolute().parent)
    if not parent.is_dir():
        raise NotADirectoryError(f"{output} cannot be written: {parent} is not a folder. Give another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{output} cannot be written: no permission to write to {parent}. Give another path.")


def _first_existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@dataclass(frozen=True)
class WrittenWeights:
    """
    The result of [`write_shards`].

    Args:
        files (`tuple[str, ...]`): names of the weight files.
        not_finite (`tuple[str, ...]`): keys of weights that contain NaN or infinite values.
    """

    files: tuple[str, ...]
    not_finite: tuple[str, ...]


@contextlib.contextmanager
def atomic_folder(output: Path, overwrite: bool = False) -> Iterator[Path]:
    """
    Context manager that yields a temporary folder next to `output`, and moves it there if the block succeeds.

    If the block raises, the temporary folder and any parent folder created for it are removed, and `output` is
    unchanged. An existing folder is replaced by two renames. If the second fails, the first is reverted. After a
    process was killed, `output` is as it was, new, or (between the renames) absent; what it left is removed by the next
    call.

    Args:
        output (`Path`): folder to write.
        overwrite (`bool`, *optional*, defaults to `False`): whether a model repository in that place may be replaced.

    Raises:
        OSError: See [`check_output`].
    """
    check_output(output, overwrite)
    output = output.absolute()
    missing = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished_folder(output.parent, f".{output.name}.partial-") as work:
            yield work
            _move_into_place(work, output)
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _move_into_place(work: Path, output: Path) -> None:
    replaced = f".{output.name}.replaced-"
    if not output.exists():
        os.rename(work, output)
        remove_abandoned(output.parent, replaced)  # of a process that was killed between its two renames
        return
    with unfinished_folder(output.parent, replaced) as old:
        os.rename(output, old / output.name)
        try:
            os.rename(work, output)
        except BaseException:
            try:
                os.rename(old / output.name, output)
            except OSError:  # keep it, whatever its name
                os.rename(old, old.with_name(f"{output.name}.{old.name.rpartition('-')[2]}"))
            raise


def write_shards(
    folder: Path,
    targets: Mapping[str, Tensor],
    value_of: Callable[[str], Tensor],
    dtype_of: Callable[[str], torch.dtype],
    max_shard_size: str,
    progress: Shown = None,
) -> WrittenWeights:
    """
    Write weights as safetensors, in shards with an index if one file is not enough.

    Args:
        folder (`Path`): folder to write to.
        targets (`Mapping[str, torch.Tensor]`): meta tensors by key, for the shapes.
        value_of (`Callable`): function that returns the value of a key. It is called once for each key, when its shard
            is written.
        dtype_of (`Callable`): function that returns the dtype in which a key is stored.
        max_shard_size (`str`): maximum size of a file, for example `"5GB"`.
        progress (`bool` or `TextIO`, *optional*): see `modeling_lavis.progress.Progress`.

    Returns:
        [`WrittenWeights`]: Names of the weight files, and keys of weights that are not finite.

    Raises:
        OSError: If there is not enough disk space.
    """
    planned = {name: torch.empty(tensor.shape, dtype=dtype_of(name), device="meta") for name, tensor in targets.items()}
    split = split_torch_state_dict_into_shards(planned, filename_pattern=WEIGHTS_PATTERN, max_shard_size=max_shard_size)
    need, free = sum(tensor.nbytes for tensor in planned.values()), shutil.disk_usage(folder).free
    if need > free:
        raise OSError(
            f"The weights need {need:,} bytes, but {folder.parent} has only {free:,} left. Free disk space and try "
            "again."
        )
    not_finite = []
    with Progress(need, "weights", "B", shown=progress) as shown:
        for file_name, names in split.filename_to_tensors.items():
            shard: dict[str, Tensor] = {}
            used: set[int] = set()
            for name in names:
                tensor = value_of(name).to(planned[name].dtype).contiguous()
                # safetensors rejects tensors that share memory, as the copies in momentum encoders do.
                if tensor.data_ptr() in used:
                    tensor = tensor.clone()
                used.add(tensor.data_ptr())
                if not _is_finite(tensor):
                    not_finite.append(name)
                shard[name] = tensor
            try:
                save_file(shard, folder / file_name, metadata={"format": "pt"})
            except SafetensorError as error:  # of a full disk, too
                raise OSError(
                    f"The weights cannot be written to {folder.parent}: {error}. Free disk space and try again."
                ) from error
            # safetensors creates files that only their owner can read
            os.chmod(folder / file_name, folder.stat().st_mode & 0o666)
            shown.update(sum(tensor.nbytes for tensor in shard.values()))
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return WrittenWeights(tuple(split.filename_to_tensors), tuple(not_finite))


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite. Unlike `torch.isfinite`, it allocates no tensor of the same size."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    smallest, largest = tensor.aminmax()  # both are NaN if any value is
    return math.isfinite(smallest) and math.isfinite(largest)
