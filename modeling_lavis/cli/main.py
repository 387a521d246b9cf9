# SPDX-License-Identifier: Apache-2.0
"""The command `modeling-lavis`: picks the verb, and turns errors into messages and an exit status."""

import argparse
import os
import sys
from collections.abc import Sequence

import modeling_lavis
from modeling_lavis.cli import answer, caption, convert, demo, embed, match
from modeling_lavis.cli.options import first_line
from modeling_lavis.cli.output import UsageError, warn


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command.

    Args:
        verb: the verb that is going to be parsed, if it is known. `convert` imports torch for its arguments, so it
            gets them only when it is meant.
    """
    parser = argparse.ArgumentParser(
        prog="modeling-lavis",
        description="ALBEF, ALPRO, BLIP and BLIP-2: captions, answers, matches, features, conversion.",
        epilog="Exit status: 0 all well, 1 some input failed (it is named on stderr), 2 wrong arguments.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {modeling_lavis.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in (caption, answer, match, embed):
        module.add_parser(verbs)
    if verb == "convert":
        convert.add_parser(verbs)
    else:
        verbs.add_parser("convert", help="turn a checkpoint of the originals into a Hub repository")
    demo.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the name of the program; those of the process by default.

    Returns:
        0 if all went well, 1 if something failed, 2 for wrong arguments.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(argv[0] if argv else None)
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed what is wrong, or the help
        return stop.code if isinstance(stop.code, int) else 2
    try:
        return args.run(args)
    except UsageError as error:
        warn(str(error))
        return 2
    except BrokenPipeError:
        # Whoever read the output has had enough; what Python would flush at the end has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        warn("stopped.")
        return 130
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        warn(first_line(error))
        return 1
