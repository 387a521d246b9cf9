# SPDX-License-Identifier: Apache-2.0
"""Is a statement about two images true? Fine-tune BLIP by the recipe of NLVR2.

    modeling-lavis convert blip_pretrain model_base_capfilt_large.pth blip-base
    python examples/nlvr.py --model blip-base --data my_pairs --output judge --epochs 15

`my_pairs` has `train.json` and `val.json`, lists of rows such as
`{"images": ["left.jpg", "right.jpg"], "sentence": "both dogs sleep", "label": "True"}`. The model is any BLIP for one
image; its cross-attention is doubled for two, as in the original. In training, images are swapped at random,
together with the words left and right.
"""

import argparse
from collections.abc import Sequence

from modeling_lavis import train


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.json and val.json")
    parser.add_argument("--output", required=True, help="folder of the fine-tuned model")
    parser.add_argument("--model", required=True, help="folder or Hub id of a BLIP model")
    parser.add_argument("--epochs", type=float, default=15, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per forward pass; 256 pairs make a step")
    parser.add_argument("--image-size", type=int, default=384, help="pixels; smaller is faster")
    args = parser.parse_args(arguments)

    result = train(
        "blip-nlvr",
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


if __name__ == "__main__":
    main()
