# SPDX-License-Identifier: Apache-2.0
"""Answers to questions about your own videos: fine-tune ALPRO by the recipe of MSRVTT-QA, then ask it.

    modeling-lavis convert alpro_qa alpro_pretrain.pt alpro-base --config answers.json
    python examples/video_qa.py --model alpro-base --data my_films --output answerer --epochs 10

`my_films` has `train.json` and `val.json`, lists of rows such as
`{"video": "1.mp4", "question": "what is it doing?", "answer": "run"}`. The model chooses among the answers of the
training data, so its classifier is new if they are not those of the model. `pip install "modeling-lavis[video]"`.
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
    parser.add_argument("--model", required=True, help="folder or Hub id of an ALPRO model")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass; 384 rows make a step")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; smaller is faster")
    parser.add_argument("--num-frames", type=int, default=16, help="frames of a clip")
    args = parser.parse_args(arguments)

    result = train(
        "alpro-qa-msrvtt",
        args.model,
        train_data=args.data,
        eval_data=args.data,
        output_dir=args.output,
        train_split="train",
        eval_split="val",
        values={"model.image_size": args.image_size, "model.num_frames": args.num_frames},
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
    )
    print(f"accuracy: {result.metrics['accuracy']:.3f}")

    row = load_data(args.data, "video-qa", split="val")[0]
    ask = pipeline("video-question-answering", model=args.output)
    print(row["question"], ask(row["video"], question=row["question"])[0]["answer"])


if __name__ == "__main__":
    main()
