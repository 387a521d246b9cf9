# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis capfilt`: caption images, and keep the texts that match them."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modeling_lavis.cli.jobs import JOB_INPUTS, add_job_options, given_job_options
from modeling_lavis.cli.options import (
    add_device_options,
    add_generation_options,
    add_inputs,
    check_generation,
    flags,
    generation_options,
    given_options,
    open_pipeline,
    positive_int,
)
from modeling_lavis.cli.output import Results, UsageError, atomic_file, check_output_file, one_line
from modeling_lavis.cli.plots import add_plot_option, check_plot, match_figure, save_plot

_SELECTION = ("texts", "min_score", "min_similarity", "score_quantile", "similarity_quantile", "examples")
_EXAMPLES = 12  # above and below the thresholds


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "capfilt",
        help="caption images, and keep the texts that match them",
        description="CapFilt (https://arxiv.org/abs/2201.12086): caption images, score these captions and the texts "
        "that the data have (column text or caption), and write those that match as a data set for training."
        + JOB_INPUTS,
    )
    add_inputs(parser)
    parser.add_argument("--captioner", metavar="DIR_OR_ID", help="model that captions (the embedded model)")
    parser.add_argument("--filter", metavar="DIR_OR_ID", help="model that matches (the embedded model)")
    add_device_options(parser)
    parser.add_argument(
        "--decoding",
        choices=("nucleus", "beam"),
        default="nucleus",
        help="captions that are sampled with --top-p 0.9, or those of three beams (%(default)s)",
    )
    add_generation_options(parser)
    parser.add_argument("--num-return-sequences", metavar="N", type=positive_int, help="captions per image (1)")
    parser.add_argument("--prompt", metavar="TEXT", help="start of the captions (that of the model's processor)")
    group = parser.add_argument_group("selection")
    group.add_argument(
        "--texts",
        choices=("both", "web", "synthetic", "best"),
        help="texts that may be kept; best: the one of an image with the highest probability (both)",
    )
    group.add_argument("--min-score", metavar="P", type=float, help="least probability of a match (0.5)")
    group.add_argument("--min-similarity", metavar="C", type=float, help="least cosine (none)")
    group.add_argument("--score-quantile", metavar="Q", type=float, help="share of texts to drop by probability")
    group.add_argument("--similarity-quantile", metavar="Q", type=float, help="share of texts to drop by cosine")
    group.add_argument("--scores", metavar="FILE", help="file of all scores, .jsonl (OUTPUT.scores.jsonl)")
    group.add_argument("--examples", metavar="FILE", type=Path, help="draw texts next to the thresholds, .png")
    add_plot_option(group, "how the scores of web and synthetic texts are distributed, with the thresholds")
    add_job_options(parser, engine=False)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run CapFilt, print its summary, and return the exit status."""
    job = given_job_options(args)
    if args.output is None and args.scores is None:
        raise UsageError("Give --output for a data set, or --scores to score texts alone.")
    selection = given_options(args, _SELECTION)
    if args.output is None and selection:
        raise UsageError(f"{flags(selection)} cannot be used without --output.")
    sheet = selection.pop("examples", None)
    if sheet is not None:
        check_output_file(sheet, (".png",), "--examples")
    check_plot(args.plot)
    options = {**generation_options(args), **given_options(args, ("num_return_sequences", "prompt"))}
    captioner = open_pipeline("image-captioning", argparse.Namespace(**{**vars(args), "model": args.captioner}))
    check_generation(captioner, {name: value for name, value in options.items() if name != "prompt"})
    from modeling_lavis.jobs.filtering import capfilt
    from modeling_lavis.pipelines.matching import ImageTextMatchingPipeline

    if args.filter == args.captioner:
        shared = {"model": captioner.model, "processor": captioner.processor, "device": captioner.device}
        try:
            matcher: Any = ImageTextMatchingPipeline(task="image-text-matching", **shared)
        except ValueError as error:
            raise UsageError(str(error)) from error
    else:
        matcher = open_pipeline("image-text-matching", argparse.Namespace(**{**vars(args), "model": args.filter}))
    try:
        summary = capfilt(
            list(args.inputs),
            captioner,
            matcher,
            args.output,
            scores=args.scores,
            decoding=args.decoding,
            examples=0 if sheet is None else _EXAMPLES,
            batch_size=args.batch_size,
            progress=True,
            **selection,
            **options,
            **job,
        )
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    record = summary.as_dict()
    if sheet is not None:
        record["examples"] = str(sheet) if summary.examples else None
        if summary.examples:
            _draw(summary.examples, sheet)
    results = Results(args.json)
    results.add(record, _text(summary))
    if args.plot is not None:
        save_plot(args.plot, _score_figure(summary))
    return int(summary.failed > 0)


def _text(summary: Any) -> str:
    scoring, selection, statistics = summary.scoring, summary.selection, summary.statistics
    lines = [f"{one_line(scoring.output)}: {scoring.written} of {scoring.inputs} inputs scored"]
    if scoring.failed:
        lines[0] += f", {scoring.failed} failed ({one_line(scoring.failures)})"
    if selection is None:
        return lines[0]
    least = [
        f"{name} at least {value:.4g}"
        for name, value in (
            ("probability", statistics.thresholds.score),
            ("cosine", statistics.thresholds.similarity),
        )
        if value is not None
    ]
    lines.append(f"{one_line(selection.output)}: {selection.written} images; {' and '.join(least) or 'all texts'}")
    if selection.failed:
        lines[-1] += f", {selection.failed} failed ({one_line(selection.failures)})"
    lines.append("images with " + ", ".join(f"{name}: {count}" for name, count in statistics.images.items()))
    for source, known in statistics.texts.items():
        lines.append(f"{source} texts: {known['kept']} of {known['texts']} kept")
    return "\n".join(lines)


def _score_figure(summary: Any) -> Any:
    """Histograms of the scores of all texts, with the thresholds of the selection, if there was one."""
    from modeling_lavis.jobs.merging import open_part
    from modeling_lavis.jobs.selection import SOURCES

    values: dict[str, dict[str, list[float]]] = {}
    for record in open_part(Path(summary.scoring.output)).records():
        for source in SOURCES:
            for entry in record[source]:
                for name in ("score", "similarity"):
                    if entry[name] is not None:
                        values.setdefault(name, {}).setdefault(f"{source} texts", []).append(entry[name])
    thresholds = None if summary.statistics is None else summary.statistics.thresholds
    marks = {} if thresholds is None else {"score": thresholds.score, "similarity": thresholds.similarity}
    return match_figure(values, marks)


def _draw(examples: Sequence[dict[str, Any]], path: Path) -> None:
    from modeling_lavis.cli.contact_sheet import draw_cells

    sheet = draw_cells(list(_cells(examples)))
    with atomic_file(path) as file:
        sheet.save(file, format="PNG")


def _cells(examples: Sequence[dict[str, Any]]) -> Iterator[Any]:
    from modeling_lavis.cli.contact_sheet import CORRECT, TEXT, WRONG, Cell
    from modeling_lavis.jobs.media import opened_row
    from modeling_lavis.models.image_conversion import open_image, parse_background, to_rgb

    for example in examples:
        image = None
        with contextlib.suppress(OSError, ValueError), opened_row(example["item"]) as row:  # it may be gone by now
            image = to_rgb(open_image(row["image"]), parse_background("white")).copy()
            image.thumbnail((512, 512))  # before the next one is in memory
        word, color = ("kept", CORRECT) if example["kept"] else ("dropped", WRONG)
        scores = [
            f"{name} {'?' if example[key] is None else format(example[key], '.3f')}"
            for name, key in (("match", "score"), ("cosine", "similarity"))
        ]
        lines = ((word, example["text"], color), ("scores", ", ".join(scores), TEXT), ("from", example["source"], TEXT))
        yield Cell(image, lines)
