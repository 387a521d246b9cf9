# SPDX-License-Identifier: Apache-2.0
"""Find images by texts and texts by images: fine-tune BLIP with momentum encoders and a feature queue.

    python examples/retrieval.py --data my_photos --output retriever --queue-size 4096

`my_photos` has images and captions in `train` and `val`, as for examples/captioning.py. Rows with equal `image_id`
are captions of one image. The queue holds features of earlier batches as further negatives: contrastive losses see
the pairs of one forward pass only, however many are accumulated, so a small batch needs it most.
"""

import argparse
from collections.abc import Sequence

import torch

from modeling_lavis import LavisBlipForImageTextRetrieval, LavisBlipProcessor, evaluate_retrieval, load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Fine-tune, and print the recall before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the splits train and val")
    parser.add_argument("--output", required=True, help="folder of the fine-tuned model")
    parser.add_argument("--model", default="Salesforce/blip-itm-base-coco", help="folder or Hub id")
    parser.add_argument("--epochs", type=float, default=6, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=8, help="pairs per forward pass; 256 pairs make a step")
    parser.add_argument("--image-size", type=int, default=384, help="pixels; smaller is faster")
    parser.add_argument("--queue-size", type=int, default=4096, help="features of earlier pairs (published: 57600)")
    args = parser.parse_args(arguments)

    model = LavisBlipForImageTextRetrieval.from_pretrained(args.model, dtype=torch.float32)
    processor = LavisBlipProcessor.from_pretrained(args.model)
    before = evaluate_retrieval(model, processor, load_data(args.data, "retrieval", split="val"), k=16)

    result = train(
        "blip-retrieval-coco",
        args.model,
        train_data=args.data,
        eval_data=args.data,
        output_dir=args.output,
        train_split="train",
        eval_split="val",
        values={
            "model.image_size": args.image_size,
            "model.config.queue_size": args.queue_size,
            "evaluation.options.k": 16,  # candidates that the matching head ranks again
        },
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
    )
    for name in ("text_recall@1", "image_recall@1", "recall_mean"):
        print(f"{name}: {before[name]:.1f} % before, {result.metrics[name]:.1f} % after")


if __name__ == "__main__":
    main()
