# SPDX-License-Identifier: Apache-2.0
"""From the name of a repository to a model and a processor that fit each other."""

import os
from collections.abc import Mapping
from typing import Any

# Heads that exist in transformers' own BLIP and BLIP-2 formats, and ours that read them.
_OURS_FOR = {
    "BlipForConditionalGeneration": "LavisBlipForConditionalGeneration",
    "BlipForQuestionAnswering": "LavisBlipForQuestionAnswering",
    "BlipForImageTextRetrieval": "LavisBlipForImageTextRetrieval",
    "Blip2ForConditionalGeneration": "LavisBlip2ForConditionalGeneration",
    "Blip2ForImageTextRetrieval": "LavisBlip2ForImageTextRetrieval",
}


class CheckpointHead:
    """
    Stands where `transformers.pipeline` expects an Auto class: loads the head that a checkpoint was saved from, not the
    one that a task usually has, so that no head is filled with weights that were never trained for it. Repositories in
    transformers' own BLIP format are read into this package's classes.
    """

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load the model in a folder or a Hub repository.

        Args:
            name: folder or Hub id.
            kwargs: options of `from_pretrained` (`dtype`, `revision`, `device_map`, ...).

        Raises:
            OSError: there is no such repository, or no model in it. ValueError: its model is none of this package's.
        """
        from transformers import AutoModel, PreTrainedConfig

        import modeling_lavis
        from modeling_lavis.models.modeling_base import HUB_OPTIONS

        if not os.path.exists(name) and not _may_be_on_the_hub(os.fspath(name)):
            raise OSError(f"There is no folder {os.fspath(name)}, and a repository's name looks like 'owner/name'.")
        access = {option: kwargs[option] for option in HUB_OPTIONS if kwargs.get(option) is not None}
        config, _ = PreTrainedConfig.get_config_dict(name, **access)
        if "model_type" not in config:
            raise OSError(
                f"{name} has no config.json that says what model it holds; expected a folder or a Hub id that was "
                "written by save_pretrained or by `modeling-lavis convert`."
            )
        if config["model_type"] not in ("blip", "blip-2"):
            return AutoModel.from_pretrained(name, **kwargs)
        theirs = (config.get("architectures") or ["?"])[0]
        if theirs not in _OURS_FOR:
            raise ValueError(
                f"{name} holds transformers' {theirs}, which none of this package's heads can read; expected one of "
                f"{', '.join(sorted(_OURS_FOR))}."
            )
        kwargs.pop("code_revision", None)
        return getattr(modeling_lavis, _OURS_FOR[theirs]).from_pretrained(name, **kwargs)


def _may_be_on_the_hub(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_own_processor(processor: Any) -> bool:
    """Tell whether a processor is one of this package (also as a copy that came with a repository)."""
    return any(base.__name__ == "LavisProcessorMixin" for base in type(processor).__mro__)


def own_processor(model: Any) -> Any:
    """Load the processor that belongs to a model's class, from the repository that the model was loaded from.

    Raises:
        ValueError: the model was not loaded from a repository, or its family has no processor here.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    name = getattr(model, "name_or_path", "")
    if not name or type(model.config) not in PROCESSOR_MAPPING:
        raise ValueError(
            f"A pipeline with {type(model).__name__} needs a processor of this package; pass processor=, made by "
            "AutoProcessor.from_pretrained of a repository that was saved with one."
        )
    processor_class = PROCESSOR_MAPPING[type(model.config)]
    return processor_class.from_pretrained(name, revision=getattr(model.config, "_commit_hash", None) or "main")


def looks_at(model: Any) -> str:
    """What a model reads beside texts: "image" or "video"."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "video" if "video" in getattr(inner, "input_modalities", ()) else "image"


def load(
    task: str | Mapping[str, str],
    model: str | os.PathLike[str],
    device: Any = None,
    dtype: Any = "auto",
    batch_size: int = 1,
) -> Any:
    """Build the pipeline of a task, as `transformers.pipeline` does, with errors of one line.

    Args:
        task: a name in `modeling_lavis.pipelines.TASKS`; or names by what the model looks at, "image" and "video".
        model: folder or Hub id of the model and its processor.
        device: for example `"cpu"` or `"cuda:0"`; an accelerator where there is one by default.
        dtype: of the weights, for example `torch.bfloat16`; as stored by default.
        batch_size: rows that are run at once.
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
        task = task[looks_at(loaded)]
    pipeline_class = check_task(task)[1]["impl"]
    pipeline_class.check_model(loaded, task)
    return pipeline_class(
        model=loaded, processor=own_processor(loaded), task=task, device=device, batch_size=batch_size
    )
