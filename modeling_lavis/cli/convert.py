# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis convert`: convert an original checkpoint to a Hub repository."""

import argparse
from typing import Any

HELP = "convert a checkpoint of LAVIS or of an original repository to a Hub repository"


def add_parser(subparsers: Any, by_name: bool = False) -> argparse.ArgumentParser:
    """
    Add the verb to the subparsers of the command, and return its parser.

    Args:
        subparsers: subparsers of the command.
        by_name (`bool`, *optional*, defaults to `False`): whether the command names published checkpoints.
    """
    from modeling_lavis.hub.command import add_arguments

    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert",
        help=HELP,
        description="Convert a checkpoint of LAVIS or of an original repository to a complete Hub repository. Every "
        "weight must be used or dropped for a known reason; otherwise nothing is written. Published checkpoints are "
        "downloaded and converted by name: convert --zoo NAME OUTPUT, or convert --all FAMILY OUTPUT.",
    )
    add_arguments(parser, by_name)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Convert, and return the exit status."""
    from modeling_lavis.hub.command import run as run_conversion

    return run_conversion(args)
