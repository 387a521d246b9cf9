# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis search`: what in an index is most similar to a text, an image or a video."""

import argparse
from pathlib import Path
from typing import Any

from modeling_lavis.cli.options import (
    add_model_options,
    check_texts,
    flags,
    non_empty_text,
    open_pipeline,
    positive_int,
    probability,
)
from modeling_lavis.cli.output import Results, UsageError, atomic_file, check_output_file, one_line, warn


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "search",
        help="search an index by a text, an image or a video",
        description="Search an index that `modeling-lavis index` has made. Candidates by cosine similarity are ranked "
        "again by the matching head, for which their files are read. JSON: one line per result, "
        '{"row": ..., "file": ..., "score": ..., "similarity": ..., "state": ...}, or with --dedupe one per group of '
        'near-duplicates, {"rows": [...], "files": [...]}.',
    )
    parser.add_argument("index", metavar="INDEX", help="folder of the index")
    parser.add_argument("text", metavar="TEXT", nargs="?", type=non_empty_text, help="what to search for")
    medium = parser.add_mutually_exclusive_group()
    medium.add_argument("--image", metavar="FILE", help="an image to search for, alone or with a text")
    medium.add_argument("--video", metavar="FILE", help="a video to search for, alone or with a text")
    parser.add_argument(
        "--dedupe",
        metavar="X",
        nargs="?",
        const=0.95,
        type=probability,
        help="list near-duplicates instead, with a cosine similarity of at least X (%(const)s)",
    )
    parser.add_argument("--top-k", metavar="N", type=positive_int, help="number of results (10)")
    parser.add_argument("--candidates", metavar="N", type=positive_int, help="candidates that are ranked again (64)")
    parser.add_argument("--no-rerank", action="store_true", default=None, help="rank by cosine similarity alone")
    parser.add_argument("--exact", action="store_true", help="compare with all items, also if there is a FAISS index")
    parser.add_argument(
        "--sheet", metavar="PNG", type=Path, help="draw the results as a contact sheet of images, or of a frame each"
    )
    add_model_options(parser, "that of the index", batches=False)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Search, print the results, and return the exit status, which is 1 if an item cannot be drawn."""
    from modeling_lavis.search import SearchIndex

    given = [name for name in ("text", "image", "video") if getattr(args, name) is not None]
    of_queries = [name for name in ("top_k", "candidates", "no_rerank", "model") if getattr(args, name) is not None]
    if args.dedupe is None and not given:
        raise UsageError("There is nothing to search for. Give a text, --image, --video or --dedupe.")
    if args.dedupe is not None and (given or of_queries):
        names = ["TEXT" if name == "text" else flags([name]) for name in (*given, *of_queries)]
        raise UsageError(f"{', '.join(names)} cannot be used with --dedupe.")
    if args.text is None and (args.candidates or args.no_rerank):
        raise UsageError("--candidates and --no-rerank are for texts; images and videos rank by cosine similarity.")
    if args.sheet is not None:
        check_output_file(args.sheet, (".png",))
    index = SearchIndex(args.index)
    if args.sheet is not None and index.kind == "text":
        raise UsageError(f"--sheet draws images and videos; {args.index} has texts.")
    results = Results(args.json)
    found = _duplicates(index, args, results) if args.dedupe is not None else _query(index, args, results)
    if args.sheet is not None and not _draw(args.sheet, index, found):
        return 1
    return results.status


def _query(index: Any, args: argparse.Namespace, results: Results) -> list[tuple[int, str, str]]:
    """Print the results of a query; returns row, label and text of each, for the sheet."""
    from modeling_lavis.search import Searcher
    from modeling_lavis.search.features import TASKS

    medium = "image" if args.image is not None else "video"
    if getattr(args, medium) is not None and medium != index.kind:
        raise UsageError(f"--{medium} cannot be used here: the index has {index.kind}s. Give --{index.kind}.")
    args.model = args.model or index.files.head.get("model_name")
    if args.model is None:
        raise UsageError(f"{args.index} does not say where its model is. Give --model.")
    pipe = open_pipeline(TASKS, args)
    if args.text is not None:
        check_texts(pipe, "TEXT", [args.text])
    try:
        found = Searcher(index, pipe)(
            args.text,
            getattr(args, medium),
            top_k=args.top_k or 10,
            num_candidates=args.candidates or 64,
            rerank=not args.no_rerank,
            exact=args.exact,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    drawn = []
    for entry in found:
        text = f"{entry['score']:7.3f}  cosine {entry['similarity']:+.3f}  {one_line(entry['file'])}"
        if "start" in entry or "end" in entry:
            text += (
                f"  {entry.get('start', 0):g} to {entry['end']:g} s" if "end" in entry else f"  {entry['start']:g} s"
            )
        results.add(entry, text)
        drawn.append((entry["row"], f"{entry['score']:.2f}", entry["file"]))
    return drawn


def _duplicates(index: Any, args: argparse.Namespace, results: Results) -> list[tuple[int, str, str]]:
    """Print groups of near-duplicates; returns row, label and text of each item, for the sheet."""
    from modeling_lavis.search import near_duplicates

    name = "text" if index.kind == "text" else "file"
    drawn = []
    for number, rows in enumerate(near_duplicates(index, args.dedupe, exact=args.exact), start=1):
        names = [index.record(row)[name] for row in rows]
        text = "\n".join([f"group {number}", *(f"  {one_line(entry)}" for entry in names)])
        results.add({"rows": rows, f"{name}s": names}, text)
        drawn += [(row, f"group {number}", entry) for row, entry in zip(rows, names)]
    if not drawn:
        warn(f"no two items have a cosine similarity of at least {args.dedupe:g}.", "note")
    return drawn


def _draw(path: Path, index: Any, found: list[tuple[int, str, str]]) -> bool:
    """Write a contact sheet; returns whether all items could be read. Without results nothing is written."""
    from modeling_lavis.cli.contact_sheet import TEXT, Cell, draw_cells, item_image

    if not found:
        warn(f"{path} was not written: there are no results.", "warning")
        return True
    cells, is_complete = [], True
    for row, label, name in found:
        image = None
        try:
            image = item_image(index.item(row), index.kind)
            image.thumbnail((512, 512))  # before the next one is in memory
        except (OSError, ValueError) as error:
            is_complete = False
            warn(str(error))
        cells.append(Cell(image, [(label, Path(name).name, TEXT)]))
    with atomic_file(path) as file:
        draw_cells(cells).save(file, "PNG")
    return is_complete
