# SPDX-License-Identifier: Apache-2.0
"""What the tabs share: models, folders, and how a button runs a function."""

import functools
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_lavis.demo.folders import AllowedFolders
from modeling_lavis.demo.models import PageModel
from modeling_lavis.import_utils import require

gr: Any = require("gradio", extra="demo", purpose="the page")

#: longest text that a visitor may send, in characters
MAX_CHARACTERS = 20_000
_EXPECTED = (OSError, ValueError, TypeError, RuntimeError, ImportError)


class UploadedImage(gr.Image):
    """An image field whose value is the uploaded file as it is; `read_media` reads it, and says what is wrong with it."""

    is_template = True  # for the browser it is gradio's own

    def preprocess(self, payload: Any) -> str | None:
        """Path of the upload, which gradio has checked to be one."""
        return None if payload is None else payload.path


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


def run_on(
    triggers: Sequence[Any], function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], **options: Any
) -> None:
    """
    Run a function when a button is pressed or a text is submitted. One function runs at a time, since all share the
    memory and the device of the models; an error becomes a message on the page.

    Args:
        triggers (`Sequence`): gradio's events, such as `button.click`.
        function (`Callable`): function of the values of the inputs.
        inputs (`Sequence`), outputs (`Sequence`): components.
        options: further options of `gradio.on`.
    """
    gr.on(
        triggers,
        with_messages(function),
        list(inputs),
        list(outputs),
        concurrency_limit=1,
        concurrency_id="models",
        api_visibility="private",
        **options,
    )


def with_messages(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its expected errors as messages of the page."""

    @functools.wraps(function)
    def call(*values: Any) -> Any:
        try:
            for value in values:
                if isinstance(value, str) and len(value) > MAX_CHARACTERS:
                    raise ValueError(f"A text has {len(value):,} characters; expected at most {MAX_CHARACTERS:,}.")
            return function(*values)
        except _EXPECTED as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            # gradio shows messages as HTML
            raise gr.Error(html.escape(lines[0]), duration=None, print_exception=False) from error

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
    field = UploadedImage(label=label, type="filepath", sources=["upload", "clipboard"], height=260)
    if examples and context.examples:
        gr.Examples([[str(path)] for path in context.examples], [field], label="Example images", examples_per_page=12)
    return field


__all__ = ["MAX_CHARACTERS", "PageContext", "gr", "lines_of", "media_input", "run_on", "with_messages"]
