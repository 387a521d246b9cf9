# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis demo`: caption, match and retrieve the images that come with the package."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from modeling_lavis.cli.options import add_model_options, open_pipeline
from modeling_lavis.cli.output import Results, atomic_file, check_output_file, one_line

_OUTPUT = "modeling_lavis_demo.png"
_COLUMNS: tuple[str, ...] = ("name", "caption", "best match", "score", "retrieval rank")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="try the embedded model on the embedded images",
        description="Caption, match and retrieve the embedded images, print a table and draw a contact sheet.",
    )
    add_model_options(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=Path(_OUTPUT), help="contact sheet, .png (%(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demo, and return the exit status."""
    check_output_file(args.output, (".png",))
    rows = evaluate_images(demo_images(), args)
    from modeling_lavis.cli.contact_sheet import draw

    sheet = draw(rows)
    with atomic_file(args.output) as file:
        sheet.save(file, format="PNG")
    results = Results(args.json)
    if args.json:
        for row in rows:
            results.add(row, "")
    summary = {
        "images": len(rows),
        "captions_equal_to_the_name": sum(row["caption_is_name"] for row in rows),
        "names_found_by_the_image": sum(row["best_match"] == row["name"] for row in rows),
        "images_found_by_the_name": sum(row["rank"] == 1 for row in rows),
        "contact_sheet": str(args.output),
    }
    results.add(summary, "" if args.json else _table(rows) + "\n\n" + _summary(summary))
    return 0


def demo_images() -> Any:
    """Return the embedded images with their `path` and `caption`."""
    from modeling_lavis.embedded import embedded_images

    return embedded_images()


def evaluate_images(images: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    Caption, match and retrieve images.

    Args:
        images (`Sequence`): images with `path` and `caption`, which is their name.
        args (`argparse.Namespace`): the arguments of the verb.

    Returns:
        `list[dict[str, Any]]`: One dictionary per image with `file`, `name`, `caption`, `caption_is_name` (after text
        cleaning), `best_match` (the most similar name), `score` (its matching probability), `similarity` (its cosine
        similarity) and `rank` (of the image, if retrieved by its name).
    """
    captioner = open_pipeline("image-captioning", args)
    from modeling_lavis.pipelines.matching import ImageTextMatchingPipeline
    from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline

    shared = {"model": captioner.model, "processor": captioner.processor, "device": captioner.device}
    retriever = ImageTextRetrievalPipeline(task="image-text-retrieval", batch_size=args.batch_size, **shared)
    matcher = ImageTextMatchingPipeline(task="image-text-matching", batch_size=args.batch_size, **shared)
    files, names = [str(image.path) for image in images], [image.caption for image in images]
    captions = [found[0]["generated_text"] for found in captioner(files)]
    clean = captioner.processor.clean
    index = retriever.index(images=files)
    best = [found[0] for found in retriever(files, texts=names, top_k=1)]
    rankings = retriever(names, index=index, top_k=len(files))
    matches = matcher([{"image": file, "text": found["text"]} for file, found in zip(files, best)])
    return [
        {
            "file": file,
            "name": name,
            "caption": caption,
            "caption_is_name": clean(caption) == clean(name),
            "best_match": found["text"],
            "score": match[0]["score"],
            "similarity": match[0]["similarity"],
            "rank": 1 + [entry["index"] for entry in ranking].index(number),
        }
        for number, (file, name, caption, found, match, ranking) in enumerate(
            zip(files, names, captions, best, matches, rankings)
        )
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    """Format the rows for the width of the terminal, or for 120 characters without one."""
    widest = max(20, (shutil.get_terminal_size((120, 24)).columns - 45) // 2)
    lines = [_COLUMNS]
    for row in rows:
        match = "its name" if row["best_match"] == row["name"] else row["best_match"]
        cells = (row["name"], row["caption"], match, f"{row['score']:.2f}", str(row["rank"]))
        lines.append(tuple(_cut(cell, widest) for cell in cells))
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _cut(text: str, width: int) -> str:
    text = one_line(text)
    return text if len(text) <= width else text[: width - 3] + "..."


def _summary(summary: dict[str, Any]) -> str:
    count = summary["images"]
    return "\n".join(
        [
            f"Captions equal to the name: {summary['captions_equal_to_the_name']} of {count}.",
            f"Names retrieved by the image: {summary['names_found_by_the_image']} of {count}.",
            f"Images retrieved by the name: {summary['images_found_by_the_name']} of {count}.",
            f"Contact sheet: {one_line(summary['contact_sheet'])}",
        ]
    )
