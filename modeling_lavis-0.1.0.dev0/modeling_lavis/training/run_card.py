# SPDX-License-Identifier: Apache-2.0
"""The model card of a run: results, settings, data, versions and licence, from the state of its Trainer."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

import modeling_lavis
from modeling_lavis.training.curves import metrics_of

_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

`{{ model_class }}` of [`modeling_lavis`](https://pypi.org/project/modeling-lavis/), {{ start }}.

License: {{ licence }}
{% if results %}
## Results

{{ results_note }}

{{ results }}
{% endif %}
## Training

{{ settings }}

Data: {{ data }}.

Time: {{ time }}.

## Versions

{{ versions }}
"""


def run_card(
    trainer: Any,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
) -> str:
    """
    Render the card of a run.

    Args:
        trainer ([`~modeling_lavis.training.trainer.LavisTrainer`]): the Trainer after, or in, training.
        language (`str` or `Sequence[str]`, *optional*): defaults to that of the start's card.
        license (`str`, *optional*): id of a licence; defaults to that of the start's card, else "unknown".
        tags (`str` or `Sequence[str]`, *optional*): tags besides those of the package.
        model_name (`str`, *optional*): title; defaults to the name of the output folder.
        finetuned_from (`str`, *optional*): what training started from; defaults to where the weights were loaded from.
        tasks (`str` or `Sequence[str]`, *optional*): the first is the task of the results.
        dataset_tags (`str` or `Sequence[str]`, *optional*): Hub ids of the data sets.
        dataset (`str` or `Sequence[str]`, *optional*): names of the data sets; default to those that they know.
        dataset_args (`str` or `Sequence[str]`, *optional*): further names, such as that of a configuration.

    Returns:
        `str`: text of `README.md`.
    """
    model, args = trainer._plain_model(), trainer.args
    title = model_name or Path(args.output_dir).absolute().name
    start = finetuned_from or getattr(model, "name_or_path", "") or ""
    facts = _facts_of_start(start)
    license = license or facts.get("license") or "unknown"
    step, metrics = _results(trainer)
    data_names = _listed(dataset) or _names_of(trainer.train_dataset)
    is_hub_id = bool(start) and not Path(start).exists() and start.count("/") <= 1
    task = (_listed(tasks) or ["image-to-text"])[0]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=(_listed(dataset_tags) or ["custom"])[0],
            dataset_name=", ".join(data_names) or "custom",
            dataset_args={"args": ", ".join(_listed(dataset_args))} if dataset_args else None,
            metric_type=name.removeprefix("eval_"),
            metric_name=name.removeprefix("eval_"),
            metric_value=value,
        )
        for name, value in metrics.items()
    ]
    card = ModelCard.from_template(
        ModelCardData(
            language=_listed(language) or facts.get("language"),
            license=license,
            license_name=facts.get("license_name"),
            license_link=facts.get("license_link"),
            library_name="peft" if hasattr(trainer.model, "peft_config") else "transformers",
            tags=["modeling_lavis", *_listed(tags)],
            base_model=start if is_hub_id else facts.get("base_model"),
            datasets=_listed(dataset_tags) or None,
            model_name=title,
            eval_results=results or None,
        ),
        template_str=_TEMPLATE,
        title=title,
        model_class=type(model).__name__,
        start=f"fine-tuned from `{start if is_hub_id else Path(start).name}`" if start else "trained from scratch",
        licence=f"{license}, that of the start" if license == facts.get("license") else license,
        results=_table(("metric", "value"), [(name.removeprefix("eval_"), f"{metrics[name]:.4g}") for name in metrics]),
        results_note=f"On the evaluation data, of the model after step {step}.",
        settings=_table(("setting", "value"), _settings(trainer)),
        data=_data(trainer, data_names),
        time=_time(trainer),
        versions=_table(("package", "version"), list(_versions().items())),
    )
    return str(card.content)


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _facts_of_start(start: str) -> dict[str, Any]:
    """Metadata of the card of a folder or of a repository in the cache; empty if there is none. Never online."""
    path: Any = Path(start) / "README.md" if start else None
    if path is not None and not path.is_file():
        is_hub_id = not Path(start).exists() and start.count("/") <= 1 and not Path(start).is_absolute()
        path = try_to_load_from_cache(start, "README.md") if is_hub_id else None
    if not isinstance(path, (str, Path)):
        return {}
    return ModelCard.load(path).data.to_dict()


def _results(trainer: Any) -> tuple[int, dict[str, float]]:
    """Step and metrics of the model that the run ends with: the best one if it was loaded, else the last one."""
    evaluated = [(int(entry["step"]), found) for entry in trainer.state.log_history if (found := metrics_of(entry))]
    if not evaluated:
        return trainer.state.global_step, {}
    step = evaluated[-1][0]
    if trainer.args.load_best_model_at_end and trainer.state.best_global_step:
        step = trainer.state.best_global_step
    merged: dict[str, float] = {}
    for at, found in evaluated:
        if at == step:
            merged |= found
    return step, merged


def _settings(trainer: Any) -> list[tuple[str, str]]:
    """What the run was set to, in words."""
    args, state = trainer.args, trainer.state
    schedule = trainer.recipe_schedule
    steps = args.gradient_accumulation_steps
    values: dict[str, Any] = {
        "learning rate": args.learning_rate,
        "schedule": getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        if schedule is None
        else _name(schedule),
        "options of the schedule": ", ".join(f"{name}={value}" for name, value in trainer.schedule_options.items()),
        "warm-up steps": args.warmup_steps if schedule is None else "",
        "optimizer": getattr(args.optim, "value", args.optim),
        "betas": f"{args.adam_beta1}, {args.adam_beta2}",
        "weight decay": args.weight_decay,
        "parameter groups": _name(trainer.groups) if trainer.groups is not None else "",
        "layer decay": trainer.layer_decay or "",
        "epochs of the ramp of alpha": _ramp(trainer),
        "frozen": ", ".join(trainer._freeze),
        "batch size": f"{args.train_batch_size * args.world_size * steps}"
        f" ({args.per_device_train_batch_size} per device, {args.world_size} processes, {steps} accumulated)",
        "steps": state.global_step,
        "epochs": f"{state.epoch:.4g}" if state.epoch is not None else "",
        "largest norm of the gradients": args.max_grad_norm or "not limited",
        "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        "seed": args.seed,
    }
    return [(name, str(value)) for name, value in values.items() if value != ""]


def _name(value: Any) -> str:
    value = getattr(value, "func", value)
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def _ramp(trainer: Any) -> Any:
    ramps = [callback.epochs for callback in trainer.callback_handler.callbacks if hasattr(callback, "epochs")]
    return ramps[0] if ramps else ""


def _names_of(rows: Any) -> list[str]:
    """Names that a data set knows of itself."""
    info = getattr(rows, "info", None) if isinstance(rows, (datasets.Dataset, datasets.IterableDataset)) else None
    name = getattr(info, "dataset_name", None) or getattr(info, "builder_name", None)
    return [name] if name else []


def _data(trainer: Any, names: list[str]) -> str:
    sizes = [f"{len(trainer.train_dataset)} rows"] if hasattr(trainer.train_dataset, "__len__") else ["a stream"]
    evaluated = trainer.eval_dataset
    parts = evaluated if isinstance(evaluated, dict) else {"": evaluated}
    sizes += [
        f"{len(rows)} rows for evaluation{f' ({name})' if name else ''}"
        for name, rows in parts.items()
        if hasattr(rows, "__len__")
    ]
    return (", ".join(names) + ": " if names else "") + ", ".join(sizes)


def _time(trainer: Any) -> str:
    entry = next((entry for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), None)
    device = torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else trainer.args.device.type
    seconds = f"{entry['train_runtime']:.0f} s" if entry else "not finished"
    return f"{seconds} on {trainer.args.world_size} x {device}"


def _versions() -> dict[str, str]:
    return {
        "modeling_lavis": modeling_lavis.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "datasets": datasets.__version__,
        "Python": platform.python_version(),
    }


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return ""
    return "\n".join(
        [f"| {head[0]} | {head[1]} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]
    )


__all__ = ["run_card"]
