# SPDX-License-Identifier: Apache-2.0
"""Entry point of the command `modeling-lavis`: dispatches to the verbs and reports errors."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import modeling_lavis
from modeling_lavis.cli.options import first_line
from modeling_lavis.cli.output import UsageError, print_logged_warnings, warn
from modeling_lavis.import_utils import silence_developer_logs

#: verbs, in the order of the help; each is a module of this package
VERBS = (
    "caption",
    "answer",
    "match",
    "embed",
    "explain",
    "capfilt",
    "merge-shards",
    "index",
    "search",
    "evaluate",
    "convert",
    "export",
    "zoo",
    "verify",
    "attach-code",
    "publish",
    "recipes",
    "train",
    "page",
    "demo",
)


def build_parser(verb: str | None = None, arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """
    Build the parser of the command.

    Args:
        verb (`str`, *optional*): the verb that will be parsed; only its module is imported and only its arguments are
            added. By default there are all verbs, `convert` and `train` without arguments, because theirs import torch.
        arguments (sequence of `str`, *optional*, defaults to `()`): what follows the verb. `convert` has other
            positional arguments if it names published checkpoints.
    """
    parser = argparse.ArgumentParser(
        prog="modeling-lavis",
        description="ALBEF, ALPRO, BLIP and BLIP-2: captions, answers, features, training, metrics, conversion.",
        epilog="Exit status: 0 for success, 1 if an input failed (named on stderr), 2 for invalid arguments.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {modeling_lavis.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in [verb] if verb in VERBS else VERBS:
        module = importlib.import_module(f"modeling_lavis.cli.{name.replace('-', '_')}")
        if name in ("convert", "train") and name != verb:
            verbs.add_parser(name, help=module.HELP)
        elif name == "convert":
            from modeling_lavis.hub.command import names_checkpoints

            module.add_parser(verbs, by_name=names_checkpoints(arguments))
        else:
            module.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        argv (`Sequence[str]`, *optional*, defaults to `sys.argv[1:]`): arguments without the name of the program.

    Returns:
        `int`: The exit status: 0 for success, 1 if something failed, 2 for invalid arguments, 130 after an interrupt.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    silence_developer_logs()
    print_logged_warnings()
    try:
        parser = build_parser(argv[0] if argv else None, argv[1:])
        if not argv:
            parser.print_help(sys.stderr)
            return 2
        try:
            args = parser.parse_args(argv)
        except SystemExit as stop:  # argparse has already printed the error or the help
            return stop.code if isinstance(stop.code, int) else 2
        return args.run(args)
    except UsageError as error:
        warn(str(error))
        return 2
    except BrokenPipeError:
        # The reader of the pipe has closed it. Python flushes stdout at exit, which must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        warn("interrupted.")
        return 130
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        warn(first_line(error))
        return 1
