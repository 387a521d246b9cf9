"""Contract of training: gradients, momentum updates, activation checkpointing, and transformers' Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.models.contract import (
    Case,
    Contract,
    assert_same_state,
    changed_names,
    checkpoint_activations,
    clone_state_dict,
    momentum_pairs,
    perturb,
)
from tests.models.contract_forward import run

QUEUES = {"image_queue", "text_queue", "idx_queue", "queue_ptr"}


def gradients(model: Any, call: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one pass."""
    model.zero_grad()
    loss = run(model, call).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class BatchDataset(torch.utils.data.Dataset):
    """A dataset whose rows are whole batches, for a collator that returns its only row."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index]


class StopAfter(TrainerCallback):
    """Stops training after some steps, like an interruption."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.steps


def make_trainer(
    case: Case,
    model: Any,
    folder: Path,
    accumulate: int = 1,
    steps: int = 4,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """A Trainer over a fixed sequence of batches; `settings` are other TrainingArguments."""
    torch.manual_seed(3)
    batches = []
    for _ in range(8):
        batch = {**case.inputs(3), **case.training(3)}
        batch[case.pixel_name] = torch.randn_like(batch[case.pixel_name])
        batches.append(batch)
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": 1e-3,
        "remove_unused_columns": False,
        "report_to": "none",
        "use_cpu": True,
        "save_steps": 2,
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 5,
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**{**defaults, **(settings or {})}),
        train_dataset=BatchDataset(batches),
        data_collator=lambda rows: rows[0],
        **options,
    )


class TrainingContract(Contract):
    """Single training steps, and training with `Trainer`."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        trainable_cases = [case for case in self.cases if case.training(2)]
        if "variant" in metafunc.fixturenames:
            pairs = [(case, options) for case in trainable_cases for options in case.variants.values()]
            names = [f"{case.name}-{name}" for case in trainable_cases for name in case.variants]
            metafunc.parametrize(("case", "variant"), pairs, ids=names)
        elif "case" in metafunc.fixturenames:
            metafunc.parametrize("case", trainable_cases, ids=[case.name for case in trainable_cases])

    def test_all_parameters_get_gradients(self, case: Case) -> None:
        model = case.model().train()
        _, found = gradients(model, {**case.inputs(3), **case.training(3)})
        momentum_names = {momentum for _, momentum in momentum_pairs(model)}
        frozen = {name for name, _ in model.named_parameters() if name.partition(".")[0] in case.frozen}
        assert set(found) == {name for name, _ in model.named_parameters()} - momentum_names - frozen
        for name, value in found.items():
            assert bool(value.isfinite().all()), name
            # The softmax is invariant to a bias that all keys share.
            assert value.any() or name.endswith("key.bias"), f"{name} gets no gradient"

    def test_activation_checkpointing_gradients(self, case: Case) -> None:
        call = {**case.inputs(3), **case.training(3)}
        expected = gradients(case.model().train(), call)
        model = case.model().train()
        checkpoint_activations(model)
        layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
        assert layers
        loss, found = gradients(model, call)
        torch.testing.assert_close(loss, expected[0])
        assert found.keys() == expected[1].keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[1][name], msg=lambda m, n=name: f"{n}: {m}")

    def test_momentum_update_and_queue(self, case: Case) -> None:
        """Momentum encoders move once after a step of the optimizer, however many batches it accumulates."""
        model = case.model().train()
        perturb(model)
        before = clone_state_dict(model)
        call = {**case.inputs(3), **case.training(3)}
        run(model, call)
        queues = {name for name in QUEUES if name in before}
        assert changed_names(model, before) == queues
        if queues:
            assert model.queue_ptr.item() == 3
            assert torch.equal(model.image_queue[:, 3:], before["image_queue"][:, 3:])
            assert not torch.equal(model.image_queue[:, :3], before["image_queue"][:, :3])
        if "idx_queue" in queues:
            assert model.idx_queue[0, :3].tolist() == case.training(3)["image_ids"].tolist()
        run(model, call).loss.backward()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        optimizer.step()
        after = model.state_dict()
        for online, momentum in momentum_pairs(model):
            expected = model.config.momentum * before[momentum] + (1 - model.config.momentum) * after[online]
            torch.testing.assert_close(after[momentum], expected)
            assert not model.get_parameter(momentum).requires_grad
        once = clone_state_dict(model)
        optimizer.step()  # no forward pass since the last step
        assert not {momentum for _, momentum in momentum_pairs(model)} & changed_names(model, once)

    def test_momentum_every_forward(self, case: Case) -> None:
        """parity: the original updates in every forward pass, from the weights before the step."""
        model = case.model().train()
        if not momentum_pairs(model):
            pytest.skip("the class has no momentum encoders")
        perturb(model)
        model.config.momentum_every_forward = True
        before = clone_state_dict(model)
        run(model, {**case.inputs(3), **case.training(3)}).loss.backward()
        for online, momentum in momentum_pairs(model):
            expected = model.config.momentum * before[momentum] + (1 - model.config.momentum) * before[online]
            torch.testing.assert_close(model.state_dict()[momentum], expected)
        updated = clone_state_dict(model)
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        assert not {momentum for _, momentum in momentum_pairs(model)} & changed_names(model, updated)

    def test_update_state(self, case: Case) -> None:
        model = case.model()
        if not momentum_pairs(model):
            pytest.skip("the class has no momentum encoders")
        perturb(model)
        call = {**case.inputs(3), **case.training(3)}
        before = clone_state_dict(model)
        run(model.train(), call, update_state=False)
        assert not changed_names(model, before)
        run(model.eval(), call, update_state=True)
        assert changed_names(model, before)

    def test_distillation_alpha(self, case: Case) -> None:
        model = case.model()
        if not momentum_pairs(model):
            pytest.skip("the class has no momentum distillation")
        perturb(model)
        call = {**case.inputs(3), **case.training(3)}
        losses = {alpha: run(model, call, alpha=alpha).loss for alpha in (None, 0.0, 0.4, 1.0)}
        assert losses[None] == losses[model.config.alpha]
        torch.testing.assert_close(losses[0.4], 0.6 * losses[0.0] + 0.4 * losses[1.0])
        assert not torch.isclose(losses[0.0], losses[1.0])
        model.distill_alpha = 1.0
        assert run(model, call).loss == losses[1.0]
        assert run(model, call, alpha=0.0).loss == losses[0.0]

    def test_variants_train(self, case: Case, variant: dict[str, Any], tmp_path: Path) -> None:
        model = case.model(**variant).train()
        if variant.get("use_momentum", True) is False:
            assert not momentum_pairs(model) and not QUEUES & set(model.state_dict())
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        call = {**case.inputs(3), **case.training(3)}
        for _ in range(2):
            optimizer.zero_grad()
            loss = run(model, call).loss
            loss.backward()
            optimizer.step()
            assert bool(loss.isfinite())
        model.save_pretrained(tmp_path)
        again, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert_same_state(again, model)

    def test_batch_without_negatives(self, case: Case) -> None:
        """In training such a batch is refused and changes nothing; in evaluation it has no matching loss."""
        if not case.needs_negatives:
            pytest.skip("the class draws no negatives")
        call = {**case.inputs(3), **case.training(3), "image_ids": torch.full((3,), 4)}
        model = case.model().train()
        perturb(model)
        with torch.no_grad():
            model.temp.fill_(3.0)
        before = clone_state_dict(model)
        for options in ({}, {"update_state": True}) if momentum_pairs(model) else ({},):
            with pytest.raises(ValueError, match="two different images"):
                run(model, call, **options)
            assert not changed_names(model, before)
        output = run(model.eval(), call)
        assert bool(output.loss.isfinite())
        losses = {name: value for name, value in output.items() if name in ("loss_itm", "loss_vtm")}
        assert [float(value) for value in losses.values()] == [0.0]
        assert (output.get("logits") if output.get("logits") is not None else output.vtm_logits).shape == (3, 2)

    @pytest.mark.slow
    def test_trainer_resume_from_checkpoint(self, case: Case, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        whole = case.model()
        make_trainer(case, whole, tmp_path / "whole").train()
        interrupted = case.model()
        make_trainer(case, interrupted, tmp_path / "parts", callbacks=[StopAfter(2)]).train()
        resumed = case.model(seed=9)
        trainer = make_trainer(case, resumed, tmp_path / "parts")
        trainer.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
        assert trainer.state.global_step == 4
        assert_same_state(resumed, whole)
        assert changed_names(interrupted, whole.state_dict())

    def test_gradient_accumulation(self, case: Case, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        model = case.model()
        trainer = make_trainer(case, model, tmp_path, accumulate=2, steps=1)
        assert trainer.model_accepts_loss_kwargs is False
        seen: list[dict[str, Tensor]] = []

        class RecordGradients(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

        trainer.add_callback(RecordGradients())
        batches: list[dict[str, Any]] = []

        def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            batches.append(kwargs)
            torch.manual_seed(0)  # the same hard negatives below

        handle = model.register_forward_pre_hook(record, with_kwargs=True)
        trainer.train()
        handle.remove()
        (total,) = seen
        assert len(batches) == 2
        # the gradient of the mean of both losses
        reference = case.model().train()
        losses = []
        for batch in batches:
            torch.manual_seed(0)
            loss = reference(**batch).loss / 2
            loss.backward()
            losses.append(float(loss.detach()))
        (logged,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert logged == pytest.approx(sum(losses), rel=1e-3)
        expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
        assert total.keys() == expected.keys()
        for name, value in total.items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


__all__ = ["BatchDataset", "StopAfter", "TrainingContract", "gradients", "make_trainer"]
