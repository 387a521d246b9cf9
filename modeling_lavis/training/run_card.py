# SPDX-License-Identifier: Apache-2.0
"""The model card of a run: results, settings, data, versions and licence, from the state of its Trainer."""

import importlib.metadata
import math
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache

import modeling_lavis
from modeling_lavis.model_card import (
    code_span,
    escaped,
    fenced,
    is_repo_id,
    one_line,
    render_card,
    string_literal,
    table,
    valid_texts,
)
from modeling_lavis.training.curves import metrics_of

_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

`{{ model_class }}` of [`modeling_lavis`](https://pypi.org/project/modeling-lavis/), {{ start }}.

License: {{ licence }}

## Usage

```python
{{ usage }}
```
{% if results %}
## Results

{{ results_note }}

{{ results }}
{% endif %}
## Training

{{ settings }}

Data: {{ data }}.

Time: {{ time }}.

## Limitations

What the start could not do, and what its texts and images were biased to, this model inherits. It was measured on the
data that are named here only.

## Versions

{{ versions }}
"""
#: by the end of a head's name, the first that fits: its task on the Hub as on the cards of published checkpoints
#: (`model_cards/common.yaml`), and the pipeline that runs it with an example of a call
_HEADS = {
    "LavisBlip2ForConditionalGeneration": ("image-text-to-text", "image-captioning", '"photo.jpg"'),
    "LavisBlip2ForPreTraining": ("image-to-text", "image-captioning", '"photo.jpg"'),
    "LavisBlipForPreTraining": ("image-to-text", "image-captioning", '"photo.jpg"'),
    "ForConditionalGeneration": ("image-to-text", "image-captioning", '"photo.jpg"'),
    "ForQuestionAnswering": (
        "visual-question-answering",
        "image-question-answering",
        '"photo.jpg", question="what is this?", answers=["a dog", "a cat"]',
    ),
    "ForImageTextRetrieval": (
        "zero-shot-image-classification",
        "image-text-matching",
        '"photo.jpg", text=["a dog", "a cat"]',
    ),
    "ForImageAndTextClassification": (
        "image-text-to-text",
        "image-text-classification",
        '"photo.jpg", text="a dog on the beach"',
    ),
    "ForImagesAndTextClassification": (
        "image-text-to-text",
        "image-pair-classification",
        '[("left.jpg", "right.jpg")], text="both images show dogs"',
    ),
    "ForVideoQuestionAnswering": (
        "video-text-to-text",
        "video-question-answering",
        '"film.mp4", question="what is it doing?"',
    ),
    "ForVideoTextRetrieval": ("video-text-to-text", "video-text-matching", '"film.mp4", text=["a dog runs"]'),
}
_OTHER_HEADS = ("image-feature-extraction", "multimodal-feature-extraction", '"photo.jpg"')
#: tasks of this package under their names on the Hub
_TASKS = {
    "captioning": "image-to-text",
    "generative-pretraining": "image-to-text",
    "retrieval": "image-text-retrieval",
    "video-retrieval": "video-text-retrieval",
    "vqa": "visual-question-answering",
    "video-qa": "video-question-answering",
    "nlvr": "image-pair-classification",
    "classification": "image-text-classification",
    "pretraining": "image-text-retrieval",
}


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

    Metadata of the start's card are inherited only where they are of the form that the Hub expects.

    Args:
        trainer ([`~modeling_lavis.training.trainer.LavisTrainer`]): the Trainer after, or in, training.
        language (`str` or `Sequence[str]`, *optional*): defaults to that of the start's card.
        license (`str`, *optional*): id of a licence; defaults to that of the start's card, with its name and link, else
            "unknown".
        tags (`str` or `Sequence[str]`, *optional*): tags in addition to those of the package.
        model_name (`str`, *optional*): title; defaults to the name of the output folder.
        finetuned_from (`str`, *optional*): what training started from; defaults to where the weights were loaded from.
        tasks (`str` or `Sequence[str]`, *optional*): the first is the task of the results; by default that of the head.
        dataset_tags (`str` or `Sequence[str]`, *optional*): Hub ids of the data sets.
        dataset (`str` or `Sequence[str]`, *optional*): names of the data sets; default to those that they know.
        dataset_args (`str` or `Sequence[str]`, *optional*): further names, such as that of a configuration.

    Returns:
        `str`: text of `README.md`.

    Raises:
        ValueError: If a given fact is not of the form that the Hub expects.
    """
    model, args = trainer._plain_model(), trainer.args
    title = one_line(model_name or Path(args.output_dir).absolute().name) or "model"
    start = finetuned_from or getattr(model, "name_or_path", "") or ""
    facts = _facts_of_start(start)
    own_license = license
    license = license or facts.get("license") or "unknown"
    inherits = own_license is None and "license" in facts
    step, metrics = _results(trainer)
    data_names = _listed(dataset) or _names_of(trainer.train_dataset)
    is_hub_id = bool(start) and not Path(start).exists() and is_repo_id(start)
    hub_task, pipeline_task, example = _head(model)
    task = (_listed(tasks) or [hub_task])[0]
    is_adapter = hasattr(trainer.model, "peft_config")
    repo = getattr(args, "hub_model_id", None) or title
    results = [
        EvalResult(
            task_type=_TASKS.get(task, one_line(task)),
            dataset_type=(_listed(dataset_tags) or ["custom"])[0],
            dataset_name=", ".join(map(one_line, data_names)) or "custom",
            dataset_args={"args": ", ".join(map(one_line, _listed(dataset_args)))} if dataset_args else None,
            metric_type=one_line(name.removeprefix("eval_")),
            metric_name=one_line(name.removeprefix("eval_")),
            metric_value=value,
        )
        for name, value in metrics.items()
        if math.isfinite(value)  # YAML's NaN is not a number of the Hub
    ]
    base = start if is_hub_id else facts.get("base_model")
    data = ModelCardData(
        language=_listed(language) or facts.get("language"),
        license=license,
        license_name=facts.get("license_name") if inherits else None,
        license_link=facts.get("license_link") if inherits else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=hub_task,
        tags=["modeling_lavis", *_listed(tags)],
        base_model=base,
        datasets=_listed(dataset_tags) or None,
        model_name=title,
        eval_results=results or None,
    )
    start_text = code_span(start if is_hub_id else Path(start).name) if start else ""
    values = {
        "title": escaped(title),
        "model_class": type(model).__name__,
        "start": f"fine-tuned from {start_text}" if start else "trained from scratch",
        "licence": f"{_inherited_licence(facts)}, that of the start" if inherits else escaped(license),
        "results_note": f"On the evaluation data, of the model after step {step}.",
        "data": _data(trainer, data_names),
        "time": _time(trainer),
    }
    named = [(escaped(name.removeprefix("eval_")), f"{value:.4g}") for name, value in metrics.items()]
    blocks = {
        "usage": fenced(_usage(repo, start if is_adapter else None, pipeline_task, example)),
        "results": table(("metric", "value"), named),
        "settings": table(("setting", "value"), [(name, escaped(value)) for name, value in _settings(trainer)]),
        "versions": table(("package", "version"), list(_versions(is_adapter).items())),
    }
    return render_card(data, _TEMPLATE, values, blocks)


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _inherited_licence(facts: dict[str, Any]) -> str:
    """Name of the licence of the start, with its link."""
    name, link = escaped(facts.get("license_name") or facts["license"]), facts.get("license_link", "")
    return f"[{name}]({link})" if re.fullmatch(r"https://[\w./~%+-]+", link) else name


def _head(model: Any) -> tuple[str, str, str]:
    name = type(model).__name__
    return next((known for end, known in _HEADS.items() if name.endswith(end)), _OTHER_HEADS)


def _usage(repo: str, base: str | None, task: str, example: str) -> str:
    """Code that runs the model; `base` is the model that adapters were trained on."""
    note = "" if base is None else f"# adapters, loaded by peft into the model {string_literal(base)}\n"
    return (
        f"import modeling_lavis\nfrom transformers import pipeline\n\n{note}"
        f'print(pipeline("{task}", model={string_literal(repo)})({example}))'
    )


def _facts_of_start(start: str) -> dict[str, Any]:
    """
    Metadata of the card of a folder or of a repository in the cache; empty if there is none. Never online.

    The card may be any file of the user's. What is not of the expected form is left out: a run may not fail at its end.
    """
    path: Any = Path(start) / "README.md" if start else None
    if path is not None and not path.is_file():
        is_hub_id = not Path(start).exists() and is_repo_id(start)
        path = try_to_load_from_cache(start, "README.md") if is_hub_id else None
    if not isinstance(path, (str, Path)):
        return {}
    try:
        found = ModelCard.load(path, ignore_metadata_errors=True).data
    except Exception:  # the readers of YAML raise errors of many types
        return {}
    facts: dict[str, Any] = {}
    for name in ("license", "license_name", "license_link"):
        value = found.get(name)
        if isinstance(value, str) and value and one_line(value) == value and len(value) <= 300:
            facts[name] = value
    if facts.get("license") == "other" and not {"license_name", "license_link"} <= set(facts):
        del facts["license"]
    for name in ("language", "base_model"):
        given = found.get(name)
        if texts := valid_texts(name, given):
            facts[name] = texts[0] if isinstance(given, str) else texts
    return facts


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
        f"{len(rows)} rows for evaluation{f' ({escaped(name)})' if name else ''}"
        for name, rows in parts.items()
        if hasattr(rows, "__len__")
    ]
    return (escaped(", ".join(names)) + ": " if names else "") + ", ".join(sizes)


def _time(trainer: Any) -> str:
    entry = next((entry for entry in reversed(trainer.state.log_history) if "train_runtime" in entry), None)
    device = torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else trainer.args.device.type
    seconds = f"{entry['train_runtime']:.0f} s" if entry else "not finished"
    return f"{seconds} on {trainer.args.world_size} x {device}"


def _versions(is_adapter: bool) -> dict[str, str]:
    packages = ("accelerate", "peft", "safetensors") if is_adapter else ("accelerate", "safetensors")
    return {
        "modeling_lavis": modeling_lavis.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "datasets": datasets.__version__,
        **{name: importlib.metadata.version(name) for name in packages},
        "Python": platform.python_version(),
    }


__all__ = ["run_card"]
