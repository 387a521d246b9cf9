# SPDX-License-Identifier: Apache-2.0
"""Arguments and implementation of the conversion command, for `modeling-lavis convert` and the conversion scripts."""

import argparse
import json
import os
import sys

from modeling_lavis.import_utils import silence_developer_logs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the conversion command to `parser`."""
    from modeling_lavis.hub.convert import DTYPES

    parser.add_argument("architecture", metavar="ARCHITECTURE", help="LAVIS name of the model, e.g. blip_caption")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="original checkpoint, a file or URL")
    parser.add_argument("output", metavar="OUTPUT", help="folder of the repository to write")
    parser.add_argument("--model-type", metavar="T", help="published model type whose settings to use, e.g. base_coco")
    parser.add_argument("--config", metavar="FILE", help="JSON file with settings; sizes are inferred from the weights")
    parser.add_argument("--tokenizer", metavar="DIR_OR_ID", help="tokenizer (the published one)")
    parser.add_argument("--vision-checkpoint", metavar="FILE", help="checkpoint of the frozen image encoder (BLIP-2)")
    parser.add_argument("--language-model", metavar="DIR_OR_ID", help="frozen language model (BLIP-2)")
    parser.add_argument(
        "--dtype", metavar="D", choices=sorted(DTYPES), help="stored dtype: %(choices)s (as in CHECKPOINT)"
    )
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="Hub repository to upload to")
    parser.add_argument("--overwrite", action="store_true", help="replace the model repository in OUTPUT")
    parser.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="maximum size of a file (%(default)s)")
    parser.add_argument(
        "--without-code", action="store_true", help="do not copy the model code (for trust_remote_code) into OUTPUT"
    )
    parser.add_argument("--json", action="store_true", help="print the full report as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert, print the report and return the exit status, which is 1 after an error."""
    from modeling_lavis.hub.convert import convert
    from modeling_lavis.hub.offline import repository_access

    try:
        _check_inputs(args)
        # what is missing in the cache is reported by the conversion, which looks at the checkpoint first
        with repository_access([_tokenizer(args), args.language_model], check=False):
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


def _check_inputs(args: argparse.Namespace) -> None:
    """Raise `OSError` for inputs on which reading may wait for ever."""
    from modeling_lavis.models.image_conversion import check_regular_file

    inputs = {
        "checkpoint": args.checkpoint,
        "vision checkpoint": args.vision_checkpoint,
        "file of settings": args.config,
        "tokenizer": args.tokenizer,
        "language model": args.language_model,
    }
    for kind, path in inputs.items():
        if path is not None and os.path.exists(path):  # a URL, an id and what is missing are left to the conversion
            check_regular_file(path, kind)


def _tokenizer(args: argparse.Namespace) -> str | None:
    """Folder or Hub id of the tokenizer that a conversion reads, `None` if it reads none."""
    from modeling_lavis.hub.families import family_of
    from modeling_lavis.hub.image_text import PUBLISHED_TOKENIZER

    try:
        without = family_of(args.architecture).without_tokenizer
    except ValueError:  # reported by the conversion
        return None
    return None if args.architecture in without else args.tokenizer or PUBLISHED_TOKENIZER


def run_script(description: str, prefix: str, family: str, arguments: list[str] | None = None) -> int:
    """
    Run the conversion script of one family and return its exit status.

    Args:
        description (`str`): description in the help text.
        prefix (`str`): prefix of the family's architectures.
        family (`str`): name of the family, for the error.
        arguments (`list[str]`, *optional*, defaults to `sys.argv[1:]`): arguments of the command line.

    Raises:
        SystemExit: If the arguments are invalid, or the architecture is of another family.
    """
    silence_developer_logs()
    parser = argparse.ArgumentParser(description=description)
    add_arguments(parser)
    args = parser.parse_args(arguments)
    if not args.architecture.startswith(prefix):
        parser.error(
            f"{args.architecture} is not an architecture of {family}; use modeling-lavis convert, which "
            "supports all of them"
        )
    return run(args)
