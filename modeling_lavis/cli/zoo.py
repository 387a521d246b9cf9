# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis zoo`: list the published checkpoints, or show some."""

import argparse
import json
import sys
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "zoo",
        help="list the published checkpoints of LAVIS, or show some",
        description="List the published checkpoints of LAVIS that fit all conditions, or show those that are named. "
        "Sizes are numbers of parameters of the whole model. JSON: one object for each checkpoint and line.",
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="name of a checkpoint, e.g. blip_caption/base_coco (a list of all)"
    )
    parser.add_argument("--family", metavar="FAMILY", help="albef, alpro, blip or blip2")
    parser.add_argument("--task", metavar="TASK", help="task, e.g. captioning, retrieval, vqa, video-qa or features")
    parser.add_argument("--licence", metavar="TEXT", help="part of the name of the licence, e.g. bsd")
    parser.add_argument("--min-size", metavar="N", help="smallest number of parameters, e.g. 300M")
    parser.add_argument("--max-size", metavar="N", help="largest number of parameters, e.g. 4B")
    parser.add_argument(
        "--score",
        metavar="TEXT",
        action="append",
        default=[],
        help="has such a published score: words of the data, task or metric, and optionally a comparison, e.g. "
        "VQAv2 or 'COCO CIDEr >= 140'; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines on stdout, and nothing else")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print checkpoints, and return the exit status, which is 1 if there is none of a name or none that fits."""
    from modeling_lavis.cli.output import UsageError, warn
    from modeling_lavis.hub import zoo, zoo_list

    conditions = {name: getattr(args, name) for name in ("family", "task", "licence", "min_size", "max_size")}
    if args.names and (args.score or any(value is not None for value in conditions.values())):
        raise UsageError("Names and conditions are given. Give names to show checkpoints, or conditions to list them.")
    status = 0
    if args.names:
        chosen = []
        for name in args.names:
            try:
                chosen.append(zoo.by_name(name))
            except ValueError as error:
                warn(str(error))
                status = 1
    else:
        try:
            chosen = zoo_list.select(**conditions, scores=args.score)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if args.json:
        text = "".join(f"{json.dumps(zoo_list.describe(entry))}\n" for entry in chosen)
    elif args.names:
        text = "\n".join(_page(zoo_list.describe(entry)) for entry in chosen)
    else:
        text = _table([zoo_list.describe(entry) for entry in chosen])
    sys.stdout.write(text)
    if not chosen and not status:
        warn("no published checkpoint fits these conditions.")
        status = 1
    return status


def _table(found: list[dict[str, Any]]) -> str:
    """One line per checkpoint: name, tasks, size, licence, published scores."""
    rows = []
    for about in found:
        scores = about["scores"] if about["own_checkpoint"] else []
        shown = "; ".join(f"{score['dataset']} {score['split']}: {_metrics(score)}" for score in scores)
        name, remark = (
            f"{about['architecture']}/{about['model_type']}",
            "" if about["own_checkpoint"] else "to start from",
        )
        rows.append((name, ", ".join(about["tasks"]), _millions(about["parameters"]), _licence(about), shown or remark))
    if not rows:
        return ""
    rows.insert(0, ("checkpoint", "task", "size", "licence", "published scores"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for name, tasks, size, licence, scores in rows:
        cells = (name.ljust(widths[0]), tasks.ljust(widths[1]), size.rjust(widths[2]), licence.ljust(widths[3]))
        lines.append("  ".join((*cells, scores)).rstrip())
    return "\n".join(lines) + "\n"


def _page(about: dict[str, Any]) -> str:
    """All that is known about a checkpoint, one entry per line."""
    frames = f", {about['frames']} frames" if about["frames"] else ""
    lines = [
        f"{about['architecture']}/{about['model_type']}: {about['title']}",
        f"  tasks           {', '.join(about['tasks'])}",
        f"  class           {about['model_class']}",
        f"  size            {about['parameters']:,} parameters",
        f"  input           {about['image_size']} px{frames}",
    ]
    if about["language_model"]:
        lines.append(f"  language model  {about['language_model']}")
    lines.append(f"  licence         {_licence(about)}")
    if about["licence"].get("note"):
        lines.append(f"                  {about['licence']['note']}")
    for score in about["scores"]:
        lines.append(f"  score           {score['dataset']}, {score['split']}: {_metrics(score)}")
    if not about["own_checkpoint"]:
        lines.append("  remark          LAVIS only starts trainings of this architecture from the file")
    lines.append(f"  file            {about['source']}")
    lines.append(f"  convert         modeling-lavis convert --zoo {about['architecture']}/{about['model_type']} FOLDER")
    return "\n".join(lines) + "\n"


def _metrics(score: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in score["metrics"].items())


def _licence(about: dict[str, Any]) -> str:
    from modeling_lavis.hub.zoo_list import licence_name

    return licence_name(about["licence"])


def _millions(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


__all__ = ["add_parser", "run"]
