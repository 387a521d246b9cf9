"""Model cards: complete facts, valid metadata, links to known hosts, usage code that runs."""

import ast
import re
import urllib.parse
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

import modeling_lavis
from modeling_lavis.hub import cards, zoo
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.outputs import published_outputs
from modeling_lavis.hub.scores import published_scores
from modeling_lavis.model_card import metadata_problems
from tests.conversion.golden_sets import GOLDENS, arguments, checkpoint, complete_arguments
from tests.models.video_clips import write_clip

FILES = sorted(path for path in zoo.FACTS_FOLDER.glob("*__*.yaml"))
ENTRIES = list(zoo.entries().values())
ARCHITECTURES = sorted({entry.architecture for entry in ENTRIES})
REQUIRED = {
    "architecture": str,
    "model_type": str,
    "title": str,
    "source": str,
    "own_checkpoint": bool,
    "starts_from": (str, type(None)),
    "image_size": int,
    "parameters": int,
    "licence": dict,
    "base_model": list,
    "training_data": list,
    "recipe": dict,
    "scores": list,
    "limits": list,
}
OPTIONAL = {"frames": int, "language_model": str, "parameters": int}
LICENCES = {"bsd-3-clause", "other"}
# https://huggingface.co/tasks
TASKS = {
    "image-feature-extraction",
    "image-text-to-text",
    "image-to-text",
    "video-text-to-text",
    "visual-question-answering",
    "zero-shot-image-classification",
}
HOSTS = {"storage.googleapis.com", "github.com", "huggingface.co", "arxiv.org", "pypi.org"}


def test_every_published_checkpoint_has_facts_and_settings() -> None:
    assert {path.stem for path in FILES} == {entry.name for entry in ENTRIES}
    assert len(FILES) == 41
    assert sum(entry.facts["own_checkpoint"] for entry in ENTRIES) == 38
    assert set(ARCHITECTURES) == set(cards.common_facts()["architectures"]) and len(ARCHITECTURES) == 21


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_facts_are_complete(path: Path) -> None:
    facts = zoo.read_facts(path)
    assert f"{facts['architecture']}__{facts['model_type']}" == path.stem
    for name, kind in REQUIRED.items():
        assert isinstance(facts[name], kind), name
    unknown = set(facts) - set(REQUIRED) - set(OPTIONAL)
    assert not unknown
    assert all(isinstance(facts[name], kind) for name, kind in OPTIONAL.items() if name in facts)
    assert facts["licence"]["id"] in LICENCES
    assert facts["licence"]["id"] != "other" or {"name", "link"} <= set(facts["licence"])
    assert ("language_model" in facts) == ("note" in facts["licence"]), "the language model has a licence of its own"
    assert facts["image_size"] in (224, 364, 384, 480)
    assert facts["training_data"] and facts["base_model"] and facts["recipe"]
    for address in filter(None, (facts["source"], facts["starts_from"])):
        assert re.fullmatch(r"https://storage\.googleapis\.com/(sfr-[\w-]+)/[\w/.-]+\.(pth|pt)", address)
    for score in facts["scores"]:
        assert set(score) - {"note", "options", "unmeasured"} == {"task", "dataset", "split", "metrics", "origin"}
        assert score["origin"] in cards.common_facts()["origins"] and score["metrics"]
        assert score["dataset"] in cards.common_facts()["datasets"]
        assert all(isinstance(value, float) and 0 < value <= 150 for value in score["metrics"].values())


def test_settings_and_facts_do_not_overlap() -> None:
    for entry in ENTRIES:
        shared = set(entry.settings) & set(entry.facts) - {"language_model"}
        assert not shared, (entry.name, shared)


def card_of(entry: zoo.ZooEntry, **options: Any) -> ModelCard:
    model_class = zoo.model_class_of(entry.architecture)
    return ModelCard(cards.card_for_entry(entry, "ORG/NAME", model_class, **options))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_cards_have_valid_metadata_and_all_facts(entry: zoo.ZooEntry) -> None:
    card = card_of(entry)
    metadata = yaml.safe_load(card.data.to_yaml())
    facts = entry.facts
    assert metadata["license"] == facts["licence"]["id"]
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] in TASKS
    assert {"modeling_lavis", "lavis"} <= set(metadata["tags"])
    assert metadata["base_model"] == facts["base_model"]
    assert metadata["lavis_checkpoint"] == entry.name
    assert metadata_problems(card.data) == []
    for name in metadata["base_model"]:
        validate_repo_id(name)
    assert card.text.count("\n# ") == 1 and f"# {facts['title']}" in card.text
    assert facts["source"] in card.text and f"{facts['image_size']} px" in card.text
    for limit in facts["limits"]:
        assert limit in card.text
    for score in facts["scores"]:
        for name, value in score["metrics"].items():
            assert f"{name} {value}" in card.text
    for words in ("## Usage", "## Training", "## Limitations", "## Citation", "@inproceedings"):
        assert words in card.text
    if "language_model" in facts:
        assert facts["licence"]["note"] in card.text and facts["language_model"] in card.text
    prose = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    assert not re.search(r"\{\{|\}\}|\{%|%\}|\bNone\b", prose), "template syntax in the card"
    for address in re.findall(r"https?://[^\s)>\]\"]+", card.content):
        parts = urllib.parse.urlsplit(address)
        assert parts.scheme == "https" and parts.hostname in HOSTS, address


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_scores_and_outputs_are_on_the_card(entry: zoo.ZooEntry) -> None:
    card = card_of(entry)
    results = card.data.eval_results or []
    expected = [
        (score.dataset, score.split, name, value)
        for score in published_scores(entry)
        for name, value in score.metrics.items()
    ]
    assert [(r.dataset_name, r.dataset_split, r.metric_name, r.metric_value) for r in results] == expected
    for result in results:
        assert re.fullmatch(r"[a-z0-9_-]+", result.dataset_type) and result.source_url.startswith("https://")
    outputs = published_outputs(entry)
    assert ("merlion.png](https://" in card.text) == bool(outputs) == ("modeling-lavis verify` computes" in card.text)
    for output in outputs:
        for value in output.expected.values():
            assert (value if isinstance(value, str) else f"{value:g}") in card.text
    if "widget" in card.data.to_dict():
        assert outputs and card.data["widget"][0]["src"].endswith("/merlion.png")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_usage_code_is_valid_python_with_existing_names(entry: zoo.ZooEntry) -> None:
    (code,) = python_blocks(card_of(entry).text)
    tree = ast.parse(code)
    assert '"ORG/NAME"' in code and "{repo}" not in code
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "modeling_lavis":
            assert node.attr in modeling_lavis.__all__


def test_markdown_of_tables_and_lists() -> None:
    text = card_of(zoo.get("blip_caption", "base_coco"), conversion="It was converted.\n\n- Dropped: 1 (a copy)").text
    rows = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(rows) == 4
    for table in rows:
        lines = table.splitlines()
        assert set(lines[1]) <= set("| -") and len({line.count("|") for line in lines}) == 1
    assert "\n\n\n" not in text
    assert text.rstrip("\n").endswith("```")


def test_published_scores_for_the_published_file_only(tmp_path: Path) -> None:
    convert(**arguments("blip_caption", tmp_path / "mine", model_type="base_coco"))
    mine = ModelCard.load(tmp_path / "mine" / "README.md")
    assert "133.5" not in mine.text and mine.data.license == "unknown" and "no published score" in mine.text
    assert "lavis_checkpoint" not in mine.data and "merlion" not in mine.content
    published = tmp_path / "blip_coco_caption_base.pth"
    published.write_bytes(checkpoint("blip_caption").read_bytes())
    convert(**arguments("blip_caption", tmp_path / "theirs", checkpoint=published, model_type="base_coco"))
    theirs = ModelCard.load(tmp_path / "theirs" / "README.md")
    assert "133.5" in theirs.text and theirs.data.license == "bsd-3-clause"
    assert theirs.data["lavis_checkpoint"] == "blip_caption__base_coco"
    used = re.search(
        r"(\d+) weights of the checkpoint are used, for (\d+) of the (\d+) weights of the model", theirs.text
    )
    assert used is not None and used[2] == used[3]
    assert f"Converted with: modeling_lavis {modeling_lavis.__version__}, transformers " in theirs.text


def test_find_checkpoints_by_name_and_url() -> None:
    entry = zoo.get("blip_retrieval", "coco")
    assert zoo.find("blip_retrieval", None, entry.source) is entry
    assert zoo.find("blip_caption", None, entry.source) is None
    assert zoo.find("blip_retrieval", "flickr", entry.source).model_type == "flickr"
    assert zoo.find("blip_retrieval", None, "mine.pth") is None
    with pytest.raises(ValueError, match="has coco, flickr"):
        zoo.get("blip_retrieval", "msrvtt")


def test_damaged_facts_raise(tmp_path: Path) -> None:
    for content in ("a: [", "- 1"):
        (tmp_path / "x.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"x\.yaml"):
            zoo.read_facts(tmp_path / "x.yaml")


def test_template_variables_are_given() -> None:
    used = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(cards.TEMPLATE.read_text()))
    given = set(re.findall(r'^        "(\w+)":', Path(cards.__file__).read_text(), flags=re.MULTILINE))
    assert used - given == {"card_data"}


@pytest.mark.parametrize(
    "architecture",
    [name if name == "blip_caption" else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES],
)
def test_usage_code_runs_on_converted_models(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = GOLDENS / "processors" / "images" / "chelsea.png"
    for name in ("photo.jpg", "left.jpg", "right.jpg"):
        (tmp_path / name).write_bytes(image.read_bytes())
    if architecture.startswith("alpro"):
        write_clip(tmp_path / "film.mp4")
    monkeypatch.chdir(tmp_path)
    convert(**complete_arguments(architecture, Path("repo")))
    code, code_with_remote_code = python_blocks((tmp_path / "repo" / "README.md").read_text())
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
    made: dict[str, Any] = {}
    exec(compile(code_with_remote_code, "README.md", "exec"), made)
    expected = zoo.model_class_of(architecture)
    assert type(made["model"]).__name__ == expected
