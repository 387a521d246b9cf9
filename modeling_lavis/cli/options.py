# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and the pipeline that they describe."""

import argparse
import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from modeling_lavis.cli.images import InputFile, find_inputs
from modeling_lavis.cli.output import UsageError

_DTYPES = ("auto", "float32", "bfloat16", "float16")
INPUTS = "a file, a folder, a glob or a URL"


def positive_int(text: str) -> int:
    """
    Argument type of counts.

    Raises:
        argparse.ArgumentTypeError: If `text` is not a positive integer.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return number


def add_inputs(parser: argparse.ArgumentParser, needed: bool = True) -> None:
    """Add the positional arguments for images or videos."""
    parser.add_argument("inputs", metavar="INPUT", nargs="+" if needed else "*", help=INPUTS)


def add_model_options(parser: argparse.ArgumentParser, default: str | None = "the embedded model") -> None:
    """
    Add the options for the model, its device and dtype, the batch size and the output format.

    Args:
        parser (`argparse.ArgumentParser`): parser of a verb.
        default (`str`, *optional*, defaults to `"the embedded model"`): description of the default model. `None` makes
            `--model` mandatory.
    """
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        required=default is None,
        help="folder or Hub repository" + (f" ({default})" if default else ""),
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ... (an accelerator if available)")
    parser.add_argument("--dtype", metavar="T", choices=_DTYPES, default="auto", help="%(choices)s (as stored)")
    parser.add_argument(
        "--batch-size", metavar="N", type=positive_int, default=8, help="inputs per batch (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout, and nothing else")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Add the generation options. They default to the generation configuration of the model."""
    parser.add_argument("--num-beams", metavar="N", type=positive_int, help="number of beams, 1 for greedy decoding")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--max-new-tokens", metavar="N", type=positive_int, help="maximum length without the prompt")
    length.add_argument("--max-length", metavar="N", type=positive_int, help="maximum length with the prompt")


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the generation options that are given."""
    return given_options(args, ("num_beams", "max_new_tokens", "max_length"))


def given_options(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return those options that are given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def flags(names: Iterable[str]) -> str:
    """Return options as they are written on the command line, separated by commas."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def find_model_inputs(pipe: Any, args: argparse.Namespace) -> list[InputFile]:
    """Return the images, or the videos if the model of the pipeline takes videos, that the arguments name."""
    return find_inputs(args.inputs, "video" if takes_videos(pipe) else "image")


def takes_videos(pipe: Any) -> bool:
    """Return whether the model of a pipeline takes videos."""
    from modeling_lavis.pipelines.loading import input_modality

    return input_modality(pipe.model) == "video"


def open_pipeline(task: str | Mapping[str, str], args: argparse.Namespace) -> Any:
    """
    Load the model that the arguments name, in a pipeline.

    Args:
        task (`str` or `Mapping[str, str]`): the task, or the tasks for models of an `"image"` and of a `"video"`.
        args (`argparse.Namespace`): the arguments of the verb.

    Raises:
        UsageError: If there is no such model or device, or the model does not support the task.
    """
    silence_libraries()
    import torch

    from modeling_lavis.pipelines.loading import load

    if args.device is not None:
        try:
            torch.empty(1, device=args.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(f"--device is {args.device}, which cannot be used: {first_line(error)}") from error
    dtype = args.dtype if args.dtype == "auto" else getattr(torch, args.dtype)
    model = args.model if args.model is not None else embedded_model()
    try:
        return load(task, model, device=args.device, dtype=dtype, batch_size=args.batch_size)
    except Exception as error:  # the readers of configurations, weights and tokenizers raise errors of many types
        raise UsageError(f"The model {model} cannot be used: {first_line(error)}") from error


def embedded_model() -> str:
    """Return the folder of the embedded model."""
    from modeling_lavis.embedded import embedded_model_path

    return embedded_model_path()


def silence_libraries() -> None:
    """Silence transformers' messages about loading, and PIL's warnings about images that it can read."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the type of the error if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
