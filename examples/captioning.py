# SPDX-License-Identifier: Apache-2.0
"""Captions for your own images: fine-tune BLIP by the published recipe, then caption an image.

    python examples/captioning.py --data my_photos --output captioner --epochs 5

`my_photos` has the images of `train` and `val` with a `metadata.jsonl` in each, with lines such as
`{"file_name": "1.jpg", "caption": "a dog"}`; docs/data.md lists other forms.
"""

import argparse
from collections.abc import Sequence

from transformers import pipeline

from modeling_lavis import load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, print the scores, and caption the first image for evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the splits train and val")
    parser.add_argument("--output", required=True, help="folder of the fine-tuned model")
    parser.add_argument("--model", default="Salesforce/blip-image-captioning-base", help="folder or Hub id")
    parser.add_argument("--epochs", type=float, default=5, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass; 256 rows make a step")
    parser.add_argument("--image-size", type=int, default=384, help="pixels; smaller is faster")
    args = parser.parse_args(arguments)

    result = train(
        "blip-caption-coco",
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
    print({name: round(value, 3) for name, value in result.metrics.items()})

    captioner = pipeline("image-captioning", model=args.output)
    image = load_data(args.data, "captioning", split="val")[0]["image"]
    print(captioner(image)[0]["generated_text"])


if __name__ == "__main__":
    main()
