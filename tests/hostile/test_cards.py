"""Names and facts from elsewhere stay text in cards: they add nothing to YAML, and Jinja does not run them."""

import dataclasses
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from modeling_lavis.files import plain_text
from modeling_lavis.hub import cards, zoo
from modeling_lavis.hub.report import ConversionReport
from tests.hostile.mutations import random_text

HARMFUL = [
    "{{ 7 * 7 }}.pth",
    "{% for x in range(10**9) %}x{% endfor %}.pth",
    "x`\n---\nlicense: mit\n---\n.pth",
    'x"); import os; os.system("true"); ("',
    "<script>alert(1)</script>.pth",
    "[click](javascript:alert(1)).pth",
    "a\x00b\x1b[31m\u2028c.pth",
    "!!python/object/apply:os.system ['true']",
    "x" * 5000,
]
CONFIG = SimpleNamespace(vision_config=SimpleNamespace(image_size=224))


def report(output: str = "out") -> ConversionReport:
    return ConversionReport(
        architecture="blip_caption",
        source_architecture="blip_caption",
        model_type=None,
        model_class="LavisBlipForConditionalGeneration",
        checkpoint=Path("x.pth"),
        output=Path("/tmp") / output,
        used={"a": "a"},
        resized={},
        dropped={},
        initialised={},
    )


def check(text: str, expected: dict[str, Any]) -> None:
    card = ModelCard(text)
    for name, value in expected.items():
        assert card.data.to_dict().get(name) == value
    assert "49" not in text and "\x1b" not in text and "<script" not in text and 'os.system("' not in text
    assert max(map(len, text.splitlines())) < 2000


@pytest.mark.parametrize("name", HARMFUL)
def test_names_of_files_and_folders(name: str) -> None:
    plain = cards.card_for_conversion(report(), "x.pth", CONFIG)
    text = cards.card_for_conversion(report(name.replace("/", "_")), name.replace("/", "_"), CONFIG)
    check(text, ModelCard(plain).data.to_dict())
    assert len(text.splitlines()) == len(plain.splitlines())


def test_random_names() -> None:
    rng = random.Random(0)
    plain = cards.card_for_conversion(report(), "x.pth", CONFIG)
    for _ in range(100):
        name = random_text(rng).replace("/", "_") + ".pth"
        text = cards.card_for_conversion(report(), name, CONFIG)
        assert len(text.splitlines()) == len(plain.splitlines()), name
        assert ModelCard(text).data.to_dict() == ModelCard(plain).data.to_dict()


def test_facts_stay_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A facts file with marks of YAML and Jinja in every text gives the same metadata, with those texts as values."""
    entry = zoo.get("blip_caption", "base_coco")
    facts = entry.facts
    harmful = "{{ 7 * 7 }}\n---\nlicense: mit\ntags: [evil]\n---\n"
    changed = {**facts, "title": harmful, "limits": [harmful], "training_data": [harmful], "recipe": {"a": harmful}}
    monkeypatch.setattr(zoo, "read_facts", lambda path: changed if path.stem == entry.name else cards.common_facts())
    data = ModelCard(cards.card_for_entry(entry, "org/name", "LavisBlipForConditionalGeneration")).data.to_dict()
    monkeypatch.undo()
    before = ModelCard(cards.card_for_entry(entry, "org/name", "LavisBlipForConditionalGeneration")).data.to_dict()
    assert data["license"] == before["license"] and data["tags"] == before["tags"]
    assert set(data) == set(before)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir ['{}']", "a: [", "- 1", "[" * 5000])
def test_facts_files_run_nothing(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    (tmp_path / "facts.yaml").write_text(text.replace("{}", str(marker)))
    with pytest.raises(ValueError, match="facts.yaml"):
        zoo.read_facts(tmp_path / "facts.yaml")
    assert not marker.exists()


BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("license: mit", {"license": "mit"}),
        (f"{BOMB}license: *a11", {}),
        ("license: !!python/object/apply:os.mkdir ['x']", {}),
        ('license: "x`\\n---\\ntags: [evil]"', {"license": "x_ --- tags: _evil_"}),
        ("license: [", {}),
        ("model-index: 3\nlicense: mit", {}),
        ("license: {a: b}\nlanguage: [en, de]", {"language": ["en", "de"]}),
    ],
)
def test_cards_of_the_start_of_a_run(metadata: str, expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="training needs the extra [train]")
    from modeling_lavis.training.run_card import _facts_of_start

    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n\nx\n")
    assert _facts_of_start(str(tmp_path)) == expected


def test_plain_text_has_no_marks() -> None:
    rng = random.Random(1)
    for _ in range(500):
        text = plain_text(random_text(rng, 400))
        assert len(text) <= 200 and text.isprintable() and not set(text) & set("`<>|[]{}\\\"#*")
        assert yaml.safe_load(yaml.safe_dump({"x": text})) == {"x": text}
    assert plain_text("model_base_caption.pth") == "model_base_caption.pth"
    assert dataclasses.is_dataclass(report())
