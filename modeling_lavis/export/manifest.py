# SPDX-License-Identifier: Apache-2.0
"""`export.json`: what an exported folder contains."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modeling_lavis.files import read_json

MANIFEST = "export.json"
#: data types of inputs
DTYPES = ("float32", "int64")


@dataclass
class GraphFile:
    """
    One file that computes a module of the head, or one of its calls.

    Args:
        file (`str`): name in the folder.
        module (`str`): module of the head, for example `"text_decoder.bert"`.
        name (`str`): name among the graphs of this module, empty for its only one.
        inputs (`dict`): data type and shape of each input, in order. Sizes that can change are names.
        outputs (`list[str]`): names of the outputs, in order.
    """

    file: str
    module: str
    name: str
    inputs: dict[str, dict[str, Any]]
    outputs: list[str]


@dataclass
class Manifest:
    """
    The content of `export.json`.

    Args:
        format (`str`): `"torch"`, `"onnx"` or `"openvino"`.
        head (`str`): class of the head.
        image_size (`int` or `"dynamic"`): the only size of images, or any multiple of the patch size.
        graphs (`list[GraphFile]`): the files.
        weights (`str`): precision of the weights in them: `"float32"`, `"float16"` or `"int8"`.
        parameters (`list[str]`): parameters of the head itself, such as its temperature, in `parameters.safetensors`.
        in_torch (`dict[str, str]`): modules that are not exported and run in torch, with the folders of their weights.
        source_weights (`dict[str, str]`): digests of the weights of the model, by which an index that was made with it
            knows the exported one.
        verified (`dict`): how the folder was compared with torch, see [`modeling_lavis.export.verification.verify`].
        versions (`dict[str, str]`): packages that wrote it.
        sizes (`dict[str, int]`): bytes of each file of graphs and weights, by which an incomplete copy is noticed.
    """

    format: str
    head: str
    image_size: int | str
    graphs: list[GraphFile]
    weights: str = "float32"
    parameters: list[str] = field(default_factory=list)
    in_torch: dict[str, str] = field(default_factory=dict)
    source_weights: dict[str, str] = field(default_factory=dict)
    verified: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Names of the files and folders of graphs and weights."""
        return [*(graph.file for graph in self.graphs), *self.in_torch.values()]

    def write(self, folder: Path) -> None:
        """Write `export.json` into a folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Manifest":
        """
        Read `export.json` of a folder.

        Raises:
            OSError: there is no such file, or a file that it names is missing or incomplete.
            ValueError: the file is not what `modeling-lavis export` writes.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise OSError(f"{folder} has no {MANIFEST}; expected a folder that was written by `modeling-lavis export`.")
        try:
            content = read_json(path)
            graphs = [GraphFile(**graph) for graph in content.pop("graphs")]
            manifest = cls(graphs=graphs, **content)
            _check_types(manifest)
            elsewhere = [name for name in manifest.names() if Path(name).name != name]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read: {error}. Export the model again.") from error
        if elsewhere:
            raise ValueError(f"{path} names {elsewhere[0]}, which is not in the folder. Export the model again.")
        manifest._check_files(Path(folder))
        return manifest

    def _check_files(self, folder: Path) -> None:
        files = [*(graph.file for graph in self.graphs), *self.sizes]
        missing = [name for name in dict.fromkeys(files) if not (folder / name).is_file()]
        missing += [name for name in self.in_torch.values() if not (folder / name).is_dir()]
        if missing:
            raise OSError(f"{folder} lacks {', '.join(missing)}, which {MANIFEST} names. Export the model again.")
        for name, size in self.sizes.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise OSError(
                    f"{folder / name} has {found:,} bytes, but {MANIFEST} says {size:,}. Copy the folder again, or "
                    "export the model again."
                )


def _check_types(manifest: Manifest) -> None:
    """Raise `TypeError` unless values have the types that loading relies on."""
    _check_type("head", manifest.head, str)
    _check_type("format", manifest.format, str)
    _check_type("in_torch", manifest.in_torch, dict)
    _check_type("sizes", manifest.sizes, dict)
    for graph in manifest.graphs:
        for name in ("file", "module", "name"):
            _check_type(name, getattr(graph, name), str)
        _check_type("inputs", graph.inputs, dict)
        _check_type("outputs", graph.outputs, list)
        for name, facts in graph.inputs.items():
            _check_type(f"the shape of {name}", facts["shape"], list)
            if facts["dtype"] not in DTYPES:
                raise TypeError(f"the dtype of {name} is {facts['dtype']!r}, expected {' or '.join(DTYPES)}")


def _check_type(name: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise TypeError(f"{name} is {value!r}, expected {expected.__name__}")


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by `modeling-lavis export`."""
    return os.path.isfile(os.path.join(folder, MANIFEST))


__all__ = ["MANIFEST", "GraphFile", "Manifest", "is_exported"]
