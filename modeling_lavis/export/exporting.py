# SPDX-License-Identifier: Apache-2.0
"""Export of a head to a folder that runs without its torch weights."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

import modeling_lavis
from modeling_lavis.evaluation.work_folder import sampled_digest
from modeling_lavis.export.formats import FORMATS
from modeling_lavis.export.graphs import Graph, graphs_of
from modeling_lavis.export.loading import PARAMETERS_FILE, load_exported
from modeling_lavis.export.manifest import GraphFile, Manifest
from modeling_lavis.export.verification import verify
from modeling_lavis.export.weight_files import SharedWeights
from modeling_lavis.hub.writing import atomic_folder
from modeling_lavis.models.modeling_base import LavisPreTrainedModel

# where the weights of modules are that stay in torch
_LANGUAGE_MODEL = "language_model"
# of files of graphs and weights
_WEIGHT_SUFFIXES = (*(format.suffix for format in FORMATS.values()), ".data", ".bin", ".safetensors")


def export_model(
    model: Any,
    output: str | os.PathLike[str],
    format: str = "onnx",
    image_size: str = "fixed",
    weights: str = "float32",
    processor: Any = None,
    overwrite: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """
    Export a head to a folder that onnxruntime, OpenVINO or `torch.export` runs.

    Batch size, length of texts and number of frames stay open; the image size does by choice. Images have one row of
    keys and values for all their texts and beams, and decoders have a cache. The folder holds the graphs, the
    configuration, the processor, the generation configuration, and `export.json`, which says what each file is, what
    its inputs and outputs are, and how far the exported model is from the original. The comparison is part of the
    export: if an output differs by more than 1e-4, or an id or a ranking at all, nothing is written. Smaller weights
    change outputs, so that the comparison only refuses what rounding does not explain, and `export.json` says how much
    changed.

    The language model of BLIP-2 is not exported. Its weights are copied in float32, and torch runs it.

    Args:
        model (`PreTrainedModel`, `str` or `os.PathLike`): a head in float32, or the folder or Hub id of one.
        output (`str` or `os.PathLike`): folder to write, which appears completely or not at all.
        format (`str`, *optional*, defaults to `"onnx"`): `"torch"`, `"onnx"` or `"openvino"`.
        image_size (`str`, *optional*, defaults to `"fixed"`): `"fixed"` for the size of the model, or `"dynamic"` for
            all multiples of its patch size (with `interpolate_pos_encoding=True`).
        weights (`str`, *optional*, defaults to `"float32"`): how weights are stored: `"float32"`, `"float16"` (computed
            in float32) or `"int8"` (linear layers; the rest as in float16). `"torch"` has float32 only.
        processor (*optional*): the processor of the model; by default it is loaded from the model's repository.
        overwrite (`bool`, *optional*, defaults to `False`): whether an existing folder of a model is replaced.
        on_step (`Callable`, *optional*): called with a line of text before each step.

    Returns:
        `Path`: the folder.

    Raises:
        ImportError: a package that the format needs is not installed.
        OSError: the folder cannot be written.
        ValueError: an option is unknown, the model cannot be exported, or the exported one differs from it.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}.")
    if image_size not in ("fixed", "dynamic"):
        raise ValueError(f"image_size is {image_size!r}; expected 'fixed' or 'dynamic'.")
    if weights not in FORMATS[format].precisions:
        raise ValueError(
            f"weights is {weights!r}, which the format {format!r} does not have; expected one of "
            f"{', '.join(FORMATS[format].precisions)}."
        )
    FORMATS[format].require_for(running=False)
    on_step = on_step or (lambda step: None)
    model, source = _head(model)
    if processor is None:
        if not source:
            raise ValueError("The model was not loaded from a repository; pass its processor as processor=.")
        processor = AutoProcessor.from_pretrained(source)
    with _evaluation(model), atomic_folder(Path(output), overwrite) as folder:
        _write_settings(model, processor, folder)
        manifest = Manifest(
            format=format,
            head=type(model).__name__,
            image_size="dynamic" if image_size == "dynamic" else model.config.vision_config.image_size,
            graphs=[],
            weights=weights,
            parameters=_write_parameters(model, folder),
            in_torch=_write_language_model(model, folder),
            source_weights=_source_weights(model, weights),
            versions=_versions(format),
        )
        shared = SharedWeights(folder, weights)
        for graph in graphs_of(model, image_size == "dynamic"):
            on_step(f"exporting {graph.full_name}")
            name = graph.full_name + FORMATS[format].suffix
            FORMATS[format].write(graph, folder / name, shared)
            manifest.graphs.append(_graph_file(graph, name))
        manifest.sizes = _sizes(folder)
        manifest.write(folder)
        on_step("comparing with the model")
        manifest.verified = verify(model, load_exported(folder), processor, weights)
        manifest.write(folder)
    return Path(output)


def _head(model: Any) -> tuple[Any, str]:
    """The head, and where it was loaded from."""
    if isinstance(model, (str, os.PathLike)):
        model = AutoModel.from_pretrained(os.fspath(model), dtype=torch.float32)
    if not isinstance(model, LavisPreTrainedModel) or not hasattr(model.config, "vision_config"):
        raise ValueError(
            f"{type(model).__name__} cannot be exported; expected a head of modeling_lavis. Checkpoints in "
            "transformers' own format are loaded with the class of their head, for example "
            "LavisBlipForConditionalGeneration.from_pretrained."
        )
    other = {str(value.dtype) for value in model.parameters() if value.dtype != torch.float32}
    if other or getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(
            f"The model has weights in {', '.join(sorted(other)) or 'a quantized form'}; load it with "
            "dtype=torch.float32."
        )
    return model, getattr(model, "name_or_path", "")


@contextlib.contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _write_settings(model: Any, processor: Any, folder: Path) -> None:
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    for name, value in (("use_momentum", False), ("frozen_parts", None)):
        if hasattr(config, name):
            setattr(config, name, value)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _write_parameters(model: Any, folder: Path) -> list[str]:
    """Write the parameters that belong to the head itself, not to a module, and return their names."""
    own = {name: value.detach().contiguous() for name, value in model.named_parameters(recurse=False)}
    if own:
        with _weights_on_disk(folder):
            save_file(own, folder / PARAMETERS_FILE)
        os.chmod(folder / PARAMETERS_FILE, folder.stat().st_mode & 0o666)  # else only the owner can read it
    return list(own)


@contextlib.contextmanager
def _weights_on_disk(folder: Path) -> Iterator[None]:
    """Raise `OSError` for errors of safetensors, which has a type of its own for a full disk, too."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"The weights cannot be written to {folder.parent}: {error}. Free disk space and try again."
        ) from error


def _write_language_model(model: Any, folder: Path) -> dict[str, str]:
    if not hasattr(model, _LANGUAGE_MODEL):
        return {}
    with _weights_on_disk(folder):
        model.language_model.save_pretrained(folder / _LANGUAGE_MODEL)
    return {_LANGUAGE_MODEL: _LANGUAGE_MODEL}


def _source_weights(model: Any, weights: str) -> dict[str, str]:
    """Digests of the model; results that were stored by exact digest are not those of smaller weights."""
    exact = sampled_digest(model)
    return {
        "exact": exact if weights == "float32" else f"{exact}-{weights}",
        "any_precision": sampled_digest(model, any_precision=True),
    }


def _graph_file(graph: Graph, file: str) -> GraphFile:
    inputs = {
        name: {
            "dtype": str(given.example.dtype).removeprefix("torch."),
            "shape": [given.open_sizes.get(axis, size) for axis, size in enumerate(given.example.shape)],
        }
        for name, given in graph.inputs.items()
    }
    return GraphFile(file, graph.module_name, graph.name, inputs, list(graph.outputs))


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files of graphs and weights; those of settings can be edited."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in _WEIGHT_SUFFIXES]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _versions(format: str) -> dict[str, str]:
    packages = ("torch", "transformers", *FORMATS[format].requires)
    return {"modeling-lavis": modeling_lavis.__version__, **{package: version(package) for package in packages}}


__all__ = ["export_model"]
