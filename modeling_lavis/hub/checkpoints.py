# SPDX-License-Identifier: Apache-2.0
"""Reading of checkpoints without running any code that they may contain.

The format of a file is recognized by its first bytes and never by its name, so renamed files are read correctly.
Tensors stay memory-mapped until they are used, and what a file promises is compared with what it has before memory is
taken for it.
"""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from modeling_lavis.hub.downloads import fetch, is_url
from modeling_lavis.hub.pickles import MAX_INDEX_BYTES, PromiseError, check_archive, check_legacy
from modeling_lavis.models.image_conversion import check_regular_file

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_WRAPPERS = ("model", "state_dict")
# Entries that training scripts store beside unwrapped weights, none of which a model needs.
_COMPANIONS = frozenset({"optimizer", "lr_scheduler", "scheduler", "scaler", "config", "epoch", "iters", "args"})
_MODULE_PREFIX = "module."
# How often the bytes of a file may be used: tied weights are one storage with several names.
_MAX_SHARING = 16
# Keys are matched with patterns, which takes long for long ones.
_MAX_KEY_LENGTH = 1000


class CheckpointError(OSError):
    """Raised if a file cannot be read as a checkpoint. The message names the file, the reason and the remedy."""


@dataclass(frozen=True)
class Checkpoint:
    """
    The weights of a checkpoint.

    Args:
        path (`Path`): the file.
        tensors (`Mapping[str, torch.Tensor]`): the memory-mapped weights by their keys, without a leading `module.`.
        wrapper (`str`, *optional*): entry of the file that contains the weights (`"model"` or `"state_dict"`). `None`
            for a flat file.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    wrapper: str | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its key."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_checkpoint(source: str | Path) -> Checkpoint:
    """
    Read the weights of a checkpoint from a file or URL.

    Args:
        source (`str` or `Path`): PyTorch or safetensors file, or the URL of one (`http`, `https` or `file`).
            Downloads are cached.

    Returns:
        [`Checkpoint`]: The memory-mapped weights.

    Raises:
        CheckpointError: If the file is missing, empty, truncated, of another format, or contains objects other than
            tensors.
        OSError: If the file cannot be downloaded.
    """
    if not is_url(str(source)) and re.match(r"[a-z][a-z0-9+.-]+://", str(source)):
        raise CheckpointError(f"{source} cannot be downloaded. Give an http(s) URL or a file.")
    path = fetch(str(source)) if is_url(str(source)) else Path(source).expanduser()
    head = _first_bytes(path)
    if head.startswith(_ZIP_MAGIC):
        content = _load_torch(path, mapped=True)
    elif head.startswith(_LEGACY_TORCH_MAGIC):
        content = _load_torch(path, mapped=False)  # the format of PyTorch before 1.6 cannot be memory-mapped
    elif _looks_like_safetensors(head):
        content = _load_safetensors(path, head)
    else:
        raise CheckpointError(_unknown_format(path, head))
    wrapper, weights = _unwrap(path, content)
    _check_tensors(path, weights)
    return Checkpoint(path, _strip_module_prefix(path, weights), wrapper)


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint file. Give the file inside it.")
    if not path.exists():
        raise CheckpointError(f"{path} does not exist. Check the path, or give the URL of a published checkpoint.")
    try:
        check_regular_file(path, "checkpoint")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{path} cannot be opened: {reason}. Check its permissions.") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes). Download or copy it again.")
    return head


def _load_torch(path: Path, mapped: bool) -> Any:
    try:
        if mapped:
            _check_entries(path)
        else:
            check_legacy(path)
    except PromiseError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that PyTorch has written: it {error}. Do not use it."
        ) from error
    try:
        if path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
        # By its name torch would read it as safetensors; an open file cannot be memory-mapped.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # The restricted unpickler rejects every class but tensors and plain containers, and names the one it found.
        refused = re.search(r"(?:GLOBAL|global|class) `?([A-Za-z_][\w.]*\.[\w.]+)`? ", str(error))
        if refused or "weights_only" in str(error).lower() or "Unsupported" in str(error):
            name = refused.group(1)[:80] if refused else "an object"
            raise CheckpointError(
                f"{path} contains objects other than tensors ({name}). Reading such a file can run code, so it is "
                "rejected. If you trust its origin, load it in the environment it was written in and save only its "
                'weights: torch.save({"model": checkpoint["model"]}, "weights.pth").'
            ) from error
        raise CheckpointError(
            f"{path} is corrupted: PyTorch cannot read it ({_first_line(error)}). Download or copy it again."
        ) from error


def _check_entries(path: Path) -> None:
    try:
        names = check_archive(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, PromiseError):
            raise
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is truncated: it starts like a PyTorch checkpoint, but its end is "
            "missing or corrupted. Download or copy it again."
        ) from error
    if not any(name.endswith("data.pkl") for name in names):
        example = ", ".join(_shown(name) for name in names[:3]) or "nothing"
        raise CheckpointError(
            f"{path} is a zip archive, not a PyTorch checkpoint (it contains {example}). Unpack it, or give the "
            "checkpoint file itself."
        )
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint. Give the checkpoint that it was exported from."
        )


def _looks_like_safetensors(head: bytes) -> bool:
    # The format starts with the little-endian length of the header (8 bytes) and the header, a JSON object.
    return len(head) > 9 and head[8:9] == b"{" and (head[9:10] == b'"' or _header_bytes(head) <= MAX_INDEX_BYTES)


def _header_bytes(head: bytes) -> int:
    return int.from_bytes(head[:8], "little")


def _load_safetensors(path: Path, head: bytes) -> dict[str, Tensor]:
    size = path.stat().st_size
    if _header_bytes(head) > min(size - 8, MAX_INDEX_BYTES):
        raise CheckpointError(
            f"{path} ({size:,} bytes) is truncated or corrupted: it promises a header of {_header_bytes(head):,} "
            f"bytes; expected at most {MAX_INDEX_BYTES:,}, and no more than the file has. Download or copy it again."
        )
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an exception class of its own, torch raises others
        raise CheckpointError(
            f"{path} ({size:,} bytes) is truncated or corrupted: it starts like a safetensors file, but "
            f"cannot be read ({_first_line(error)}). Download or copy it again."
        ) from error


def _unknown_format(path: Path, head: bytes) -> str:
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        kind = "a web page (perhaps the error page of a download)"
    elif head.startswith(b"version https://git-lfs"):
        kind = "a Git LFS pointer, not the file itself; download that with `git lfs pull`"
    elif head.startswith(b"\x80"):
        kind = "a plain Python pickle; reading it could run code"
    elif head[:2] == b"\x1f\x8b":
        kind = "a gzip archive; unpack it first"
    elif head[257:262] == b"ustar":
        kind = "a tar archive; unpack it first"
    else:
        kind = f"not a checkpoint (it starts with {head[:8]!r})"
    return f"{path} is {kind}. Give a file written by torch.save or safetensors."


def _unwrap(path: Path, content: Any) -> tuple[str | None, dict[str, Tensor]]:
    if isinstance(content, Tensor) or not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} contains a {type(content).__name__}, expected a dictionary of weights. Give a checkpoint file."
        )
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return wrapper, _only_tensors(path, inner, f'under "{wrapper}"')
    flat = {name: value for name, value in content.items() if isinstance(value, Tensor) or name not in _COMPANIONS}
    return None, _only_tensors(path, flat, "at its top level")


def _only_tensors(path: Path, weights: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    others = [
        _shown(name) for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(
            f"{path} has entries {where} that are not tensors: {_some(others)}. Expected a dictionary of weights, "
            'either flat or under "model" or "state_dict"; save it in that form.'
        )
    if not weights:
        raise CheckpointError(f"{path} has no weights {where}. Give a checkpoint that contains trained weights.")
    longest = max(weights, key=len)
    if len(longest) > _MAX_KEY_LENGTH:
        raise CheckpointError(
            f"{path} has a key of {len(longest):,} characters ({_shown(longest)}...); expected at most "
            f"{_MAX_KEY_LENGTH}. It is not a checkpoint of a model."
        )
    return dict(weights)


def _check_tensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse tensors that would take more memory than the file has bytes: expanded, sparse or empty ones."""
    size, total = path.stat().st_size, 0
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            kind = f"a tensor of {tensor.dtype} with the layout {tensor.layout} on {tensor.device}"
            raise CheckpointError(f"{path}: {_shown(name)} is {kind}. Expected dense tensors of numbers on the CPU.")
        needed = tensor.numel() * tensor.element_size()
        total += needed
        if needed > tensor.untyped_storage().nbytes() or max(tensor.shape, default=0) > size:
            raise CheckpointError(
                f"{path}: {_shown(name)} has the shape {tuple(tensor.shape)}, for which the file ({size:,} bytes) has "
                "too few bytes. Save it with .contiguous(), if you trust the file."
            )
    if total > _MAX_SHARING * size:
        raise CheckpointError(
            f"{path} ({size:,} bytes) has tensors of {total:,} bytes, which share their values. Expected at most "
            f"{_MAX_SHARING} times the size of the file. Save a copy of each tensor (.clone()), if you trust the file."
        )


def _strip_module_prefix(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = name.removeprefix(_MODULE_PREFIX)
        if short in stripped:
            raise CheckpointError(
                f"{path} contains the weight {_shown(short)!r} twice, with and without a leading {_MODULE_PREFIX!r}. "
                "Delete one of them and save the file again."
            )
        stripped[short] = tensor
    return stripped


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _shown(name: Any) -> str:
    """A key for messages; one that is not a string by its type, because it may be of any size."""
    return f"{name:.80}" if isinstance(name, str) else f"a key of type {type(name).__name__}"


def _some(names: list[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
