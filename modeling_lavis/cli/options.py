# SPDX-License-Identifier: Apache-2.0
"""Options that the verbs share, and the pipeline that they ask for."""

import argparse
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from modeling_lavis.cli.output import UsageError
from modeling_lavis.cli.pictures import Picture, find_pictures

_DTYPES = ("auto", "float32", "bfloat16", "float16")
INPUTS = "a file, a folder, a glob or a URL"


def at_least_one(text: str) -> int:
    """Type of an argument that counts something."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def add_inputs(parser: argparse.ArgumentParser, needed: bool = True) -> None:
    """Add the pictures or videos."""
    parser.add_argument("inputs", metavar="INPUT", nargs="+" if needed else "*", help=INPUTS)


def add_model_options(parser: argparse.ArgumentParser, default: str | None = "the embedded model") -> None:
    """Add the options that choose and place the model, and the form of the output.

    Args:
        parser: of a verb.
        default: the model by default, in words; None makes the option mandatory.
    """
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        required=default is None,
        help="folder or Hub repository" + (f" ({default})" if default else ""),
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ... (an accelerator if there is one)")
    parser.add_argument("--dtype", metavar="T", choices=_DTYPES, default="auto", help="%(choices)s (as stored)")
    parser.add_argument(
        "--batch-size", metavar="N", type=at_least_one, default=8, help="inputs run at once (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout, and nothing else there")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of decoding; what is left out comes from the model's own configuration."""
    parser.add_argument("--num-beams", metavar="N", type=at_least_one, help="beams of the search, 1 for greedy")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--max-new-tokens", metavar="N", type=at_least_one, help="longest text, without the prompt")
    length.add_argument("--max-length", metavar="N", type=at_least_one, help="longest text, with the prompt")


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those options of decoding that were given."""
    names = ("num_beams", "max_new_tokens", "max_length")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def inputs_of(pipe: Any, args: argparse.Namespace) -> list[Picture]:
    """The pictures, or for a model of videos the videos, that the arguments name."""
    return find_pictures(args.inputs, "video" if sees_videos(pipe) else "picture")


def sees_videos(pipe: Any) -> bool:
    """Whether the model of a pipeline looks at videos."""
    from modeling_lavis.pipelines.loading import looks_at

    return looks_at(pipe.model) == "video"


def open_pipeline(task: str | Mapping[str, str], args: argparse.Namespace) -> Any:
    """Load the model that the arguments name, for a task, or for one of two by what it looks at: "image" or "video".

    Raises:
        UsageError: there is no such model or device, or the model cannot do the task.
    """
    quiet()
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
    except Exception as error:  # configuration, weights, tokenizer: each reader has errors of its own
        raise UsageError(f"The model {model} cannot be used: {first_line(error)}") from error


def embedded_model() -> str:
    """Folder of the model that travels with the package."""
    from modeling_lavis.embedded import embedded_model_path

    return embedded_model_path()


def quiet() -> None:
    """Keep transformers from reporting what it loads, and PIL from remarks on pictures that it reads all the same."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
