# SPDX-License-Identifier: Apache-2.0
"""Arguments and implementation of the conversion command, for `modeling-lavis convert` and the conversion scripts."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from modeling_lavis.import_utils import silence_developer_logs

_BY_NAME = ("--zoo", "--all")


def names_checkpoints(arguments: Sequence[str]) -> bool:
    """Return whether the arguments of a command name published checkpoints, instead of an architecture and a file."""
    return any(argument.partition("=")[0] in _BY_NAME for argument in arguments)


def add_arguments(parser: argparse.ArgumentParser, by_name: bool = False) -> None:
    """
    Add the arguments of the conversion command to `parser`.

    Args:
        parser (`argparse.ArgumentParser`): the parser.
        by_name (`bool`, *optional*, defaults to `False`): whether published checkpoints are named by `--zoo` or
            `--all`, so that only the output is a positional argument. `argparse` has no positional arguments that
            depend on an option.
    """
    from modeling_lavis.hub.convert import DTYPES

    if not by_name:
        parser.add_argument("architecture", metavar="ARCHITECTURE", help="LAVIS name of the model, e.g. blip_caption")
        parser.add_argument("checkpoint", metavar="CHECKPOINT", help="original checkpoint, a file or URL")
    parser.add_argument(
        "output", metavar="OUTPUT", help="folder of the repository to write; with --all, of the repositories"
    )
    named = parser.add_mutually_exclusive_group()
    named.add_argument(
        "--zoo",
        metavar="NAME",
        help="a published checkpoint, e.g. blip_caption/base_coco, downloaded from its URL; leave out ARCHITECTURE and "
        "CHECKPOINT then",
    )
    named.add_argument(
        "--all",
        metavar="FAMILY",
        help="all published checkpoints of albef, alpro, blip or blip2, each into a folder in OUTPUT; continues after "
        "a failure, and checks those that are there already instead of converting them again; --push-to-hub then takes "
        "a user or an organization",
    )
    parser.add_argument(
        "--mirror",
        metavar="FOLDER",
        help="with --zoo and --all: folder with the published files, by their names, instead of their URLs",
    )
    parser.add_argument("--model-type", metavar="T", help="published model type whose settings to use, e.g. base_coco")
    parser.add_argument("--config", metavar="FILE", help="JSON file with settings; sizes are inferred from the weights")
    parser.add_argument("--tokenizer", metavar="DIR_OR_ID", help="tokenizer (the published one)")
    parser.add_argument("--vision-checkpoint", metavar="FILE", help="checkpoint of the frozen image encoder (BLIP-2)")
    parser.add_argument("--language-model", metavar="DIR_OR_ID", help="frozen language model (BLIP-2)")
    parser.add_argument(
        "--dtype", metavar="D", choices=sorted(DTYPES), help="stored dtype: %(choices)s (as in CHECKPOINT)"
    )
    parser.add_argument(
        "--push-to-hub", metavar="ORG/NAME", help="publish in this Hub repository, as modeling-lavis publish does"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model repository in OUTPUT")
    parser.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="maximum size of a file (%(default)s)")
    parser.add_argument(
        "--without-code", action="store_true", help="do not copy the model code (for trust_remote_code) into OUTPUT"
    )
    parser.add_argument("--json", action="store_true", help="print the full report as JSON")


def run(args: argparse.Namespace) -> int:
    """Convert, print the report and return the exit status, which is 1 after an error."""
    if args.zoo is not None or args.all is not None:
        return _run_by_name(args)
    if args.mirror is not None:
        sys.stderr.write("error: --mirror is for --zoo and --all. Give the file itself as CHECKPOINT.\n")
        return 2
    from modeling_lavis.hub.convert import convert
    from modeling_lavis.hub.offline import repository_access

    try:
        _check_inputs(args)
        # what is missing in the cache is reported by the conversion, which looks at the checkpoint first
        with repository_access([_tokenizer(args), args.language_model], check=False):
            report = convert(
                args.architecture, args.checkpoint, args.output, model_type=args.model_type, **_options(args)
            )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write((json.dumps(report.as_dict(), indent=2) if args.json else str(report)) + "\n")
    return 0


def _run_by_name(args: argparse.Namespace) -> int:
    """Convert published checkpoints, print the report or a table, and return the exit status."""
    from modeling_lavis.hub import zoo, zoo_conversion
    from modeling_lavis.hub.offline import repository_access

    if args.model_type is not None:
        sys.stderr.write("error: --model-type is part of the name that --zoo takes. Leave it out.\n")
        return 2
    try:
        _check_inputs(args)
        chosen = [zoo.by_name(args.zoo)] if args.zoo is not None else zoo_conversion.entries_of(args.all)
        names = [args.tokenizer, args.language_model, *zoo_conversion.repositories_of(chosen, args.mirror)]
        with repository_access(names, check=False):
            if args.zoo is not None:
                report = zoo_conversion.convert_entry(chosen[0], args.output, mirror=args.mirror, **_options(args))
                sys.stdout.write((json.dumps(report.as_dict(), indent=2) if args.json else str(report)) + "\n")
                return 0
            results = zoo_conversion.convert_all(
                chosen, args.output, mirror=args.mirror, on_result=_announce, **_options(args)
            )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    found = [result.as_dict() for result in results]
    sys.stdout.write((json.dumps(found, indent=2) if args.json else zoo_conversion.as_table(results)) + "\n")
    return 1 if any(result.status == "failed" for result in results) else 0


def _announce(result: Any) -> None:
    """Say on stderr what has become of one of several conversions, which take minutes each."""
    reason = f": {result.message}" if result.message else ""
    sys.stderr.write(f"{result.entry.name}: {result.status} ({result.seconds:.0f} s){reason}\n")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of all conversions."""
    return {
        "config": args.config,
        "tokenizer": args.tokenizer,
        "vision_checkpoint": args.vision_checkpoint,
        "language_model": args.language_model,
        "dtype": args.dtype,
        "push_to_hub": args.push_to_hub,
        "overwrite": args.overwrite,
        "max_shard_size": args.max_shard_size,
        "with_code": not args.without_code,
        "progress": True,
    }


def _check_inputs(args: argparse.Namespace) -> None:
    """Raise `OSError` for inputs on which reading may wait for ever."""
    from modeling_lavis.hub.downloads import file_of_url
    from modeling_lavis.models.image_conversion import check_regular_file

    inputs = {
        "checkpoint": getattr(args, "checkpoint", None),
        "vision checkpoint": args.vision_checkpoint,
        "file of settings": args.config,
        "tokenizer": args.tokenizer,
        "language model": args.language_model,
    }
    for kind, given in inputs.items():
        path = None if given is None else file_of_url(given) or given
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
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=description)
    add_arguments(parser, names_checkpoints(arguments))
    args = parser.parse_args(arguments)
    # the family of an architecture, or of the name given instead of one
    architecture = args.zoo or args.architecture if args.all is None else args.all
    if args.all != prefix.rstrip("_") if args.all else not architecture.replace("-", "_").startswith(prefix):
        parser.error(
            f"{architecture} is not an architecture of {family}; use modeling-lavis convert, which supports all of them"
        )
    return run(args)
