"""Cards of runs: what they inherit from hostile and from good cards, what the Hub accepts, and usage code that runs."""

import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import modeling_lavis
from modeling_lavis.hub import cards
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.zoo import model_class_of
from modeling_lavis.model_card import metadata_problems
from modeling_lavis.training import run_card as module
from modeling_lavis.training.recipe_options import HEADS_OF_TASKS
from modeling_lavis.training.run_card import run_card
from tests.conversion.golden_sets import GOLDENS, complete_arguments
from tests.models.video_clips import write_clip
from tests.training.trainer_cases import captioning_model, captioning_trainer, write_rows

START = """---
license: other
license_name: opt-license
license_link: https://example.com/LICENSE
language: [en, de]
base_model: [org/first, org/second]
lavis_checkpoint: blip_caption__base_coco
model-index:
- name: theirs
  results:
  - task: {type: image-to-text}
    dataset: {type: coco, name: COCO}
    metrics: [{type: cider, value: 133.5}]
---

# Theirs
"""


def trainer_from(folder: Path, goldens: Path, card: str | None, **options: Any) -> Any:
    """A Trainer whose model was loaded from a folder with a card."""
    start = folder / "start"
    start.mkdir()
    if card is not None:
        (start / "README.md").write_text(card)
    rows = write_rows(folder / "rows", 4)
    trainer = captioning_trainer(goldens, rows, folder / "run", eval_dataset=rows[:2], **options)
    trainer.model.config._name_or_path = trainer.model.name_or_path = str(start)
    return trainer


def test_what_a_run_inherits(goldens: Path, tmp_path: Path) -> None:
    trainer = trainer_from(tmp_path, goldens, START)
    trainer.state.log_history = [{"step": 3, "eval_cider": 0.5, "eval_odd": math.nan, "eval_more": math.inf}]
    trainer.create_model_card(
        tasks="captioning", dataset_tags="me/photos", dataset=["photos | of me"], tags=["recipe:x"]
    )
    card = ModelCard.load(tmp_path / "run" / "README.md")
    data = card.data
    assert (data.license, data.license_name, data.license_link) == (
        "other",
        "opt-license",
        "https://example.com/LICENSE",
    )
    assert data.language == ["en", "de"] and data.base_model == ["org/first", "org/second"]
    assert data.datasets == ["me/photos"] and data.pipeline_tag == "image-to-text"
    assert "lavis_checkpoint" not in data, "the weights are no longer those of the published checkpoint"
    (result,) = data.eval_results
    assert (result.task_type, result.dataset_type, result.metric_type, result.metric_value) == (
        "image-to-text",
        "me/photos",
        "cider",
        0.5,
    )
    assert "133.5" not in card.content and "| odd | nan |" in card.text
    assert "License: [opt-license](https://example.com/LICENSE), that of the start\n" in card.text
    assert "photos \\| of me: 4 rows" in card.text
    for package in ("modeling_lavis", "transformers", "torch", "datasets", "accelerate", "Python"):
        assert f"| {package} | " in card.text
    assert metadata_problems(data) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "card",
    [
        "---\n[\n---\n",
        "---\n- a\n---\n",
        "no metadata",
        "---\nlicense: [mit]\nlanguage: {a: b}\nbase_model: 3\n---\n",
        '---\nlicense: "mit\\n---\\nx: y"\nlanguage: English language\nbase_model: ["a/b/c", "../x", 3]\n---\n',
        "---\nlicense: other\nlicense_name: x\n---\n",
        "---\nmodel-index: 3\n---\n",
        "---\nlicense: !!python/object/apply:os.system ['true']\n---\n",
        "---\na: &a [x, x]\nb: &b [*a, *a, *a]\nlicense: &c [*b, *b, *b]\n---\n",
        "---\nlanguage: {{ 7 * 191 }}\n---\n",
    ],
)
def test_a_damaged_card_of_the_start_does_not_end_a_run(card: str, goldens: Path, tmp_path: Path) -> None:
    trainer = trainer_from(tmp_path, goldens, card)
    written = ModelCard(run_card(trainer))
    assert written.data.license == "unknown" and "language" not in written.data.to_dict()
    assert metadata_problems(written.data) == [] and "1337" not in written.content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a\n---\nlicense: mit\n---", "{{ 7 * 191 }}", "x | y `z` <b>", '"; import os #'])
def test_names_are_values(name: str, goldens: Path, tmp_path: Path) -> None:
    trainer = trainer_from(tmp_path, goldens, None)
    trainer.state.log_history = [{"step": 3, f"eval_{name}": 0.5}]
    card = ModelCard(run_card(trainer, model_name=name, dataset=name, tasks=name, finetuned_from=f"org/{name}"))
    assert card.data.license == "unknown" and "1337" not in card.content
    (result,) = card.data.eval_results
    assert "\n" not in result.dataset_name and result.metric_value == 0.5
    assert [line for line in card.text.splitlines() if line.startswith("## ")] == [
        "## Usage",
        "## Results",
        "## Training",
        "## Limitations",
        "## Versions",
    ]


@pytest.mark.slow
def test_wrong_facts_are_refused(goldens: Path, tmp_path: Path) -> None:
    trainer = trainer_from(tmp_path, goldens, None)
    with pytest.raises(ValueError, match="language has 'English language'"):
        run_card(trainer, language="English language")
    with pytest.raises(ValueError, match="'other' needs license_name"):
        run_card(trainer, license="other")


def test_every_head_has_a_task_and_every_task_a_name() -> None:
    heads = {head for names in HEADS_OF_TASKS.values() for head in names if not head.endswith("ForPreTraining")}
    for head in heads:
        assert module._head(object.__new__(getattr(modeling_lavis, head))) is not module._OTHER_HEADS, head
    assert set(HEADS_OF_TASKS) == set(module._TASKS)


def test_tasks_on_the_hub_are_those_of_the_published_checkpoints() -> None:
    for architecture, facts in cards.common_facts()["architectures"].items():
        model = object.__new__(getattr(modeling_lavis, model_class_of(architecture)))
        assert module._head(model)[0] == facts["pipeline_tag"], architecture


@pytest.fixture
def folder_with_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("photo.jpg", "left.jpg", "right.jpg"):
        (tmp_path / name).write_bytes((GOLDENS / "processors" / "images" / "coffee.png").read_bytes())
    write_clip(tmp_path / "film.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        "blip_caption",
        "blip_vqa",
        "blip_retrieval",
        "albef_classification",
        "albef_nlvr",
        "alpro_qa",
        "alpro_retrieval",
        "blip_feature_extractor",
        "blip_pretrain",
        "blip2",
        "blip2_opt",
    ],
)
def test_usage_code_runs(architecture: str, folder_with_media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = convert(**complete_arguments(architecture, Path("mine")), with_code=False)
    model = object.__new__(getattr(modeling_lavis, report.model_class))
    code = module._usage("mine", None, *module._head(model)[1:])
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_usage_code_of_adapters_runs(folder_with_media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModel, AutoProcessor

    convert(**complete_arguments("blip_caption", Path("base")), with_code=False)
    adapted = peft.get_peft_model(
        AutoModel.from_pretrained("base"), peft.LoraConfig(target_modules=["query", "value"], r=2)
    )
    adapted.save_pretrained("adapters")
    AutoProcessor.from_pretrained("base").save_pretrained("adapters")
    code = module._usage("adapters", "base", *module._head(captioning_model())[1:])
    exec(compile(code, "README.md", "exec"), {})
    assert "generated_text" in capsys.readouterr().out


def test_versions_name_peft_for_adapters() -> None:
    pytest.importorskip("peft")
    assert "peft" in module._versions(True) and "peft" not in module._versions(False)
