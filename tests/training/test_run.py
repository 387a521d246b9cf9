"""Training by a recipe in one call: every task, from scratch and from other models, with LoRA, and resumed."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, BlipConfig, BlipForImageTextRetrieval, TrainerCallback

import modeling_lavis
from modeling_lavis.embedded import embedded_model_path
from modeling_lavis.training.recipe_start import find_labels, prepare_start
from modeling_lavis.training.recipes import load_recipe
from modeling_lavis.training.resuming import resumed_from
from modeling_lavis.training.run import _training_arguments, _with_lora, train
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
    "small-blip2-stage1": "recall_mean",
    "small-blip2-stage2": "exact_match",
}
#: the size of the model that is part of the package
SIZE = {"model.image_size": 72}
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


# ---- other starts ----


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small retrieval model, with momentum encoders and a queue."""
    folder = tmp_path_factory.mktemp("retriever")
    data = write_data(folder / "data", "retrieval")
    values = {**tiny_values("small-retrieval"), "model.config.use_momentum": True, "model.config.queue_size": 8}
    train("small-retrieval", train_data=data, output_dir=folder / "run", values=values, **QUICK)
    return folder


def published(folder: Path, name: str, **options: Any) -> Any:
    """A published recipe from a small model, at a small size."""
    data = write_data(folder / "data", load_recipe(name).task)
    values = {"model.image_size": 48, **options.pop("values", {})}
    return train(name, train_data=data, eval_data=data, output_dir=folder / name, values=values, **{**QUICK, **options})


@pytest.mark.slow
def test_published_recipe_from_another_head(retriever: Path) -> None:
    """Sizes stay those of the model; image size, queue, rates, processor and classes are those of the recipe."""
    result = published(
        retriever,
        "blip-retrieval-coco",
        model=retriever / "run",
        values={"model.config.queue_size": 16},
        scaling="none",
    )
    config, processor = result.model.config, result.processor
    assert config.vision_config.hidden_size == 32 and config.vision_config.image_size == 48
    assert result.model.vision_model_m.pos_embed.shape == result.model.vision_model.pos_embed.shape == (1, 10, 32)
    assert config.queue_size == 16 and result.model.image_queue.shape[1] == 16 and config.negative_all_rank
    assert int(result.model.queue_ptr) == 4 and processor.max_text_length == 35
    assert dict(processor.image_processor.size) == {"height": 48, "width": 48}
    assert "text_recall_mean" in result.metrics
    rates = [entry["learning_rate"] for entry in result.trainer.state.log_history if "learning_rate" in entry]
    assert rates in ([], [2e-5])
    loaded = type(result.model).from_pretrained(retriever / "blip-retrieval-coco")
    assert loaded.config.vision_config.image_size == 48
    pairs = published(retriever, "blip-nlvr", model=retriever / "run", max_steps=1, report_to="none")
    assert pairs.model.config.label2id == {"False": 0, "True": 1} and "accuracy" in pairs.metrics
    classes = published(
        retriever,
        "small-classification",
        model=retriever / "run",
        values={"model.config.use_momentum": True, "model.distillation_ramp_epochs": 1.0},
        labels=["yellow", "red", "green", "blue"],
    )
    assert classes.model.config.id2label[0] == "yellow" and classes.model.config.num_labels == 4


@pytest.mark.slow
def test_lora(retriever: Path) -> None:
    values = {"model.lora": {"r": 2}, "model.config.use_momentum": True, "optimizer.weight_decay": 0.0}
    result = published(retriever, "small-retrieval", model=retriever / "run", values=values)
    trained = {name for name, value in result.model.named_parameters() if value.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert (retriever / "small-retrieval" / "adapter_model.safetensors").is_file()
    assert "recall_mean" in result.metrics


def save_classifier(folder: Path, *names: str) -> Any:
    """A model with these classes, and its processor, in a folder."""
    options: dict[str, Any] = {"allow_new_weights": True, "dtype": torch.float32, "id2label": dict(enumerate(names))}
    model = modeling_lavis.LavisBlipForImageAndTextClassification.from_pretrained(embedded_model_path(), **options)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(embedded_model_path()).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "names",
    [("red", "blue"), ("dog", "eel"), ("cat", "eel", "dog"), ("cat", "dog", "eel", "fox"), ("cat", "dog", "eel")],
)
def test_a_classifier_of_other_classes_is_new(names: tuple[str, ...], tmp_path: Path) -> None:
    saved = save_classifier(tmp_path, "cat", "dog", "eel").cls_head
    recipe = load_recipe("small-classification").with_values({**SIZE, "model.config.use_momentum": True})
    label2id = {name: index for index, name in enumerate(names)}
    model = prepare_start(recipe, str(tmp_path), None, [], label2id).model
    assert model.config.label2id == label2id and model.config.id2label == dict(enumerate(names))
    assert model.cls_head[2].out_features == len(names)
    is_new = names != ("cat", "dog", "eel")
    assert torch.equal(model.cls_head[0].weight, saved[0].weight) is not is_new
    assert model.cls_head[0].weight.std().item() == pytest.approx(saved[0].weight.std().item(), rel=0.1)
    for online, momentum in zip(model.cls_head.parameters(), model.cls_head_m.parameters(), strict=True):
        assert torch.equal(online, momentum) and online.requires_grad and not momentum.requires_grad


def test_a_classifier_without_names_of_classes_is_kept(tmp_path: Path) -> None:
    saved = save_classifier(tmp_path, "LABEL_0", "LABEL_1").cls_head
    recipe = load_recipe("small-classification").with_values(SIZE)
    model = prepare_start(recipe, str(tmp_path), None, [], {"no": 0, "yes": 1}).model
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert torch.equal(model.cls_head[2].weight, saved[2].weight)


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The retrieval model that is part of the package, without its decoder."""
    folder = tmp_path_factory.mktemp("matcher")
    model = modeling_lavis.LavisBlipForImageTextRetrieval.from_pretrained(embedded_model_path(), dtype=torch.float32)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(embedded_model_path()).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("given", [None, ["cls_head"]])
def test_lora_trains_and_saves_modules_that_the_start_lacks(given: Any, matcher: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lora = {"r": 2, "modules_to_save": given}
    recipe = load_recipe("small-classification").with_values({**SIZE, "model.lora": lora})
    start = prepare_start(recipe, matcher, None, [], {"no": 0, "yes": 1})
    adapted = _with_lora(start.model, recipe, start.new_weights)
    trained = {name for name, value in adapted.named_parameters() if value.requires_grad and "lora" not in name}
    assert len(trained) == 4 and all(".cls_head.modules_to_save.default." in name for name in trained)
    adapted.save_pretrained(tmp_path)
    options = {"allow_new_weights": True, "dtype": torch.float32, "id2label": {0: "no", 1: "yes"}}
    base = modeling_lavis.LavisBlipForImageAndTextClassification.from_pretrained(matcher, **options)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).merge_and_unload()
    assert torch.equal(loaded.cls_head[0].weight, adapted.merge_and_unload().cls_head[0].weight)


def test_lora_trains_the_classifier_of_other_classes(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    save_classifier(tmp_path, "cat", "dog")
    recipe = load_recipe("small-classification").with_values({**SIZE, "model.lora": {"r": 2}})
    for names, expected in ((("cat", "dog"), None), (("red", "blue"), ["cls_head"])):
        start = prepare_start(recipe, str(tmp_path), None, [], {name: index for index, name in enumerate(names)})
        adapted = _with_lora(start.model, recipe, start.new_weights)
        assert adapted.peft_config["default"].modules_to_save == expected


def test_the_folder_of_a_run_with_lora_gives_the_trained_head(matcher: str, tmp_path: Path) -> None:
    """Labels, image size and processor are those of the run, and the head is not that of the start."""
    pytest.importorskip("peft")
    from modeling_lavis.pipelines.loading import load

    data = write_data(tmp_path / "data", "classification")
    values = {"model.image_size": 96, "model.lora": {"r": 2, "init_lora_weights": False}}
    result = train("small-classification", matcher, data, output_dir=tmp_path / "run", values=values, **QUICK)
    image = tmp_path / "data" / "red.png"
    own = type(load("image-text-classification", tmp_path / "run"))(
        model=result.model.get_base_model(), processor=result.processor
    )
    expected = own(str(image), text="", top_k=4)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        pipe = load("image-text-classification", folder)
        assert type(pipe.model) is modeling_lavis.LavisBlipForImageAndTextClassification
        assert pipe.model.config.label2id == {"blue": 0, "green": 1, "red": 2, "yellow": 3}
        assert pipe.model.config.vision_config.image_size == pipe.processor.image_processor.size["height"] == 96
        found = pipe(str(image), text="", top_k=4)
        assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
        assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)
    assert type(AutoModel.from_pretrained(tmp_path / "run")).__name__ == "LavisBlipForImageTextRetrieval"
    assert 'model="run")' in (tmp_path / "run" / "README.md").read_text()
    config = tmp_path / "run" / "head_config.json"
    config.write_text(config.read_text().replace("LavisBlipForImageAndTextClassification", "OtherHead"))
    with pytest.raises(ValueError, match="head_config.json of .* names the head 'OtherHead'"):
        load("image-text-classification", tmp_path / "run")


def test_lora_needs_the_layers_that_it_adapts(matcher: str) -> None:
    pytest.importorskip("peft")
    recipe = load_recipe("blip-caption-lora").with_values(SIZE)
    start = prepare_start(recipe, matcher, None, [], None)
    with pytest.raises(ValueError, match="The start lacks weights of text_decoder, .* such as a LavisBlipForCond"):
        _with_lora(start.model, recipe, start.new_weights)
    complete = prepare_start(recipe, str(embedded_model_path()), None, [], None)
    assert complete.new_weights == []  # they are under other names
    with pytest.raises(ValueError, match="model.lora of the recipe has an option that does not exist: .*foo"):
        _with_lora(complete.model, recipe.with_values({"model.lora": {"foo": 1}}), [])
    new = load_recipe("small-captioning").with_values({"model.lora": {"r": 2}})
    with pytest.raises(ValueError, match="small-captioning starts a new model and has model.lora, .* Give a model"):
        prepare_start(new, None, None, [], None)


@pytest.mark.slow
def test_second_stage_from_the_first(tmp_path: Path) -> None:
    first = run("small-blip2-stage1", tmp_path / "first")
    second = run("small-blip2-stage2", tmp_path / "second")
    language_model = tmp_path / "language_model"
    second.model.language_model.save_pretrained(language_model)
    second.processor.tokenizer.save_pretrained(language_model)
    data = write_data(tmp_path / "data", "generative-pretraining")
    result = train(
        "blip2-pretrain-stage2",
        tmp_path / "first" / "run",
        data,
        output_dir=tmp_path / "run",
        language_model=language_model,
        values={"model.image_size": 32},
        **QUICK,
    )
    model = result.model
    assert not any(value.requires_grad for value in model.language_model.parameters())
    assert not any(value.requires_grad for value in model.vision_model.parameters())
    for mine, theirs in zip(model.vision_model.parameters(), first.model.vision_model.parameters(), strict=True):
        assert torch.equal(mine.float(), theirs)
    assert result.processor.language_model == "causal" and result.metrics == {}


@pytest.mark.slow
def test_transformers_repository(tmp_path: Path) -> None:
    """transformers' own BLIP is a start, too."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        text_config={**sizes, "vocab_size": 60, "encoder_hidden_size": 32, "bos_token_id": 58, "sep_token_id": 3},
        image_text_hidden_size=8,
    )
    BlipForImageTextRetrieval(config).save_pretrained(tmp_path / "blip")
    tokenizer = run("small-retrieval", tmp_path / "own").processor.tokenizer
    assert len(tokenizer) <= 60
    small = AutoProcessor.from_pretrained(tmp_path / "own" / "run")
    data = write_data(tmp_path / "data", "retrieval")
    result = train(
        "small-retrieval", tmp_path / "blip", data, output_dir=tmp_path / "run", processor=small,
        values={"model.image_size": 64, "model.config.cls_token_id": 2}, **QUICK,
    )  # fmt: skip
    assert result.model.config.vision_config.image_size == 64 and not result.model.config.use_momentum


# ---- arguments ----


@pytest.mark.slow
def test_arguments_change_the_recipe(tmp_path: Path) -> None:
    result = run(
        "small-retrieval", tmp_path, learning_rate=5e-4, warmup_steps=2, weight_decay=0.1, adam_beta2=0.98,
        max_grad_norm=1.0, seed=7, per_device_train_batch_size=2, gradient_accumulation_steps=1, num_train_epochs=3,
        logging_steps=1,
    )  # fmt: skip
    optimizer = result.recipe.optimizer
    assert (optimizer.learning_rate, optimizer.min_learning_rate) == (5e-4, 5e-6)
    assert (optimizer.warmup_steps, optimizer.warmup_learning_rate, optimizer.betas) == (2, 5e-6, (0.9, 0.98))
    assert result.recipe.run.seed == 7 and result.trainer.args.gradient_accumulation_steps == 1
    rates = [entry["learning_rate"] for entry in result.trainer.state.log_history if "learning_rate" in entry]
    assert rates[:2] == [5e-6, pytest.approx(2.525e-4)] and len(rates) == 6
    assert rates[2] == rates[3] == pytest.approx(5e-6 + 4.95e-4 * 0.75) and rates[4] == pytest.approx(
        5e-6 + 4.95e-4 / 4
    )
    groups = result.trainer.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0] and groups[0]["betas"] == (0.9, 0.98)
    assert load_recipe(tmp_path / "run" / "recipe.json").to_dict() == result.recipe.to_dict()


def test_saving_follows_evaluation() -> None:
    plan, data = load_recipe("small-captioning"), [{}] * 100
    given = {"eval_strategy": "steps", "eval_steps": 7, "use_cpu": True}
    made = _training_arguments(plan, Path("run"), given, "none", data, True)
    assert (made.save_strategy, made.save_steps) == ("steps", 7)
    made = _training_arguments(plan, Path("run"), {**given, "save_steps": 14}, "none", data, True)
    assert (made.eval_steps, made.save_steps) == (7, 14)


@pytest.mark.slow
def test_accumulation_and_learning_rate_of_fewer_devices(tmp_path: Path) -> None:
    result = run("small-retrieval", tmp_path / "a", per_device_train_batch_size=2)
    assert result.trainer.args.gradient_accumulation_steps == 32
    result = run("small-retrieval", tmp_path / "b", per_device_train_batch_size=4, scaling="learning_rate")
    assert result.trainer.args.gradient_accumulation_steps == 1
    assert result.trainer.args.learning_rate == pytest.approx(1e-3 / 16)
    assert result.trainer.lr_scheduler.get_lr()[0] <= 1e-3 / 16


@pytest.mark.slow
def test_resumed_run_equals_one_without_stop(tmp_path: Path) -> None:
    options = {"num_train_epochs": 2, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 2}
    whole = run("small-captioning", tmp_path / "whole", **options)

    class Stop(Exception):
        """The end of a run that is interrupted."""

    class StopAtStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise Stop

    with pytest.raises(Stop):
        run("small-captioning", tmp_path / "stopped", callbacks=[StopAtStep()], **options)
    resumed = run("small-captioning", tmp_path / "stopped", resume=True, **options)
    assert resumed.trainer.state.global_step == whole.trainer.state.global_step == 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_checkpoints_decide_classes_and_vocabulary(tmp_path: Path) -> None:
    """A run that is resumed on other rows keeps the meaning of its classes and token ids."""
    colors = ["red", "green", "blue", "grey"]
    paths = [tmp_path / f"{color}.png" for color in colors]
    for color, path in zip(colors, paths, strict=True):
        Image.new("RGB", (16, 16), color).save(path)
    rows = [{"image": str(path), "label": path.stem} for path in paths]
    options = {"output_dir": tmp_path / "run", "values": tiny_values("small-classification"), **QUICK}
    first = train("small-classification", train_data=rows, **{**options, "save_strategy": "steps", "save_steps": 1})
    expected, vocabulary = first.model.config.label2id, first.processor.tokenizer.get_vocab()
    again = train("small-classification", train_data=rows[2:], resume=True, **{**options, "max_steps": 2})
    assert again.model.config.label2id == expected and again.trainer.state.global_step == 2
    assert again.processor.tokenizer.get_vocab() == vocabulary
    with pytest.raises(ValueError, match="whose task is classification; that of small-captioning is captioning"):
        run("small-captioning", tmp_path, resume=True)
    assert load_recipe(tmp_path / "run" / "recipe.json").task == "classification"


def test_labels_and_options_of_evaluations_are_checked_first(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    rows = [{"image": str(tmp_path / "red.png"), "label": label} for label in ("red", "blue")]
    options = {"output_dir": tmp_path / "run", "values": tiny_values("small-classification"), **QUICK}
    with pytest.raises(ValueError, match="evaluation data have the label 'green', which is none of the classes blue"):
        train("small-classification", None, rows, [{**rows[0], "label": "green"}], **options)
    options["values"] = {**options["values"], "evaluation.options": {"batch_size": 3}}
    with pytest.raises(ValueError, match="evaluation.options has batch_size; the evaluation of classification takes"):
        train("small-classification", None, rows, rows, **options)
    assert not (tmp_path / "run" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_data": None}, "train_data is missing"),
        ({"epochs": 3}, "train got epochs; expected one of processor, .* or an argument of TrainingArguments"),
        ({"labels": ["a"]}, "labels are given, but the task captioning has no classes"),
        ({"answers": ["a"]}, "answers are given, but the recipe small-captioning ranks none"),
        (
            {"model": "https://some.where/model_base.pth"},
            "Convert it once: modeling-lavis convert ARCHITECTURE https://",
        ),
        ({"recipe": "blip-vqa-okvqa"}, "modeling-lavis convert blip_vqa https://.*/model_base_vqa_capfilt_large.pth"),
        ({"recipe": "nothing"}, "There is no recipe 'nothing'"),
        (
            {"values": {"evaluation.options": {"beams": 3}}},
            "evaluation.options has beams; the evaluation of captioning",
        ),
        ({"values": {"data.processor": {"colour": 3}}}, "colour"),
        (
            {"values": {"data.collator": {"foo": 1}}},
            "data.collator of the recipe has .* not exist.*foo",
        ),
        ({"values": {"data.transform_options": {"foo": 1}}}, "data.transform_options of the recipe has .*foo"),
        (
            {"values": {"model.config.foo": 1}},
            "model.config of the recipe small-captioning has foo, which",
        ),
        ({"values": {"model.config.text_config.foo": 1}}, "has text_config.foo, which"),
        ({"values": {"model.image_size": 30}}, "image_size 30 is not a multiple of patch_size 16"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1.0; expected a number above 0"),
    ],
)
@pytest.mark.slow
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    recipe = options.pop("recipe", "small-captioning")
    task = "vqa" if "vqa" in recipe else "captioning"
    data = write_data(tmp_path / "data", task)
    values = {} if "vqa" in recipe else {**tiny_values(recipe), **options.pop("values", {})}
    options = {"train_data": data, "eval_data": data, "output_dir": tmp_path / "run", "values": values, **options}
    with pytest.raises((ValueError, OSError, TypeError), match=message):
        train(recipe, **QUICK, **options)


def test_bad_rows_are_found_before_training(tmp_path: Path) -> None:
    data = write_data(tmp_path, "captioning")
    rows = json.loads(data.read_text())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    data.write_text(json.dumps([*rows, {"image": "broken.png", "caption": "a broken picture", "image_id": 9}]))
    with pytest.raises(ValueError, match="1 of 5 rows for captioning cannot be used .*\n.*broken.png"):
        train("small-captioning", train_data=data, output_dir=tmp_path / "run", check=True)
    assert not (tmp_path / "run").exists()


def test_labels() -> None:
    video, classes, pairs = (load_recipe(name) for name in ("small-video-qa", "small-classification", "small-nlvr"))
    answers = [{"answer": answer} for answer in ("b", "a", "a", "c", "c")]
    assert find_labels(video, answers) == {"a": 0, "c": 1, "b": 2}  # the most frequent first
    assert find_labels(load_recipe("alpro-qa-msvd").with_values({"data.num_labels": 2}), answers) == {"a": 0, "c": 1}
    assert find_labels(classes, [{"label": "pear"}, {"label": "apple"}]) == {"apple": 0, "pear": 1}
    assert find_labels(classes, [{"label": 2}, {"label": 0}]) == {"0": 0, "1": 1, "2": 2}
    assert find_labels(classes, [{"label": "neutral"}])["entailment"] == 2
    assert find_labels(classes, [], ["x", "y"]) == {"x": 0, "y": 1}
    assert find_labels(pairs, []) == {"False": 0, "True": 1}
    assert find_labels(load_recipe("small-vqa"), answers) is None
    with pytest.raises(ValueError, match="The rows have no column 'label' with labels"):
        find_labels(classes, [{}])


@pytest.mark.parametrize(
    ("own", "data", "given", "expected"),
    [
        (("b", "a"), ("a", "b"), None, {"b": 0, "a": 1}),
        (("b", "a"), ("a",), None, {"b": 0, "a": 1}),
        (("b", "a"), (1, 0), None, {"b": 0, "a": 1}),
        (("b", "a"), ("a", "b"), ("b", "a"), {"b": 0, "a": 1}),
        (("b", "a"), ("a", "b"), ("a", "b"), None),
        (("b", "a"), ("a", "c"), None, None),
        (("b", "a"), (0, 1, 2), None, None),
        (("LABEL_0", "LABEL_1"), ("a", "b"), None, {"a": 0, "b": 1}),
        (("LABEL_0", "LABEL_1"), ("a", "b"), ("b", "a"), {"b": 0, "a": 1}),
        (("LABEL_0", "LABEL_1"), (0,), None, {"0": 0}),
        (("LABEL_0", "LABEL_1"), ("a", "b", "c"), None, None),
    ],
)
def test_a_model_is_trained_with_its_own_classes(own: Any, data: Any, given: Any, expected: Any) -> None:
    recipe, rows = load_recipe("small-classification"), [{"label": label} for label in data]
    head = modeling_lavis.LavisBlipForImageAndTextClassification
    config = modeling_lavis.LavisBlipConfig.from_pretrained(embedded_model_path(), id2label=dict(enumerate(own)))
    model = head(config)
    if expected is None:
        with pytest.raises(ValueError, match="The model has the 2 classes .* but the .* Give the folder or Hub id"):
            find_labels(recipe, rows, given, model)
        return
    found = find_labels(recipe, rows, given, model)
    assert found == expected
    prepare_start(recipe, model, object(), rows, found)
    assert model.config.label2id == (expected if len(expected) == 2 else {"LABEL_0": 0, "LABEL_1": 1})


def test_indices_of_a_column_of_classes_are_those_of_the_model() -> None:
    recipe = load_recipe("small-classification")
    config = modeling_lavis.LavisBlipConfig.from_pretrained(embedded_model_path(), id2label={0: "b", 1: "a"})
    model = modeling_lavis.LavisBlipForImageAndTextClassification(config)
    for names, fits in ((["b", "a"], True), (["a", "b"], False)):
        rows = datasets.Dataset.from_dict(
            {"label": [0, 1]}, features=datasets.Features({"label": datasets.ClassLabel(names=names)})
        )
        if fits:
            assert find_labels(recipe, rows, None, model) == {"b": 0, "a": 1}
            continue
        with pytest.raises(ValueError, match="the data have the 2 classes {'a': 0, 'b': 1}"):
            find_labels(recipe, rows, None, model)


@pytest.mark.slow
def test_auto_model_loads_the_run(tmp_path: Path) -> None:
    run("small-retrieval", tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path / "run")).__name__ == "LavisBlipForImageTextRetrieval"


def test_flags_of_transformers_are_whole_steps() -> None:
    from modeling_lavis.training.run import _with_arguments

    recipe = load_recipe("small-retrieval")
    assert _with_arguments(recipe, {"warmup_steps": 20.0}).optimizer.warmup_steps == 20
    with pytest.raises(ValueError, match=r"warmup_steps is 0\.1; a recipe counts steps"):
        _with_arguments(recipe, {"warmup_steps": 0.1})


def test_checkpoints_of_the_output_folder(tmp_path: Path) -> None:
    """A new run does not mix its checkpoints with those of another; the flag of transformers resumes, too."""
    assert resumed_from(tmp_path / "new", False, {}) is None
    assert resumed_from(tmp_path / "new", True, {}) is None
    old = tmp_path / "checkpoint-100"
    old.mkdir()
    (old / "model.safetensors").touch()
    assert resumed_from(tmp_path, False, {}) is None  # not whole
    (old / "trainer_state.json").write_text("{}")
    for arguments in ({}, {"resume_from_checkpoint": None}, {"resume_from_checkpoint": "false"}):
        with pytest.raises(ValueError, match="has the checkpoints of an earlier run, such as checkpoint-100.*--resume"):
            resumed_from(tmp_path, False, arguments)
    assert resumed_from(tmp_path, True, {}) == str(old)
    for given in (True, "True", str(old)):
        assert resumed_from(tmp_path, False, {"resume_from_checkpoint": given}) == str(old)
    assert resumed_from(tmp_path, str(old), {}) == str(old)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint .*checkpoint-7; give a folder"):
        resumed_from(tmp_path, False, {"resume_from_checkpoint": str(tmp_path / "checkpoint-7")})
    with pytest.raises(ValueError, match="trainer_state.json is a file"):
        resumed_from(old / "trainer_state.json", False, {})


def test_models_of_another_family() -> None:
    model = embedded_model_path()
    for name, expected in (("albef-retrieval-lora", "'albef'"), ("small-blip2-lora", "'lavis_blip_2' or 'blip-2'")):
        recipe = load_recipe(name)
        message = f"has the model type 'lavis_blip'; the recipe {name} trains a {recipe.head} and expects {expected}"
        with pytest.raises(ValueError, match=message):
            prepare_start(recipe, str(model), None, [], None)


@pytest.mark.slow
def test_a_stream_that_is_shorter_than_a_step(tmp_path: Path) -> None:
    """transformers repeats such a stream for ever."""
    options = {"max_steps": 2, "gradient_accumulation_steps": 5, "per_device_train_batch_size": 2}
    with pytest.raises(ValueError, match="less than 5 batches of 2 rows per device"):
        run("small-captioning", tmp_path, streaming=True, **options)
    again = run("small-captioning", tmp_path, streaming=True, **{**options, "gradient_accumulation_steps": 2})
    assert again.trainer.state.global_step == 2


@pytest.mark.slow
def test_evaluation_data_that_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("small-pretraining", tmp_path)
    assert "The recipe small-pretraining has no evaluation.metric: eval_data are not used" in caplog.text


def test_a_recipe_that_keeps_the_last_model(tmp_path: Path) -> None:
    def loads_best(name: str) -> bool:
        arguments = _training_arguments(load_recipe(name), tmp_path, {}, "none", None, True)
        assert arguments.eval_strategy != "no"
        return bool(arguments.load_best_model_at_end)

    assert loads_best("small-vqa") and not loads_best("small-nlvr")
