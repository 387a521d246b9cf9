"""What a session returns does not depend on the calls around it: other batches, other beams, other threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.export import load_exported
from modeling_lavis.export.formats import trace
from modeling_lavis.export.graphs import Graph, Input
from tests.export.folders import formats

# images of a call, and options of generate
CALLS = [
    (1, {"num_beams": 1}),
    (3, {"num_beams": 3}),
    (2, {"num_beams": 1, "do_sample": True, "num_return_sequences": 2}),
    (1, {"num_beams": 2, "num_return_sequences": 2}),
    (4, {"num_beams": 1}),
]


def generated(model: Any, call: int) -> torch.Tensor:
    images, options = CALLS[call]
    pixels = torch.randn(images, 3, 72, 72, generator=torch.Generator().manual_seed(call))
    return model.generate(pixel_values=pixels, max_new_tokens=8, min_length=8, **options)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", formats())
def test_calls_of_several_threads(exported_folder: Callable[[str], Path], format_name: str) -> None:
    original = AutoModel.from_pretrained(embedded_model_path()).eval()
    exported = load_exported(exported_folder(format_name))
    for call in range(len(CALLS)):
        ids = []
        for model in (original, exported):
            torch.manual_seed(0)
            ids.append(generated(model, call))
        assert torch.equal(*ids)
    calls = [call for call, (_, options) in enumerate(CALLS) if "do_sample" not in options] * 3
    expected = [generated(original, call) for call in calls]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda call: generated(exported, call), calls))
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("format_name", formats())
def test_outputs_outlive_their_session(exported_folder: Callable[[str], Path], format_name: str) -> None:
    exported = load_exported(exported_folder(format_name))
    images = [torch.full((1 + number % 2, 3, 72, 72), 0.1 * number) for number in range(6)]
    kept = [exported.encode_images(image) for image in images]
    copies = [states.clone() for states in kept]
    for image in reversed(images):
        exported.encode_images(image)
    del exported
    assert all(map(torch.equal, kept, copies))


def test_sizes_of_one_name_are_one_size() -> None:
    """Else the tracer derives each size from those of all inputs, which takes minutes for a dozen layers."""

    class Sum(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (torch.cat(inputs, dim=1),)

    sizes = {0: "texts", 1: "tokens"}
    graph = Graph("sum", "", Sum(), {name: Input(torch.rand(3, 5), sizes) for name in "abc"}, ("total",))
    shapes = [node.meta["val"].shape for node in trace(graph).graph.nodes if node.op == "placeholder"]
    assert len({str(shape) for shape in shapes}) == 1
