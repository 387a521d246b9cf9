# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis answer`: pictures or videos and questions in, answers out."""

import argparse
import json
import os
from typing import Any

from modeling_lavis.cli.options import (
    add_generation_options,
    add_inputs,
    add_model_options,
    at_least_one,
    generation_options,
    inputs_of,
    open_pipeline,
    sees_videos,
)
from modeling_lavis.cli.output import Results, UsageError, over_pictures


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "answer",
        help="answer questions about pictures or videos",
        description="Answer a question about pictures, freely or by ranking a list of answers, or about videos, with "
        'the answers that the model knows. JSON: {"file": ..., "question": ..., "answers": [{"answer": ..., "score": '
        '...}]} (no scores for free answers, log-likelihoods for a list, probabilities for videos) or {"file": ..., '
        '"error": ...}.',
    )
    add_inputs(parser)
    add_model_options(parser, default=None)
    add_generation_options(parser)
    parser.add_argument("--question", metavar="TEXT", required=True, help="asked about every input")
    parser.add_argument(
        "--answers",
        metavar="FILE_OR_LIST",
        help="rank these: a file with one answer per line or a JSON array, or a list such as yes,no",
    )
    parser.add_argument("--top-k", metavar="N", type=at_least_one, help="ranked answers that are shown (5)")
    parser.add_argument(
        "--num-candidates", metavar="N", type=at_least_one, help="answers of the list that are scored whole (128)"
    )
    parser.set_defaults(run=run)
    return parser


def read_answers(value: str) -> list[str]:
    """The answers in a file or in a list with commas.

    Raises:
        UsageError: there is none, or the file cannot be read.
    """
    if os.path.isfile(value):
        try:
            with open(value, encoding="utf-8-sig") as file:
                text = file.read()
            answers = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"The answers in {value} cannot be read: {error}") from error
        if not all(isinstance(answer, str) for answer in answers):
            raise UsageError(f"The JSON array in {value} holds something else than strings.")
    elif os.path.splitext(value)[1] in (".txt", ".json"):
        raise UsageError(f"There is no file {value} with answers.")
    else:
        answers = value.split(",")
    answers = list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not answers:
        raise UsageError(f"--answers is {value!r}, which holds no answer.")
    return answers


def run(args: argparse.Namespace) -> int:
    """Answer; returns the exit status."""
    options = generation_options(args)
    ranking = {name: getattr(args, name) for name in ("top_k", "num_candidates") if getattr(args, name) is not None}
    if args.answers is not None:
        if options:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise UsageError(f"{names} and --answers cannot go together: a list is ranked, not generated.")
        options = {"answers": read_answers(args.answers), **ranking}
    answerer = open_pipeline({"image": "image-question-answering", "video": "video-question-answering"}, args)
    if sees_videos(answerer):
        if unused := [name for name in (*options, *ranking) if name != "top_k"]:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
            raise UsageError(f"The model {args.model} chooses among the answers that it knows; leave out {names}.")
        options = ranking
    elif args.answers is None and ranking:
        raise UsageError("--top-k and --num-candidates belong to --answers, which is missing.")
    results = Results(args.json)
    pictures = inputs_of(answerer, args)
    for name, rows in over_pictures(
        pictures, lambda names: answerer(names, question=args.question, on_error="return", **options), results
    ):
        lines = [f"{name}: {row['answer']}" + (f"  {row['score']:.3f}" if "score" in row else "") for row in rows]
        results.add({"file": name, "question": args.question, "answers": rows}, "\n".join(lines))
    return results.status
