# SPDX-License-Identifier: Apache-2.0
"""Does an image entail a sentence, contradict it, or neither? Fine-tune ALBEF by the recipe of SNLI-VE.

    modeling-lavis convert albef_pretrain ALBEF.pth albef-base
    python examples/entailment.py --model albef-base --data my_pairs --output judge --epochs 10

`my_pairs` has `train.json` and `val.json`, lists of rows such as
`{"image": "1.jpg", "sentence": "a dog sleeps", "label": "neutral"}`. Any other names of classes work as well, and
without sentences this trains a classifier of images. The weight of the momentum encoders' soft targets rises over the
first epoch, as in the original.
"""

import argparse
from collections.abc import Sequence

from transformers import pipeline

from modeling_lavis import load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, print the accuracy, and classify the first pair for evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.json and val.json")
    parser.add_argument("--output", required=True, help="folder of the fine-tuned model")
    parser.add_argument("--model", required=True, help="folder or Hub id of an ALBEF model")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass; 256 rows make a step")
    parser.add_argument("--image-size", type=int, default=384, help="pixels; smaller is faster")
    args = parser.parse_args(arguments)

    result = train(
        "albef-entailment-snli-ve",
        args.model,
        train_data=args.data,
        eval_data=args.data,
        output_dir=args.output,
        train_split="train",
        eval_split="val",
        values={"model.image_size": args.image_size},
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
    )
    print(f"accuracy: {result.metrics['accuracy']:.3f}")

    row = load_data(args.data, "classification", split="val")[0]
    classify = pipeline("image-text-classification", model=args.output)
    print(row["sentence"], classify(row["image"], text=row["sentence"])[0])


if __name__ == "__main__":
    main()
