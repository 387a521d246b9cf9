# SPDX-License-Identifier: Apache-2.0
"""Answers to your own questions about images: fine-tune BLIP by the recipe of VQAv2, then ask it.

    python examples/vqa.py --data my_questions --output answerer --epochs 10

`my_questions` has `train.json` and `val.json`, lists of rows such as
`{"image": "1.jpg", "question": "what color is it?", "answer": ["red", "red", "dark red"]}`: one answer, or those of
several people. In evaluation, the answers of the training data are ranked, as for the published scores.
"""

import argparse
from collections.abc import Sequence

from transformers import pipeline

from modeling_lavis import load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, print the accuracy, and answer the first question for evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.json and val.json")
    parser.add_argument("--output", required=True, help="folder of the fine-tuned model")
    parser.add_argument("--model", default="Salesforce/blip-vqa-base", help="folder or Hub id")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass; 256 rows make a step")
    parser.add_argument("--image-size", type=int, default=480, help="pixels; smaller is faster")
    args = parser.parse_args(arguments)

    evaluation = {"metric": ["accuracy"], "ranks_answers": True, "options": {"num_candidates": 128}}
    result = train(
        "blip-vqa-vqav2",
        args.model,
        train_data=args.data,
        eval_data=args.data,
        output_dir=args.output,
        train_split="train",
        eval_split="val",
        values={"model.image_size": args.image_size, "evaluation": evaluation},  # the published run had none
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
    )
    print(f"accuracy: {result.metrics['accuracy']:.1f} %")

    row = load_data(args.data, "vqa", split="val")[0]
    ask = pipeline("image-question-answering", model=args.output)
    print(row["question"], ask(row["image"], question=row["question"])[0]["answer"])


if __name__ == "__main__":
    main()
