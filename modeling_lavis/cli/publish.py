# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis publish`: check a folder, upload it to the Hub, load it back and compare."""

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "publish",
        help="upload the folder of a model to the Hub, load it back and compare",
        description="Check the folder of a model, upload it to the Hub in one commit, load that commit in a fresh "
        "process, and compare what its processor and its head compute with the folder, bit for bit. An interrupted "
        "upload continues when the command is repeated. JSON: the report.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of a converted or saved model")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository on the Hub, which is created if it is new")
    parser.add_argument("--private", action="store_true", help="create it as a private repository")
    parser.add_argument("--revision", metavar="NAME", help="branch, or refs/pr/N of a pull request (main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument(
        "--dry-run", action="store_true", help="check the folder and list files with their sizes, without network"
    )
    parser.add_argument(
        "--include", metavar="PATTERN", action="append", default=[], help="publish these files, too (repeatable)"
    )
    parser.add_argument(
        "--exclude", metavar="PATTERN", action="append", default=[], help="leave these files out (repeatable)"
    )
    parser.add_argument("--message", metavar="TEXT", help="first line of the commit")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Publish, print the report and return the exit status, which is 1 after an error."""
    from modeling_lavis.hub.publish import publish

    try:
        report = publish(
            args.folder,
            args.repository,
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            dry_run=args.dry_run,
            include=args.include,
            exclude=args.exclude,
            commit_message=args.message,
            on_step=_show_step,
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")  # over several lines, if several things are wrong
        return 1
    sys.stdout.write((json.dumps(report.as_dict(), indent=2) if args.json else str(report)) + "\n")
    return 0


def _show_step(step: str) -> None:
    sys.stderr.write(f"{step} ...\n")
    sys.stderr.flush()
