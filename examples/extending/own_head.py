# SPDX-License-Identifier: Apache-2.0
"""A head of your own: BLIP that scores how well a text describes an image, trained with transformers' Trainer.

python examples/extending/own_head.py --output own_head
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.utils import ModelOutput

from modeling_lavis import LavisBlipConfig, LavisBlipProcessor
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.models.modeling_lavis_blip import LavisBlipPreTrainedModel


@dataclass
class ScoreOutput(ModelOutput):
    """The loss, if there are labels, and a score `(B,)` for each pair."""

    loss: Tensor | None = None
    scores: Tensor | None = None


class LavisBlipForScores(LavisBlipPreTrainedModel):
    """The encoders of BLIP, which `build_encoders` makes and other checkpoints fill, and a new layer on top."""

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_encoders(config, momentum=False)
        self.score = nn.Linear(config.text_config.hidden_size, 1)
        self.post_init()

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> ScoreOutput:
        images = self.encode_images(pixel_values)  # (B, N, D)
        pairs = self.fuse(images, input_ids, attention_mask).last_hidden_state  # (B, T, D)
        scores = self.score(pairs[:, 0]).squeeze(-1)
        loss = None if labels is None else nn.functional.mse_loss(scores, labels)
        return ScoreOutput(loss, scores)


class ScoreCollator:
    """Batches of rows `{image, text, score}`."""

    def __init__(self, processor: LavisBlipProcessor) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        images, texts = [row["image"] for row in rows], [row["text"] for row in rows]
        batch = self.processor(images=images, text=texts, return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["score"] for row in rows])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train for a few steps on images of the package, save the model and load it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder of the run")
    output = parser.parse_args(arguments).output

    # allow_new_weights: the checkpoint is of another head and has no layer for scores
    model = LavisBlipForScores.from_pretrained(embedded_model_path(), dtype=torch.float32, allow_new_weights=True)
    processor = LavisBlipProcessor.from_pretrained(embedded_model_path())
    images = embedded_images()[:4]
    rows = [{"image": p.path, "text": q.caption, "score": float(p is q)} for p in images for q in images]
    settings = TrainingArguments(
        output, num_train_epochs=4, learning_rate=1e-3, remove_unused_columns=False, report_to="none"
    )
    trainer = Trainer(
        model, settings, ScoreCollator(processor), train_dataset=rows, eval_dataset=rows, processing_class=processor
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    print(f"loss: {before:.2f} before, {trainer.evaluate()['eval_loss']:.2f} after")
    trainer.save_model(output)
    LavisBlipForScores.from_pretrained(output)  # nothing is missing, so nothing has to be allowed


if __name__ == "__main__":
    main()
