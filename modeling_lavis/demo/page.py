# SPDX-License-Identifier: Apache-2.0
"""The page: its tabs, and how it looks."""

from pathlib import Path
from typing import Any

from modeling_lavis.demo import about, captions, conversion, matching, questions, search
from modeling_lavis.demo.context import PageContext, gr
from modeling_lavis.demo.markup import note
from modeling_lavis.demo.models import models_by_tab

TITLE = "modeling_lavis"
_TABS = {"caption": captions, "answer": questions, "match": matching, "search": search}
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def theme() -> Any:
    """A theme with the fonts of the system, so that none is loaded, and with more contrast in small texts."""
    plain = gr.themes.Base(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    light, dark = "*neutral_600", "*neutral_300"
    return plain.set(
        body_text_color_subdued=light,
        body_text_color_subdued_dark=dark,
        block_info_text_color=light,
        block_info_text_color_dark=dark,
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def build_page(context: PageContext, max_upload: str, cleaning: tuple[int, int] = (60, 3600)) -> Any:
    """
    Build the page.

    Args:
        context (`PageContext`): models and folders.
        max_upload (`str`): largest size of an uploaded file, for visitors to read.
        cleaning (`tuple[int, int]`, *optional*): every how many seconds temporary files are removed, and from which age
            in seconds on.

    Returns:
        `gradio.Blocks`.
    """
    tabs = models_by_tab(context.models)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=cleaning) as page:
        gr.Markdown(f"# {TITLE}")
        gr.HTML(
            "".join(note(about.warning(entry) or about.description(entry)) for entry in context.models),
            elem_id="models",
        )
        with gr.Tabs():
            for kind, entry in tabs:
                with gr.Tab(about.tab_title(kind, entry.modality)):
                    _TABS[kind].add_tab(context, entry)
            if context.folders:
                with gr.Tab("Conversion"):
                    conversion.add_tab(context)
            with gr.Tab("About"):
                gr.HTML(about.about(context.models, tabs, max_upload))
    return page


__all__ = ["STYLE", "TITLE", "build_page", "theme"]
