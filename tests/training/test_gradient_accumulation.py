"""Gradient accumulation in transformers' Trainer: the gradient of a step is the mean over its batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case

# heads without momentum encoders, whose loss depends on its batch alone
CASES = {
    "BLIP captioner": (lavis_blip_cases.CAPTIONING, {}),
    "BLIP VQA": (lavis_blip_cases.ANSWERING, {}),
    "BLIP pairs": (lavis_blip_cases.IMAGE_PAIRS, {}),
    "ALBEF classification": (albef_cases.CLASSIFICATION, {"use_momentum": False}),
    "ALBEF VQA": (albef_cases.ANSWERING, {"use_momentum": False}),
    "ALPRO QA": (alpro_cases.ANSWERING, {}),
    "BLIP-2": (lavis_blip_2_cases.OPT, {}),
}
STEPS = 3


def batches_of(case: Case) -> list[dict[str, Any]]:
    """Batches of different images and, from one to the next, of other sizes."""
    batches = []
    for seed, rows in enumerate((3, 2, 4)):
        batch = {**case.inputs(rows), **case.training(rows)}
        pixels = batch[case.pixel_name]
        batch[case.pixel_name] = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
        batches.append(batch)
    return batches


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_the_gradients(name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")
    case, options = CASES[name]
    batches = batches_of(case)
    alone = []
    for batch in batches:
        model = case.model(**options).train()
        model(**batch).loss.backward()
        alone.append(gradients(model))
    expected = {name: torch.stack([found[name] for found in alone]).mean(dim=0) for name in alone[0]}
    different = [name for name in expected if not torch.allclose(expected[name], alone[-1][name])]
    assert len(different) > len(expected) / 2, "one batch alone would give the same"

    accumulated: list[dict[str, Tensor]] = []

    class Record(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            accumulated.append(gradients(kwargs["model"]))

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=STEPS,
        max_grad_norm=0.0,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(
        case.model(**options),
        arguments,
        data_collator=lambda rows: rows[0],
        train_dataset=batches,  # type: ignore[arg-type]
        callbacks=[Record()],
    ).train()
    (found,) = accumulated
    assert found.keys() == expected.keys()
    for parameter, value in found.items():
        torch.testing.assert_close(value, expected[parameter], msg=lambda m, n=parameter: f"{n}: {m}")
