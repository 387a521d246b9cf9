# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis recipes`: list the training recipes, or show one."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "recipes",
        help="list the training recipes, or show one",
        description="List the training recipes, or show those that are named, with all their values. JSON: one object "
        'for each recipe, {"name": ..., "title": ..., "task": ..., "head": ...} in the list and all fields of those '
        "that are named.",
    )
    parser.add_argument("recipes", metavar="RECIPE_OR_FILE", nargs="*", help="name or file of a recipe (a list of all)")
    parser.add_argument("--task", metavar="TASK", help="list the recipes of this task only")
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout, and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print recipes, and return the exit status, which is 1 if one cannot be read."""
    from modeling_lavis.cli.output import UsageError, warn
    from modeling_lavis.training.recipe_options import HEADS_OF_TASKS
    from modeling_lavis.training.recipes import describe_recipe, list_recipes, load_recipe

    if args.task is not None and args.task not in HEADS_OF_TASKS:
        raise UsageError(f"--task is {args.task}; expected one of {', '.join(HEADS_OF_TASKS)}.")
    status = 0
    for name in args.recipes or list_recipes():
        try:
            recipe = load_recipe(name)
        except (OSError, ValueError) as error:
            warn(str(error))
            status = 1
            continue
        if args.task not in (None, recipe.task):
            continue
        if args.recipes:
            content = describe_recipe(recipe)
            text = json.dumps(content) if args.json else "\n".join(_lines(content)) + "\n"
        else:
            content = {key: getattr(recipe, key) for key in ("name", "title", "task", "head")}
            text = json.dumps(content) if args.json else f"{recipe.name:30} {recipe.task:23} {recipe.title}"
        sys.stdout.write(f"{text}\n")
    return status


def _lines(content: Mapping[str, Any], indent: str = "") -> list[str]:
    """The fields of a recipe, one per line; those of sections are indented."""
    lines = []
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}:", *_lines(value, f"{indent}  ")]
        elif value not in (None, [], {}):
            lines.append(f"{indent}{name}: {value if isinstance(value, str) else json.dumps(value)}")
    return lines


__all__ = ["add_parser", "run"]
