"""The ramp of the momentum distillation weight under a Trainer."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_lavis import AlbefForImageAndTextClassification, AlbefModel
from modeling_lavis.training import DistillationRamp
from tests.models.albef_cases import albef_config
from tests.models.lavis_blip_cases import one_image


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


def test_models_without_momentum_distillation(tmp_path) -> None:
    trainer = Trainer(
        AlbefModel(albef_config()),
        arguments(tmp_path),
        train_dataset=ClassificationDataset(),
        callbacks=[DistillationRamp()],
    )
    with pytest.raises(ValueError, match="no momentum distillation"):
        trainer.train()


def test_number_of_epochs_must_be_positive() -> None:
    with pytest.raises(ValueError, match="epochs is 0; expected a positive number"):
        DistillationRamp(epochs=0)
