"""The ramp of soft targets under a real Trainer."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_lavis import AlbefForImageAndTextClassification, AlbefModel
from modeling_lavis.training import DistillationRamp
from tests.models.albef_cases import albef_config
from tests.models.lavis_blip_cases import one_image


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs = one_image(8)
        return {name: tensor[index] for name, tensor in inputs.items()} | {"labels": torch.tensor(index % 3)}


class Recorder(AlbefForImageAndTextClassification):
    def forward(self, *args, **kwargs):
        self.__dict__.setdefault("seen", []).append(self.distill_alpha)
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


def test_ramp_follows_progress(tmp_path) -> None:
    model = Recorder(albef_config(num_labels=3, alpha=0.4))
    Trainer(
        model, arguments(tmp_path, num_train_epochs=3), train_dataset=Rows(), callbacks=[DistillationRamp(epochs=2)]
    ).train()
    expected = [0.4 * min(1, step / 8) for step in range(12)]  # four steps per epoch
    assert model.seen == pytest.approx(expected)
    assert model.distill_alpha is None


def test_ramp_refuses_models_that_do_not_distil(tmp_path) -> None:
    trainer = Trainer(
        AlbefModel(albef_config()), arguments(tmp_path), train_dataset=Rows(), callbacks=[DistillationRamp()]
    )
    with pytest.raises(ValueError, match="no momentum distillation"):
        trainer.train()


def test_a_ramp_needs_a_length() -> None:
    with pytest.raises(ValueError, match="positive"):
        DistillationRamp(epochs=0)
