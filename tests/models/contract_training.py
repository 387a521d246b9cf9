"""Contract of training: what moves and what does not, checkpointing, and transformers' Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.models.contract import Case, Contract, assert_same_state, changed_names, shake, state_copy, twin_pairs
from tests.models.contract_forward import run

QUEUES = {"image_queue", "text_queue", "idx_queue", "queue_ptr"}


def gradients(model: Any, call: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one pass, with state that stays."""
    model.zero_grad()
    loss = run(model, call).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class Rows(torch.utils.data.Dataset):
    """A batch as a data set of rows; what belongs to the whole batch is added by the collator."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index]


class StopAfter(TrainerCallback):
    """Ends training after some steps, as an interruption would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.steps


def trainer_for(case: Case, model: Any, folder: Path, accumulate: int = 1, steps: int = 4, **options: Any) -> Trainer:
    """A Trainer whose data set yields ready-made batches, always in the same order."""
    torch.manual_seed(3)
    batches = []
    for _ in range(8):
        batch = {**case.inputs(3), **case.training(3)}
        batch[case.pixels] = torch.randn_like(batch[case.pixels])
        batches.append(batch)
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=accumulate,
            learning_rate=1e-3,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=True,
            save_steps=2,
            disable_tqdm=True,
            logging_steps=1,
            seed=5,
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
        ),
        train_dataset=Rows(batches),
        data_collator=lambda rows: rows[0],
        **options,
    )


class TrainingContract(Contract):
    """One step and several."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        learners = [case for case in self.cases if case.training(2)]
        if "variant" in metafunc.fixturenames:
            pairs = [(case, options) for case in learners for options in case.variants.values()]
            names = [f"{case.name}-{name}" for case in learners for name in case.variants]
            metafunc.parametrize(("case", "variant"), pairs, ids=names)
        elif "case" in metafunc.fixturenames:
            metafunc.parametrize("case", learners, ids=[case.name for case in learners])

    def test_everything_learns(self, case: Case) -> None:
        model = case.model().train()
        _, found = gradients(model, {**case.inputs(3), **case.training(3)})
        twins = {twin for _, twin in twin_pairs(model)}
        frozen = {name for name, _ in model.named_parameters() if name.partition(".")[0] in case.frozen}
        assert set(found) == {name for name, _ in model.named_parameters()} - twins - frozen
        for name, value in found.items():
            assert bool(value.isfinite().all()), name
            # Softmax does not see what all keys have in common.
            assert value.any() or name.endswith("key.bias"), f"{name} gets no gradient"

    def test_activation_checkpointing_changes_nothing(self, case: Case) -> None:
        call = {**case.inputs(3), **case.training(3)}
        expected = gradients(case.model().train(), call)
        model = case.model().train()
        model.activation_checkpointing_enable()
        assert model.is_activation_checkpointing
        layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
        assert layers
        loss, found = gradients(model, call)
        torch.testing.assert_close(loss, expected[0])
        assert found.keys() == expected[1].keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[1][name], msg=lambda m, n=name: f"{n}: {m}")

    def test_training_moves_twins_and_queue(self, case: Case) -> None:
        model = case.model().train()
        shake(model)
        before = state_copy(model)
        run(model, {**case.inputs(3), **case.training(3)})
        twins = {twin for _, twin in twin_pairs(model)}
        queues = {name for name in QUEUES if name in before}
        # A vocabulary row that both share stays; everything else of a twin moves.
        assert changed_names(model, before) == queues | {
            twin for online, twin in twin_pairs(model) if not torch.equal(before[online], before[twin])
        }
        for online, twin in twin_pairs(model):
            wanted = model.config.momentum * before[twin] + (1 - model.config.momentum) * before[online]
            torch.testing.assert_close(model.state_dict()[twin], wanted)
        if queues:
            assert model.queue_ptr.item() == 3
            assert torch.equal(model.image_queue[:, 3:], before["image_queue"][:, 3:])
            assert not torch.equal(model.image_queue[:, :3], before["image_queue"][:, :3])
        if "idx_queue" in queues:
            assert model.idx_queue[0, :3].tolist() == case.training(3)["image_ids"].tolist()
        assert all(not parameter.requires_grad for name, parameter in model.named_parameters() if name in twins)

    def test_update_state_can_be_chosen(self, case: Case) -> None:
        model = case.model()
        if not twin_pairs(model):
            pytest.skip("this class has no state beside its weights")
        shake(model)
        call = {**case.inputs(3), **case.training(3)}
        before = state_copy(model)
        run(model.train(), call, update_state=False)
        assert not changed_names(model, before)
        run(model.eval(), call, update_state=True)
        assert changed_names(model, before)

    def test_alpha(self, case: Case) -> None:
        model = case.model()
        if not twin_pairs(model):
            pytest.skip("this class does not distil")
        shake(model)
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
            assert not twin_pairs(model) and not QUEUES & set(model.state_dict())
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

    def test_same_image_everywhere_is_named(self, case: Case) -> None:
        if not case.pairs:
            pytest.skip("this class does not compare rows")
        call = {**case.inputs(3), **case.training(3), "image_ids": torch.full((3,), 4)}
        model = case.model().train()
        before = state_copy(model)
        with pytest.raises(ValueError, match="two different images"):
            run(model, call)
        del before

    def test_trainer_resumes_exactly(self, case: Case, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        whole = case.model()
        trainer_for(case, whole, tmp_path / "whole").train()
        interrupted = case.model()
        trainer_for(case, interrupted, tmp_path / "parts", callbacks=[StopAfter(2)]).train()
        resumed = case.model(seed=9)
        trainer = trainer_for(case, resumed, tmp_path / "parts")
        trainer.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
        assert trainer.state.global_step == 4
        assert_same_state(resumed, whole)
        assert changed_names(interrupted, whole.state_dict())

    def test_gradient_accumulation_takes_the_mean(self, case: Case, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        model = case.model()
        trainer = trainer_for(case, model, tmp_path, accumulate=2, steps=1)
        assert trainer.model_accepts_loss_kwargs is False
        seen: list[dict[str, Tensor]] = []

        class Look(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                seen.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

        trainer.add_callback(Look())
        losses: list[Tensor] = []
        handle = model.register_forward_hook(lambda module, args, output: losses.append(output.loss.detach()))
        trainer.train()
        handle.remove()
        (total,) = seen
        assert len(losses) == 2
        (logged,) = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert logged == pytest.approx(float(sum(losses) / 2), rel=1e-3)
        assert total


__all__ = ["Rows", "StopAfter", "TrainingContract", "gradients", "trainer_for"]
