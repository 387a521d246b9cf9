# SPDX-License-Identifier: Apache-2.0
"""Training by a recipe, in one call.

from modeling_lavis import train

result = train("small-captioning", train_data="photos/train.json", eval_data="photos/val.json", output_dir="run")
print(result.metrics)
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed
from transformers.utils import logging

from modeling_lavis.data.checks import SkipBadRows, check_data
from modeling_lavis.data.collation import make_collator, training_transform
from modeling_lavis.data.loading import load_data
from modeling_lavis.data.transforms import timm_image_train
from modeling_lavis.evaluation.tasks import EVALUATIONS
from modeling_lavis.import_utils import require
from modeling_lavis.training.bad_rows import BadRowReport
from modeling_lavis.training.lora_targets import lora_target_modules
from modeling_lavis.training.recipe_start import (
    LABEL_COLUMNS,
    column_values,
    find_labels,
    frequent_answers,
    options_of,
    prepare_start,
)
from modeling_lavis.training.recipes import Recipe, Scaling, load_recipe
from modeling_lavis.training.resuming import (
    RECIPE_FILE,
    check_same_run,
    resumed_from,
    stored_labels,
    stored_processor,
)
from modeling_lavis.training.trainer import LavisTrainer

logger = logging.get_logger(__name__)

#: name, in the metrics, of the sum that selects the best model
SELECTION = "selection"

_SCHEDULES = {"cosine": "linear_warmup_cosine_lr", "step": "linear_warmup_step_lr", "constant": "constant_lr"}
# arguments of the Trainer, with the field of a recipe that says the same
_FIELDS = {
    "weight_decay": "optimizer.weight_decay",
    "max_grad_norm": "optimizer.max_grad_norm",
    "num_train_epochs": "run.epochs",
    "max_steps": "run.steps",
    "per_device_eval_batch_size": "run.eval_batch_size",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "activation_checkpointing": "model.gradient_checkpointing",
    "seed": "run.seed",
}


# arguments of evaluations that are no options of a recipe: the run has them, or the rows as they were read
_OF_THE_RUN = ("model", "processor", "rows", "batch_size", "columns", "image_root", "return_predictions")


@dataclass(frozen=True)
class TrainingResult:
    """
    What a run returns.

    Args:
        model (`PreTrainedModel`): the trained model, the best one if there was an evaluation; with LoRA, wrapped by
            peft.
        processor (`ProcessorMixin`): its processor.
        metrics (`dict[str, float]`): metrics of that model on the evaluation data; empty without.
        output_dir (`Path`): folder with model, processor, card, curves, recipe and checkpoints.
        trainer ([`LavisTrainer`]): the Trainer after the run.
        recipe ([`Recipe`]): the recipe, with the changes of the call.
    """

    model: Any
    processor: Any
    metrics: dict[str, float]
    output_dir: Path
    trainer: LavisTrainer
    recipe: Recipe


def train(
    recipe: str | os.PathLike | Recipe,
    model: Any = None,
    train_data: Any = None,
    eval_data: Any = None,
    output_dir: str | os.PathLike = "run",
    *,
    processor: Any = None,
    language_model: str | os.PathLike | None = None,
    labels: Any = None,
    answers: Sequence[str] | None = None,
    train_split: str | None = None,
    eval_split: str | None = None,
    columns: Mapping[str, Any] | None = None,
    media_root: str | os.PathLike | None = None,
    streaming: bool = False,
    check: bool = False,
    on_bad_row: str = "raise",
    scaling: Scaling = "accumulate",
    values: Mapping[str, Any] | None = None,
    resume: bool | str = False,
    callbacks: Sequence[Any] = (),
    **arguments: Any,
) -> TrainingResult:
    """
    Train a model by a recipe.

    The output folder gets the best model (the last one without evaluation) with its processor and a model card, the
    curves, the recipe that was used, and checkpoints to resume from; the newest of them is the last model.

    Args:
        recipe (`str`, `os.PathLike` or [`Recipe`]): name of a recipe, a file, or a recipe.
        model (`str`, `os.PathLike` or `PreTrainedModel`, *optional*): folder or Hub id of a model of this package, or
            of transformers' BLIP or BLIP-2, of any head of the family; or a model of the recipe's head or of a
            subclass, with `processor`, which is trained as it is: sizes, queue and processor are not those of the
            recipe, and classes are those of its `config.label2id`. By default what the recipe starts from.
        train_data: data for training: all that [`~modeling_lavis.data.loading.load_data`] reads.
        eval_data (*optional*): data for evaluation after every epoch. Without, there is none.
        output_dir (`str` or `os.PathLike`, *optional*, defaults to `"run"`): folder of the run.
        processor (`ProcessorMixin`, *optional*): by default that of the model.
        language_model (`str` or `os.PathLike`, *optional*): language model for BLIP-2's second stage, for a model of
            the first.
        labels (`Mapping[str, int]`, `Sequence[str]`, `str` or `os.PathLike`, *optional*): class indices by name, names
            in order, or a file with one of them; by default the labels of the training data, which a model that is not
            a folder or Hub id has to know.
        answers (`Sequence[str]`, *optional*): closed list of answers that evaluation ranks, if the recipe ranks; by
            default those of the training data.
        train_split, eval_split (`str`, *optional*): splits of the sources.
        columns, media_root, streaming: see [`~modeling_lavis.data.loading.load_data`].
        check (`bool`, *optional*, defaults to `False`): look for rows that cannot be used before training begins, and
            raise an error that names them.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"raise"`, or `"skip"` to leave out, count and report
            rows that cannot be read.
        scaling (`str`, *optional*, defaults to `"accumulate"`): how the run fits the number of devices; see
            [`Recipe.plan_batches`].
        values (`Mapping[str, Any]`, *optional*): changes of the recipe by dotted name, such as
            `{"model.image_size": 256}`.
        resume (`bool` or `str`, *optional*, defaults to `False`): continue from the last checkpoint of the output
            folder if there is one, or from a certain one. Without it, the folder may have none.
        callbacks (`Sequence[TrainerCallback]`, *optional*, defaults to `()`): further callbacks.
        arguments: any argument of [`~transformers.TrainingArguments`]. Those that a recipe has, too, change it; with
            another `learning_rate`, the lowest one and that of the warm-up keep their proportion to it.

    Returns:
        [`TrainingResult`]: model, processor and metrics.

    Raises:
        ValueError: the recipe, the data, the model or an argument does not fit; the message says what was expected.
        OSError: a file cannot be read.
        ImportError: a package is missing.
    """
    if train_data is None:
        raise ValueError("train_data is missing; give a folder, a file, or rows.")
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    plan = _with_arguments(plan.with_values(values) if values else plan, arguments)
    output, checkpoint = Path(output_dir), resumed_from(Path(output_dir), resume, arguments)
    if checkpoint is not None:
        check_same_run(plan, checkpoint)
        labels = stored_labels(checkpoint) if labels is None and plan.task in LABEL_COLUMNS else labels
        if plan.start.is_new_model and model is None and processor is None:
            processor = stored_processor(checkpoint)  # a vocabulary made from other data would exchange token ids
    set_seed(plan.run.seed)

    options: dict[str, Any] = {"columns": columns, "media_root": media_root}
    options["on_bad_row"] = "keep" if on_bad_row == "skip" or check else "raise"
    rows = load_data(train_data, plan.task, split=train_split, streaming=streaming, **options)
    eval_rows = None if eval_data is None else load_data(eval_data, plan.task, split=eval_split, **options)
    label2id = find_labels(plan, rows, labels, model)
    if check:
        _check(plan, rows, eval_rows, label2id, on_bad_row)
    if eval_rows is not None and label2id is not None and on_bad_row == "raise":
        _check_eval_labels(plan, eval_rows, label2id)

    model, processor, new_weights = prepare_start(plan, model, processor, rows, label2id, language_model)
    if plan.model.lora is not None:
        model = _with_lora(model, plan, new_weights)
    collator = _collator(plan, processor, label2id, on_bad_row)
    evaluates = eval_rows is not None and bool(plan.evaluation.metric)
    if eval_rows is not None and not evaluates:
        logger.warning(
            f"The recipe {plan.name} has no evaluation.metric: eval_data are not used, and the last model is kept."
        )
    training_arguments = _training_arguments(plan, output, arguments, scaling, rows, evaluates)
    factor = training_arguments.learning_rate / plan.optimizer.learning_rate
    has_own_schedule = "lr_scheduler_type" in arguments
    trainer = LavisTrainer(
        model=model,
        args=training_arguments,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=eval_rows if evaluates else None,
        processing_class=processor,
        callbacks=[*callbacks, *([BadRowReport(collator)] if isinstance(collator, SkipBadRows) else [])],
        groups="lavis",
        layer_decay=plan.optimizer.layer_decay,
        recipe_schedule=None if has_own_schedule else _SCHEDULES[plan.optimizer.schedule],
        schedule_options=None if has_own_schedule else _schedule_options(plan, factor),
        ramp_epochs=plan.model.distillation_ramp_epochs,
        freeze=plan.model.frozen if plan.model.lora is None else (),
        evaluation=_evaluation(plan, rows, answers, training_arguments, on_bad_row) if evaluates else None,
        shared_evaluation=True,  # evaluations divide the work between the processes by themselves
    )
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        plan.save(output / RECIPE_FILE)
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics: dict[str, float] = {}
    if evaluates:
        found = trainer.evaluate()
        metrics = {
            name.removeprefix("eval_"): value
            for name, value in found.items()
            if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second", f"_{SELECTION}"))
        }
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card(tasks=plan.task, tags=[f"recipe:{plan.name}"])
    return TrainingResult(trainer.model, processor, metrics, output, trainer, plan)


def _with_arguments(recipe: Recipe, arguments: Mapping[str, Any]) -> Recipe:
    """The recipe with the arguments of the Trainer that it has fields for."""
    known = {entry.name for entry in fields(TrainingArguments)}
    if unknown := sorted(arguments.keys() - known):
        own = [name for name, entry in inspect.signature(train).parameters.items() if entry.kind is entry.KEYWORD_ONLY]
        raise ValueError(
            f"train got {', '.join(unknown)}; expected one of {', '.join(own)}, or an argument of TrainingArguments."
        )
    values: dict[str, Any] = {_FIELDS[name]: value for name, value in arguments.items() if name in _FIELDS}
    optimizer, rate = recipe.optimizer, arguments.get("learning_rate")
    if rate is not None:
        share = rate / optimizer.learning_rate
        values["optimizer.learning_rate"] = rate
        values["optimizer.min_learning_rate"] = optimizer.min_learning_rate * share
        if optimizer.warmup_learning_rate is not None:
            values["optimizer.warmup_learning_rate"] = optimizer.warmup_learning_rate * share
    if "warmup_steps" in arguments:
        steps = _whole_steps(arguments["warmup_steps"])
        values["optimizer.warmup_steps"] = steps
        start = values.get("optimizer.warmup_learning_rate", optimizer.warmup_learning_rate)
        values["optimizer.warmup_learning_rate"] = (start or 0.0) if steps else None
    if "adam_beta1" in arguments or "adam_beta2" in arguments:
        betas = optimizer.betas
        values["optimizer.betas"] = [arguments.get("adam_beta1", betas[0]), arguments.get("adam_beta2", betas[1])]
    if values.get("run.steps", 0) > 0:
        steps = values["run.steps"]
        values |= {"run.epochs": None, "run.steps_per_epoch": min(recipe.run.steps_per_epoch or steps, steps)}
    elif "run.epochs" in values:
        values |= {"run.steps": None, "run.steps_per_epoch": None}
    elif "run.steps" in values:
        del values["run.steps"]  # -1 stands for none
    return recipe.with_values(values) if values else recipe


def _whole_steps(steps: float) -> int:
    """A number of steps; the flag of transformers is a float, because it takes a share of the run, too."""
    if 0 < steps < 1 or steps != int(steps):
        raise ValueError(f"warmup_steps is {steps}; a recipe counts steps, so expected a whole number from 0.")
    return int(steps)


def _check(recipe: Recipe, rows: Any, eval_rows: Any, label2id: Any, on_bad_row: str) -> None:
    """Raise `DataError` for rows that cannot be used; report them if they are to be skipped."""
    for what, some in (("training", rows), ("evaluation", eval_rows)):
        if some is None:
            continue
        report = check_data(some, recipe.task, label2id=label2id)
        if on_bad_row == "raise":
            report.raise_if_bad()
        if report.problems or report.notes:
            logger.warning(f"Data for {what}: {report}", extra={"is_report": True})


def _check_eval_labels(recipe: Recipe, rows: Any, label2id: Mapping[str, int]) -> None:
    """
    Raise `ValueError` for labels of the evaluation data that are no classes, before an epoch is trained. Answers to
    questions about videos may be others than the frequent ones.
    """
    if recipe.task == "video-qa":
        return
    for label in dict.fromkeys(column_values(rows, LABEL_COLUMNS[recipe.task])):
        if isinstance(label, str) and label not in label2id:
            raise ValueError(
                f"The evaluation data have the label {label!r}, which is none of the classes {', '.join(label2id)}. "
                "Give all classes as labels= (--labels), or leave these rows out."
            )


def _collator(recipe: Recipe, processor: Any, label2id: Any, on_bad_row: str) -> Any:
    """The training collator of a recipe."""
    options: dict[str, Any] = dict(recipe.data.collator)
    if recipe.data.row_changes:
        options["row_changes"] = recipe.data.row_changes
    name = recipe.data.transform
    if name is not None:
        with options_of("data.transform_options"):
            options["transform"] = _transform(name, processor, recipe.data.transform_options)
    with options_of("data.collator"):
        return make_collator(
            recipe.task, processor, training=name is not None, label2id=label2id, on_bad_row=on_bad_row, **options
        )


def _transform(name: str, processor: Any, options: Mapping[str, Any]) -> Callable[[Any], torch.Tensor]:
    """The transform that a recipe names, at the size and with the normalization of the processor."""
    if name == "timm_image_train":
        images = processor.image_processor
        statistics = {"image_mean": images.image_mean, "image_std": images.image_std}
        transform: Callable[[Any], torch.Tensor] = timm_image_train(images.size["height"], **statistics, **options)
        return transform
    if name != "alpro_video_train":
        options = {"augment": name == "blip_image_train", **options}
    return training_transform(processor, **options)


def _with_lora(model: Any, recipe: Recipe, new_weights: Sequence[str]) -> Any:
    """
    The model with adapters of peft. Modules with weights that the start does not have are trained and saved completely,
    because adapters are saved without the weights around them.

    Raises:
        ValueError: such a module is one with layers to adapt.
    """
    peft: Any = require("peft", extra="train", purpose=f"the adapters of the recipe {recipe.name}")
    from peft.tuners.tuners_utils import check_target_module_exists

    options = dict(recipe.model.lora or {})
    options.setdefault("target_modules", lora_target_modules(model))
    saved = list(options.get("modules_to_save") or ())
    new = _modules_of(model, new_weights, saved)
    with options_of("model.lora"):
        config = peft.LoraConfig(**options)
    adapted = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
    if lost := [part for part in new if not part or any(f"{name}.".startswith(f"{part}.") for name in adapted)]:
        parts = ", ".join(sorted({part.partition(".")[0] or type(model).__name__ for part in lost}))
        raise ValueError(
            f"The start lacks weights of {parts}, whose layers model.lora would adapt, but adapters are saved without"
            f" the weights that they adapt. Give a model that has these weights, such as a {recipe.head}, or train"
            " without model.lora first."
        )
    config.modules_to_save = [*saved, *new] or None
    return peft.get_peft_model(model, config)


def _modules_of(model: Any, weights: Sequence[str], known: Sequence[str]) -> list[str]:
    """The largest modules with no other weights than these, or the owners of these; without parts of known modules."""
    found: dict[str, None] = {}
    for weight in weights:
        name, _, _ = weight.rpartition(".")
        if any(f".{entry}." in f".{name}." for entry in known):
            continue
        parent, _, _ = name.rpartition(".")
        while parent and all(f"{parent}.{key}" in weights for key, _ in model.get_submodule(parent).named_parameters()):
            name = parent
            parent, _, _ = name.rpartition(".")
        found[name] = None
    return list(found)


def _schedule_options(recipe: Recipe, factor: float) -> dict[str, Any]:
    optimizer, run = recipe.optimizer, recipe.run
    options: dict[str, Any] = {"warmup_steps": optimizer.warmup_steps}
    if optimizer.warmup_learning_rate is not None:
        options["warmup_lr"] = optimizer.warmup_learning_rate * factor
    if optimizer.schedule != "constant":
        options["min_lr"] = optimizer.min_learning_rate * factor
    if optimizer.decay_rate is not None:
        options["decay_rate"] = optimizer.decay_rate
    if run.steps is not None and run.steps_per_epoch is not None:
        options |= {"epochs": -(-run.steps // run.steps_per_epoch), "steps_per_epoch": run.steps_per_epoch}
    return options


def _training_arguments(
    recipe: Recipe, output: Path, arguments: Mapping[str, Any], scaling: Scaling, rows: Any, evaluates: bool
) -> TrainingArguments:
    """Arguments of the Trainer by the recipe, the devices and the call."""
    run, optimizer = recipe.run, recipe.optimizer
    given = {name: value for name, value in arguments.items() if name not in (*_FIELDS, "learning_rate", "output_dir")}
    every: dict[str, Any] = {"save_strategy": "epoch"}
    if run.steps is not None:
        every = {"save_strategy": "steps", "save_steps": run.steps_per_epoch, "eval_steps": run.steps_per_epoch}
    values: dict[str, Any] = {
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "max_grad_norm": optimizer.max_grad_norm,
        "num_train_epochs": run.epochs or 1,
        "max_steps": run.steps or -1,
        "per_device_train_batch_size": run.train_batch_size,
        "per_device_eval_batch_size": run.eval_batch_size,
        "seed": run.seed,
        "save_total_limit": 2,
        "logging_steps": 10,
        "report_to": "none",
        "dataloader_drop_last": True,
        **every,
        **_precision(recipe),
    }
    if recipe.model.gradient_checkpointing:
        known = {entry.name for entry in fields(TrainingArguments)}  # transformers has renamed it
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        values |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    if evaluates:
        values |= {
            "eval_strategy": every["save_strategy"],
            "load_best_model_at_end": not recipe.evaluation.keeps_last,
            "metric_for_best_model": f"eval_{SELECTION}",
            "greater_is_better": True,
        }
        # the best model is one of those that are saved, so saving follows evaluation unless it is given, too
        for name in ("strategy", "steps"):
            if f"eval_{name}" in given:
                values[f"save_{name}"] = given[f"eval_{name}"]
    if given.get("fp16") or given.get("bf16"):
        values |= {"fp16": False, "bf16": False}
    made = TrainingArguments(str(output), **{**values, **given})
    batches = recipe.plan_batches(
        made.world_size * max(made.n_gpu, 1), made.per_device_train_batch_size, _scaling(scaling, given)
    )
    if "gradient_accumulation_steps" not in given:
        made.gradient_accumulation_steps = batches.accumulation_steps
    made.learning_rate *= batches.learning_rate_factor
    count = len(rows) if hasattr(rows, "__len__") else None
    if count is not None and count < made.per_device_train_batch_size * made.world_size * max(made.n_gpu, 1):
        made.dataloader_drop_last = False  # there would be no batch at all
    return made


def _scaling(scaling: Scaling, given: Mapping[str, Any]) -> Scaling:
    return "none" if "gradient_accumulation_steps" in given and scaling == "accumulate" else scaling


def _precision(recipe: Recipe) -> dict[str, bool]:
    """Automatic mixed precision, on accelerators only."""
    if recipe.run.precision == "float32":
        return {}
    if not torch.accelerator.is_available():
        logger.warning(f"The recipe trains in {recipe.run.precision}; without an accelerator, this run is in float32.")
        return {}
    return {"fp16" if recipe.run.precision == "float16" else "bf16": True}


def _evaluation(
    recipe: Recipe, rows: Any, answers: Sequence[str] | None, arguments: TrainingArguments, on_bad_row: str
) -> Callable[[Any, Any, Any], dict[str, float]]:
    """The evaluation of a recipe's task, with the sum that selects the best model."""
    function, options = EVALUATIONS[recipe.task], dict(recipe.evaluation.options)
    known = inspect.signature(function).parameters
    if recipe.evaluation.ranks_answers:
        options["answers"] = list(answers) if answers is not None else frequent_answers(rows)
    elif answers is not None:
        raise ValueError(f"answers are given, but the recipe {recipe.name} ranks none (evaluation.ranks_answers).")
    if "on_bad_row" in known:
        options.setdefault("on_bad_row", on_bad_row)
    options.setdefault("num_workers", arguments.dataloader_num_workers)
    options.setdefault("progress", False if arguments.disable_tqdm else None)
    allowed = [name for name in known if name not in _OF_THE_RUN]
    if unknown := sorted(options.keys() - set(allowed)):
        raise ValueError(
            f"evaluation.options has {', '.join(unknown)}; the evaluation of {recipe.task} takes {', '.join(allowed)}."
        )

    def evaluate(model: Any, processor: Any, some_rows: Any) -> dict[str, float]:
        metrics = dict(
            function(model, processor, some_rows, batch_size=arguments.per_device_eval_batch_size, **options)
        )
        missing = [name for name in recipe.evaluation.metric if name not in metrics]
        if missing:
            raise ValueError(
                f"evaluation.metric names {', '.join(missing)}; the evaluation of {recipe.task} gives "
                f"{', '.join(metrics)}."
            )
        return {**metrics, SELECTION: sum(metrics[name] for name in recipe.evaluation.metric)}

    return evaluate


__all__ = ["RECIPE_FILE", "SELECTION", "TrainingResult", "train"]
