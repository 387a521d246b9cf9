"""Training with parameters in half precision is reported; the embedded model is stored so that it can be trained."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from modeling_lavis import LavisBlipForConditionalGeneration, LavisBlipProcessor, LavisViTModel
from modeling_lavis.data.collators import CaptioningCollator
from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case
from tests.models.contract_training import BatchDataset

CASES = [albef_cases.PRETRAINING, alpro_cases.RETRIEVAL, lavis_blip_cases.CAPTIONING, lavis_blip_2_cases.OPT]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "is to be trained" in record.getMessage()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_warning(case: Case, dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    model = case.model().to(dtype)
    model.eval()
    assert warnings_of(caplog) == []
    for _ in range(3):
        model.train()
    (message,) = warnings_of(caplog)
    assert type(model).__name__ in message and str(dtype) in message and "dtype=torch.float32" in message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_warning(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.model().train()
    case.model().half().requires_grad_(False).train()
    case.model().half().eval()
    if case is lavis_blip_2_cases.OPT:  # what is frozen may be in half precision
        model = case.model()
        model.vision_model.half()
        model.language_model.half()
        model.train()
    assert warnings_of(caplog) == []


def test_parts_alone(caplog: pytest.LogCaptureFixture) -> None:
    vision = lavis_blip_cases.CAPTIONING.model().vision_model
    assert isinstance(vision, LavisViTModel)
    vision.half().train()
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("trainer_class", [Trainer, Seq2SeqTrainer])
def test_trainers_meet_it(trainer_class: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers' trainers call `train` before every step; it is reported once."""
    case = lavis_blip_cases.CAPTIONING
    arguments = TrainingArguments if trainer_class is Trainer else Seq2SeqTrainingArguments
    rows = BatchDataset([{**case.inputs(2), **case.training(2)}])
    options = {"report_to": "none", "use_cpu": True, "max_steps": 2, "disable_tqdm": True, "save_strategy": "no"}
    with caplog.at_level(logging.WARNING):
        trainer_class(
            model=case.model().bfloat16(),
            args=arguments(str(tmp_path), remove_unused_columns=False, per_device_train_batch_size=1, **options),
            train_dataset=rows,
            data_collator=lambda batches: batches[0],
        ).train()
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("autocast", [False, True])
def test_captioner_of_the_embedded_model(autocast: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """20 steps of a plain Trainer, with nothing said about a dtype: losses are finite and become smaller."""
    model = LavisBlipForConditionalGeneration.from_pretrained(embedded_model_path())
    processor = LavisBlipProcessor.from_pretrained(embedded_model_path())
    shown, said = embedded_images()[:4], embedded_images()[4:8]  # captions of other images, to have something to learn
    rows = [{"image": Image.open(one.path), "caption": other.caption} for one, other in zip(shown, said, strict=True)]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=4,
            max_steps=20,
            learning_rate=1e-3,
            logging_steps=1,
            bf16=autocast,
            use_cpu=True,
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=CaptioningCollator(processor),
    )
    trainer.train()
    losses = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses) == 20 and losses.isfinite().all() and (losses > 0).all()
    assert losses[-1] < 0.5 * losses[0]
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in model.parameters())
    assert warnings_of(caplog) == []
    batch = processor(images=[row["image"] for row in rows], return_tensors="pt")
    captions = processor.post_process_captions(model.eval().generate(**batch))
    assert all(captions)
