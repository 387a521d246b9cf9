# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis page`: a page in the browser to try models."""

import argparse
import signal
import sys
from typing import Any

from modeling_lavis.cli.options import DTYPES, embedded_model, non_empty_text, open_with, positive_int
from modeling_lavis.cli.output import UsageError, warn


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "page",
        help="try models on a page in the browser",
        description="Serve a page to try models on: captions, questions, matching, search in folders, and conversion "
        "of checkpoints. It works without a network, and keeps nothing of what it is sent. Without --model it has the "
        "embedded model, which knows emoji only. Interrupt the command to end it.",
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        type=non_empty_text,
        action="append",
        help="folder or Hub repository (the embedded model); may be repeated: each tab has the first model that is for "
        "it",
    )
    parser.add_argument(
        "--allow",
        metavar="FOLDER",
        type=non_empty_text,
        action="append",
        default=[],
        help="folder that visitors may search, and convert checkpoints in (none); may be repeated",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on (%(default)s, which only this machine reaches); with any other one, all who reach "
        "it can use the models and the folders of --allow",
    )
    parser.add_argument("--port", metavar="N", type=positive_int, help="port (the first free one from 7860 on)")
    parser.add_argument(
        "--max-upload", metavar="MIB", type=positive_int, default=64, help="largest size of a file (%(default)s MiB)"
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ... (an accelerator if available)")
    parser.add_argument(
        "--dtype", metavar="T", choices=DTYPES, default="auto", help="%(choices)s (as stored; float32 on a slow CPU)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted, and return the exit status."""
    from modeling_lavis.demo.folders import AllowedFolders
    from modeling_lavis.import_utils import is_available, require

    try:
        folders = AllowedFolders(args.allow)
    except NotADirectoryError as error:
        raise UsageError(f"--allow: {error}") from error
    if not is_available("gradio"):  # said before models are loaded; imported when its folder for files is known
        require("gradio", extra="demo", purpose="the page")
    models = [open_page_model(name, args) for name in args.model or [embedded_model()]]

    from huggingface_hub import constants

    from modeling_lavis.demo.about import is_embedded
    from modeling_lavis.demo.server import LOCAL_HOSTS, serve
    from modeling_lavis.embedded import embedded_images

    constants.HF_HUB_OFFLINE = True  # from here on nothing is downloaded, whatever a visitor asks for
    examples = [image.path for image in embedded_images()] if any(map(is_embedded, models)) else []
    if args.host not in LOCAL_HOSTS:
        warn(f"All who reach {args.host} can use this page. It has no passwords.", "warning")
    signal.signal(signal.SIGTERM, _interrupt)  # so that temporary files are removed
    serve(
        models,
        folders,
        examples,
        host=args.host,
        port=args.port,
        max_upload=args.max_upload,
        on_start=lambda address: print(f"The page is at {address} (Ctrl+C ends it)", flush=True),
    )
    return 0


def open_page_model(name: str, args: argparse.Namespace) -> Any:
    """Load a model of the page; raises `UsageError` if there is none or no tab is for it."""
    from modeling_lavis.demo.models import load_page_model

    one = argparse.Namespace(**{**vars(args), "model": name})
    return open_with(one, lambda model, dtype: load_page_model(model, args.device, dtype))


def _interrupt(number: int, frame: Any) -> None:
    sys.exit(0)
