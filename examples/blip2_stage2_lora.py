# SPDX-License-Identifier: Apache-2.0
"""The second stage of BLIP-2 with LoRA: teach a language model to see, with adapters in its attention.

    python examples/blip2_stage2_lora.py --model stage1 --language-model facebook/opt-125m \\
        --data my_photos --output stage2

`stage1` is a model of the first stage (examples/blip2_stage1.py, or a converted checkpoint); any causal or
sequence-to-sequence language model of transformers works. Trained are the Q-Former, the projection and the adapters;
image encoder and language model stay as they are.
"""

import argparse
from collections.abc import Sequence

from modeling_lavis import load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, merge the adapters into the language model, save it, and caption an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the split train")
    parser.add_argument("--output", required=True, help="folder of the run; the merged model is in merged/")
    parser.add_argument("--model", required=True, help="folder or Hub id of a first-stage model")
    parser.add_argument("--language-model", default="facebook/opt-2.7b", help="folder or Hub id")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=16, help="rows per forward pass; 1024 rows make a step")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; smaller is faster")
    parser.add_argument("--warmup-steps", type=int, default=2000, help="steps of the warm-up, in the first epoch")
    args = parser.parse_args(arguments)

    adapters = {"r": 16, "lora_alpha": 32, "modules_to_save": ["qformer", "language_projection"]}
    result = train(
        "blip2-pretrain-stage2",
        args.model,
        train_data=args.data,
        output_dir=args.output,
        language_model=args.language_model,
        train_split="train",
        values={"model.lora": adapters, "model.image_size": args.image_size},
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        warmup_steps=args.warmup_steps,
    )
    result.model.print_trainable_parameters()
    merged, processor = result.model.merge_and_unload().eval(), result.processor
    merged.save_pretrained(f"{args.output}/merged")
    processor.save_pretrained(f"{args.output}/merged")

    image = load_data(args.data, "captioning", split="train")[0]["image"]
    inputs = processor(images=image, return_tensors="pt").to(merged.device)
    print(processor.post_process_captions(merged.generate(**inputs, max_new_tokens=20)))


if __name__ == "__main__":
    main()
