# SPDX-License-Identifier: Apache-2.0
"""The first stage of BLIP-2: train a Q-Former between a frozen image encoder and BERT, from scratch.

    python examples/blip2_stage1.py --data my_photos --output stage1 --vision vit_base_patch16_clip_224.openai

`my_photos` has images and captions in `train`, as for examples/captioning.py. Image encoders are those of timm: a
ViT, CLIP's ViT or EVA; the published model has `eva_giant_patch14_clip_224`, which needs a large GPU.
"""

import argparse
from collections.abc import Sequence

from modeling_lavis import evaluate_retrieval, load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print how well the model finds the images and texts it was trained on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the split train")
    parser.add_argument("--output", required=True, help="folder of the model, the start of the second stage")
    parser.add_argument("--vision", default="eva_giant_patch14_clip_224", help="name in timm, or a folder")
    parser.add_argument("--text", default="google-bert/bert-base-uncased", help="folder or Hub id of a BERT")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs per forward pass; 1600 pairs make a step")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; smaller is faster")
    parser.add_argument("--warmup-steps", type=int, default=5000, help="steps of the warm-up, in the first epoch")
    args = parser.parse_args(arguments)

    result = train(
        "blip2-pretrain-stage1",
        train_data=args.data,
        output_dir=args.output,
        train_split="train",
        values={
            "start": {"vision": args.vision, "text": args.text},
            "model.image_size": args.image_size,
        },
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        warmup_steps=args.warmup_steps,
    )
    rows = load_data(args.data, "retrieval", split="train")
    metrics = evaluate_retrieval(result.model, result.processor, rows.select(range(min(1000, len(rows)))), k=16)
    print(f"mean recall of the first rows: {metrics['recall_mean']:.1f} %")


if __name__ == "__main__":
    main()
