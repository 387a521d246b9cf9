# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis merge-shards`: the outputs of `--shard 1/N` to `N/N` as one."""

import argparse
from typing import Any

from modeling_lavis.cli.jobs import FORMATS, print_summary
from modeling_lavis.cli.options import positive_int
from modeling_lavis.cli.output import UsageError


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "merge-shards",
        help="merge the outputs of the parts of a job",
        description="Merge the outputs that caption, answer, match or embed wrote with --shard 1/N to --shard N/N: the "
        "rows and failures of one command without --shard, in its order, which then counts as finished. Parts that are "
        "missing, not finished or of different jobs are refused. The same command resumes a merge that was "
        "interrupted.",
    )
    parser.add_argument("parts", metavar="PART", nargs="+", help="outputs of all parts, with the folders of their jobs")
    parser.add_argument("--output", metavar="PATH", required=True, help="file or folder to write")
    parser.add_argument(
        "--output-format",
        choices=FORMATS,
        help="form of the output, also another than that of the parts; only shards are merged to WebDataset shards (by "
        "the suffix of the output: .jsonl or .parquet, or that of the parts)",
    )
    parser.add_argument(
        "--samples-per-shard", metavar="N", type=positive_int, help="samples of a full shard (that of the parts)"
    )
    parser.add_argument("--restart", action="store_true", help="remove what an earlier run wrote, and begin again")
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout, and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Merge the parts, and return the exit status, which is 1 if an input of them failed."""
    from modeling_lavis.jobs.merging import merge_shards

    try:
        summary = merge_shards(
            args.parts,
            args.output,
            output_format=args.output_format,
            samples_per_shard=args.samples_per_shard,
            restart=args.restart,
            progress=True,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return print_summary(summary, args.json)
