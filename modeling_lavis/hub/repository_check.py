# SPDX-License-Identifier: Apache-2.0
"""Check that a folder is the whole repository of a published checkpoint. Weights are not read, only their headers."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from modeling_lavis.hub.accounting import targets_of
from modeling_lavis.hub.json_files import read_object
from modeling_lavis.hub.writing import INDEX_NAME, WEIGHTS_NAME
from modeling_lavis.hub.zoo import ZooEntry, model_class_of
from modeling_lavis.models.head_loading import check_index

_Shapes = dict[str, tuple[int, ...]]


def check_repository(folder: str | Path, entry: ZooEntry) -> None:
    """
    Check that a folder is the whole repository of a published checkpoint.

    Its model card has to name the checkpoint, its configuration the class, its weight files have to be whole and to
    have the weights of the class in their shapes, and its processor has to load.

    Args:
        folder (`str` or `Path`): the folder.
        entry ([`~modeling_lavis.hub.zoo.ZooEntry`]): the checkpoint.

    Raises:
        OSError: If a file is missing or damaged.
        ValueError: If it is the repository of something else.
    """
    from transformers import AutoConfig, AutoProcessor

    folder = Path(folder)
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise _incomplete(folder, entry, str(error).splitlines()[0]) from error
    expected = model_class_of(entry.architecture)
    if config.architectures != [expected] or f"`{entry.architecture}`, model type `{entry.model_type}`" not in card:
        raise ValueError(
            f"{folder} is a repository of something else (of {config.architectures}, by its configuration), not of "
            f"{entry.architecture}, model type {entry.model_type}. Give another folder, or move it away."
        )
    try:
        stored = stored_shapes(folder)
        AutoProcessor.from_pretrained(folder)
    except Exception as error:  # transformers and tokenizers raise errors of many kinds for damaged files
        raise _incomplete(folder, entry, (str(error).splitlines() or [type(error).__name__])[0]) from error
    needed, known = _shapes_of_class(expected, config)
    missing = sorted(set(needed) - set(stored))
    if missing:
        raise _incomplete(folder, entry, f"{len(missing)} weights are missing, such as {missing[0]}")
    wrong = sorted(name for name, shape in stored.items() if known.get(name) != shape)
    if wrong:
        raise _incomplete(folder, entry, f"{len(wrong)} weights do not belong to the model, such as {wrong[0]}")


def stored_shapes(folder: Path) -> _Shapes:
    """
    Return the shapes of all weights in the safetensors files of a repository, by their keys.

    Raises:
        OSError: If a file is missing, truncated, or lacks a weight that the index names.
        ValueError: If the index is damaged, or names files elsewhere.
    """
    index = folder / INDEX_NAME
    expected: dict[str, str] = {}
    if index.is_file():
        check_index(index)
        expected = read_object(index)["weight_map"]
    files = sorted(set(expected.values())) or [WEIGHTS_NAME]
    shapes: _Shapes = {}
    for name in files:
        try:
            with safe_open(folder / name, framework="pt") as file:
                shapes.update({key: tuple(file.get_slice(key).get_shape()) for key in file.keys()})
        except (OSError, SafetensorError) as error:
            raise OSError(f"{folder / name} is missing or damaged ({error}). Write the repository again.") from error
    lost = sorted(set(expected) - set(shapes))
    if lost:
        raise OSError(f"{folder} has {len(lost)} weights in its index that no file has, such as {lost[0]}.")
    return shapes


def _shapes_of_class(class_name: str, config: object) -> tuple[_Shapes, _Shapes]:
    """Shapes of the weights that a repository of the class must have, and of those that it may have."""
    import modeling_lavis

    with torch.device("meta"):
        model: torch.nn.Module = getattr(modeling_lavis, class_name)(config)
    targets, tied = targets_of(model)
    needed = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    return needed, needed | {name: needed[target] for name, target in tied.items()}


def _incomplete(folder: Path, entry: ZooEntry, problem: str) -> OSError:
    return OSError(
        f"{folder} is not a whole repository of {entry.name}: {problem.rstrip('.')}. Replace it (--overwrite), or "
        "delete the folder."
    )


__all__ = ["check_repository", "stored_shapes"]
