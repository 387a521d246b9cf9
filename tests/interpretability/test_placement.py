"""Maps under half precision, offloading, device maps and adapters."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForPreTraining, AutoProcessor

from modeling_lavis import explain, lora_target_modules
from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.interpretability.heads import Head, make_head

METHODS = ("gradcam", "relevance", "rollout", "attention")
#: with and without gradients, of one layer and of all
BOTH = ("gradcam", "rollout")
methods = pytest.mark.parametrize("method", BOTH)
heads = pytest.mark.parametrize(
    "name", ["albef retrieval", "blip captioning", "blip-2 retrieval", "alpro retrieval", "opt"]
)
Make = Callable[[str], Head]


@pytest.fixture(scope="module")
def head(goldens: Path) -> Make:
    return lambda name: make_head(name, goldens / "tokenizer")


def maps_of(head: Head, method: str) -> Tensor:
    found = explain(head.model, head.processor, **head.arguments, method=method)
    assert found.grids.dtype == torch.float32 and found.grids.device.type == "cpu"
    return found.grids


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    scale = expected.max()
    assert scale > 0
    torch.testing.assert_close(actual / scale, expected / scale, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, method: str) -> None:
    """A trained model, because those of random weights amplify rounding."""
    processor = AutoProcessor.from_pretrained(embedded_model_path())
    image = embedded_images()[1]
    maps = []
    for precision in (torch.float32, dtype):
        model = AutoModelForPreTraining.from_pretrained(embedded_model_path(), dtype=precision)
        maps.append(explain(model, processor, image.path, image.caption, method=method).grids)
    assert correlation(*maps) > 0.98


@pytest.mark.slow
@heads
@methods
def test_offloaded_weights(head: Make, name: str, method: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    case = head(name)
    expected = maps_of(case, method)
    accelerate.cpu_offload(case.model, execution_device=torch.device("cpu"))
    assert all(value.is_meta for value in case.model.parameters())
    assert_equal(maps_of(case, method), expected)


@pytest.mark.slow
@heads
@methods
def test_device_map(head: Make, name: str, method: str, tmp_path: Path) -> None:
    """`device_map="auto"` puts what does not fit into the memory on the disk."""
    pytest.importorskip("accelerate")
    case = head(name)
    expected = maps_of(case, method)
    case.model.save_pretrained(tmp_path / "model")
    size = sum(value.numel() * value.element_size() for value in [*case.model.parameters(), *case.model.buffers()])
    memory = {"cpu": size // 2, "disk": 10 * size}
    case.model = type(case.model).from_pretrained(
        tmp_path / "model", device_map="auto", max_memory=memory, offload_folder=tmp_path / "disk"
    )
    assert "disk" in case.model.hf_device_map.values()
    assert_equal(maps_of(case, method), expected)


@pytest.mark.slow
@heads
@methods
def test_adapters(head: Make, name: str, method: str) -> None:
    """An adapted model has the maps of the model with merged adapters, which are not those without; its weights are
    frozen, as peft leaves them."""
    peft = pytest.importorskip("peft")
    case = head(name)
    plain = maps_of(case, method)
    config = peft.LoraConfig(r=4, target_modules=lora_target_modules(case.model), init_lora_weights=False)
    case.model = peft.get_peft_model(case.model, config)
    for parameter in case.model.parameters():
        parameter.requires_grad_(False)
    adapted = maps_of(case, method)
    assert not torch.allclose(adapted, plain, rtol=1e-2)
    case.model = case.model.merge_and_unload()
    assert_equal(adapted, maps_of(case, method))
