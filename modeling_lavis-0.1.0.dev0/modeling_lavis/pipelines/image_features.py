# SPDX-License-Identifier: Apache-2.0
"""A clear error for transformers' task `image-feature-extraction` with a model of videos."""

import os
from typing import Any

from transformers import AutoModel, PreTrainedConfig

from modeling_lavis.models.modeling_base import HUB_OPTIONS

TASK = "image-feature-extraction"


class ImageFeatureModel(AutoModel):
    """
    `AutoModel` for the task `image-feature-extraction`. It refuses the video models of this package before their
    weights are loaded; transformers would miss an image processor in their repositories, which cannot have one.
    """

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """
        Load a model as `AutoModel` does.

        Raises:
            LookupError: it is a video model of this package. transformers reports a `ValueError` as a failure to load
                the weights, with the traceback as its message.
        """
        hub_options = {option: kwargs[option] for option in HUB_OPTIONS if kwargs.get(option) is not None}
        try:
            config, _ = PreTrainedConfig.get_config_dict(name, **hub_options)
        except OSError:
            config = {}  # AutoModel reports it
        model_class = _video_model_class(config.get("model_type"))
        if model_class is not None:
            has_texts = "text" in model_class.input_modalities
            instead = "the task multimodal-feature-extraction" if has_texts else "AutoModel and AutoVideoProcessor"
            raise LookupError(
                f"{TASK} cannot use {os.fspath(name)}: its model_type {config['model_type']!r} takes videos, not"
                f" images. Use {instead}, which take{'s' if has_texts else ''} videos, or a model of images."
            )
        return AutoModel.from_pretrained(name, *args, **kwargs)


def _video_model_class(model_type: str | None) -> Any:
    """The class of this package for a model type if it takes videos, else `None`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_MAPPING:
        return None
    classes = MODEL_MAPPING[CONFIG_MAPPING[model_type]]
    model_class = classes[0] if isinstance(classes, tuple) else classes
    is_ours = model_class.__module__.split(".")[0] == "modeling_lavis"
    return model_class if is_ours and "video" in model_class.input_modalities else None


def register() -> None:
    """Let the task load its models by [`ImageFeatureModel`]. A second call has no effect."""
    from transformers.pipelines import PIPELINE_REGISTRY

    task = PIPELINE_REGISTRY.supported_tasks.get(TASK)
    if task is not None and task["pt"] == (AutoModel,):
        task["pt"] = (ImageFeatureModel,)
