"""The ramp of the momentum distillation weight under a Trainer."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from modeling_lavis import (
    AlbefForImageAndTextClassification,
    AlbefForImageTextRetrieval,
    AlbefModel,
    AlproForVideoTextRetrieval,
    LavisBlip2ForPreTraining,
    LavisBlipForConditionalGeneration,
    LavisBlipForImageTextRetrieval,
)
from modeling_lavis.training import DistillationRamp
from tests.models.albef_cases import albef_config
from tests.models.alpro_cases import alpro_config
from tests.models.lavis_blip_2_cases import blip_2_config
from tests.models.lavis_blip_cases import blip_config, one_image


class ClassificationDataset(torch.utils.data.Dataset):
    """Eight rows with labels of three classes."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs = one_image(8)
        return {name: tensor[index] for name, tensor in inputs.items()} | {"labels": torch.tensor(index % 3)}


class RecordingModel(AlbefForImageAndTextClassification):
    """Records `distill_alpha` at each step."""

    def forward(self, *args, **kwargs):
        self.__dict__.setdefault("recorded_alphas", []).append(self.distill_alpha)
        return super().forward(*args, **kwargs)


def arguments(tmp_path, **options) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        remove_unused_columns=False,
        **options,
    )


def test_weight_follows_the_progress_of_training(tmp_path) -> None:
    model = RecordingModel(albef_config(num_labels=3, alpha=0.4))
    Trainer(
        model,
        arguments(tmp_path, num_train_epochs=3),
        train_dataset=ClassificationDataset(),
        callbacks=[DistillationRamp(epochs=2)],
    ).train()
    expected = [0.4 * min(1, step / 8) for step in range(12)]  # four steps per epoch
    assert model.recorded_alphas == pytest.approx(expected)
    assert model.distill_alpha is None


class Container(nn.Module):
    """A user's module around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model


def adapted(model: nn.Module) -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"]))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda model: model,
    "peft": adapted,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "DDP": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "peft in DDP": lambda model: nn.parallel.DistributedDataParallel(adapted(model)),
    "compiled peft": lambda model: torch.compile(adapted(model), backend="eager"),
    "own module": Container,
}


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone, which DDP needs."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_weight_reaches_a_wrapped_model(wrapper: str, tmp_path: Path, process_group: None) -> None:
    head = AlbefForImageTextRetrieval(albef_config(alpha=0.4))
    model, ramp, state = WRAPPERS[wrapper](head), DistillationRamp(epochs=2), TrainerState()
    call: Any = (arguments(tmp_path), state, TrainerControl())
    ramp.on_train_begin(*call, model=model)
    weights = []
    for epoch in (0.0, 0.5, 1.0, 3.0):
        state.epoch = epoch
        ramp.on_step_begin(*call, model=model)
        weights.append(head.soft_target_weight(None))
    assert weights == pytest.approx([0.0, 0.1, 0.2, 0.4])
    head.config.alpha = 0.7
    ramp.on_train_end(*call, model=model)
    assert head.soft_target_weight(None) == 0.7


MODELS_WITHOUT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "features": (lambda: AlbefModel(albef_config()), "AlbefModel has no momentum distillation"),
    "ALPRO": (lambda: AlproForVideoTextRetrieval(alpro_config()), "AlproForVideoTextRetrieval has no momentum"),
    "captioner": (lambda: LavisBlipForConditionalGeneration(blip_config()), "has no momentum distillation"),
    "BLIP-2": (lambda: LavisBlip2ForPreTraining(blip_2_config()), "LavisBlip2ForPreTraining has no momentum"),
    "adapted captioner": (
        lambda: adapted(LavisBlipForConditionalGeneration(blip_config())),
        "LavisBlipForConditionalGeneration has no momentum distillation",
    ),
    "no momentum": (
        lambda: AlbefForImageAndTextClassification(albef_config(use_momentum=False)),
        "AlbefForImageAndTextClassification has no momentum encoders.*use_momentum=True",
    ),
    "no momentum in BLIP": (
        lambda: LavisBlipForImageTextRetrieval(blip_config(use_momentum=False)),
        "LavisBlipForImageTextRetrieval has no momentum encoders",
    ),
    "no distillation": (
        lambda: adapted(LavisBlipForImageTextRetrieval(blip_config(use_distill=False))),
        "LavisBlipForImageTextRetrieval does not use the soft targets.*use_distill=True",
    ),
}


@pytest.mark.parametrize("name", MODELS_WITHOUT)
def test_models_without_momentum_distillation(name: str, tmp_path: Path) -> None:
    make, message = MODELS_WITHOUT[name]
    trainer = Trainer(
        make(), arguments(tmp_path), train_dataset=ClassificationDataset(), callbacks=[DistillationRamp()]
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()


@pytest.mark.parametrize("epochs", [0, -1.0, math.nan, math.inf, "2", None, True])
def test_number_of_epochs_must_be_positive(epochs: Any) -> None:
    with pytest.raises(ValueError, match=f"epochs is {epochs!r}; expected a positive number"):
        DistillationRamp(epochs=epochs)
