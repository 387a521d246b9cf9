# SPDX-License-Identifier: Apache-2.0
"""What the tabs share: models, folders, and how a button runs a function."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_lavis.demo.folders import AllowedFolders
from modeling_lavis.demo.markup import error_message
from modeling_lavis.demo.models import PageModel
from modeling_lavis.import_utils import require

gr: Any = require("gradio", extra="demo", purpose="the page")

#: longest text that a visitor may send, in characters
MAX_CHARACTERS = 20_000
_EXPECTED = (OSError, ValueError, TypeError, RuntimeError, ImportError)


@dataclass(frozen=True)
class PageContext:
    """
    What the tabs share.

    Args:
        models (`list[PageModel]`): the models.
        folders (`AllowedFolders`): folders that the page may use.
        workspace (`Path`): folder of temporary files, which is removed when the page ends.
        examples (`Sequence[Path]`): images to choose from.
    """

    models: list[PageModel]
    folders: AllowedFolders
    workspace: Path
    examples: Sequence[Path]


def run_on(triggers: Sequence[Any], function: Callable[..., str], inputs: Sequence[Any], result: Any) -> None:
    """
    Run a function when a button is pressed or a text is submitted. One function runs at a time, since all share the
    memory and the device of the models.

    Args:
        triggers (`Sequence`): gradio's events, such as `button.click`.
        function (`Callable`): function of the values of the inputs that returns HTML.
        inputs (`Sequence`): components.
        result: component that shows the HTML, or what went wrong.
    """
    gr.on(
        triggers,
        with_messages(function),
        list(inputs),
        [result],
        concurrency_limit=1,
        concurrency_id="models",
        api_visibility="private",
    )


def with_messages(function: Callable[..., str]) -> Callable[..., str]:
    """The function, with its expected errors as results, so that they are read where a result is expected."""

    @functools.wraps(function)
    def call(*values: Any) -> str:
        try:
            for value in values:
                if isinstance(value, str) and len(value) > MAX_CHARACTERS:
                    raise ValueError(f"A text has {len(value):,} characters; expected at most {MAX_CHARACTERS:,}.")
            return function(*values)
        except _EXPECTED as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return error_message(lines[0])

    return call


def lines_of(text: str | None) -> list[str]:
    """The lines of a text that are not empty, each once."""
    return list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))


def media_input(context: PageContext, modality: str, label: str | None = None, examples: bool = True) -> Any:
    """
    A field for an image or a video, and the examples below it.

    Args:
        context (`PageContext`): what the tabs share.
        modality (`str`): `"image"` or `"video"`.
        label (`str`, *optional*): what it is for.
        examples (`bool`, *optional*, defaults to `True`): whether there are example images to choose from.

    Returns:
        The component, whose value is the path of a file.
    """
    label = label or modality.capitalize()
    if modality == "video":
        return gr.Video(label=label, sources=["upload"], height=260)
    field = gr.Image(label=label, type="filepath", sources=["upload", "clipboard"], height=260)
    # The upload as it is: `read_media` reads it, and says what is wrong with it. (gradio writes files for subclasses.)
    field.preprocess = lambda payload: None if payload is None else payload.path
    if examples and context.examples:
        gr.Examples([[str(path)] for path in context.examples], [field], label="Example images", examples_per_page=12)
    return field


__all__ = ["MAX_CHARACTERS", "PageContext", "gr", "lines_of", "media_input", "run_on", "with_messages"]
