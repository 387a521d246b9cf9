# SPDX-License-Identifier: Apache-2.0
"""The formats of exported graphs: what each writes, and how each is run. All take and return torch tensors by name."""

import io
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from modeling_lavis.export.graphs import Graph
from modeling_lavis.export.weight_files import SharedWeights
from modeling_lavis.export.weight_precision import (
    PRECISIONS,
    compress_openvino_weights,
    with_smaller_onnx_weights,
)
from modeling_lavis.import_utils import require


class Session(Protocol):
    """A graph that can be run."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, from inputs by name, on the CPU."""


class Format(NamedTuple):
    """
    A format.

    Args:
        suffix (`str`): suffix of the files of a graph.
        write (`Callable`): writes a graph to a file, and weights that graphs share to [`SharedWeights`].
        open (`Callable`): opens a file, with the names of inputs and outputs in order.
        requires (`tuple`): packages that writing needs beside torch; running needs the last of them.
        precisions (`tuple`): those that weights can be stored in.
    """

    suffix: str
    write: Callable[[Graph, Path, SharedWeights], None]
    open: Callable[[Path, tuple[str, ...], tuple[str, ...]], Session]
    requires: tuple[str, ...]
    precisions: tuple[str, ...]

    def require_for(self, running: bool) -> None:
        """
        Check that the packages are installed.

        Raises:
            ImportError: one is missing; the message names the extra.
        """
        purpose = "running" if running else "exporting to"
        for package in self.requires[-1:] if running else self.requires:
            extra = "openvino" if "openvino" in self.requires else "onnx"
            require(package, extra=extra, purpose=f"{purpose} {self.suffix[1:]} files")


# ---- torch.export ----


class _EqualSizes(nn.Module):
    """
    A graph's module that first tells the tracer which sizes are equal: those of one name.

    Else each input has sizes of its own, and what the tracer derives from them takes minutes for a dozen layers.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.inner = graph.module
        self.open_sizes = [given.open_sizes for given in graph.inputs.values()]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        sizes: dict[str, int] = {}
        for tensor, names in zip(inputs, self.open_sizes, strict=True):
            for axis, name in names.items():
                torch._check(tensor.shape[axis] == sizes.setdefault(name, tensor.shape[axis]))
        if "past_tokens" in sizes:
            torch._check(sizes["all_tokens"] == sizes["past_tokens"] + sizes["tokens"])
        return self.inner(*inputs)


def trace(graph: Graph) -> Any:
    """
    The `torch.export` program of a graph.

    Raises:
        ValueError: a size that should stay open was fixed.
    """
    inputs = graph.inputs.values()
    sizes = tuple(dict.fromkeys(given.open_sizes, torch.export.Dim.AUTO) for given in inputs)
    with torch.no_grad():
        program = torch.export.export(
            _EqualSizes(graph).eval(), tuple(given.example for given in inputs), dynamic_shapes=(sizes,), strict=False
        )
    names = program.graph_signature.user_inputs
    traced = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for (name, given), placeholder in zip(graph.inputs.items(), names, strict=True):
        for axis, size in given.open_sizes.items():
            if not isinstance(traced[placeholder].shape[axis], torch.SymInt):
                raise ValueError(
                    f"{graph.full_name} cannot be exported: tracing fixed the number of {size} of {name} to "
                    f"{traced[placeholder].shape[axis]}."
                )
    return program


class _ArchiveFile(io.FileIO):
    """
    A file that keeps the error of a write, for instance of a full disk, and takes everything after it.

    torch's writer of archives ends the process when a write fails.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes, and return their number."""
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return length


def _write_torch(graph: Graph, path: Path, weights: SharedWeights) -> None:
    program = trace(graph)
    for symbol, sizes in program.range_constraints.items():  # a sum of two sizes would be at least 4
        program.range_constraints[symbol] = type(sizes)(2, sizes.upper)  # which torch takes for any size from 0
    with _ArchiveFile(path, "w") as file:
        torch.export.save(program, file)
    if file.error is not None:
        raise OSError(f"{path.name} cannot be written: {file.error}. Free disk space and try again.") from file.error


class TorchSession:
    """A `torch.export` program."""

    def __init__(self, path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        program = torch.export.load(path)
        # Guards say that sizes are at least 2, as in all examples; graphs are right for 0 and 1, too.
        options = {"check_guards": False} if "check_guards" in signature(program.module).parameters else {}
        self.module = program.module(**options)
        self.inputs, self.outputs = inputs, outputs

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        with torch.no_grad():
            outputs = self.module(*(inputs[name] for name in self.inputs))
        return dict(zip(self.outputs, outputs, strict=True))


# ---- ONNX ----


# The first with an operator for attention; without it, each step would copy all keys to transpose and scale them.
_OPSET = 23


def _onnx_model(graph: Graph) -> Any:
    """The `onnx.ModelProto` of a graph, with the names of its inputs, outputs and open sizes."""
    program: Any = torch.onnx.export(
        trace(graph),
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    model = program.model_proto
    _name_open_sizes(model, graph)
    for node in model.graph.node:  # the places in the code that it was traced from: most of the size of a file
        del node.metadata_props[:]
    return model


def _write_onnx(graph: Graph, path: Path, weights: SharedWeights) -> None:
    model = _onnx_model(graph)
    if weights.precision != "float32":
        with weights.scratch_folder() as folder:
            model = with_smaller_onnx_weights(model, weights.precision, folder)
    weights.move(model)
    path.write_bytes(model.SerializeToString())


def _name_open_sizes(model: Any, graph: Graph) -> None:
    """Give open sizes the names of the graph, in place of the tracer's symbols."""
    names: dict[str, str] = {}
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        for axis, name in graph.inputs[value.name].open_sizes.items():
            names.setdefault(dimensions[axis].dim_param, name)
            dimensions[axis].dim_param = names[dimensions[axis].dim_param]
    for value in model.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in names:
                dimension.dim_param = names[dimension.dim_param]
    del model.graph.value_info[:]  # they have the tracer's symbols


class OnnxSession:
    """An ONNX file in onnxruntime, on the CPU with torch's number of threads."""

    def __init__(self, path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that wait in a loop take the cores from torch, and on a busy machine from the threads they wait for.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = inputs, outputs

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        arrays = {name: inputs[name].numpy() for name in self.inputs}
        outputs = self.session.run(list(self.outputs), arrays)
        return {name: torch.from_numpy(array) for name, array in zip(self.outputs, outputs, strict=True)}


# ---- OpenVINO ----


#: place in the runtime information of a model that says that its weights are smaller than float32
_WEIGHTS_OF_MODEL = ["modeling_lavis", "weights"]


def _write_openvino(graph: Graph, path: Path, weights: SharedWeights) -> None:
    import openvino

    model = _onnx_model(graph)
    with weights.scratch_folder() as folder:  # a message of more than 2 GiB has no bytes
        SharedWeights(folder).move(model)
        source = folder / "graph.onnx"
        source.write_bytes(model.SerializeToString())
        converted = openvino.convert_model(source)
        if weights.precision == "int8":
            compress_openvino_weights(converted)
        if weights.precision != "float32":
            converted.set_rt_info(weights.precision, _WEIGHTS_OF_MODEL)
        openvino.save_model(converted, path, compress_to_fp16=weights.precision != "float32")


class OpenVinoSession:
    """
    An OpenVINO model on the CPU, with torch's number of threads: in float32 if its weights are; else OpenVINO computes
    in bfloat16 or float16 where the processor has instructions for it.
    """

    def __init__(self, path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        import openvino

        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        model = core.read_model(path)
        if not model.has_rt_info(_WEIGHTS_OF_MODEL):
            options["INFERENCE_PRECISION_HINT"] = "f32"
        self.model = core.compile_model(model, "CPU", options)
        self.inputs, self.outputs = inputs, outputs

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        # A request of its own for each call: threads can call at once, and the outputs stay as they are.
        request = self.model.create_infer_request()
        arrays = {name: inputs[name].numpy() for name in self.inputs}
        results = request.infer(arrays, share_inputs=True, share_outputs=True)
        return {name: torch.from_numpy(results[name]) for name in self.outputs}


FORMATS: dict[str, Format] = {
    "torch": Format(".pt2", _write_torch, TorchSession, (), PRECISIONS[:1]),
    "onnx": Format(".onnx", _write_onnx, OnnxSession, ("onnx", "onnxscript", "onnxruntime"), PRECISIONS),
    "openvino": Format(".xml", _write_openvino, OpenVinoSession, ("onnx", "onnxscript", "openvino"), PRECISIONS),
}


__all__ = ["FORMATS", "Format", "Session", "trace"]
