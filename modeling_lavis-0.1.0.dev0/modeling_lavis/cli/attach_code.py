# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis attach-code`: copy the code of a saved model into its folder."""

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "attach-code",
        help="copy the code of a saved model into its folder",
        description="Copy the code of a model into the folder that save_pretrained or a Trainer wrote, so that it "
        "loads with trust_remote_code=True where this package is not installed. Folders of converted checkpoints have "
        'their code already. JSON: {"folder": ..., "files": [...]}.',
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="+", help="folder of a saved model")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each folder")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Copy the code, and return the exit status, which is 1 if a folder failed."""
    from modeling_lavis.cli.output import warn
    from modeling_lavis.hub.portable import attach_code

    status = 0
    for folder in args.folder:
        try:
            files = [path.name for path in attach_code(folder)]
        except (OSError, ValueError) as error:
            warn(str(error))
            status = 1
            continue
        line = json.dumps({"folder": folder, "files": files}) if args.json else f"{folder}: {len(files)} files"
        sys.stdout.write(f"{line}\n")
    return status
