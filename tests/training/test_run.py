"""Training by a recipe in one call: every task, from scratch and from other models, with LoRA, and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

import modeling_lavis
from modeling_lavis.training.recipes import load_recipe
from modeling_lavis.training.run import train
from tests.training.run_cases import tiny_values, write_data

#: recipe by task, and a metric that its evaluation gives
RUNS = {
    "small-captioning": "exact_match",
    "small-retrieval": "text_recall@1",
    "small-vqa": "accuracy",
    "small-nlvr": "accuracy",
    "small-classification": "accuracy",
    "small-video-qa": "accuracy",
    "small-video-retrieval": "recall_mean",
    "small-pretraining": None,
    "small-blip2-stage1": None,
    "small-blip2-stage2": "exact_match",
}
QUICK = {"use_cpu": True, "num_train_epochs": 1, "per_device_train_batch_size": 4, "disable_tqdm": True}


def run(recipe: str, folder: Path, **options: Any) -> Any:
    data = write_data(folder / "data", load_recipe(recipe).task)
    arguments = {"values": tiny_values(recipe), **QUICK, **options}
    return train(recipe, train_data=data, eval_data=data, output_dir=folder / "run", **arguments)


@pytest.mark.parametrize(
    "recipe", [name if name == "small-captioning" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_small_recipes(recipe: str, tmp_path: Path) -> None:
    result = run(recipe, tmp_path, check=True)
    metric = RUNS[recipe]
    assert (metric in result.metrics) if metric else result.metrics == {}
    folder = tmp_path / "run"
    assert {"config.json", "model.safetensors", "README.md", "recipe.json", "trainer_state.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert load_recipe(folder / "recipe.json").to_dict() == result.recipe.to_dict()
    head = getattr(modeling_lavis, load_recipe(recipe).head)
    model = head.from_pretrained(folder)  # nothing is missing
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert type(AutoProcessor.from_pretrained(folder)) is type(result.processor)
    assert result.trainer.state.global_step == 1
