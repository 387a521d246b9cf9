# SPDX-License-Identifier: Apache-2.0
"""Conversion of an original checkpoint to a complete Hub repository."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_lavis.files import read_json
from modeling_lavis.hub import cards, downloads, zoo
from modeling_lavis.hub.accounting import AccountingError, Plan, make_plan
from modeling_lavis.hub.checkpoints import Checkpoint, read_checkpoint
from modeling_lavis.hub.families import Family, family_of, module_of
from modeling_lavis.hub.portable import attach_code
from modeling_lavis.hub.publish import check_target, publish_conversion
from modeling_lavis.hub.report import ConversionReport
from modeling_lavis.hub.setting_checks import check_settings
from modeling_lavis.hub.writing import WrittenWeights, atomic_folder, check_output, write_shards
from modeling_lavis.models.image_conversion import check_regular_file
from modeling_lavis.models.modeling_base import names_any
from modeling_lavis.progress import Shown

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
    progress: Shown = None,
) -> ConversionReport:
    """
    Convert a checkpoint of LAVIS or of an original repository to a Hub repository.

    Every weight of the checkpoint is used once or dropped for a stated reason, and every weight of the model is filled
    once or initialized in a stated way; otherwise nothing is written.

    The checkpoint may also be of another architecture of the family that can initialize this one, for example
    `blip_pretrain` for `blip_caption`. Shared modules are copied, position embeddings are resized if another image size
    is requested (by `config`, or by `model_type` if the checkpoint is a pretraining checkpoint), momentum encoders that
    the checkpoint lacks are copied from the online weights, and new heads are initialized. The original initializes
    such weights, momentum encoders included, at random; here their values are deterministic.

    Args:
        architecture (`str`): original name of the architecture, for example `"blip_caption"`.
        checkpoint (`str` or `Path`): PyTorch or safetensors file, or the URL of one (`http`, `https` or `file`).
        output (`str` or `Path`): folder of the repository. Must not exist or be empty unless `overwrite=True`.
        model_type (`str`, *optional*): published model type whose settings to use, for example `"base_coco"`. Defaults
            to the one that the URL belongs to; for other checkpoints, the defaults of the family apply.
        config (`str`, `Path` or `Mapping[str, Any]`, *optional*): settings as a JSON file or mapping, in the form that
            `conversion_scripts/README.md` describes. They take precedence over the published settings. Sizes that are
            left out are inferred from the shapes of the weights.
        tokenizer (`str` or `Path`, *optional*): folder or Hub id of the tokenizer. Defaults to the published one.
        vision_checkpoint (`str` or `Path`, *optional*): checkpoint of the frozen image encoder (BLIP-2 only).
        language_model (`str` or `Path`, *optional*): folder or Hub id of the frozen language model (BLIP-2 only).
        dtype (`str` or `torch.dtype`, *optional*): dtype of the stored weights: `"float32"`, `"float16"` or
            `"bfloat16"`. Defaults to that of the checkpoint. Modules that the model keeps in float32 stay in it.
        push_to_hub (`str`, *optional*): Hub repository to publish in, `ORG/NAME`, by
            [`~modeling_lavis.hub.publish.publish`].
        overwrite (`bool`, *optional*, defaults to `False`): whether to replace a model repository in `output`.
        max_shard_size (`str`, *optional*, defaults to `"5GB"`): maximum size of a weight file.
        with_code (`bool`, *optional*, defaults to `True`): whether to copy the code of the model into the repository,
            so that it loads with `trust_remote_code=True` where this package is not installed.
        progress (`bool` or `TextIO`, *optional*): whether or where progress of the weights is shown, see
            `modeling_lavis.progress.Progress`; by default on a terminal.

    Returns:
        [`~modeling_lavis.hub.report.ConversionReport`]: The report of the conversion.

    Raises:
        ValueError: If the checkpoint, the settings and the architecture do not fit together.
        OSError: If a file cannot be read, downloaded, written or uploaded.
    """
    family, output = family_of(architecture), Path(output).expanduser()
    checkpoint = downloads.file_of_url(str(checkpoint)) or checkpoint
    _check_separate_parts(family, vision_checkpoint=vision_checkpoint, language_model=language_model)
    stored_dtype = _dtype(dtype)
    check_output(output, overwrite)
    if push_to_hub is not None:
        check_target(push_to_hub)  # before hours of conversion
    _check_inputs_outside(output, checkpoint, config, tokenizer, vision_checkpoint, language_model)
    requested = _read_settings(config)
    entry = zoo.find(architecture, model_type, str(checkpoint))
    weights = read_checkpoint(checkpoint)
    source_architecture = _recognize(family, architecture, weights)
    settings = _merge_settings(entry, requested, resize=architecture != source_architecture in family.pretraining)
    # an error about settings names both files that may be wrong
    origin = f"{weights.path} with the settings of {config}" if isinstance(config, str | Path) else weights.path
    _check_names(architecture, family, settings, config)
    dropped_parts: dict[str, str] = {}
    resized_parts: Mapping[str, tuple[int, ...]] = {}
    if family.add_parts is not None:
        parts = family.add_parts(architecture, weights.tensors, settings, vision_checkpoint, language_model)
        weights, dropped_parts = replace(weights, tensors=parts.tensors), dict(parts.dropped)
        settings, resized_parts = {**settings, **parts.settings}, parts.resized
    loaded_tokenizer = None if architecture in family.without_tokenizer else family.load_tokenizer(tokenizer)
    model_config = _build_config(family, architecture, source_architecture, weights, settings, loaded_tokenizer, origin)
    model = _build_on_meta(zoo.model_class_of(architecture), model_config)
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
    processor = family.build_processor(architecture, settings, model_config, loaded_tokenizer)
    generation_config = family.build_generation_config(architecture, settings, model_config)
    report = ConversionReport(
        architecture=architecture,
        source_architecture=source_architecture,
        model_type=entry.model_type if entry else None,
        model_class=type(model).__name__,
        checkpoint=weights.path,
        output=output,
        used={target: filled.source for target, filled in plan.filled.items()},
        resized=_resized(plan, resized_parts),
        dropped={**plan.dropped, **dropped_parts},
        initialised={target: origin.how for target, origin in plan.initialized.items()},
        ignored_settings=tuple(sorted(set(requested) - family.known_settings)),
        source=_published_source(entry, str(checkpoint), weights.path),
    )
    with atomic_folder(output, overwrite) as folder:
        frozen = family.architectures[architecture].frozen_dtypes
        written = _write_weights(
            folder, plan, weights, model, model_config, stored_dtype, frozen, max_shard_size, progress
        )
        report = replace(report, weight_files=written.files, not_finite=written.not_finite)
        model_config.save_pretrained(folder)
        processor.save_pretrained(folder)
        if generation_config is not None:
            generation_config.save_pretrained(folder)
        if with_code:
            attach_code(folder)
        card = cards.card_for_conversion(report, str(checkpoint), model_config, repo=push_to_hub, with_code=with_code)
        (folder / "README.md").write_text(card, encoding="utf-8")
    if push_to_hub is not None:
        report = replace(report, pushed_to=publish_conversion(output, push_to_hub))
    return report


def _check_separate_parts(family: Family, **parts: Any) -> None:
    for name, value in parts.items():
        if value is not None and name not in family.separate_parts:
            raise ValueError(f"{name} is given, but checkpoints of {family.name} have no separate parts. Leave it out.")


def _check_inputs_outside(output: Path, *inputs: Any) -> None:
    """Replacing the output must not delete an input."""
    for given in inputs:
        if isinstance(given, str | Path) and Path(given).resolve().is_relative_to(output.resolve()):
            raise ValueError(f"{given} is inside the output {output}, which would be replaced. Give another output.")


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if str(dtype) not in DTYPES:
        raise ValueError(f"Unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}.")
    return DTYPES[str(dtype)]


def _published_source(entry: zoo.ZooEntry | None, checkpoint: str, path: Path) -> dict[str, Any] | None:
    """URL, size and SHA-256 of a checkpoint that is from a URL, or has the name of the published one."""
    if downloads.is_url(checkpoint):
        return downloads.describe(path, checkpoint).as_dict()
    if entry is not None and zoo.is_published_file(entry, checkpoint):
        return downloads.describe(path, entry.source).as_dict()
    return None


def _read_settings(config: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None or isinstance(config, Mapping):
        check_settings(config or {})
        return dict(config or {})
    try:
        check_regular_file(Path(config).expanduser(), "file of settings")
        settings = read_json(Path(config).expanduser())
    except ValueError as error:
        raise ValueError(f"The configuration {config} is not valid JSON: {error}. Correct it.") from error
    except OSError as error:
        raise OSError(
            f"The configuration {config} cannot be read: {error.strerror or error}. Check the path."
        ) from error
    if not isinstance(settings, dict):
        raise ValueError(f"The configuration {config} contains a {type(settings).__name__}, expected a JSON object.")
    check_settings(settings, str(config))
    return settings


def _recognize(family: Family, architecture: str, weights: Checkpoint) -> str:
    try:
        source = family.recognize(weights.tensors)
    except ValueError as error:
        raise ValueError(f"{weights.path}: {error}") from error
    allowed = (architecture, *family.architectures[architecture].sources)
    if source not in allowed:
        raise ValueError(
            f"{weights.path} is a {source} checkpoint, which cannot be converted to {architecture}. Give a checkpoint "
            f"of one of {', '.join(allowed)}, or convert this one as {source}."
        )
    return source


def _merge_settings(entry: zoo.ZooEntry | None, requested: Mapping[str, Any], resize: bool) -> dict[str, Any]:
    """Merge the requested settings into the published ones, with the published image size if `resize` is set."""
    settings = dict(entry.settings) if entry else {}
    if requested.get("labels"):
        settings.pop("num_classes", None)  # other labels may have another number
    if entry and resize:
        settings["vision"] = {**settings.get("vision", {}), "image_size": entry.facts["image_size"]}
    for name, value in requested.items():
        if isinstance(value, Mapping) and isinstance(settings.get(name), Mapping):
            value = {**settings[name], **value}
        settings[name] = value
    return settings


def _check_names(architecture: str, family: Family, settings: Mapping[str, Any], source: Any) -> None:
    where = f"The configuration {source}" if isinstance(source, str | Path) else "The configuration"
    for key, expected in (("arch", architecture), ("family", family.name)):
        if settings.get(key) not in (None, expected):
            raise ValueError(
                f"{where} is for {key} {settings[key]!r:.80}, but {expected!r} is requested. Give the "
                "configuration of that one, or correct the architecture."
            )


def _build_config(
    family: Family,
    architecture: str,
    source_architecture: str,
    weights: Checkpoint,
    settings: Mapping[str, Any],
    tokenizer: Any,
    origin: str | Path,
) -> Any:
    """The configuration; `origin` names the files that it is made from, for errors."""
    try:
        return family.build_config(architecture, source_architecture, weights.shapes, settings, tokenizer)
    except StrictDataclassError as error:  # raised by our configurations for a value of the wrong type
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{origin}: The settings do not give a valid configuration: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def _build_on_meta(class_name: str, config: Any) -> torch.nn.Module:
    import modeling_lavis

    model_class = getattr(modeling_lavis, class_name)
    with torch.device("meta"):
        model: torch.nn.Module = model_class(config)
    return model


def _resized(plan: Plan, before: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return shapes before and after by target. `before` has those of sources that were resized with their part."""
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
    frozen_dtypes: Mapping[str, torch.dtype],
    max_shard_size: str,
    progress: Shown,
) -> WrittenWeights:
    strict = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    strict |= set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype is torch.float16 else set()

    def stored(name: str) -> torch.dtype:
        own = frozen_dtypes.get(module_of(name), plan.dtype(name, weights.tensors))
        if not own.is_floating_point:
            return own
        return torch.float32 if names_any(strict, name) else (dtype or own)

    floating = [stored(name) for name in plan.targets if stored(name).is_floating_point]
    config.dtype = dtype or max(set(floating), key=floating.count)

    def value(name: str) -> torch.Tensor:
        tensor = plan.tensor(name, weights.tensors, config)
        return tensor.to(frozen_dtypes[module_of(name)]) if module_of(name) in frozen_dtypes else tensor

    return write_shards(folder, plan.targets, value, stored, max_shard_size, progress)
