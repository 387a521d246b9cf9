"""Recipes: the numbers of the published runs, strict reading, batches for other numbers of devices."""

import json
from pathlib import Path
from typing import Any

import pytest

import modeling_lavis
from modeling_lavis.cli.main import main
from modeling_lavis.training.recipe_options import HEADS_OF_TASKS
from modeling_lavis.training.recipes import RECIPE_FOLDER, describe_recipe, list_recipes, load_recipe, read_recipe

# name: px, lr, min lr, schedule, warm-up steps and start, weight decay, epochs, rows (training, evaluation), devices
COSINE, STEP = "cosine", "step"
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "albef-pretrain": (256, 3e-4, 1e-6, STEP, 3000, 1e-6, 0.05, 20, 64, 64, 16),
    "albef-retrieval-coco": (384, 1e-5, 1e-6, COSINE, 0, None, 0.05, 5, 32, 64, 8),
    "albef-retrieval-flickr30k": (384, 1e-5, 1e-6, COSINE, 0, None, 0.02, 10, 32, 64, 8),
    "albef-vqa-vqav2": (384, 2e-5, 1e-6, COSINE, 0, None, 0.02, 8, 32, 64, 8),
    "albef-vqa-okvqa": (384, 2e-5, 1e-6, COSINE, 0, None, 0.02, 6, 16, 16, 8),
    "albef-vqa-aokvqa": (384, 2e-5, 1e-6, COSINE, 0, None, 0.02, 6, 16, 16, 8),
    "albef-entailment-snli-ve": (384, 2e-5, 0, COSINE, 0, None, 0.05, 10, 32, 64, 8),
    "albef-nlvr": (384, 2e-5, 1e-6, COSINE, 650, 1e-5, 0.02, 10, 16, 64, 8),
    "alpro-retrieval-msrvtt": (224, 3e-5, 1e-6, COSINE, 0, None, 1e-4, 5, 8, 8, 8),
    "alpro-retrieval-didemo": (224, 3e-5, 1e-6, COSINE, 0, None, 1e-4, 10, 12, 32, 8),
    "alpro-qa-msrvtt": (224, 5e-5, 1e-6, COSINE, 0, None, 1e-4, 10, 24, 64, 16),
    "alpro-qa-msvd": (224, 5e-5, 1e-6, COSINE, 0, None, 1e-4, 10, 24, 64, 16),
    "blip-pretrain-14m": (224, 3e-4, 1e-6, STEP, 3000, 1e-6, 0.05, 20, 75, 75, 16),
    "blip-caption-coco": (384, 1e-5, 0, COSINE, 0, None, 0.05, 5, 32, 64, 8),
    "blip-caption-coco-large": (384, 2e-6, 0, COSINE, 0, None, 0.05, 5, 16, 64, 8),
    "blip-caption-coco-iterations": (384, 2e-6, 0, COSINE, 0, None, 0.05, None, 16, 64, 8),
    "blip-vqa-vqav2": (480, 2e-5, 0, COSINE, 0, None, 0.05, 10, 16, 64, 16),
    "blip-vqa-okvqa": (480, 3e-5, 1e-5, COSINE, 0, None, 0.02, 7, 16, 16, 16),
    "blip-vqa-aokvqa": (480, 2e-5, 1e-5, COSINE, 0, None, 0.02, 7, 16, 16, 8),
    "blip-nlvr": (384, 2.5e-5, 0, COSINE, 0, None, 0.05, 15, 16, 64, 16),
    "blip-retrieval-coco": (384, 2e-5, 0, COSINE, 0, None, 0.04, 6, 32, 128, 8),
    "blip-retrieval-flickr30k": (384, 1e-5, 0, COSINE, 0, None, 0.05, 6, 32, 64, 8),
    "blip2-pretrain-stage1": (224, 1e-4, 1e-5, COSINE, 5000, 1e-6, 0.05, 10, 100, 64, 16),
    "blip2-pretrain-stage2": (224, 1e-4, 1e-5, COSINE, 2000, 1e-6, 0.05, 10, 64, 64, 16),
    "blip2-caption-coco": (364, 1e-5, 0, COSINE, 1000, 1e-8, 0.05, 5, 16, 8, 16),
    "blip2-retrieval-coco": (364, 1e-5, 0, COSINE, 1000, 1e-8, 0.05, 5, 14, 16, 16),
}
#: further values of published runs
DETAILS: dict[str, dict[str, Any]] = {
    "albef-pretrain": {"optimizer.decay_rate": 0.9, "model.config.queue_size": 65536, "model.config.alpha": 0.4},
    "albef-retrieval-coco": {"evaluation.options.k": 256, "evaluation.split": "val", "model.config.queue_size": 65536},
    "albef-retrieval-flickr30k": {"evaluation.options.k": 128},
    "albef-vqa-vqav2": {"evaluation.metric": [], "data.collator.visual_genome_weight": 0.2},
    "albef-vqa-okvqa": {"evaluation.options.num_candidates": 128},
    "albef-nlvr": {"data.num_labels": 2, "data.collator.swap": True},
    "alpro-retrieval-msrvtt": {
        "model.num_frames": 8,
        "evaluation.options.k": 1000,
        "data.processor.max_text_length": 35,
    },
    "alpro-retrieval-didemo": {
        "model.num_frames": 8,
        "evaluation.options.k": 256,
        "data.processor.max_text_length": 50,
    },
    "alpro-qa-msrvtt": {"model.num_frames": 16, "data.num_labels": 1500},
    "alpro-qa-msvd": {"model.num_frames": 16, "data.num_labels": 2423},
    "blip-pretrain-14m": {"optimizer.decay_rate": 0.9, "model.config.queue_size": 57600, "model.config.alpha": 0.4},
    "blip-caption-coco": {
        "evaluation.options.generation_options": {"num_beams": 3, "max_length": 20, "min_length": 5},
        "data.processor.prompt": "a picture of ",
    },
    "blip-caption-coco-iterations": {"run.steps": 20000, "run.steps_per_epoch": 2000},
    "blip-vqa-vqav2": {"evaluation.options.num_candidates": 128, "model.config.vision_config.drop_path_rate": 0.1},
    "blip-retrieval-coco": {"evaluation.options.k": 256, "model.config.negative_all_rank": True},
    "blip-retrieval-flickr30k": {"evaluation.options.k": 128, "model.config.negative_all_rank": False},
    "blip2-pretrain-stage1": {"run.precision": "float16", "model.frozen": ["vision_model"]},
    "blip2-pretrain-stage2": {"run.precision": "float16", "start.language_model": "facebook/opt-2.7b"},
    "blip2-caption-coco": {
        "evaluation.options.generation_options": {"num_beams": 5, "max_new_tokens": 30, "min_new_tokens": 8},
        "model.gradient_checkpointing": True,
        "model.frozen": ["language_model"],
    },
    "blip2-retrieval-coco": {
        "evaluation.options.k": 128,
        "evaluation.split": "test",
        "optimizer.layer_decay": 0.95,
        "model.frozen": [],
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_published_runs(name: str) -> None:
    recipe = load_recipe(name)
    optimizer, run = recipe.optimizer, recipe.run
    found = (
        recipe.model.image_size,
        optimizer.learning_rate,
        optimizer.min_learning_rate,
        optimizer.schedule,
        optimizer.warmup_steps,
        optimizer.warmup_learning_rate,
        optimizer.weight_decay,
        run.epochs,
        run.train_batch_size,
        run.eval_batch_size,
        run.num_devices,
    )
    assert found == PUBLISHED[name]
    assert optimizer.betas == (0.9, 0.999) and optimizer.max_grad_norm == 0 and run.seed == 42
    content = describe_recipe(recipe)
    for path, expected in DETAILS.get(name, {}).items():
        value: Any = content
        for part in path.split("."):
            value = value[part]
        assert value == expected, path


def test_every_recipe_is_complete() -> None:
    names = list_recipes()
    assert set(PUBLISHED) <= set(names)
    recipes = [load_recipe(name) for name in names]
    # every published run names its file in LAVIS, and no other recipe does
    assert {recipe.name for recipe in recipes if recipe.source} == set(PUBLISHED)
    assert len({recipe.source for recipe in recipes if recipe.source}) == len(PUBLISHED)
    small = {recipe.task for recipe in recipes if recipe.name.startswith("small-")}
    assert small == set(HEADS_OF_TASKS)
    families = {"albef", "alpro", "lavis_blip", "lavis_blip_2"}
    assert {recipe.family for recipe in recipes if recipe.model.lora} == families
    for recipe in recipes:
        assert read_recipe(recipe.to_dict(), recipe.name, "again") == recipe
        head = getattr(modeling_lavis, recipe.head)
        fields = {**head.config_class.__dataclass_fields__}
        assert set(recipe.model.config) <= fields.keys(), recipe.name


def base() -> dict[str, Any]:
    return load_recipe("blip-retrieval-coco").to_dict()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "colour is not a field of a recipe; expected one of title"),
        ("optimizer.lr", 1, "optimizer.lr is not a field of a recipe; expected one of learning_rate"),
        ("optimizer.learning_rate", "1e-5", "optimizer.learning_rate is '1e-5'; expected a number"),
        ("optimizer.learning_rate", True, "optimizer.learning_rate is True; expected a number"),
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate is -1.0; expected a number above 0"),
        ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate is nan; expected a number above 0"),
        ("optimizer.min_learning_rate", 1.0, "optimizer.min_learning_rate is 1.0; expected a number from 0 to"),
        ("optimizer.schedule", "linear", "optimizer.schedule is 'linear'; expected one of cosine, step, constant"),
        ("optimizer.schedule", "step", "optimizer.decay_rate is None; expected a number above 0 and up to 1"),
        ("optimizer.decay_rate", 0.9, "optimizer.decay_rate is 0.9; expected .* null with others"),
        ("optimizer.warmup_steps", 5, "optimizer.warmup_learning_rate is None; expected a number from 0"),
        ("optimizer.betas", [0.9], r"optimizer.betas is \[0.9\]; expected a list of 2 numbers"),
        ("optimizer.betas", [0.9, 1.5], "optimizer.betas is .*1.5.*; expected two numbers"),
        ("optimizer.layer_decay", 1.5, "optimizer.layer_decay is 1.5; expected"),
        ("run.epochs", None, "run.epochs is None; expected a number, or null with run.steps"),
        ("run.steps", 10, "run.epochs is 6.0; expected"),
        ("run.train_batch_size", 2.5, "run.train_batch_size is 2.5; expected an integer"),
        ("run.train_batch_size", 0, "run.train_batch_size is 0; expected a number above 0"),
        ("run.precision", "fp8", "run.precision is 'fp8'; expected one of float32, float16, bfloat16"),
        ("task", "chess", "task is 'chess'; expected one of captioning"),
        ("task", "vqa", "head is 'LavisBlipForImageTextRetrieval'; expected a head of the task vqa"),
        ("model.num_frames", 8, "model.num_frames is 8; expected an integer for videos, and null for images"),
        ("model.frozen", "vision_model", "model.frozen is 'vision_model'; expected a list of strings"),
        ("model.config", [], r"model.config is \[\]; expected an object"),
        ("model.config", {"use_momentum": False}, "model.distillation_ramp_epochs is 2.0; expected null"),
        (
            "data.transform",
            "alpro_video_train",
            "data.transform is 'alpro_video_train'; expected a transform of images",
        ),
        ("data.transform", None, None),
        ("data.transform", "crop", "data.transform is 'crop'; expected one of blip_image_train"),
        ("evaluation.metric", [], "evaluation.options is .*; expected {} without metric"),
        ("evaluation", {"keeps_last": True}, "evaluation.keeps_last is True; expected false without metric"),
        ("evaluation.metric", [3], r"evaluation.metric\[0\] is 3; expected a string"),
        ("start.vision", "vit", "start.model is .*; expected null beside parts of a new model"),
        ("evaluation.ranks_answers", True, "evaluation.ranks_answers is True; expected false for the task retrieval"),
        ("name", "x", "The field name is not allowed"),
        ("title", None, "title is None; expected a string"),
    ],
)
def test_wrong_values(tmp_path: Path, path: str, value: Any, message: str | None) -> None:
    content = base()
    section = content
    *parts, last = path.split(".")
    for part in parts:
        section = section[part]
    section[last] = value
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    if message is None:
        assert load_recipe(file).name == "mine"
        return
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_missing_field_and_broken_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    content = base()
    del content["optimizer"]["learning_rate"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="optimizer.learning_rate is missing; expected a number"):
        load_recipe(file)
    file.write_text('{"title": "a", "title": "b"}')
    with pytest.raises(ValueError, match="title is there twice"):
        load_recipe(file)
    file.write_text("[1]")
    with pytest.raises(ValueError, match="it contains a list; expected an object"):
        load_recipe(file)
    with pytest.raises(OSError, match="There is no recipe 'blip-retrival'. Give a JSON file, or one of albef"):
        load_recipe("blip-retrival")
    with pytest.raises(OSError, match="There is no recipe file"):
        load_recipe(tmp_path / "other.json")


def test_extends(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"extends": "blip-retrieval-coco", "run": {"epochs": 2}, "notes": []}))
    (tmp_path / "b.json").write_text(json.dumps({"extends": "a.json", "model": {"config": {"queue_size": 8}}}))
    recipe, original = load_recipe(tmp_path / "b.json"), load_recipe("blip-retrieval-coco")
    assert recipe.run.epochs == 2 and recipe.run.train_batch_size == 32 and recipe.notes == ()
    assert recipe.model.config == {**original.model.config, "queue_size": 8}
    (tmp_path / "a.json").write_text(json.dumps({"extends": "b.json"}))
    with pytest.raises(ValueError, match="extends leads back to"):
        load_recipe(tmp_path / "b.json")
    (tmp_path / "a.json").write_text(json.dumps({"extends": "nothing"}))
    with pytest.raises(ValueError, match="extends is 'nothing'. There is no recipe"):
        load_recipe(tmp_path / "a.json")


def test_changed_values_and_saving(tmp_path: Path) -> None:
    recipe = load_recipe("albef-nlvr").with_values({"optimizer.learning_rate": 1e-4, "model.config.alpha": 0.2})
    assert recipe.optimizer.learning_rate == 1e-4 and recipe.model.config == {"momentum": 0.995, "alpha": 0.2}
    recipe.save(tmp_path / "albef-nlvr.json")
    assert load_recipe(tmp_path / "albef-nlvr.json") == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["albef-nlvr.json"]
    with pytest.raises(ValueError, match="albef-nlvr with run.epoch: run.epoch is not a field"):
        recipe.with_values({"run.epoch": 1})
    with pytest.raises(ValueError, match="task is not a section"):
        recipe.with_values({"task.name": 1})


def test_batches_of_other_devices() -> None:
    recipe = load_recipe("blip-retrieval-coco")  # 32 rows on each of 8 devices
    assert recipe.plan_batches(8) == (32, 1, 256, 1.0)
    assert recipe.plan_batches(2) == (32, 4, 256, 1.0)
    assert recipe.plan_batches(1, train_batch_size=8) == (8, 32, 256, 1.0)
    assert recipe.plan_batches(3) == (32, 3, 288, 1.0)  # the nearest
    assert recipe.plan_batches(16, train_batch_size=64) == (64, 1, 1024, 1.0)
    assert recipe.plan_batches(2, scaling="learning_rate") == (32, 1, 64, 0.25)
    assert recipe.plan_batches(2, scaling="none") == (32, 1, 64, 1.0)
    with pytest.raises(ValueError, match="num_devices is 0"):
        recipe.plan_batches(0)
    with pytest.raises(ValueError, match="scaling is 'linear'; expected one of accumulate"):
        recipe.plan_batches(1, scaling="linear")  # type: ignore[arg-type]


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in RECIPE_FOLDER.glob("*.json"))
    assert main(["recipes", "--task", "nlvr", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["albef-nlvr", "blip-nlvr", "small-nlvr"]
    assert main(["recipes", "blip-nlvr"]) == 0
    text = capsys.readouterr().out
    assert "optimizer:\n  learning_rate: 2.5e-05\n" in text and "\ntask: nlvr\n" in text
    assert main(["recipes", "blip-nlvr", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe_recipe(load_recipe("blip-nlvr"))
    assert main(["recipes", "nothing"]) == 1
    assert "There is no recipe 'nothing'" in capsys.readouterr().err
    assert main(["recipes", "--task", "chess"]) == 2
    assert "--task is chess; expected one of captioning" in capsys.readouterr().err
