# SPDX-License-Identifier: Apache-2.0
"""An image encoder of your own: BLIP's captioner on a convolutional network of timm.

python examples/extending/own_vision_encoder.py --output own_vision_encoder
"""

import argparse
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_lavis import LavisBlipConfig, LavisBlipForConditionalGeneration, LavisBlipProcessor, LavisViTConfig, train
from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.models.modeling_base import LavisPreTrainedModel


class ConvNetVisionModel(LavisPreTrainedModel):
    """Takes `pixel_values` and returns hidden states `(B, N, D)`, the first of which stands for the image."""

    config: LavisViTConfig
    main_input_name = "pixel_values"
    network_name = "resnet10t"

    def __init__(self, config: LavisViTConfig) -> None:
        super().__init__(config)
        self.network = timm.create_model(self.network_name, num_classes=0, global_pool="")
        self.projection = nn.Linear(self.network.num_features, config.hidden_size)
        self.post_init()

    def load_timm(self) -> None:
        """Fill the network with the weights of timm, as a start for training."""
        trained = timm.create_model(self.network_name, pretrained=True, num_classes=0, global_pool="")
        self.network.load_state_dict(trained.state_dict())

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        grid = self.network(pixel_values)  # (B, C, rows, columns) of any size: there are no position embeddings
        tokens = self.projection(grid.flatten(2).transpose(1, 2))
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens[:, 0])


class ConvNetCaptioner(LavisBlipForConditionalGeneration):
    """BLIP's captioner with that image encoder. Every head makes its encoder from `vision_model_class`."""

    vision_model_class = ConvNetVisionModel


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a new captioner, train it for a few steps on images of the package, and load it again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument("--pretrained", action="store_true", help="start from the weights of timm")
    args = parser.parse_args(arguments)

    processor = LavisBlipProcessor.from_pretrained(embedded_model_path())
    config = LavisBlipConfig.from_tokenizer(  # vocabulary and special tokens
        processor,
        vision_config={"hidden_size": 64, "num_attention_heads": 4, "image_size": 72, "patch_size": 12},
        text_config={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    )
    torch.manual_seed(0)
    model = ConvNetCaptioner(config)
    if args.pretrained:
        model.vision_model.load_timm()
    rows = [{"image": str(image.path), "caption": image.caption} for image in embedded_images()]
    result = train("small-captioning", model, rows, output_dir=args.output, processor=processor, num_train_epochs=2)
    print(f"loss {result.trainer.state.log_history[-1]['train_loss']:.2f}")
    loaded = ConvNetCaptioner.from_pretrained(args.output).eval()
    inputs = processor(images=rows[0]["image"], return_tensors="pt")
    print(processor.post_process_captions(loaded.generate(**inputs, max_new_tokens=5)))


if __name__ == "__main__":
    main()
