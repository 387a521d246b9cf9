"""LavisTrainer: losses apart, groups and schedules, ramp, frozen modules, evaluation by functions, curves and card."""

from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from modeling_lavis.training import DistillationRamp, LavisTrainer, parameter_groups
from modeling_lavis.training.curves import draw_curves, series_of
from modeling_lavis.training.loss_log import LossAverages
from modeling_lavis.training.trainer import freeze_modules
from tests.training.trainer_cases import (
    captioning_trainer,
    differing,
    retrieval_model,
    retrieval_trainer,
    state_of,
    write_rows,
)

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return write_rows(tmp_path_factory.mktemp("images"))


def entries(trainer: Any, name: str) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if name in entry]


# ---- losses ----


def test_every_loss_is_logged_apart(rows: Any, goldens: Path, tmp_path: Path) -> None:
    """As means over the steps since the last entry and over accumulated batches, the last of which are fewer."""
    batches: list[tuple[int, float, float]] = []

    class Recording(LavisTrainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            weight = 1 / self.current_gradient_accumulation_steps
            batches.append((self.state.global_step, weight, outputs.loss_itm.item()))
            return (loss, outputs) if return_outputs else loss

    options = {"gradient_accumulation_steps": 3, "logging_steps": 2, "num_train_epochs": 2}
    rows = rows[:8]  # four batches: a step of three and one of one
    trainer = retrieval_trainer(goldens, rows, tmp_path, trainer=Recording, callbacks=[], **options)
    trainer.train()
    logged = entries(trainer, "loss")
    assert [entry["step"] for entry in logged] == [2, 4]
    for entry in logged:
        assert entry["loss_itc"] + entry["loss_itm"] == pytest.approx(entry["loss"], rel=1e-5)
        expected = sum(weight * value for at, weight, value in batches if entry["step"] - 2 <= at < entry["step"]) / 2
        assert entry["loss_itm"] == pytest.approx(expected, rel=1e-5)
    assert {weight for _, weight, _ in batches} == {1 / 3, 1.0}, "the last step of an epoch has one batch"


def test_losses_are_not_read_before_they_are_logged() -> None:
    class Device(torch.Tensor):
        """Says when it is read."""

        reads = 0

        def tolist(self) -> Any:
            type(self).reads += 1
            return super().tolist()

        item = tolist
        __float__ = tolist

    averages = LossAverages()
    for value in (1.0, 3.0):
        averages.add({"loss_itc": torch.tensor(value).as_subclass(Device), "loss": None, "logits": torch.ones(2)})
    averages.add((1, 2))
    assert Device.reads == 0
    assert averages.pop() == {"loss_itc": 2.0} and Device.reads == 1
    assert averages.pop() == {}


def test_losses_of_the_evaluation(rows: Any, goldens: Path, tmp_path: Path) -> None:
    trainer = retrieval_trainer(goldens, rows, tmp_path, eval_dataset=rows[:5], per_device_eval_batch_size=2)
    found = trainer.evaluate()
    assert found["eval_loss_itc"] + found["eval_loss_itm"] == pytest.approx(found["eval_loss"], rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == found["eval_loss"], "its draws are always the same"


# ---- optimizer ----


def test_groups_and_schedule_of_a_recipe(rows: Any, goldens: Path, tmp_path: Path) -> None:
    options = {"weight_decay": 0.05, "learning_rate": 1e-3, "max_grad_norm": 0.0, "num_train_epochs": 3}
    rows = rows[:8]
    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path,
        groups="lavis",
        recipe_schedule="linear_warmup_cosine_lr",
        schedule_options={"warmup_steps": 2, "warmup_lr": 1e-5},
        **options,
    )
    trainer.train()
    expected = parameter_groups(trainer.model, 0.05)
    for found, group in zip(trainer.optimizer.param_groups, expected, strict=True):
        assert found["weight_decay"] == group["weight_decay"]
        assert list(map(id, found["params"])) == list(map(id, group["params"]))
    rates = [entry["learning_rate"] for entry in entries(trainer, "loss")]
    assert rates == pytest.approx([1e-5, 5.05e-4, 1e-3, 1e-3] + [7.5e-4] * 4 + [2.5e-4] * 4)
    assert all(entry["grad_norm"] > 0 for entry in entries(trainer, "loss"))


def test_norms_without_clipping_leave_the_gradients_alone(rows: Any, goldens: Path, tmp_path: Path) -> None:
    """As transformers computes them, but only in steps that are logged."""
    runs = {}
    for kind in (LavisTrainer, Trainer):
        model = retrieval_model(hidden_dropout_prob=0.0).eval()
        trainer = retrieval_trainer(goldens, rows, tmp_path, model, trainer=kind, max_grad_norm=0.0, logging_steps=2)
        trainer.state.global_step, trainer.state.logging_steps = 1, 2
        batch = trainer.data_collator([row | {"caption": row["caption"][0]} for row in rows[:2]])
        torch.manual_seed(0)
        model(**batch).loss.backward()
        before = [value.grad.clone() for value in model.parameters() if value.grad is not None]
        runs[kind] = float(trainer._get_grad_norm(model))
        after = [value.grad for value in model.parameters() if value.grad is not None]
        assert all(map(torch.equal, before, after))
        if kind is LavisTrainer:
            trainer.state.global_step = 2
            assert trainer._get_grad_norm(model) is None
    assert runs[LavisTrainer] == pytest.approx(runs[Trainer], rel=1e-5)


@pytest.mark.slow
def test_layer_decay_without_a_schedule_of_lavis(rows: Any, goldens: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    trainer = retrieval_trainer(
        goldens, rows, tmp_path, layer_decay=0.5, max_steps=1, lr_scheduler_type="constant", learning_rate=1e-3
    )
    trainer.train()
    rates = {round(group["lr"] / group["lr_scale"], 9) for group in trainer.optimizer.param_groups}
    assert rates == {1e-3} and len({group["lr"] for group in trainer.optimizer.param_groups}) > 2


@pytest.mark.slow
def test_own_groups_and_schedule(rows: Any, goldens: Path, tmp_path: Path) -> None:
    calls = []

    def schedule(optimizer: Any, **values: Any) -> Any:
        calls.append(values)
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path,
        groups=lambda model: [{"params": [model.vision_proj.weight]}],
        recipe_schedule=schedule,
        schedule_options={"epochs": 5},
        max_steps=2,
    )
    before = state_of(trainer.model)
    trainer.train()
    assert calls == [{"lr": 1e-2, "epochs": 5, "steps_per_epoch": 7}]
    changed = set(differing(before, state_of(trainer.model)))
    assert "vision_proj.weight" in changed and "text_proj.weight" not in changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe_schedule": "cosine"}, "expected one of linear_warmup_cosine_lr"),
        ({"schedule_options": {"min_lr": 0.0}}, "recipe_schedule, which is not given"),
        ({"groups": 3}, "expected 'lavis', 'timm' or a function"),
        ({"groups": list, "layer_decay": 0.9}, "a function has to apply it by itself"),
        ({"freeze": ["vision"]}, "has no module 'vision' to freeze; it has"),
    ],
)
def test_wrong_arguments(options: Any, message: str, rows: Any, goldens: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_trainer(goldens, rows, tmp_path, **options)


# ---- what heads need ----


def ramps(trainer: Any) -> list[float]:
    return [
        callback.epochs for callback in trainer.callback_handler.callbacks if isinstance(callback, DistillationRamp)
    ]


def test_the_ramp_is_added_for_heads_that_distill(rows: Any, goldens: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    assert ramps(retrieval_trainer(goldens, rows, tmp_path)) == [2.0]
    assert ramps(retrieval_trainer(goldens, rows, tmp_path, ramp_epochs=None)) == []
    assert ramps(retrieval_trainer(goldens, rows, tmp_path, callbacks=[DistillationRamp(0.5)])) == [0.5]
    assert ramps(retrieval_trainer(goldens, rows, tmp_path, retrieval_model(use_distill=False))) == []
    assert ramps(retrieval_trainer(goldens, rows, tmp_path, retrieval_model(use_momentum=False))) == []
    assert ramps(captioning_trainer(goldens, rows, tmp_path)) == []
    head = retrieval_model()
    model = peft.get_peft_model(head, peft.LoraConfig(target_modules=["query"]))
    alphas: list[float] = []

    class Record(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            alphas.append(head.soft_target_weight(None))

    trainer = retrieval_trainer(goldens, rows, tmp_path, model, ramp_epochs=1.0, max_steps=3, callbacks=[Record()])
    momentum = head.text_encoder_m.embeddings.word_embeddings.weight.clone()
    trainer.train()
    assert alphas == pytest.approx([0.0, 0.4 / 7, 0.8 / 7])
    assert torch.equal(momentum, head.text_encoder_m.embeddings.word_embeddings.weight), "not adapted, so the same"


@pytest.mark.slow
def test_frozen_modules(rows: Any, goldens: Path, tmp_path: Path) -> None:
    trainer = retrieval_trainer(goldens, rows, tmp_path, freeze=["vision_model", "text_encoder.encoder"], max_steps=2)
    before = state_of(trainer.model)
    trainer.train()
    changed = differing(before, state_of(trainer.model))
    assert not any(name.startswith(("vision_model.", "text_encoder.encoder.")) for name in changed)
    assert {"vision_proj.weight", "text_encoder.embeddings.word_embeddings.weight"} <= set(changed)
    assert trainer.model.training and not trainer.model.vision_model.training
    wrapped = torch.nn.ModuleDict({"inner": retrieval_model()})
    assert not any(
        value.requires_grad for value in freeze_modules(wrapped, ["vision_model"]).inner.vision_model.parameters()
    )


# ---- evaluation ----


class Evaluation:
    """Captions the first row and returns given values in turn; keeps what it was called with."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.calls: list[Any] = []

    def __call__(self, model: Any, processor: Any, rows: Any) -> dict[str, float]:
        self.calls.append((model, processor, rows, model.training, torch.is_grad_enabled()))
        images = processor(images=[rows[0]["image"]], return_tensors="pt")
        tokens = model.generate(**images, max_length=8, do_sample=True)
        return {"cider": self.values[(len(self.calls) - 1) % len(self.values)], "tokens": tokens.shape[1]}


def test_evaluation_by_generation_chooses_the_best_model(rows: Any, goldens: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(0.1, 0.7, 0.3, 0.2, 0.9)
    trainer = captioning_trainer(
        goldens,
        [{**row, "caption": row["caption"][0]} for row in rows[:4]],
        tmp_path,
        evaluation=evaluation,
        eval_dataset=rows[:3],
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
        num_train_epochs=5,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="cider",
        greater_is_better=True,
        learning_rate=1e-3,
    )
    saved: dict[int, Any] = {}

    class Keep(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            saved[state.global_step] = state_of(kwargs["model"])

    trainer.add_callback(Keep())
    trainer.train()
    assert [entry["eval_cider"] for entry in entries(trainer, "eval_cider")] == [0.1, 0.7, 0.3, 0.2], "stopped early"
    assert "eval_loss" not in entries(trainer, "eval_cider")[0] and "eval_runtime" in entries(trainer, "eval_cider")[0]
    assert trainer.state.best_metric == 0.7 and trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert differing(state_of(trainer.model), saved[4]) == [] and differing(saved[4], saved[8]) != []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    model, tools, given, was_training, had_grad = evaluation.calls[0]
    assert model is trainer.model and tools is trainer.processing_class and given is trainer.eval_dataset
    assert not was_training and not had_grad


@pytest.mark.slow
def test_evaluation_does_not_change_the_training(rows: Any, goldens: Path, tmp_path: Path) -> None:
    """Even if it draws random numbers; and it draws the same at every step."""
    draws: list[float] = []

    def evaluation(model: Any, processor: Any, rows: Any) -> dict[str, float]:
        draws.append(torch.rand(()).item())
        model.vision_model.train()
        return {"recall": torch.tensor(0.5)}

    options = {"eval_dataset": rows[:4], "eval_strategy": "steps", "eval_steps": 2, "evaluate_loss": True}
    alone = retrieval_trainer(goldens, rows, tmp_path, max_steps=5)
    alone.train()
    evaluated = retrieval_trainer(goldens, rows, tmp_path, evaluation=evaluation, max_steps=5, **options)
    evaluated.train()
    assert differing(state_of(alone.model), state_of(evaluated.model)) == []
    first = entries(evaluated, "eval_recall")[0]
    assert first["eval_recall"] == 0.5 and first["eval_loss"] > 0 and first["eval_loss_itm"] > 0
    assert len(draws) == 3 and len(set(draws)) == 1


@pytest.mark.slow
def test_several_sets_and_an_adapted_model(rows: Any, goldens: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    head, seen = retrieval_model(), []

    def evaluation(model: Any, processor: Any, rows: Any) -> dict[str, float]:
        seen.append(model)
        return {"rows": len(rows)}

    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path,
        peft.get_peft_model(head, peft.LoraConfig(target_modules=["query"])),
        evaluation=evaluation,
        eval_dataset={"small": rows[:2], "large": rows[:6]},
    )
    found = trainer.evaluate()
    assert (found["eval_small_rows"], found["eval_large_rows"]) == (2, 6)
    assert seen == [head, head]
    assert trainer.predict(rows[:3]).metrics["test_rows"] == 3


@pytest.mark.parametrize(
    ("metrics", "message"), [(0.5, "returned float; expected a dict"), ({"a": {}}, "a number for")]
)
def test_wrong_metrics(metrics: Any, message: str, rows: Any, goldens: Path, tmp_path: Path) -> None:
    trainer = retrieval_trainer(goldens, rows, tmp_path, evaluation=lambda *_: metrics, eval_dataset=rows)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate()


# ---- curves and card ----


@pytest.mark.slow
def test_curves(rows: Any, goldens: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path,
        curves=True,
        max_steps=2,
        eval_dataset=rows[:2],
        eval_strategy="steps",
        evaluation=lambda *_: {"recall@1": 0.5},
    )
    trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with PIL.Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(10**6) or []) > 20
    panels = series_of(trainer.state.log_history)
    assert set(panels["loss"]) == {"loss", "loss_itc", "loss_itm"}
    assert panels["metric"] == {"eval_recall@1": ([1, 2], [0.5, 0.5])}
    assert panels["learning rate"]["learning_rate"][0] == [1, 2]
    assert not draw_curves([], tmp_path / "none.png") and not (tmp_path / "none.png").exists()


def test_curves_need_matplotlib(rows: Any, goldens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_lavis.import_utils.is_available", lambda name: name != "matplotlib")
    with pytest.raises(ImportError, match=r"matplotlib.*modeling-lavis\[train\]"):
        retrieval_trainer(goldens, rows, tmp_path, curves=True)


def test_card_of_a_run(rows: Any, goldens: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    start = tmp_path / "start"
    start.mkdir()
    (start / "README.md").write_text("---\nlicense: bsd-3-clause\nlanguage: de\nbase_model: org/first\n---\n\nText.\n")
    model = retrieval_model()
    model.config._name_or_path = model.name_or_path = str(start)
    trainer = retrieval_trainer(
        goldens,
        rows,
        tmp_path / "run",
        model,
        groups="lavis",
        recipe_schedule="linear_warmup_cosine_lr",
        schedule_options={"min_lr": 1e-5},
        max_steps=2,
        eval_dataset=rows[:2],
        eval_strategy="steps",
        evaluation=lambda *_: {"recall@1": 57.25},
    )
    trainer.train()
    trainer.create_model_card(dataset="emoji", tasks="image-text-retrieval", tags=["mine"])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["README.md"]
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert (card.data.license, card.data.language, card.data.base_model) == ("bsd-3-clause", "de", "org/first")
    assert card.data.tags == ["modeling_lavis", "mine"] and card.data.model_name == "run"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("recall@1", 57.25, "emoji")
    for text in (
        "`LavisBlipForImageTextRetrieval`",
        "fine-tuned from `start`",
        "License: bsd-3-clause, that of the start",
        "after step 2",
        "| recall@1 | 57.25 |",
        "| learning rate | 0.01 |",
        "| schedule | linear_warmup_cosine_lr |",
        "| options of the schedule | min_lr=1e-05 |",
        "| epochs of the ramp of alpha | 2.0 |",
        "| batch size | 2 (2 per device, 1 processes, 1 accumulated) |",
        "emoji: 14 rows, 2 rows for evaluation",
        f"| torch | {torch.__version__} |",
    ):
        assert text in card.text, text


def test_card_of_a_run_from_scratch(rows: Any, goldens: Path, tmp_path: Path) -> None:
    trainer = captioning_trainer(goldens, rows, tmp_path)
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert "trained from scratch" in text and "License: unknown" in text and "## Results" not in text
