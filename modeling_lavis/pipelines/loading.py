# SPDX-License-Identifier: Apache-2.0
"""Load a model and its processor from a folder or a Hub repository."""

import os
from collections.abc import Mapping
from typing import Any, Literal

# Classes of transformers' BLIP and BLIP-2 checkpoints, and the classes of this package that load them.
_LAVIS_CLASSES = {
    "BlipForConditionalGeneration": "LavisBlipForConditionalGeneration",
    "BlipForQuestionAnswering": "LavisBlipForQuestionAnswering",
    "BlipForImageTextRetrieval": "LavisBlipForImageTextRetrieval",
    "Blip2ForConditionalGeneration": "LavisBlip2ForConditionalGeneration",
    "Blip2ForImageTextRetrieval": "LavisBlip2ForImageTextRetrieval",
}


class CheckpointHead:
    """
    Loads models for `transformers.pipeline`, in the place of an Auto class. The class is the one that the checkpoint
    was saved from, not the usual class of a task, so that no head is left with untrained weights. Checkpoints of
    transformers' own BLIP and BLIP-2 are loaded into the classes of this package.
    """

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **kwargs: Any) -> Any:
        """
        Load the model of a folder or a Hub repository.

        Args:
            name (`str` or `os.PathLike`): folder or Hub id.
            kwargs: options of `from_pretrained` (`dtype`, `revision`, `device_map`, ...).

        Raises:
            OSError: If there is no such repository, or it contains no model.
            ValueError: If no class of this package can load the model.
        """
        from transformers import AutoModel, PreTrainedConfig

        import modeling_lavis
        from modeling_lavis.models.modeling_base import HUB_OPTIONS

        if not os.path.exists(name) and not _is_repository_id(os.fspath(name)):
            raise OSError(f"There is no folder {os.fspath(name)}, and a Hub id has the form 'owner/name'.")
        hub_options = {option: kwargs[option] for option in HUB_OPTIONS if kwargs.get(option) is not None}
        config, _ = PreTrainedConfig.get_config_dict(name, **hub_options)
        if "model_type" not in config:
            raise OSError(
                f"{name} has no config.json with a model_type; expected a folder or a Hub id that was written by "
                "save_pretrained or by `modeling-lavis convert`."
            )
        if config["model_type"] not in ("blip", "blip-2"):
            return AutoModel.from_pretrained(name, **kwargs)
        architecture = (config.get("architectures") or ["?"])[0]
        if architecture not in _LAVIS_CLASSES:
            raise ValueError(
                f"{name} is a checkpoint of transformers' {architecture}, which no class of this package can load; "
                f"expected one of {', '.join(sorted(_LAVIS_CLASSES))}."
            )
        kwargs.pop("code_revision", None)
        return getattr(modeling_lavis, _LAVIS_CLASSES[architecture]).from_pretrained(name, **kwargs)


def _is_repository_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_lavis_processor(processor: Any) -> bool:
    """Whether a processor has the interface of this package, also as code that was loaded with a repository."""
    return any(base.__name__ == "LavisProcessorMixin" for base in type(processor).__mro__)


def load_processor(model: Any) -> Any:
    """
    Load the processor of a model from the repository that the model was loaded from.

    Raises:
        ValueError: If the model was not loaded from a repository, or there is no processor for its class.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    name = getattr(model, "name_or_path", "")
    if not name or type(model.config) not in PROCESSOR_MAPPING:
        raise ValueError(
            f"A pipeline with {type(model).__name__} needs a processor of this package; pass processor=, loaded by "
            "AutoProcessor.from_pretrained from a repository with a processor."
        )
    processor_class = PROCESSOR_MAPPING[type(model.config)]
    return processor_class.from_pretrained(name, revision=getattr(model.config, "_commit_hash", None) or "main")


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
        dtype (*optional*, defaults to `"auto"`): dtype of the weights, for example `torch.bfloat16`; as stored by
            default.
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
    return pipeline_class(
        model=loaded, processor=load_processor(loaded), task=task, device=device, batch_size=batch_size
    )
