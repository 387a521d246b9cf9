# SPDX-License-Identifier: Apache-2.0
"""Load a model from a folder or a Hub repository, and remember how."""

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from modeling_lavis.model_card import check_place

# Classes of transformers' BLIP and BLIP-2 checkpoints, and the classes of this package that load them.
_LAVIS_CLASSES = {
    "BlipForConditionalGeneration": "LavisBlipForConditionalGeneration",
    "BlipForQuestionAnswering": "LavisBlipForQuestionAnswering",
    "BlipForImageTextRetrieval": "LavisBlipForImageTextRetrieval",
    "Blip2ForConditionalGeneration": "LavisBlip2ForConditionalGeneration",
    "Blip2ForImageTextRetrieval": "LavisBlip2ForImageTextRetrieval",
}


class _Loading(NamedTuple):
    """How a model was loaded: whether its dtype was left open, and the options that access its repository."""

    chooses_dtype: bool
    hub_options: dict[str, Any]


# Kept here, because an attribute of a model would be copied and pickled with it.
_LOADED: WeakKeyDictionary[Any, _Loading] = WeakKeyDictionary()


class CheckpointHead:
    """
    Loads models for `transformers.pipeline`, in the place of an Auto class. The class is the one that the checkpoint
    was saved from, not the usual class of a task, so that no head is left with untrained weights. Checkpoints of
    transformers' own BLIP and BLIP-2 are loaded into the classes of this package. The folder of a run with adapters of
    peft gives the head that was trained: with its labels and image size, and the adapters in it.

    Without a dtype, or with `"auto"`, the weights get the stored dtype here, and the pipeline converts them if its
    device is slow in that dtype (`precision`).
    """

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **kwargs: Any) -> Any:
        """
        Load the model of a folder or a Hub repository.

        Args:
            name (`str` or `os.PathLike`): folder or Hub id, also of adapters, or the folder of an exported model.
            kwargs: options of `from_pretrained` (`dtype`, `revision`, `device_map`, ...).

        Raises:
            OSError: If there is no such repository, or it contains no model.
            ValueError: If no class of this package can load the model.
        """
        from transformers import AutoModel, PreTrainedConfig

        import modeling_lavis
        from modeling_lavis.export.manifest import is_exported
        from modeling_lavis.models.head_loading import HUB_OPTIONS, read_adapter
        from modeling_lavis.models.transformers_compat import with_pinned_revision

        check_place(name)
        if is_exported(name):
            return _remember(_load_exported(name, kwargs), _Loading(False, {}))
        kwargs = with_pinned_revision(name, kwargs)  # model and processor are of one state of the repository
        hub_options = {option: kwargs[option] for option in HUB_OPTIONS if kwargs.get(option) is not None}
        chooses_dtype = kwargs.get("dtype") in (None, "auto") and kwargs.get("torch_dtype") in (None, "auto")
        if kwargs.get("trust_remote_code") is not None:
            hub_options["trust_remote_code"] = kwargs["trust_remote_code"]
        loading = _Loading(chooses_dtype, hub_options)
        if read_adapter(name, hub_options) is not None:
            return _remember(_load_adapted(name, hub_options, kwargs), loading)
        config, _ = PreTrainedConfig.get_config_dict(name, **hub_options)
        if "model_type" not in config:
            raise OSError(
                f"{name} has no config.json with a model_type; expected a folder or a Hub id that was written by "
                "save_pretrained or by `modeling-lavis convert`."
            )
        if config["model_type"] not in ("blip", "blip-2"):
            return _remember(AutoModel.from_pretrained(name, **kwargs), loading)
        architecture = (config.get("architectures") or ["?"])[0]
        if architecture not in _LAVIS_CLASSES:
            raise ValueError(
                f"{name} is a checkpoint of transformers' {architecture}, which no class of this package can load; "
                f"expected one of {', '.join(sorted(_LAVIS_CLASSES))}."
            )
        kwargs.pop("code_revision", None)
        model_class = getattr(modeling_lavis, _LAVIS_CLASSES[architecture])
        return _remember(model_class.from_pretrained(name, **kwargs), loading)


def _load_adapted(name: str | os.PathLike[str], hub_options: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The head that adapters of peft were trained in, with the adapters."""
    from transformers import AutoModel, PreTrainedConfig
    from transformers.utils import PROCESSOR_NAME, cached_file

    import modeling_lavis
    from modeling_lavis.import_utils import require
    from modeling_lavis.models.head_loading import HEAD_CONFIG_NAME, head_of
    from modeling_lavis.models.vision_timesformer import resize_images

    require("peft", extra="train", purpose=f"the adapters of {name}")
    # transformers gives the configuration of the model that the adapters were trained on
    options = {key: value for key, value in options.items() if key != "config"}
    access = {key: value for key, value in hub_options.items() if key != "trust_remote_code"}

    def has(file: str) -> bool:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **access) is not None

    if has(HEAD_CONFIG_NAME):
        values, _ = PreTrainedConfig.get_config_dict(name, _configuration_file=HEAD_CONFIG_NAME, **access)
        head = getattr(modeling_lavis, str(head_of(values)), None)
        if head is None:
            raise ValueError(
                f"{HEAD_CONFIG_NAME} of {name} names the head {head_of(values)!r}, which this package does not have; "
                "load the class that was trained, and the adapters by its load_adapter."
            )
        config = head.config_class.from_dict(values)
        options = {key: value for key, value in options.items() if key not in ("code_revision", "trust_remote_code")}
        model = head.from_pretrained(name, id2label=config.id2label, **options)
        vision = config.vision_config
        resize_images(model, vision.image_size, getattr(vision, "num_frames", None))
    else:
        model = AutoModel.from_pretrained(name, **options)
    if has(PROCESSOR_NAME):
        # pipelines take the processor from where the model comes from
        model.name_or_path, model.config._commit_hash = os.fspath(name), None
    return model


def _load_exported(folder: str | os.PathLike[str], options: Mapping[str, Any]) -> Any:
    """The head of a folder that `modeling-lavis export` wrote, whose precision is that of the export."""
    from modeling_lavis.export.loading import load_exported

    for name in ("dtype", "torch_dtype"):
        if str(options.get(name) or "auto").removeprefix("torch.") not in ("auto", "float32"):
            raise ValueError(f"{name} is {options[name]}, but {folder} was exported in float32; leave {name} out.")
    return load_exported(folder)


def _remember(model: Any, loading: _Loading) -> Any:
    _LOADED[model] = loading
    return model


def chooses_dtype(model: Any) -> bool:
    """Whether a model was loaded for a pipeline and its dtype was left open."""
    loading = _LOADED.get(unwrap_adapters(model)) or _LOADED.get(model)
    return loading is not None and loading.chooses_dtype


def hub_options_of(model: Any) -> dict[str, Any]:
    """Options that access the repository of a model (`revision`, `token`, ...)."""
    inner = unwrap_adapters(model)
    loading = _LOADED.get(inner) or _LOADED.get(model)
    options = {} if loading is None else dict(loading.hub_options)
    if commit := getattr(inner.config, "_commit_hash", None):
        options["revision"] = commit  # earlier versions of transformers keep it in the configuration
    return options


def unwrap_adapters(model: Any) -> Any:
    """Return the model inside a PEFT model; other models unchanged."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def input_modality(model: Any) -> Literal["image", "video"]:
    """Return the modality that a model takes in addition to text: `"image"` or `"video"`."""
    return "video" if "video" in getattr(unwrap_adapters(model), "input_modalities", ()) else "image"


def load(
    task: str | Mapping[str, str],
    model: str | os.PathLike[str],
    device: Any = None,
    dtype: Any = "auto",
    batch_size: int = 1,
) -> Any:
    """
    Build the pipeline of a task, as `transformers.pipeline` does.

    Args:
        task (`str` or `Mapping[str, str]`): a task of `modeling_lavis.pipelines.TASKS`, or the tasks for models of an
            `"image"` and of a `"video"`.
        model (`str` or `os.PathLike`): folder or Hub id of the model and its processor.
        device (*optional*): for example `"cpu"` or `"cuda:0"`; defaults to an accelerator if available.
        dtype (*optional*, defaults to `"auto"`): dtype of the weights, for example `torch.bfloat16`. By default the
            stored dtype, or float32 if the device is slow in the stored one.
        batch_size (`int`, *optional*, defaults to 1): rows per batch.

    Raises:
        OSError: If there is no such repository, or it contains no model.
        ValueError: If the task is unknown, or the model does not support it.
    """
    from transformers.pipelines import PIPELINE_REGISTRY, check_task

    from modeling_lavis.pipelines import TASKS, register

    for name in [task] if isinstance(task, str) else task.values():
        if name not in TASKS:
            raise ValueError(f"Unknown task {name!r}; expected one of {', '.join(TASKS)}.")
        if name not in PIPELINE_REGISTRY.supported_tasks:
            register()
    loaded = CheckpointHead.from_pretrained(os.fspath(model), dtype=dtype)
    if not isinstance(task, str):
        task = task[input_modality(loaded)]
    pipeline_class = check_task(task)[1]["impl"]
    pipeline_class.check_model(loaded, task)
    return pipeline_class(model=loaded, task=task, device=device, batch_size=batch_size)
