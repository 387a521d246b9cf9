# SPDX-License-Identifier: Apache-2.0
"""An objective of your own: captioning with a further loss, that LavisTrainer logs apart.

python examples/extending/own_objective.py --output own_objective
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from modeling_lavis import LavisBlipForConditionalGeneration, LavisBlipProcessor, LavisTrainer, make_collator
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.models.outputs import LavisGenerationOutput


@dataclass
class CaptionerOutput(LavisGenerationOutput):
    """A further entry. LavisTrainer logs every `loss_*` of an output under its name."""

    loss_z: Tensor | None = None


class CaptionerWithZLoss(LavisBlipForConditionalGeneration):
    """BLIP's captioner that keeps the normalizer of its logits small (https://arxiv.org/abs/2204.02311, section 5)."""

    z_weight = 1e-3

    @functools.wraps(LavisBlipForConditionalGeneration.forward)  # generate() and the Trainer look at the signature
    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> CaptionerOutput:
        output = super().forward(*args, labels=labels, **kwargs)
        if labels is None:  # generate() and evaluation without references
            return CaptionerOutput(**output)
        normalizer = output.logits.float().logsumexp(-1)  # (B, T)
        loss_z = self.z_weight * normalizer[labels != -100].square().mean()
        return CaptionerOutput(**{**output, "loss": output.loss + loss_z, "loss_z": loss_z})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train for a few steps on images of the package, and print the logged losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder of the run")
    output = parser.parse_args(arguments).output

    model = CaptionerWithZLoss.from_pretrained(embedded_model_path(), dtype=torch.float32)
    processor = LavisBlipProcessor.from_pretrained(embedded_model_path())
    rows = [{"image": image.path, "caption": image.caption} for image in embedded_images()]
    trainer = LavisTrainer(
        model=model,
        args=TrainingArguments(output, num_train_epochs=2, learning_rate=1e-4, logging_steps=1, report_to="none"),
        data_collator=make_collator("captioning", processor),
        train_dataset=rows,
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model(output)
    for entry in trainer.state.log_history[:-1]:
        print({name: round(value, 4) for name, value in entry.items() if name.startswith("loss")})
    inputs = processor(images=rows[0]["image"], return_tensors="pt").to(model.device)
    print(processor.post_process_captions(model.eval().generate(**inputs)))
    LavisBlipForConditionalGeneration.from_pretrained(output)  # the weights are those of an ordinary captioner


if __name__ == "__main__":
    main()
