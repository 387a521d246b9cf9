# SPDX-License-Identifier: Apache-2.0
"""A recipe of your own: a file that says what differs from another one.

python examples/extending/own_recipe.py --output own_recipe
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from modeling_lavis import load_recipe, train
from modeling_lavis.embedded import embedded_images, embedded_model_path

RECIPE = {
    "extends": "blip-caption-coco",  # a name of `modeling-lavis recipes`, or a path relative to this file
    "title": "Captions of emoji",
    "model": {"image_size": 72, "frozen": ["vision_model"]},
    "data": {"transform": None, "processor": {"prompt": "", "background": "white"}},
    "optimizer": {"learning_rate": 1e-4, "schedule": "constant", "max_grad_norm": 1.0},
    "run": {"epochs": 2, "train_batch_size": 4, "num_devices": 1},
    "evaluation": {"metric": ["cider"], "options": {"generation_options": {"num_beams": 2, "max_length": 20}}},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the recipe, train by it, and read the recipe that the run has saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder of the run")
    output = Path(parser.parse_args(arguments).output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "emoji.json").write_text(json.dumps(RECIPE, indent=2), encoding="utf-8")

    recipe = load_recipe(output / "emoji.json")
    print(recipe.head, recipe.optimizer.weight_decay, recipe.global_batch_size)  # what the other recipe says holds
    rows = [{"image": str(image.path), "caption": image.caption} for image in embedded_images()]
    result = train(recipe, embedded_model_path(), rows[:8], rows[8:], output / "run", learning_rate=5e-5)
    print(f"CIDEr {result.metrics['cider']:.2f} after {result.trainer.state.global_step} steps")
    print(load_recipe(output / "run" / "recipe.json").optimizer.learning_rate)  # what was used


if __name__ == "__main__":
    main()
