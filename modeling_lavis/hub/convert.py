# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the original projects in, a complete Hub repository out."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_lavis.hub import cards, zoo
from modeling_lavis.hub.accounting import AccountingError, Plan, make_plan
from modeling_lavis.hub.checkpoints import Checkpoint, read_checkpoint
from modeling_lavis.hub.families import Family, family_of, module_of
from modeling_lavis.hub.portable import attach_code
from modeling_lavis.hub.report import ConversionReport
from modeling_lavis.hub.writing import Written, check_output, whole_folder, write_shards

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def convert(
    architecture: str,
    checkpoint: str | Path,
    output: str | Path,
    model_type: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    tokenizer: str | Path | None = None,
    vision_checkpoint: str | Path | None = None,
    language_model: str | Path | None = None,
    dtype: str | torch.dtype | None = None,
    push_to_hub: str | None = None,
    *,
    overwrite: bool = False,
    max_shard_size: str = "5GB",
    with_code: bool = True,
) -> ConversionReport:
    """Convert a checkpoint of LAVIS or of an original repository into a Hub repository.

    Every weight of the checkpoint is used once or dropped for a stated reason, every weight of the model filled once
    or initialised in a stated way; otherwise nothing is written. A checkpoint of another architecture of the family
    may be given as a start (`blip_pretrain` for a captioner, say): its parts are taken over, image positions are
    resized when another resolution is asked for (by `config`, or by `model_type` when pre-training is the start),
    momentum twins become copies, and new heads are initialised. Where the original leaves such new parts to chance,
    twins included, these come out the same each time.

    Args:
        architecture: name of the original, for example `"blip_caption"`.
        checkpoint: PyTorch or safetensors file, or the URL of one.
        output: folder of the repository; must not exist or be empty unless `overwrite`.
        model_type: published variant whose settings to use, for example `"base_coco"`. By default the one that the
            URL belongs to, otherwise none: then the family's defaults hold.
        config: JSON file or mapping in the form of a golden set's `config.json`. It wins over the published
            settings; what it leaves out is read from the shapes of the weights.
        tokenizer: folder or Hub id of the tokenizer; the published one by default.
        vision_checkpoint: weights of a frozen image tower (BLIP-2 only).
        language_model: folder or Hub id of a frozen language model (BLIP-2 only).
        dtype: stored dtype, `"float32"`, `"float16"` or `"bfloat16"`; as in the checkpoint by default. Parts that
            the model keeps in float32 stay in it.
        push_to_hub: repository on the Hub to upload to, `ORG/NAME`.
        overwrite: replace a folder that has something in it.
        max_shard_size: size of the largest weight file.
        with_code: put the code of the model beside it, so that it loads with `trust_remote_code=True` where this
            package is not installed.

    Returns:
        The account of what was done.

    Raises:
        ValueError: the checkpoint, the settings and the architecture do not fit together.
        OSError: a file cannot be read, fetched or written.
    """
    family, output = family_of(architecture), Path(output).expanduser()
    _refuse_unused_parts(family, vision_checkpoint=vision_checkpoint, language_model=language_model)
    stored_dtype = _dtype(dtype)
    check_output(output, overwrite)
    _refuse_inputs_inside(output, checkpoint, config, tokenizer, vision_checkpoint, language_model)
    asked = _read_settings(config)
    entry = zoo.find(architecture, model_type, str(checkpoint))
    weights = read_checkpoint(checkpoint)
    source_architecture = _recognise(family, architecture, weights)
    settings = _merge(entry, asked, resize=architecture != source_architecture in family.pretraining)
    _check_names(architecture, family, settings)
    set_aside: dict[str, str] = {}
    resized_before: Mapping[str, tuple[int, ...]] = {}
    if family.add_parts is not None:
        parts = family.add_parts(architecture, weights.tensors, settings, vision_checkpoint, language_model)
        weights, set_aside = replace(weights, tensors=parts.tensors), dict(parts.dropped)
        settings, resized_before = {**settings, **parts.settings}, parts.resized
    prepared = None if architecture in family.without_tokenizer else family.load_tokenizer(tokenizer)
    model_config = _build_config(family, architecture, source_architecture, weights, settings, prepared)
    model = _build_on_meta(family.architectures[architecture].model_class, model_config)
    try:
        plan = make_plan(
            family,
            architecture,
            source_architecture,
            weights.tensors,
            model,
            resize_allowed=any((settings.get("vision") or {}).get(size) for size in ("image_size", "num_frames")),
            reset=family.reset if settings.get("reset_queue_ptr_after_load", True) else {},
        )
    except AccountingError as error:
        raise AccountingError(f"{weights.path}: {error}") from error
    processor = family.build_processor(architecture, settings, model_config, prepared)
    generation_config = family.build_generation_config(architecture, settings, model_config)
    report = ConversionReport(
        architecture=architecture,
        source_architecture=source_architecture,
        model_type=entry.model_type if entry else None,
        model_class=type(model).__name__,
        checkpoint=weights.path,
        output=output,
        used={target: filled.source for target, filled in plan.filled.items()},
        resized=_resized(plan, resized_before),
        dropped={**plan.dropped, **set_aside},
        initialised={target: origin.how for target, origin in plan.initialised.items()},
        ignored_settings=tuple(sorted(set(asked) - family.known_settings)),
    )
    with whole_folder(output, overwrite) as folder:
        kept = family.architectures[architecture].stored_as
        written = _write_weights(folder, plan, weights, model, model_config, stored_dtype, kept, max_shard_size)
        report = replace(report, weight_files=written.files, not_finite=written.not_finite)
        model_config.save_pretrained(folder)
        processor.save_pretrained(folder)
        if generation_config is not None:
            generation_config.save_pretrained(folder)
        if with_code:
            attach_code(folder)
        card = cards.card_for_conversion(report, str(checkpoint), model_config, repo=push_to_hub, with_code=with_code)
        (folder / "README.md").write_text(card, encoding="utf-8")
    if push_to_hub:
        report = replace(report, pushed_to=_push(output, push_to_hub))
    return report


def _refuse_unused_parts(family: Family, **parts: Any) -> None:
    for name, value in parts.items():
        if value is not None and name not in family.separate_parts:
            raise ValueError(
                f"{name} is given, but checkpoints of {family.name} are complete and take no such part. Leave it out."
            )


def _refuse_inputs_inside(output: Path, *inputs: Any) -> None:
    """An output that is replaced must not take an input with it."""
    for given in inputs:
        if isinstance(given, str | Path) and Path(given).resolve().is_relative_to(output.resolve()):
            raise ValueError(
                f"{given} lies inside the output {output}, which is to be written anew. Give another output."
            )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if str(dtype) not in DTYPES:
        raise ValueError(f"Unknown dtype {dtype!r}; weights can be stored as {', '.join(DTYPES)}.")
    return DTYPES[str(dtype)]


def _read_settings(config: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None or isinstance(config, Mapping):
        return dict(config or {})
    try:
        settings = json.loads(Path(config).expanduser().read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The configuration {config} is no JSON file: {error}. Correct it.") from error
    except OSError as error:
        raise OSError(f"The configuration {config} cannot be read: {error.strerror}. Check the path.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"The configuration {config} holds a {type(settings).__name__}, expected a JSON object.")
    return settings


def _recognise(family: Family, architecture: str, weights: Checkpoint) -> str:
    try:
        source = family.recognise(weights.tensors)
    except ValueError as error:
        raise ValueError(f"{weights.path}: {error}") from error
    allowed = (architecture, *family.architectures[architecture].sources)
    if source not in allowed:
        raise ValueError(
            f"{weights.path} is a {source} checkpoint, which cannot become {architecture}: it lacks parts of it. "
            f"Possible are checkpoints of {', '.join(allowed)}; or convert it as {source}."
        )
    return source


def _merge(entry: zoo.ZooEntry | None, asked: Mapping[str, Any], resize: bool) -> dict[str, Any]:
    """Settings in order of weight: asked for, published; with the published image size where `resize` is set."""
    settings = dict(entry.settings) if entry else {}
    if asked.get("labels"):
        settings.pop("num_classes", None)  # another list of answers has another length
    if entry and resize:
        settings["vision"] = {**settings.get("vision", {}), "image_size": entry.facts["image_size"]}
    for name, value in asked.items():
        if isinstance(value, Mapping) and isinstance(settings.get(name), Mapping):
            value = {**settings[name], **value}
        settings[name] = value
    return settings


def _check_names(architecture: str, family: Family, settings: Mapping[str, Any]) -> None:
    for key, expected in (("arch", architecture), ("family", family.name)):
        if settings.get(key) not in (None, expected):
            raise ValueError(
                f"The configuration is for {key} {settings[key]!r}, but {expected!r} is to be made. Give the "
                "configuration of that one, or correct the architecture."
            )


def _build_config(
    family: Family,
    architecture: str,
    source_architecture: str,
    weights: Checkpoint,
    settings: Mapping[str, Any],
    tokenizer: Any,
) -> Any:
    try:
        return family.build_config(architecture, source_architecture, weights.shapes, settings, tokenizer)
    except StrictDataclassError as error:  # what our configurations raise for a value of a wrong kind
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"The settings make no valid configuration: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{weights.path}: {error}") from error


def _build_on_meta(class_name: str, config: Any) -> torch.nn.Module:
    import modeling_lavis

    model_class = getattr(modeling_lavis, class_name)
    with torch.device("meta"):
        model: torch.nn.Module = model_class(config)
    return model


def _resized(plan: Plan, before: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of positions before and after, by target; `before` are those of sources that were resized already."""
    found = {}
    for target, filled in plan.filled.items():
        shape = before.get(filled.source, filled.resized_from)
        if shape is not None:
            found[target] = (shape, tuple(plan.targets[target].shape))
    return found


def _write_weights(
    folder: Path,
    plan: Plan,
    weights: Checkpoint,
    model: Any,
    config: Any,
    dtype: torch.dtype | None,
    kept: Mapping[str, torch.dtype],
    max_shard_size: str,
) -> Written:
    strict = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    strict |= set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype is torch.float16 else set()

    strict = {part.strip("^$") for part in strict}

    def stored(name: str) -> torch.dtype:
        own = kept.get(module_of(name), plan.dtype(name, weights.tensors))
        if not own.is_floating_point:
            return own
        return torch.float32 if strict & set(name.split(".")) else (dtype or own)

    floating = [stored(name) for name in plan.targets if stored(name).is_floating_point]
    config.dtype = dtype or max(set(floating), key=floating.count)

    def value(name: str) -> torch.Tensor:
        tensor = plan.tensor(name, weights.tensors, config)
        return tensor.to(kept[module_of(name)]) if module_of(name) in kept else tensor

    return write_shards(folder, plan.targets, value, stored, max_shard_size)


def _push(folder: Path, repo_id: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Weights converted from the original checkpoint"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise OSError(
            f"The repository is complete in {folder}, but could not be uploaded to {repo_id}: {error}. Upload it with: "
            f"hf upload {repo_id} {folder} ."
        ) from error
    return str(address)
