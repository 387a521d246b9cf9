# SPDX-License-Identifier: Apache-2.0
"""Scores of a model on a data set, without training, and its predictions as a file for an evaluation server.

    python examples/evaluation_only.py captioning --model Salesforce/blip-image-captioning-base --data coco --split test

Several processes share the work: `torchrun --nproc-per-node 8 -m modeling_lavis evaluate captioning ...` does the same.
docs/evaluation.md has the tasks, their options and the options of published scores.
"""

import argparse
import json
from collections.abc import Sequence

from transformers import pipeline

from modeling_lavis import evaluate, load_data

#: what loads the model of a task, on the first GPU if there is one
PIPELINES = {
    "captioning": "image-captioning",
    "retrieval": "image-text-retrieval",
    "vqa": "image-question-answering",
    "nlvr": "image-pair-classification",
    "classification": "image-text-classification",
    "video-qa": "video-question-answering",
    "video-retrieval": "video-text-retrieval",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=PIPELINES, help="what the model does")
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--data", required=True, help="folder or file of the data set")
    parser.add_argument("--split", help="split of a folder, such as val")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per forward pass")
    parser.add_argument("--options", type=json.loads, default={}, help='JSON, such as {"k": 128} for retrieval')
    parser.add_argument("--output", help="file for the predictions (not of retrieval)")
    args = parser.parse_args(arguments)

    pipe = pipeline(PIPELINES[args.task], model=args.model)
    rows = load_data(args.data, args.task, split=args.split)
    options = {**args.options, "batch_size": args.batch_size}
    if args.output is None:
        print(evaluate(args.task, pipe.model, pipe.processor, rows, **options))
    else:
        result = evaluate(args.task, pipe.model, pipe.processor, rows, return_predictions=True, **options)
        result.save_predictions(args.output)
        print(result.metrics)


if __name__ == "__main__":
    main()
