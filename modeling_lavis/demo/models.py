# SPDX-License-Identifier: Apache-2.0
"""The models of the page, with one pipeline for each kind of tab that a model supports."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modeling_lavis.pipelines import TASKS
from modeling_lavis.pipelines.loading import CheckpointHead, input_modality, unwrap_adapters

Kind = Literal["caption", "answer", "match", "search"]
#: tasks of the tabs, by what a model takes
TASKS_OF_KINDS: dict[Kind, dict[str, str]] = {
    "caption": {"image": "image-captioning"},
    "answer": {"image": "image-question-answering", "video": "video-question-answering"},
    "match": {"image": "image-text-matching", "video": "video-text-matching"},
    "search": {"image": "image-text-retrieval", "video": "video-text-retrieval"},
}


@dataclass(frozen=True)
class PageModel:
    """
    A model of the page.

    Args:
        name (`str`): folder or Hub id.
        modality (`str`): what it takes in addition to texts, `"image"` or `"video"`.
        pipelines (`Mapping[str, Any]`): its pipelines by kind of tab; they share model and processor.
    """

    name: str
    modality: Literal["image", "video"]
    pipelines: Mapping[Kind, Any]

    @property
    def model(self) -> Any:
        """The model itself, without adapters."""
        return unwrap_adapters(next(iter(self.pipelines.values())).model)

    @property
    def processor(self) -> Any:
        """Its processor."""
        return next(iter(self.pipelines.values())).processor


def load_page_model(name: str | os.PathLike[str], device: Any = None, dtype: Any = "auto") -> PageModel:
    """
    Load a model and build its pipelines.

    Args:
        name (`str` or `os.PathLike`): folder or Hub id.
        device (*optional*), dtype (*optional*, defaults to `"auto"`): as for `modeling_lavis.pipelines.loading.load`.

    Raises:
        OSError: there is no such repository. ValueError: no tab can use the model.
    """
    from transformers.pipelines import check_task

    from modeling_lavis.pipelines import register

    register()
    model = CheckpointHead.from_pretrained(os.fspath(name), dtype=dtype)
    modality = input_modality(model)
    found: dict[Kind, Any] = {}
    processor = None
    for kind, tasks in TASKS_OF_KINDS.items():
        if modality not in tasks:
            continue
        task = tasks[modality]
        pipeline_class = check_task(task)[1]["impl"]
        try:
            pipeline_class.check_model(model, task)
        except ValueError:  # of another task
            continue
        found[kind] = pipeline_class(model=model, processor=processor, task=task, device=device)
        processor = found[kind].processor
    if not found:
        tasks_of_page = [task for tasks in TASKS_OF_KINDS.values() for task in tasks.values()]
        raise ValueError(
            f"{type(unwrap_adapters(model)).__name__} is for no tab of the page. Give a model for one of "
            f"{', '.join(task for task in TASKS if task in tasks_of_page)}."
        )
    return PageModel(os.fspath(name), modality, found)


def models_by_tab(models: list[PageModel]) -> list[tuple[Kind, PageModel]]:
    """The tabs, in order: of the models that support a kind with the same input, the first one has the tab."""
    tabs: dict[tuple[Kind, str], PageModel] = {}
    for kind in TASKS_OF_KINDS:
        for modality in ("image", "video"):
            for model in models:
                if model.modality == modality and kind in model.pipelines:
                    tabs.setdefault((kind, modality), model)
    return [(kind, model) for (kind, _), model in tabs.items()]


__all__ = ["TASKS_OF_KINDS", "Kind", "PageModel", "load_page_model", "models_by_tab"]
