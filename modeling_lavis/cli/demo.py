# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis demo`: captions, matches and searches the pictures that travel with the package."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from modeling_lavis.cli.options import add_model_options, open_pipeline
from modeling_lavis.cli.output import Results, check_output_file, whole_file

_OUTPUT = "modeling_lavis_demo.png"
_COLUMNS: tuple[str, ...] = ("name", "caption", "best match", "score", "found by its name")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="try the embedded model on the carried pictures",
        description="Caption, match and search the carried pictures, print a table and draw a contact sheet.",
    )
    add_model_options(parser)
    parser.add_argument(
        "--output", metavar="FILE", type=Path, default=Path(_OUTPUT), help="contact sheet, .png (%(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; returns the exit status."""
    check_output_file(args.output, (".png",))
    rows = look_at(carried_pictures(), args)
    from modeling_lavis.cli.contact_sheet import draw

    sheet = draw(rows)
    with whole_file(args.output) as file:
        sheet.save(file, format="PNG")
    results = Results(args.json)
    if args.json:
        for row in rows:
            results.add(row, "")
    summary = {
        "pictures": len(rows),
        "captions_equal_to_the_name": sum(row["caption_is_name"] for row in rows),
        "names_found_by_the_picture": sum(row["best_match"] == row["name"] for row in rows),
        "pictures_found_by_the_name": sum(row["rank"] == 1 for row in rows),
        "contact_sheet": str(args.output),
    }
    results.add(summary, "" if args.json else _table(rows) + "\n\n" + _summary(summary))
    return 0


def carried_pictures() -> Any:
    """The pictures that travel with the package, with `path` and `caption`."""
    from modeling_lavis.embedded import embedded_images

    return embedded_images()


def look_at(images: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    Caption, match and search pictures.

    Args:
        images: with `path` and `caption`, their name.
        args: the arguments of the verb, for the model.

    Returns:
        For each picture a row with `file`, `name`, `caption`, `caption_is_name` (after cleaning), `best_match` (the
        name that fits it best), `score` (probability that it matches), `similarity` (cosine) and `rank` (place of the
        picture when it is searched for by its name).
    """
    captioner = open_pipeline("image-captioning", args)
    from modeling_lavis.pipelines.matching import ImageTextMatchingPipeline
    from modeling_lavis.pipelines.retrieval import ImageTextRetrievalPipeline

    shared = {"model": captioner.model, "processor": captioner.processor, "device": captioner.device}
    searcher = ImageTextRetrievalPipeline(task="image-text-retrieval", batch_size=args.batch_size, **shared)
    matcher = ImageTextMatchingPipeline(task="image-text-matching", batch_size=args.batch_size, **shared)
    files, names = [str(image.path) for image in images], [image.caption for image in images]
    captions = [found[0]["generated_text"] for found in captioner(files)]
    clean = captioner.processor.clean
    index = searcher.index(images=files)
    best = [found[0] for found in searcher(files, texts=names, top_k=1)]
    places = searcher(names, index=index, top_k=len(files))
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
            "rank": 1 + [place["index"] for place in order].index(number),
        }
        for number, (file, name, caption, found, match, order) in enumerate(
            zip(files, names, captions, best, matches, places)
        )
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    """Rows as wide as the terminal, or 120 characters where there is none."""
    widest = max(20, (shutil.get_terminal_size((120, 24)).columns - 45) // 2)
    lines = [_COLUMNS]
    for row in rows:
        match = "its name" if row["best_match"] == row["name"] else row["best_match"]
        cells = (row["name"], row["caption"], match, f"{row['score']:.2f}", f"in place {row['rank']}")
        lines.append(tuple(_cut(cell, widest) for cell in cells))
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _summary(summary: dict[str, Any]) -> str:
    count = summary["pictures"]
    return "\n".join(
        [
            f"Captions that are the name: {summary['captions_equal_to_the_name']} of {count}.",
            f"Names found by the picture: {summary['names_found_by_the_picture']} of {count}.",
            f"Pictures found by the name: {summary['pictures_found_by_the_name']} of {count}.",
            f"Contact sheet: {summary['contact_sheet']}",
        ]
    )
