# SPDX-License-Identifier: Apache-2.0
"""The tab that searches a folder of images or videos by a text, an image or both."""

import hashlib
import os
from pathlib import Path
from typing import Any

from modeling_lavis.data.media_files import find_inputs
from modeling_lavis.demo.context import PageContext, gr, media_input, run_on
from modeling_lavis.demo.markup import Figure, figures, note
from modeling_lavis.demo.media import picture, preview, read_media
from modeling_lavis.demo.models import PageModel
from modeling_lavis.search import Searcher, build_index, remove_from_index

EXAMPLES = "The example images"


class FolderSearch:
    """
    Searches of folders. The index of a folder is made at its first search and brought up to date at later ones; it is a
    temporary file.

    Args:
        context (`PageContext`): what the tabs share.
        entry (`PageModel`): the model.
    """

    def __init__(self, context: PageContext, entry: PageModel) -> None:
        self.context, self.modality, self.pipe = context, entry.modality, entry.pipelines["search"]
        self.workspace = context.workspace / f"search-{entry.modality}"
        self.workspace.mkdir(exist_ok=True)

    def files(self, folder: str | None) -> tuple[str, list[str]]:
        """
        Where a search looks: a name for its index, and the files, without links that lead out of what is allowed.

        Raises:
            OSError: the folder is not allowed, or has no images (or videos).
        """
        if folder == EXAMPLES:
            return "examples", [str(path) for path in self.context.examples]
        path = self.context.folders.folder(folder)
        found = [file.name for file in find_inputs([str(path)], self.modality) if file.error is None]
        allowed = [name for name in found if self.context.folders.contains(name)]
        if not allowed:
            raise FileNotFoundError(f"The folder {path} has no {self.modality}s that can be opened.")
        return hashlib.sha256(os.fsencode(path)).hexdigest()[:16], allowed

    def __call__(self, folder: str | None, text: str, path: str | None, count: float, rerank: bool) -> str:
        """Search, and return the results as HTML."""
        medium = read_media(path, self.modality) if path else None
        if not text.strip() and medium is None:
            raise ValueError(f"There is nothing to search for. Type a text, or upload one {self.modality}.")
        name, names = self.files(folder)
        index = self.workspace / name
        summary = build_index(names, self.pipe, index, index="exact")
        if summary.missing:
            remove_from_index(index, missing=True)
        searcher = Searcher(index, self.pipe)
        allowed = set(names)  # files that are gone, or no longer allowed, may still be in the index
        found = searcher(text.strip() or None, medium, top_k=int(count), rerank=rerank)
        shown = figures(self._figure(entry) for entry in found if entry["file"] in allowed)
        failed = f" {summary.failed} could not be read." if summary.failed else ""
        return note(f"{len(names)} {self.modality}s.{failed}") + shown

    def _figure(self, entry: dict[str, Any]) -> Figure:
        try:
            source = picture(preview(entry["file"], self.modality))
        except (OSError, ValueError):  # changed since it was indexed
            source = None
        text = f"score {entry['score']:.2f}, cosine {entry['similarity']:.2f}"
        return Figure(source, Path(entry["file"]).name, text)


def add_tab(context: PageContext, entry: PageModel) -> None:
    """Add the fields and the button of the tab."""
    search, modality = FolderSearch(context, entry), entry.modality
    folders = [EXAMPLES] if modality == "image" and context.examples else []
    folders += [str(folder) for folder in context.folders.folders]
    with gr.Row():
        with gr.Column(min_width=280):
            folder = gr.Dropdown(
                folders,
                value=folders[0] if folders else None,
                label="Folder",
                info="One of these, or type the path of a folder inside one."
                if context.folders
                else "Start the page with --allow FOLDER to search a folder of your own.",
                allow_custom_value=bool(context.folders),
            )
            text = gr.Textbox(label="Text", placeholder="a dog on a beach")
            medium = media_input(context, modality, f"{modality.capitalize()} to search for (instead, or with a text)")
        with gr.Column(min_width=280):
            count = gr.Slider(1, 24, 6, step=1, label="Results")
            rerank = gr.Checkbox(True, label="Rank the best again by the matching head (texts only)")
            button = gr.Button("Search", variant="primary")
            result = gr.HTML(label="Results", elem_id=f"results-{modality}")
    run_on([button.click, text.submit], search, [folder, text, medium, count, rerank], result)


__all__ = ["EXAMPLES", "FolderSearch", "add_tab"]
