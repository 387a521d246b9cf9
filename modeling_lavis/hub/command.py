# SPDX-License-Identifier: Apache-2.0
"""The arguments and the run of the conversion command, for `modeling-lavis convert` and the conversion scripts."""

import argparse
import json
import sys

from modeling_lavis.hub.convert import DTYPES, convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a conversion to `parser`."""
    parser.add_argument("architecture", metavar="ARCHITECTURE", help="name of the original, e.g. blip_caption")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the original's file or its URL")
    parser.add_argument("output", metavar="OUTPUT", help="folder of the new repository")
    parser.add_argument("--model-type", metavar="T", help="published variant whose settings to use, e.g. base_coco")
    parser.add_argument("--config", metavar="FILE", help="JSON with settings; the rest is read from the weights")
    parser.add_argument("--tokenizer", metavar="DIR_OR_ID", help="tokenizer; the published one by default")
    parser.add_argument("--vision-checkpoint", metavar="FILE", help="weights of a frozen image tower (BLIP-2)")
    parser.add_argument("--language-model", metavar="DIR_OR_ID", help="frozen language model (BLIP-2)")
    parser.add_argument("--dtype", metavar="D", choices=sorted(DTYPES), help="stored dtype: %(choices)s")
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="repository on the Hub to upload to")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it has something in it")
    parser.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="largest weight file (%(default)s)")
    parser.add_argument(
        "--without-code", action="store_true", help="leave out the code that loads where this package is not installed"
    )
    parser.add_argument("--json", action="store_true", help="print the full account as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert, print the account, and return the exit status: 0, or 1 after an error."""
    try:
        report = convert(
            args.architecture,
            args.checkpoint,
            args.output,
            model_type=args.model_type,
            config=args.config,
            tokenizer=args.tokenizer,
            vision_checkpoint=args.vision_checkpoint,
            language_model=args.language_model,
            dtype=args.dtype,
            push_to_hub=args.push_to_hub,
            overwrite=args.overwrite,
            max_shard_size=args.max_shard_size,
            with_code=not args.without_code,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write((json.dumps(report.as_dict(), indent=2) if args.json else str(report)) + "\n")
    return 0


def run_script(description: str, prefix: str, family: str, arguments: list[str] | None = None) -> int:
    """What the conversion script of one family does: read the command line, convert, return the exit status.

    Args:
        description: text of the help page.
        prefix: what the family's architectures begin with.
        family: its name, for the error.
        arguments: instead of those of the command line.
    """
    parser = argparse.ArgumentParser(description=description)
    add_arguments(parser)
    args = parser.parse_args(arguments)
    if not args.architecture.startswith(prefix):
        parser.error(
            f"{args.architecture} is no {family} architecture; use modeling-lavis convert, which knows them all"
        )
    return run(args)
