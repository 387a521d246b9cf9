# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis convert`: a checkpoint of the original projects into a Hub repository."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    from modeling_lavis.hub.command import add_arguments

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert",
        help="turn a checkpoint of LAVIS or of an original repository into a Hub repository",
        description="Turn a checkpoint of LAVIS or of an original repository into a complete Hub repository. Every "
        "weight is accounted for; when one cannot be, nothing is written.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert; returns the exit status."""
    from modeling_lavis.hub.command import run as run_conversion

    return run_conversion(args)
