# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis answer`: answer questions about images or videos."""

import argparse
import json
import os
from typing import Any

from modeling_lavis.cli.jobs import JOB_INPUTS, add_job_options, given_job_options, run_job
from modeling_lavis.cli.options import (
    GENERATION_OPTIONS,
    add_generation_options,
    add_inputs,
    add_model_options,
    check_generation,
    check_texts,
    find_model_inputs,
    flags,
    generation_options,
    given_options,
    non_empty_text,
    open_pipeline,
    positive_int,
    takes_videos,
)
from modeling_lavis.cli.output import Results, UsageError, iterate_results, one_line


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "answer",
        help="answer questions about images or videos",
        description="Answer a question about images, by generation or by ranking a list of answers, or about videos, "
        'by classification over a fixed answer list. JSON: {"file": ..., "question": ..., "answers": [{"answer": ..., '
        '"score": ...}]} or {"file": ..., "error": ...}. Scores are mean log-probabilities of the tokens of generated '
        "answers, log-likelihoods of ranked ones, and probabilities for videos." + JOB_INPUTS,
    )
    add_inputs(parser)
    add_model_options(parser, default=None)
    add_generation_options(parser)
    parser.add_argument(
        "--question",
        metavar="TEXT",
        type=non_empty_text,
        help="question to ask about every input (with --output: the column question of the data)",
    )
    parser.add_argument(
        "--answers",
        metavar="FILE_OR_LIST",
        help="answers to rank: a file with one answer per line or a JSON array, or a list such as yes,no",
    )
    parser.add_argument("--top-k", metavar="N", type=positive_int, help="number of best answers to print (5)")
    parser.add_argument(
        "--num-candidates",
        metavar="N",
        type=positive_int,
        help="number of answers that are scored in full, chosen by their first token (128; all with a language model)",
    )
    parser.add_argument(
        "--length-normalization",
        choices=("sum", "mean"),
        help="sum or mean of the log-likelihoods of an answer's tokens, for models with a language model (sum)",
    )
    add_job_options(parser)
    parser.set_defaults(run=run)
    return parser


def read_answers(value: str) -> list[str]:
    """
    Read the answers from a file or a list separated by commas.

    Raises:
        UsageError: If there is no answer, or the file cannot be read.
    """
    if os.path.isfile(value):
        try:
            with open(value, encoding="utf-8-sig") as file:
                text = file.read()
            answers = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"The answers in {value} cannot be read: {error}") from error
        if not all(isinstance(answer, str) for answer in answers):
            raise UsageError(f"The JSON array in {value} contains values that are not strings.")
    elif os.path.exists(value):
        raise UsageError(f"--answers is {value}, which is not a regular file. Give a file, or a list such as yes,no.")
    elif os.path.splitext(value)[1] in (".txt", ".json"):
        raise UsageError(f"--answers is {value}, but there is no such file.")
    else:
        answers = value.split(",")
    answers = list(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not answers:
        raise UsageError(f"--answers is {value!r}, which contains no answer.")
    return answers


def run(args: argparse.Namespace) -> int:
    """Answer the question about images or videos, and return the exit status."""
    given_job_options(args)
    if args.question is None and args.output is None:
        raise UsageError("There is no question. Give --question.")
    options, generation = generation_options(args), given_options(args, GENERATION_OPTIONS)
    ranking = given_options(args, ("top_k", "num_candidates", "length_normalization"))
    if args.answers is not None:
        if generation:
            raise UsageError(
                f"{flags(generation)} cannot be used with --answers: answers of a list are ranked, not generated."
            )
        options = {"answers": read_answers(args.answers), **ranking}
    answerer = open_pipeline({"image": "image-question-answering", "video": "video-question-answering"}, args)
    if takes_videos(answerer):
        given = (*generation, *ranking, *(("answers",) if args.answers is not None else ()))
        if unused := [name for name in given if name != "top_k"]:
            raise UsageError(
                f"The model {args.model} is a classifier over a fixed answer list. Leave out {flags(unused)}."
            )
        options = ranking
    elif args.answers is None and ranking:
        raise UsageError(f"{flags(ranking)} cannot be used without --answers.")
    elif args.answers is None:
        check_generation(answerer, options)
    if args.question is not None and not getattr(answerer.model, "answers_prompts", False):
        check_texts(answerer, "--question", [args.question], "question")
    if args.output is not None:
        return run_job(args, "answer", answerer, {"question": args.question, **options})
    results = Results(args.json)
    files = find_model_inputs(answerer, args)
    for name, rows in iterate_results(
        files, lambda names: answerer(names, question=args.question, on_error="return", **options), results
    ):
        lines = [
            f"{one_line(name)}: {one_line(row['answer'])}" + (f"  {row['score']:.3f}" if "score" in row else "")
            for row in rows
        ]
        results.add({"file": name, "question": args.question, "answers": rows}, "\n".join(lines))
    return results.status
