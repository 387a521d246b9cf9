"""Values in cards are data: no YAML, template, Markdown or Python of a value has an effect."""

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modeling_lavis.hub import cards, zoo
from modeling_lavis.hub.report import ConversionReport
from modeling_lavis.model_card import (
    code_span,
    escaped,
    fenced,
    metadata_problems,
    one_line,
    render_card,
    string_literal,
    table,
)

HOSTILE = [
    "x\n---\nlicense: mit\n---\n",
    "x\r---\rlicense: mit\r---\r",
    "---\nlicense: mit",
    "{{ 7 * 191 }}",
    "{% for x in ().__class__.__bases__[0].__subclasses__() %}{{ x }}{% endfor %}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "!!python/object/apply:os.system ['id']",
    "a: b",
    "- a\n- b",
    "# heading\n\n## another",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "a | b | c\n| --- |",
    "`code` ``` fence\n```\nrm -rf ~\n```",
    "\x00\x07\x1b[31m\u2028\u202e\ufeff",
    "yes",
    "null",
    "1e3",
    "0x10",
    "2024-01-01",
    "&a [*a]",
    "'\"\\",
    "é\U0001f600",
    " leading and trailing ",
    "x" * 2000,
]
TEMPLATE = (
    "---\n{{ card_data }}\n---\n\n# {{ title }}\n\n{% for row in rows %}- {{ row.name }}\n{% endfor %}\n{{ block }}\n"
)


def card_with(text: str) -> ModelCard:
    data = ModelCardData(
        language="en",
        license="other",
        license_name=text,
        license_link=text,
        model_name=text,
        eval_results=[
            EvalResult(task_type=text, dataset_type=text, dataset_name=text, metric_type=text, metric_value=1.5)
        ],
        note={text: [text]},
    )
    values = {"title": escaped(text), "rows": [{"name": escaped(text)}]}
    return ModelCard(render_card(data, TEMPLATE, values, {"block": code_span(text)}))


def check(text: str) -> None:
    card = card_with(text)
    assert card.data.license == "other" and card.data.license_name == text and card.data["note"] == {text: [text]}
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.task_type, result.metric_value) == (text, text, 1.5)
    assert set(yaml.safe_load(card.data.to_yaml())) == {
        "language",
        "license",
        "license_name",
        "license_link",
        "note",
        "model-index",
    }
    lines = [line for line in card.text.splitlines() if line]
    assert len(lines) == 3 and lines[0].startswith("# ") and lines[1].startswith("- ")
    assert "<script" not in lines[0] and "1337" not in card.text


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_stay_values(text: str) -> None:
    try:
        check(text)
    except ValueError as error:  # refused, where YAML cannot keep it as it is
        assert "cannot be read back" in str(error) or "not valid" in str(error) or "special characters" in str(error)


def random_texts(count: int) -> Iterator[str]:
    """Texts of pieces that mean something in YAML, Jinja, Markdown or Python, and of letters of many scripts."""
    generator = random.Random(0)
    pieces = [
        "---",
        "{{",
        "}}",
        "{%",
        "%}",
        ":",
        "- ",
        "#",
        "|",
        ">",
        "`",
        "```",
        "<",
        "[",
        "](",
        "!",
        "&",
        "*",
        "?",
        "\\",
    ]
    pieces += ['"', "'", " ", "\n", "\t", "7 * 191", "mit", "license", "é", "中", "\U0001f600", "~", "%", "@", ",", "="]
    for _ in range(count):
        yield "".join(generator.choices(pieces, k=generator.randint(1, 12)))


@pytest.mark.slow
def test_any_text_stays_a_value() -> None:
    refused = 0
    for text in random_texts(400):
        try:
            check(text)
        except ValueError as error:
            assert "cannot be read back" in str(error), text
            refused += 1
    assert refused < 8


def test_helpers_keep_their_form() -> None:
    for text in [*HOSTILE, *random_texts(300)]:
        check_helpers(text)


def check_helpers(text: str) -> None:
    assert ast.literal_eval(string_literal(text)) == text
    assert "\n" not in string_literal(text) and "```" not in string_literal(text)
    for shown in (one_line(text), escaped(text), code_span(text)):
        assert len(shown.splitlines()) <= 1
    assert not re.search(r"(?<!\\)[<>|`]", escaped(text))
    assert "|" not in code_span(text).replace("\\|", "")
    assert not any(line.lstrip().startswith(("```", "~~~")) for line in fenced(text).splitlines())
    rows = table(("a", "b"), [(escaped(text), code_span(text))]).splitlines()
    assert len(rows) == 3


def conversion_report(folder: Path, **changes: Any) -> ConversionReport:
    return ConversionReport(
        **{
            "architecture": "blip_caption",
            "source_architecture": "blip_caption",
            "model_type": None,
            "model_class": "LavisBlipForConditionalGeneration",
            "checkpoint": folder / "x.pth",
            "output": folder / "repo",
            "used": {"a": "b"},
            "resized": {},
            "dropped": {},
            "initialised": {},
            **changes,
        }
    )


@pytest.mark.parametrize("text", [HOSTILE[0], *(pytest.param(text, marks=pytest.mark.slow) for text in HOSTILE[1:])])
def test_names_of_files_and_repositories(text: str, tmp_path: Path) -> None:
    """The name of a checkpoint and of a repository come from elsewhere."""
    report = conversion_report(tmp_path, resized={text: ((1,), (2,))}, not_finite=(text,), dropped={"x": text})
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=384))
    content = cards.card_for_conversion(report, text.replace("\x00", ""), config, repo=text, with_code=True)
    card = ModelCard(content)
    assert card.data.license == "unknown" and "mit" not in str(card.data.to_dict())
    prose = re.sub(r"^```.*?^```", "", card.text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "", prose)  # nothing in code has a meaning
    assert "1337" not in content and "<script" not in prose and not re.search(r"(?<!\\)\]\(javascript", prose)
    blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        constants = [node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]
        assert text in constants
    headings = [line for line in card.text.splitlines() if re.match(r"#+ ", line)]
    assert [line for line in headings if line.startswith("## ")] == [
        "## Usage",
        "## Limitations",
        "## Conversion",
        "## Citation",
    ]


@pytest.mark.slow
def test_facts_are_no_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = zoo.get("blip_caption", "base_coco")
    for text in HOSTILE:
        facts = {**entry.facts, "limits": [text], "training_data": [text], "recipe": {text: text}}
        monkeypatch.setattr(zoo.ZooEntry, "facts", facts)
        content = cards.card_for_entry(entry, "ORG/NAME", "Class")
        assert "1337" not in content and "uid=" not in content
        card = ModelCard(content)
        assert card.data.license == "bsd-3-clause" and len(card.data.eval_results) == 6
        assert len([line for line in card.text.splitlines() if line.startswith("## ")]) == 6


def test_the_source_of_the_checkpoint_is_on_the_card(tmp_path: Path) -> None:
    report = conversion_report(tmp_path)
    source = {"url": "https://storage.googleapis.com/x/y.pth", "size": 1234567, "sha256": "ab" * 32}
    object.__setattr__(report, "source", source)
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=384))
    text = cards.card_for_conversion(report, "y.pth", config)
    assert "- Source: <https://storage.googleapis.com/x/y.pth>\n- Size: 1,234,567 bytes\n" in text
    assert f"- SHA-256: `{'ab' * 32}`" in text


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"license": "other"}, "needs license_name and license_link"),
        ({"license": ["mit"]}, "license is"),
        ({"base_model": "a/b/c"}, "base_model has 'a/b/c'; expected ids"),
        ({"datasets": ["ok", "not ok!"]}, "datasets has 'not ok!'"),
        ({"language": "English"}, "language has 'English'"),
        ({"tags": ["a\nb"]}, "tags has"),
        ({"tags": ["x" * 97]}, "at most 96"),
        ({"tags": [3]}, "tags is"),
        ({"pipeline_tag": 3}, "pipeline_tag is 3"),
    ],
)
def test_metadata_that_the_hub_refuses(metadata: dict[str, Any], message: str) -> None:
    data = ModelCardData(**metadata)
    assert message in " ".join(metadata_problems(data))
    with pytest.raises(ValueError, match="not valid|cannot be read back"):
        render_card(data, TEMPLATE, {"title": "x", "rows": []}, {"block": ""})
