# SPDX-License-Identifier: Apache-2.0
"""Training on several devices: the same call in every process, started by torchrun.

    torchrun --nproc-per-node 8 examples/distributed.py --model blip-base --data my_photos --output retriever

On two nodes, run on each: `torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 ...`.
Processes share rows in training and in evaluation, and gradients are accumulated up to the published number of rows
per step. `--cpu` trains on processors, with gloo. docs/distributed.md has more launchers.
"""

import argparse
from collections.abc import Sequence

from modeling_lavis import load_recipe, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Train in all processes; the first one prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the splits train and val, that all nodes see")
    parser.add_argument("--output", required=True, help="folder of the run, that all nodes see")
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--recipe", default="blip-retrieval-coco", help="name or file of a recipe")
    parser.add_argument("--epochs", type=float, default=6, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per device")
    parser.add_argument("--image-size", type=int, default=384, help="pixels; smaller is faster")
    parser.add_argument("--cpu", action="store_true", help="train on processors")
    args = parser.parse_args(arguments)

    on_processors = {"use_cpu": True, "ddp_backend": "gloo"} if args.cpu else {}
    result = train(
        load_recipe(args.recipe),
        args.model,
        train_data=args.data,
        eval_data=args.data,
        output_dir=args.output,
        train_split="train",
        eval_split="val",
        values={"model.image_size": args.image_size},
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        resume=True,  # continue a job that was stopped
        **on_processors,
    )
    trainer = result.trainer
    if trainer.is_world_process_zero():
        print(trainer.args.world_size, "processes,", trainer.state.global_step, "steps", result.metrics)


if __name__ == "__main__":
    main()
