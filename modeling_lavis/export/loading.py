# SPDX-License-Identifier: Apache-2.0
"""Load an exported folder: the head's own class, whose modules run the exported graphs."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from modeling_lavis.export.formats import FORMATS
from modeling_lavis.export.manifest import Manifest
from modeling_lavis.export.session_modules import (
    LazyGraph,
    SessionDecoder,
    SessionLayer,
    SessionModule,
    SessionQFormer,
    SessionTextEncoder,
    SessionVisionModel,
)
from modeling_lavis.models.modeling_base import LavisPreTrainedModel
from modeling_lavis.models.qformer import LavisQFormerModel
from modeling_lavis.models.text_bert import LavisBertModel
from modeling_lavis.models.vision_vit import LavisViTModel

PARAMETERS_FILE = "parameters.safetensors"


class ExportedHead(LavisPreTrainedModel):
    """What differs between an exported head and a loaded one; the first base of its class."""

    #: the content of `export.json`
    export: Manifest

    @property
    def device(self) -> torch.device:
        """Device of the parameters that the head itself has; graphs run on the CPU."""
        return next((value.device for value in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """`torch.float32`, that of inputs and outputs."""
        return torch.float32

    def train(self, mode: bool = True) -> Any:
        """Stay in evaluation mode; an exported head cannot be trained."""
        if mode:
            raise ValueError("An exported head cannot be trained. Load the model with from_pretrained.")
        return super().train(False)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: the folder of an exported head is copied as it is."""
        raise ValueError(f"An exported head has no weights to save. Copy its folder, {self.name_or_path}, instead.")


def load_exported(folder: str | os.PathLike[str]) -> Any:
    """
    Load a folder that [`export_model`] wrote.

    The result is the head itself, with all its methods (`generate`, `rank_answers`, `score_pairs`, `get_*_features`,
    ...), but its encoders, decoders and layers run in onnxruntime, OpenVINO or as programs of `torch.export`, on the
    CPU, and no torch weights are loaded for them. Graphs are opened by the first call that needs them.

    Args:
        folder (`str` or `os.PathLike`): the folder.

    Returns:
        `PreTrainedModel`: the head, in evaluation mode. Its attribute `export` is the content of `export.json`.

    Raises:
        ImportError: the package that runs the format is not installed.
        OSError: the folder is incomplete, or is not an exported model.
        ValueError: `export.json` names something that this version does not have.
    """
    import modeling_lavis

    folder = Path(folder)
    manifest = Manifest.read(folder)
    head: Any = getattr(modeling_lavis, manifest.head, None)
    if not (isinstance(head, type) and issubclass(head, LavisPreTrainedModel)):
        raise ValueError(f"{folder} was exported from {manifest.head}, which this version of modeling_lavis lacks.")
    if manifest.format not in FORMATS:
        raise ValueError(f"{folder} has the format {manifest.format!r}; expected one of {', '.join(FORMATS)}.")
    FORMATS[manifest.format].require_for(running=True)
    if not (folder / "config.json").is_file():
        raise OSError(f"{folder} lacks config.json. Copy the folder again, or export the model again.")
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, head.config_class):
        raise ValueError(
            f"{folder} was exported from {manifest.head}, but its config.json is a {type(config).__name__}. Export the "
            "model again."
        )
    exported_class = type(head.__name__, (ExportedHead, head), {"__module__": __name__})
    with torch.device("meta"):
        model = exported_class(config)
    modules = dict(model.named_modules())
    for name in dict.fromkeys(graph.module for graph in manifest.graphs):
        if name not in modules:
            raise ValueError(
                f"{folder} has a graph for the module {name!r}, which {manifest.head} does not have. Export the model "
                "again, with this version."
            )
        graphs = {
            graph.name: LazyGraph(folder, graph, manifest.format) for graph in manifest.graphs if graph.module == name
        }
        model.set_submodule(name, _session_module(modules[name], graphs))
        _check_layers(modules[name], graphs, folder)
    for name, place in manifest.in_torch.items():
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model.set_submodule(name, auto_class.from_pretrained(folder / place, dtype=torch.float32))
    for name, value in load_file(folder / PARAMETERS_FILE).items() if manifest.parameters else ():
        setattr(model, name, nn.Parameter(value.reshape(getattr(model, name).shape), requires_grad=False))
    _check_complete(model, folder)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.export = manifest
    model.name_or_path = str(folder)
    return model.eval()


def _session_module(module: nn.Module, graphs: dict[str, LazyGraph]) -> SessionModule:
    """The module that runs graphs in the place of another one."""
    if isinstance(module, LavisViTModel):
        return SessionVisionModel(graphs, module.config)
    if isinstance(module, LavisQFormerModel):
        return SessionQFormer(graphs, module.config)
    if isinstance(module, LavisBertModel):
        return (SessionDecoder if "step" in graphs else SessionTextEncoder)(graphs, module.config)
    return SessionLayer(graphs)


def _check_layers(module: Any, graphs: dict[str, LazyGraph], folder: Path) -> None:
    """Raise `ValueError` if graphs take or return keys of another number of layers than the configuration has."""
    for graph in graphs.values():
        for names in (graph.file.inputs, graph.file.outputs):
            layers = sum(name.startswith(("past.", "new.")) and name.endswith(".key") for name in names)
            if layers and layers != module.config.num_hidden_layers:
                raise ValueError(
                    f"{graph.path} has {layers} layers, but config.json of {folder} says "
                    f"{module.config.num_hidden_layers}. Copy the folder again, or export the model again."
                )


def _check_complete(model: nn.Module, folder: Path) -> None:
    missing = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]
    if missing:
        raise ValueError(
            f"{folder} has no graph or parameter for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} of "
            f"{type(model).__name__}. Export the model again, with this version."
        )


__all__ = ["PARAMETERS_FILE", "ExportedHead", "load_exported"]
