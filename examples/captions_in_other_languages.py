# SPDX-License-Identifier: Apache-2.0
"""Captions in another language: a new BLIP from an image encoder of timm and a BERT of that language.

    python examples/captions_in_other_languages.py --data mis_fotos --output descriptor \\
        --text dccuchile/bert-base-spanish-wwm-cased --prompt "una foto de"

`mis_fotos` has images and captions in `train` and `val`, as for examples/captioning.py. Tokenizer and words are those
of the BERT: `google-bert/bert-base-chinese` or `tohoku-nlp/bert-base-japanese-v3` work the same way. Features of
images and of texts are those of the parts, so that training starts from what both have learned.
"""

import argparse
from collections.abc import Sequence

from transformers import pipeline

from modeling_lavis import from_pretrained_parts, load_data, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model, train it, print the scores, and caption the first image for evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the splits train and val")
    parser.add_argument("--output", required=True, help="folder of the model")
    parser.add_argument(
        "--vision", default="deit_base_patch16_224", help="name in timm, or folder of one of our models"
    )
    parser.add_argument("--text", default="dccuchile/bert-base-spanish-wwm-cased", help="folder or Hub id of a BERT")
    parser.add_argument("--prompt", default="", help="how captions begin")
    parser.add_argument("--epochs", type=float, default=20, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=32, help="rows per forward pass; 256 rows make a step")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="a new decoder needs more than 1e-5")
    args = parser.parse_args(arguments)

    model, processor = from_pretrained_parts(
        "lavis_blip", args.vision, args.text, task="captioning", processor_options={"prompt": args.prompt}
    )
    result = train(
        "blip-caption-coco",
        model,
        processor=processor,
        train_data=args.data,
        eval_data=args.data,
        output_dir=args.output,
        train_split="train",
        eval_split="val",
        learning_rate=args.learning_rate,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
    )
    print({name: round(value, 3) for name, value in result.metrics.items()})
    image = load_data(args.data, "captioning", split="val")[0]["image"]
    print(pipeline("image-captioning", model=args.output)(image)[0]["generated_text"])


if __name__ == "__main__":
    main()
