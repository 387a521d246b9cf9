# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and the pipeline that they describe."""

import argparse
import importlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from modeling_lavis.cli.output import UsageError
from modeling_lavis.data.media_files import INPUTS, InputFile, find_inputs
from modeling_lavis.import_utils import without_collections

DTYPES = ("auto", "float32", "bfloat16", "float16")
# Options of `generate` that only apply when tokens are sampled.
_SAMPLING_OPTIONS = ("top_p", "temperature", "do_sample")
GENERATION_OPTIONS = (
    "num_beams",
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    *_SAMPLING_OPTIONS,
)


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


def natural(text: str) -> int:
    """
    Argument type of counts that may be 0.

    Raises:
        argparse.ArgumentTypeError: If `text` is not an integer from 0.
    """
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0")
    return int(text)


def positive_float(text: str) -> float:
    """
    Argument type of factors.

    Raises:
        argparse.ArgumentTypeError: If `text` is not a positive, finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def probability(text: str) -> float:
    """
    Argument type of probabilities above 0.

    Raises:
        argparse.ArgumentTypeError: If `text` is not a number above 0 and at most 1.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return number


def non_empty_text(value: str) -> str:
    """
    Argument type of texts that a model reads.

    Raises:
        argparse.ArgumentTypeError: If `value` is empty.
    """
    if not value.strip():
        raise argparse.ArgumentTypeError(f"{value!r} is empty; give at least one word")
    return value


def check_texts(pipe: Any, flag: str, texts: Iterable[str], cleaning: str | None = "own") -> None:
    """
    Check that something of each text is left after the processor's cleaning, which removes punctuation.

    Args:
        pipe (`LavisPipeline`): the pipeline that gets the texts.
        flag (`str`): option that the texts come from, for the error.
        texts (`Iterable[str]`): the texts.
        cleaning (`str`, *optional*): as for the processor's `clean`.

    Raises:
        UsageError: If a text is empty after cleaning.
    """
    for given, cleaned in zip(texts, pipe.processor.clean(list(texts), cleaning)):
        if not cleaned.strip():
            raise UsageError(f"{flag} is {given!r}, of which the cleaning of texts leaves nothing. Give a word.")


def add_inputs(parser: argparse.ArgumentParser, needed: bool = True) -> None:
    """Add the positional arguments for images or videos."""
    parser.add_argument("inputs", metavar="INPUT", nargs="+" if needed else "*", help=INPUTS)


def add_model_options(
    parser: argparse.ArgumentParser, default: str | None = "the embedded model", batches: bool = True
) -> None:
    """
    Add the options for the model, its device and dtype, the background of images, the batch size and the output
    format.

    Args:
        parser (`argparse.ArgumentParser`): parser of a verb.
        default (`str`, *optional*, defaults to `"the embedded model"`): description of the default model. `None` makes
            `--model` mandatory.
        batches (`bool`, *optional*, defaults to `True`): whether there is a `--batch-size`.
    """
    parser.add_argument(
        "--model",
        metavar="DIR_OR_ID",
        required=default is None,
        help="folder or Hub repository" + (f" ({default})" if default else ""),
    )
    add_device_options(parser, batches)


def add_device_options(parser: argparse.ArgumentParser, batches: bool = True) -> None:
    """Add the options for device and dtype, the background of images, the batch size and the output format."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ... (an accelerator if available)")
    parser.add_argument(
        "--dtype",
        metavar="T",
        choices=DTYPES,
        default="auto",
        help="%(choices)s (as stored; float32 on a CPU that is slow in that)",
    )
    parser.add_argument(
        "--background",
        metavar="COLOR",
        help="color behind transparent images, such as white or '#ffffff', or drop (that of the model's processor)",
    )
    if batches:
        parser.add_argument(
            "--batch-size", metavar="N", type=positive_int, default=8, help="inputs per batch (%(default)s)"
        )
    else:
        parser.set_defaults(batch_size=1)
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout, and nothing else")


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Add the generation options. They default to the generation configuration of the model."""
    parser.add_argument("--num-beams", metavar="N", type=positive_int, help="number of beams, 1 for greedy decoding")
    for end in ("max", "min"):
        length, kind = parser.add_mutually_exclusive_group(), f"{end}imum length"
        length.add_argument(f"--{end}-new-tokens", metavar="N", type=positive_int, help=f"{kind} without the prompt")
        length.add_argument(f"--{end}-length", metavar="N", type=positive_int, help=f"{kind} with the prompt")
    parser.add_argument(
        "--repetition-penalty", metavar="X", type=positive_float, help="penalty of repeated tokens, 1 for none"
    )
    parser.add_argument(
        "--length-penalty", metavar="X", type=float, help="exponent of the length that scores of beams are divided by"
    )
    parser.add_argument(
        "--no-repeat-ngram-size", metavar="N", type=positive_int, help="no N tokens follow each other twice"
    )
    parser.add_argument("--do-sample", action="store_true", default=None, help="sample from all tokens")
    parser.add_argument("--top-p", metavar="P", type=probability, help="sample from the most likely tokens up to P")
    parser.add_argument("--temperature", metavar="X", type=positive_float, help="sample with this temperature")


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """
    Return the generation options that are given. `--do-sample`, `--top-p` and `--temperature` turn sampling on, with
    one beam unless `--num-beams` is given.

    Raises:
        UsageError: If the minimum length exceeds the maximum.
    """
    options = given_options(args, GENERATION_OPTIONS)
    for shortest, longest in (("min_length", "max_length"), ("min_new_tokens", "max_new_tokens")):
        if shortest in options and longest in options and options[shortest] > options[longest]:
            raise UsageError(
                f"{flags([shortest])} is {options[shortest]}, but {flags([longest])} is {options[longest]}. Give a"
                " minimum that is at most the maximum."
            )
    if any(name in options for name in _SAMPLING_OPTIONS):
        options["do_sample"] = True
        options.setdefault("num_beams", 1)
    return options


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

    def load_pipeline(model: str, dtype: Any) -> Any:
        from modeling_lavis.pipelines.loading import load

        return load(task, model, device=args.device, dtype=dtype, batch_size=args.batch_size)

    if getattr(args, "engine", None) is not None:  # its workers open it on their devices; here it checks options
        args = argparse.Namespace(**{**vars(args), "device": "cpu"})
    pipe = open_with(args, load_pipeline)
    if args.background is not None:
        set_background(pipe, args.background)
    return pipe


def open_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """
    Load the model that the arguments name, of any head, and its processor.

    Args:
        args (`argparse.Namespace`): the arguments of the verb.

    Raises:
        UsageError: If there is no such model or device.
    """

    def load_head(name: str, dtype: Any) -> Any:
        import torch

        from modeling_lavis.pipelines.loading import CheckpointHead, chooses_dtype
        from modeling_lavis.pipelines.precision import use_fast_dtype
        from modeling_lavis.pipelines.processors import resolve_processor

        model = CheckpointHead.from_pretrained(name, dtype=dtype)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = torch.device(args.device or device or "cpu")
        if chooses_dtype(model):
            use_fast_dtype(model, device)
        return SimpleNamespace(model=model.to(device).eval(), processor=resolve_processor(model))

    opened = open_with(args, load_head)
    if args.background is not None:
        set_background(opened, args.background)
    return opened.model, opened.processor


def open_with(args: argparse.Namespace, load: Callable[[str, Any], Any]) -> Any:
    """
    What a function makes of the model that the arguments name.

    Args:
        args (`argparse.Namespace`): the arguments of the verb.
        load (`Callable`): function of folder or Hub id, and dtype.

    Raises:
        UsageError: If there is no such model or device, or `load` raises an error.
    """
    from modeling_lavis.hub.offline import parts_elsewhere, repository_access
    from modeling_lavis.model_card import check_place

    model = args.model if args.model is not None else embedded_model()
    if not model:
        raise UsageError("--model is an empty string. Give a folder or the id of a Hub repository.")
    try:
        check_place(model)
        if os.path.isdir(model):
            import_libraries()
            check_folder(model)
            names = [model, *parts_elsewhere(model)]
        else:
            names = [model]
        with repository_access(names):
            import_libraries()  # takes seconds, so that unknown names have been reported before
            import torch

            if args.device is not None:
                check_device(args.device)
            return load(model, args.dtype if args.dtype == "auto" else getattr(torch, args.dtype))
    except UsageError:
        raise
    except Exception as error:  # the readers of configurations, weights and tokenizers raise errors of many types
        raise UsageError(f"The model {model} cannot be used: {first_line(error)}") from error


def import_libraries() -> None:
    """Import torch and what [`open_pipeline`] needs of transformers, and silence them."""
    with without_collections():
        silence_libraries()
        importlib.import_module("transformers.pipelines")


def check_device(device: str) -> None:
    """
    Check that there is a device.

    Raises:
        UsageError: If it cannot be used.
    """
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device is {device}, which cannot be used: {first_line(error)}") from error


def check_folder(folder: str) -> None:
    """
    Check that the files of a model can be opened without waiting.

    Raises:
        UsageError: If one is a FIFO, a socket or a device.
    """
    from modeling_lavis.models.image_conversion import check_regular_file

    for entry in os.scandir(folder):
        try:
            check_regular_file(entry.path, "file of the model")
        except FileNotFoundError:  # a broken link is reported if the file is needed
            continue
        except OSError as error:
            raise UsageError(f"The model {folder} cannot be used: {first_line(error)}") from error


def set_background(pipe: Any, background: str) -> None:
    """
    Set the color behind transparent images in the processor of a pipeline.

    Raises:
        UsageError: If it is not a color, or the model takes videos.
    """
    from modeling_lavis.models.image_conversion import parse_background

    if takes_videos(pipe):
        raise UsageError("--background cannot be used with a model for videos, whose frames have no transparency.")
    try:
        parse_background(background)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    pipe.processor.image_processor.background = background


def embedded_model() -> str:
    """Return the folder of the embedded model."""
    from modeling_lavis.embedded import embedded_model_path

    return embedded_model_path()


def silence_libraries() -> None:
    """
    Silence transformers' messages about loading, the retries of huggingface_hub, and PIL's warnings about images that
    it can read.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    hub_logging.set_verbosity_error()
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars()  # those of downloads, which transformers disables together with its own
    warnings.filterwarnings("ignore", module=r"PIL\.")


def check_generation(pipe: Any, options: Mapping[str, Any]) -> None:
    """
    Check generation options against the lengths that a model has by itself.

    Raises:
        UsageError: If they contradict each other.
    """
    try:
        pipe.generation_options(dict(options))
    except ValueError as error:
        raise UsageError(str(error)) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the type of the error if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
