"""The embedded model in all formats, exported once, by the command."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modeling_lavis.cli.main import main
from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.export.formats import FORMATS, Format
from modeling_lavis.export.graphs import Graph
from modeling_lavis.export.weight_files import SharedWeights


@pytest.fixture(scope="session")
def exported_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function that returns the folder of the embedded model in a format. Each is exported once."""
    made: dict[tuple[str, str], Path] = {}

    def make(format_name: str, weights: str = "float32") -> Path:
        if (format_name, weights) not in made:
            folder = tmp_path_factory.mktemp("exported") / format_name
            options = ["--format", format_name, "--weights", weights, "--output", str(folder)]
            assert main(["export", embedded_model_path(), *options]) == 0
            made[format_name, weights] = folder
        return made[format_name, weights]

    return make


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The format `"torch"` runs the modules of graphs as they are, since tracing takes most of the time of an export.

    What is tested is everything else: what an exported head gives to its graphs, and makes of their outputs.
    """
    graphs: dict[str, Graph] = {}

    class Untraced:
        def __init__(self, path: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
            self.graph, self.inputs, self.outputs = graphs[path.name], inputs, outputs

        def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                outputs = self.graph.module(*(inputs[name] for name in self.inputs))
            return dict(zip(self.outputs, outputs, strict=True))

    def write(graph: Graph, path: Path, weights: SharedWeights) -> None:
        path.write_bytes(b"graph")
        graphs[path.name] = graph

    monkeypatch.setitem(FORMATS, "torch", Format(".pt2", write, Untraced, (), ("float32",)))
