# SPDX-License-Identifier: Apache-2.0
"""Copy of a model's code into its folder, so that the model loads where this package is not installed.

The files of `modeling_lavis/models/` import each other only as siblings, so they work unchanged beside a `config.json`.
`attach_code` copies the files that a model needs byte for byte, adds its classes to `auto_map`, and writes a record of
the release that they are from. Loading such a folder requires `trust_remote_code=True`. If this package is installed
and imported, its own classes are used instead.
"""

import ast
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import modeling_lavis
from modeling_lavis.files import whole_file
from modeling_lavis.hub.attached_code import MODELS_FOLDER, is_model_class, unchanged_files, write_record
from modeling_lavis.hub.json_files import read_object, write_object

_CONFIG = "config.json"
_PROCESSOR_CONFIG = "processor_config.json"
_ADAPTER_CONFIG = "adapter_config.json"
# files of a processor that stands alone
_SINGLE_PROCESSOR_CONFIGS = ("preprocessor_config.json", "video_preprocessor_config.json")
# Processors inside a processor, and the entries that name the class of each.
_SUBPROCESSORS = ("image_processor", "video_processor")
_AUTO_CLASSES = (
    ("AutoProcessor", "processor_class"),
    ("AutoImageProcessor", "image_processor_type"),
    ("AutoVideoProcessor", "video_processor_type"),
)


def portable_files(modules: Iterable[str]) -> list[Path]:
    """
    Return the files in `modeling_lavis/models/` that `modules` need, their own files included.

    Args:
        modules (`Iterable[str]`): file names without `.py`.

    Returns:
        `list[Path]`: The files, sorted by name.

    Raises:
        ValueError: If a module is not a file of that folder.
    """
    found: dict[str, Path] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        path = MODELS_FOLDER / f"{name}.py"
        if not path.is_file():
            raise ValueError(f"{name!r} is not a file in {MODELS_FOLDER}; expected one of {_module_names()}.")
        found[name] = path
        pending.extend(_sibling_imports(path))
    return [found[name] for name in sorted(found)]


def attach_code(folder: str | os.PathLike[str]) -> list[Path]:
    """
    Copy the code of a saved model into its folder, add its classes to `auto_map`, and write a record of the release
    that the code is from (`modeling_lavis_code.json`).

    `AutoModel`, `AutoProcessor` and the Auto classes of the model's task then load the folder, or a Hub repository with
    its files, with `trust_remote_code=True` where this package is not installed. The command
    `modeling-lavis attach-code FOLDER` does the same. Files that were attached earlier and are not needed any more are
    removed.

    Args:
        folder (`str` or `os.PathLike`): folder written by `save_pretrained` or by a Trainer. Its `config.json` must
            name the model class in `architectures`. The configurations of a processor and of an image or video
            processor are updated as well if they are present.

    Returns:
        `list[Path]`: The copied files, sorted by name.

    Raises:
        OSError: If `folder` has no `config.json`, or it cannot be written.
        ValueError: If a configuration is not a JSON object, or `config.json` does not name a class of this package.
    """
    folder = Path(folder)
    if not (folder / _CONFIG).is_file():
        if (folder / _ADAPTER_CONFIG).is_file():
            raise OSError(
                f"{folder} has an adapter, and no {_CONFIG} of a model. Merge the adapter into the model "
                "(merge_and_unload), and save the result."
            )
        raise OSError(f"{folder} has no {_CONFIG}; expected a folder written by `save_pretrained` or a Trainer.")
    config = read_object(folder / _CONFIG)
    names = config.get("architectures")
    model_class = _public_class(names[0] if isinstance(names, list) and names else None, folder / _CONFIG)
    processor_map = _processor_auto_map(folder)
    auto_map = {**_model_auto_map(model_class), **processor_map}

    earlier = unchanged_files(folder)
    files = portable_files(reference.partition(".")[0] for reference in auto_map.values())
    copied = [_copy(path, folder / path.name) for path in files]
    write_record(folder, copied)
    write_object(folder / _CONFIG, {**config, "auto_map": auto_map})
    for name in (_PROCESSOR_CONFIG, *_SINGLE_PROCESSOR_CONFIGS):
        if processor_map and (folder / name).is_file():
            content = {**read_object(folder / name), "auto_map": processor_map}
            for part in _SUBPROCESSORS:
                if isinstance(content.get(part), dict):
                    content[part] = {**content[part], "auto_map": processor_map}
            write_object(folder / name, content)
    for path in earlier:  # of a release whose model needed more files
        if path not in copied:
            path.unlink()
    return copied


def _model_auto_map(model_class: type) -> dict[str, str]:
    """Map `AutoModel`, and every Auto class of transformers that the head is registered with, to the head."""
    from transformers.models.auto import modeling_auto

    config_class = model_class.config_class  # type: ignore[attr-defined]
    auto_map = {"AutoConfig": _reference(config_class), "AutoModel": _reference(model_class)}
    for name, auto_class in vars(modeling_auto).items():
        mapping = getattr(auto_class, "_model_mapping", None) if name.startswith("AutoModelFor") else None
        fitting = mapping.get(config_class, None) if mapping is not None else None
        if model_class in (fitting if isinstance(fitting, tuple) else (fitting,)):
            auto_map[name] = _reference(model_class)
    return auto_map


def _processor_auto_map(folder: Path) -> dict[str, str]:
    configs = [
        read_object(folder / n) for n in (_PROCESSOR_CONFIG, *_SINGLE_PROCESSOR_CONFIGS) if (folder / n).is_file()
    ]
    configs += [part for content in configs for name in _SUBPROCESSORS if isinstance(part := content.get(name), dict)]
    auto_map = {}
    for auto_name, key in _AUTO_CLASSES:
        name = next((content[key] for content in configs if content.get(key)), None)
        if isinstance(name, str) and name in modeling_lavis.__all__:
            auto_map[auto_name] = _reference(_member(name))
    return auto_map


def _public_class(name: Any, source: Path) -> type:
    if not is_model_class(name):
        raise ValueError(
            f"{source} names {name!r} in `architectures`; expected a model class of modeling_lavis. "
            "Save the model with `save_pretrained` of such a class first."
        )
    return _member(name)


def _member(name: str) -> Any:
    return getattr(modeling_lavis, name)


def _reference(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


def _sibling_imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module is not None
    ]


def _module_names() -> list[str]:
    return sorted(path.stem for path in MODELS_FOLDER.glob("*.py") if path.stem != "__init__")


def _copy(source: Path, target: Path) -> Path:
    with whole_file(target) as partial:
        partial.write_bytes(source.read_bytes())
    return target
