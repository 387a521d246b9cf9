"""Two steps of transformers' Trainer with options that change how the loss is computed, against the plain Trainer.

Hard negatives are fixed, so that rounding errors cannot draw others.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from modeling_lavis import LavisBlip2ForConditionalGeneration
from modeling_lavis.models import task_retrieval
from modeling_lavis.training import LORA_TARGET_MODULES, lora_target_modules
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case
from tests.models.contract_training import make_trainer
from tests.models.distributed_worker import deterministic
from tests.models.lavis_blip_2_cases import second_stage
from tests.models.test_modeling_lavis_blip_2_deployment import quantization_config

pytestmark = pytest.mark.slow

CASES = [
    pytest.param(case, id=case.name)
    for case in (
        albef_cases.RETRIEVAL,
        albef_cases.PRETRAINING,
        albef_cases.ANSWERING,
        albef_cases.IMAGE_PAIRS,
        lavis_blip_cases.PRETRAINING,
        lavis_blip_cases.CAPTIONING,
        lavis_blip_cases.IMAGE_PAIRS,
        lavis_blip_2_cases.PRETRAINING,
        lavis_blip_2_cases.OPT,
        alpro_cases.RETRIEVAL,
        alpro_cases.ANSWERING,
    )
]


def next_rows(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Replacement of `draw_negatives`: the row after each row."""
    return (torch.arange(len(weights)) + 1) % weights.shape[1]


@pytest.fixture(autouse=True)
def _fixed_draws() -> Iterator[None]:
    with deterministic(), mock.patch.object(task_retrieval, "draw_negatives", next_rows):
        yield


def losses(case: Case, model: Any, folder: Path, **settings: Any) -> Tensor:
    """The losses of two steps, before each update."""
    trainer = make_trainer(case, model, folder, steps=2, settings={"save_strategy": "no", **settings})
    trainer.train()
    return torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


def plain_losses(case: Case, folder: Path) -> Tensor:
    found = losses(case, case.model(), folder)
    assert len(found) == 2 and found[0] != found[1]
    return found


@pytest.mark.parametrize("case", CASES)
def test_bf16(case: Case, tmp_path: Path) -> None:
    plain = plain_losses(case, tmp_path)
    model = case.model()
    found = losses(case, model, tmp_path, bf16=True)
    torch.testing.assert_close(found, plain, atol=0.0, rtol=0.01)
    assert not torch.equal(found, plain)
    trained = [value for value in model.parameters() if value.requires_grad]
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in trained)


@pytest.mark.parametrize("case", CASES)
def test_activation_checkpointing(case: Case, tmp_path: Path) -> None:
    plain, model = plain_losses(case, tmp_path), case.model()
    found = losses(case, model, tmp_path, gradient_checkpointing=True)
    torch.testing.assert_close(found, plain, atol=0.0, rtol=1e-6)
    assert model.is_activation_checkpointing


# inductor compiles C++ for some seconds per head; it plans the backward pass of a feature queue that is overwritten
INDUCTOR = (
    albef_cases.RETRIEVAL,
    lavis_blip_cases.RETRIEVAL,
    lavis_blip_cases.PRETRAINING,
    lavis_blip_2_cases.OPT,
)
COMPILED = [pytest.param(param.values[0], "aot_eager", id=f"aot_eager-{param.id}") for param in CASES]
COMPILED += [pytest.param(case, "inductor", id=f"inductor-{case.name}") for case in INDUCTOR]


@pytest.mark.parametrize(("case", "backend"), COMPILED)
def test_compile(case: Case, backend: str, tmp_path: Path) -> None:
    if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("needs a C++ compiler")
    plain = plain_losses(case, tmp_path)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = losses(case, case.model(), tmp_path, torch_compile=True, torch_compile_backend=backend)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch.testing.assert_close(found, plain, atol=0.0, rtol=1e-5)


def adapted(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(r=2, target_modules=lora_target_modules(model), init_lora_weights=True))


@pytest.mark.parametrize("case", CASES)
def test_lora(case: Case, tmp_path: Path) -> None:
    """The first loss is that of the model without adapters, the second that of the merged model."""
    plain = plain_losses(case, tmp_path)
    model = adapted(case.model())
    trainer = make_trainer(case, model, tmp_path, steps=1, settings={"save_strategy": "no", "learning_rate": 0.1})
    trainer.train()
    (first,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert first == pytest.approx(float(plain[0]), rel=1e-6)
    found = losses(case, adapted(case.model()), tmp_path, learning_rate=0.1, lr_scheduler_type="constant")
    assert float(found[0]) == first
    batch = trainer.train_dataset[1]
    with torch.no_grad():
        merged = model.merge_and_unload().train()(**batch).loss
    torch.testing.assert_close(found[1], merged, atol=0.0, rtol=1e-5)
    assert abs(float(merged - plain[1])) > 1e-5


@pytest.mark.parametrize("kind", ["opt", "t5"])
@pytest.mark.parametrize(
    ("name", "precision"), [("torchao 8 bit", 0.01), ("bitsandbytes 8 bit", 0.01), ("bitsandbytes 4 bit", 0.1)]
)
def test_quantized_base(name: str, precision: float, kind: str, tmp_path: Path) -> None:
    """BLIP-2 with 8- and 4-bit encoder and language model, adapters in the Q-Former."""
    case = lavis_blip_2_cases.OPT

    def with_adapters(model: Any) -> Any:
        return get_peft_model(model, LoraConfig(r=2, target_modules=LORA_TARGET_MODULES["qformer"]))

    plain = second_stage(kind, quantizable=True)
    plain.save_pretrained(tmp_path / "plain")
    quantized = LavisBlip2ForConditionalGeneration.from_pretrained(
        tmp_path / "plain", quantization_config=quantization_config(name), dtype=torch.bfloat16, device_map="cpu"
    )
    expected = losses(case, with_adapters(plain), tmp_path)
    model = with_adapters(quantized)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    found = losses(case, model, tmp_path)
    torch.testing.assert_close(found, expected, atol=0.0, rtol=precision)
    assert not torch.equal(found, expected)
    changed = {
        name for name, value in model.named_parameters() if name in before and not torch.equal(value, before[name])
    }
    assert changed and all("lora_" in name for name in changed)
