# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis verify`: compare a repository with what was published about its checkpoint, or with a recording."""

import argparse
import math
from pathlib import Path
from typing import Any

from modeling_lavis.cli.options import DTYPES, first_line, natural, non_empty_text, positive_int, silence_libraries
from modeling_lavis.cli.output import Results, UsageError, check_output_file
from modeling_lavis.cli.plots import add_plot_option, check_plot, save_plot, verification_figure


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "verify",
        help="compare a repository with the published numbers of its checkpoint",
        description="Compute the outputs that LAVIS's tests and pages state for a photo (--image), and the published "
        "metric on its data (--data), and compare them; or compare with a recording of the model. The published "
        "checkpoint is the one that the model card names. Without --image and --data, say what is needed.",
        epilog="Exit status: 0 if everything that was measured agrees, 1 if a value differs, 2 if nothing could be "
        "compared. JSON: the comparisons, and whether they agree.",
    )
    parser.add_argument("repository", metavar="DIR_OR_ID", type=non_empty_text, help="folder or Hub repository")
    parser.add_argument("--checkpoint", metavar="NAME", help="published checkpoint, e.g. blip_caption/base_coco")
    parser.add_argument("--image", metavar="FILE", help="the photo of the published outputs, or of the recording")
    data = parser.add_argument_group("published metric")
    data.add_argument("--data", metavar="PATH", type=non_empty_text, help="folder or file of the data set")
    data.add_argument("--split", metavar="NAME", help="split of the data, such as test")
    data.add_argument("--dataset", metavar="NAME", help="name of the data set, if scores on several were published")
    data.add_argument("--media-root", metavar="DIR", help="folder of relative paths (that of the file with the paths)")
    data.add_argument("--format", metavar="NAME", help="format of the files, where a folder has several")
    data.add_argument("--answers", metavar="FILE_OR_LIST", help="answers that were ranked for the published score")
    data.add_argument("--java-metrics", action="store_true", help="METEOR and SPICE, which need Java")
    data.add_argument(
        "--tolerance", metavar="POINTS", type=points, help="difference of metrics that is allowed, of 100 (0.2)"
    )
    data.add_argument("--batch-size", metavar="N", type=positive_int, default=32, help="rows per batch (%(default)s)")
    data.add_argument(
        "--num-workers", metavar="N", type=natural, default=0, help="processes that load images (%(default)s)"
    )
    recordings = parser.add_argument_group("recordings")
    recordings.add_argument("--recording", metavar="FILE", help="compare with a recording, not with published values")
    recordings.add_argument(
        "--record", metavar="FILE", type=Path, help="record the outputs for --image in FILE, .json, instead"
    )
    add_plot_option(parser, "the differences of all values from what was expected")
    parser.add_argument("--revision", metavar="NAME", help="revision of a Hub repository")
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ... (cpu)")
    parser.add_argument("--dtype", metavar="T", choices=DTYPES, default="auto", help="%(choices)s (as stored)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on stdout, and nothing else")
    parser.set_defaults(run=run)
    return parser


def points(text: str) -> float:
    """
    Argument type of tolerances.

    Raises:
        argparse.ArgumentTypeError: If `text` is not a number from 0.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return number


def run(args: argparse.Namespace) -> int:
    """Verify or record, and return the exit status."""
    _check(args)
    silence_libraries()
    import torch

    from modeling_lavis.hub.offline import repository_access

    options: dict[str, Any] = {
        "device": args.device,
        "dtype": args.dtype if args.dtype == "auto" else getattr(torch, args.dtype),
        "hub_options": {} if args.revision is None else {"revision": args.revision},
    }
    with repository_access([args.repository]):
        return _record(args, options) if args.record else _verify(args, options)


def _check(args: argparse.Namespace) -> None:
    """Raise `UsageError` for arguments that contradict each other."""
    given = {
        name for name in ("split", "dataset", "media_root", "format", "answers", "tolerance") if getattr(args, name)
    }
    if args.data is None and (given or args.java_metrics):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given)) or "--java-metrics"
        raise UsageError(f"{flags} is for --data, which is missing.")
    if args.checkpoint is not None and (args.record is not None or args.recording is not None):
        raise UsageError("--checkpoint is for published values, not for --recording or --record.")
    check_plot(args.plot)
    if args.record is None:
        return
    if args.plot is not None:
        raise UsageError("--plot is for comparisons, not for --record.")
    if args.image is None or args.recording is not None or args.data is not None:
        raise UsageError("--record needs --image, and neither --recording nor --data.")
    check_output_file(args.record, (".json",), "--record")


def _record(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from modeling_lavis.hub.recordings import record, save_recording

    recording = record(args.repository, args.image, **options)
    save_recording(args.record, recording)
    Results(args.json).add(recording, f"{args.record}: {len(recording['outputs'])} outputs recorded")
    return 0


def _verify(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from modeling_lavis.cli.answer import read_answers
    from modeling_lavis.hub.verify import SCORE_TOLERANCE, NothingToVerify, verify

    data_options = {name: getattr(args, name) for name in ("media_root", "format") if getattr(args, name) is not None}
    try:
        report = verify(
            args.repository,
            image=args.image,
            data=args.data,
            split=args.split,
            dataset=args.dataset,
            answers=None if args.answers is None else read_answers(args.answers),
            java_metrics=args.java_metrics,
            checkpoint=args.checkpoint,
            recording=args.recording,
            score_tolerance=SCORE_TOLERANCE if args.tolerance is None else args.tolerance,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            data_options=data_options,
            **options,
        )
    except NothingToVerify as error:
        raise UsageError(first_line(error)) from error
    Results(args.json).add(report.as_dict(), str(report))
    if args.plot is not None:
        save_plot(args.plot, verification_figure(report.comparisons))
    if not report.measured:
        return 2
    return 0 if report.agrees else 1


__all__ = ["add_parser", "points", "run"]
