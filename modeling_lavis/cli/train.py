# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis train`: train a model by a recipe, on one device or under torchrun and accelerate."""

import argparse
import contextlib
import json
import sys
from typing import Any

from modeling_lavis.cli.plots import add_plot_option, check_plot, save_plot

HELP = "train a model by a recipe"
_OWN = (
    "model",
    "train_data",
    "eval_data",
    "language_model",
    "labels",
    "train_split",
    "eval_split",
    "media_root",
    "streaming",
    "on_bad_row",
    "scaling",
)


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser. Imports transformers."""
    from modeling_lavis.import_utils import require

    require("accelerate", extra="train", purpose="training")
    flags = _trainer_flags()
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        parents=[flags],
        help=HELP,
        description="Train a model by a recipe (`modeling-lavis recipes` lists them), and save the best one with its "
        "processor, a model card, curves and the recipe. Every argument of transformers' TrainingArguments is a flag, "
        "too; those that a recipe has change it. With several devices: torchrun --nproc-per-node N -m modeling_lavis "
        'train ... JSON: {"output": ..., "metrics": {...}}.',
    )
    own = parser.add_argument_group("run")
    own.add_argument("recipe", metavar="RECIPE_OR_FILE", help="name or file of a recipe")
    own.add_argument("--model", metavar="DIR_OR_ID", help="what training starts from (what the recipe says)")
    own.add_argument("--train-data", metavar="PATH", required=True, help="folder or file of the training data")
    own.add_argument("--eval-data", metavar="PATH", help="folder or file of data for evaluation after every epoch")
    own.add_argument("--output", metavar="DIR", required=True, help="folder of the run")
    own.add_argument("--language-model", metavar="DIR_OR_ID", help="language model for BLIP-2's second stage")
    own.add_argument("--labels", metavar="FILE", help="class indices (those of the training data)")
    own.add_argument("--answers", metavar="FILE", help="closed list of answers to rank in evaluation")
    own.add_argument("--train-split", metavar="NAME", help="split of the training data, where it has several")
    own.add_argument("--eval-split", metavar="NAME", help="split of the evaluation data, where it has several")
    own.add_argument("--columns", metavar="NAME=COLUMN", nargs="+", help="columns of the data with other names")
    own.add_argument("--media-root", metavar="DIR", help="folder of relative paths (that of the file with them)")
    own.add_argument("--streaming", action="store_true", help="read the training data while training (needs max_steps)")
    own.add_argument("--check-data", action="store_true", help="look for rows that cannot be used before training")
    own.add_argument(
        "--on-bad-row", choices=("raise", "skip"), default="raise", help="stop at a bad row, or skip it (%(default)s)"
    )
    own.add_argument(
        "--scaling",
        choices=("accumulate", "learning_rate", "none"),
        default="accumulate",
        help="how the run fits fewer devices than published: accumulate gradients, lower the rate (%(default)s)",
    )
    own.add_argument("--set", metavar="FIELD=VALUE", nargs="+", help="other values of the recipe, by dotted name")
    own.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --output, if any")
    add_plot_option(
        own, "losses, metrics and learning rate over the steps; curves.png in --output has them in any case"
    )
    own.add_argument("--json", action="store_true", help="print the metrics as JSON")
    parser.set_defaults(run=run, trainer_flags=[action.dest for action in flags._actions])
    return parser


def _trainer_flags() -> argparse.ArgumentParser:
    """A parser with a flag for every argument of TrainingArguments; those that are not given are left out."""
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(TrainingArguments, add_help=False, argument_default=argparse.SUPPRESS)
    for action in list(parser._actions):
        action.default = argparse.SUPPRESS
        if action.dest == "output_dir":
            parser._remove_action(action)
            for option in action.option_strings:
                del parser._option_string_actions[option]
            for group in parser._action_groups:
                if action in group._group_actions:
                    group._group_actions.remove(action)
    return parser


def run(args: argparse.Namespace) -> int:
    """Train, print the metrics, and return the exit status."""
    check_plot(args.plot)
    from modeling_lavis.cli.answer import read_answers
    from modeling_lavis.training.curves import curves_figure
    from modeling_lavis.training.run import train

    given = vars(args)
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log
        result = train(
            args.recipe,
            **{name: given[name] for name in _OWN},
            output_dir=args.output,
            answers=None if args.answers is None else read_answers(args.answers),
            columns=_pairs(args.columns, "--columns", as_json=False),
            values=_pairs(args.set, "--set", as_json=True),
            check=args.check_data,
            resume=args.resume,
            **{name: given[name] for name in args.trainer_flags if name in given},
        )
    if result.trainer.is_world_process_zero():
        lines = [f"{name}: {value:.4f}" for name, value in result.metrics.items()]
        text = "\n".join([*lines, f"saved in {args.output}"])
        record = {"output": str(result.output_dir), "metrics": result.metrics}
        sys.stdout.write((json.dumps(record) if args.json else text) + "\n")
        if args.plot is not None:
            save_plot(args.plot, curves_figure(result.trainer.state.log_history))
    return 0


def _pairs(given: list[str] | None, flag: str, as_json: bool) -> dict[str, Any] | None:
    """`NAME=VALUE` as a dictionary; values are JSON, or strings if they are none."""
    from modeling_lavis.cli.output import UsageError

    if given is None:
        return None
    pairs: dict[str, Any] = {}
    for entry in given:
        name, sign, value = entry.partition("=")
        if not sign or not name:
            raise UsageError(f"{flag} is {entry!r}; expected NAME=VALUE.")
        try:
            pairs[name] = json.loads(value) if as_json else value
        except ValueError:
            pairs[name] = value
    return pairs


__all__ = ["HELP", "add_parser", "run"]
