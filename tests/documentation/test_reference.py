"""The API reference: nothing public is missing, and docstrings become the Markdown that they mean."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.tools import stage

TOP = Path(__file__).resolve().parents[2]
REFERENCE = TOP / "docs" / "reference"


def documented() -> list[str]:
    """Full names of all objects with an entry."""
    return [
        name
        for page in sorted(REFERENCE.glob("*.md"))
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]


@pytest.mark.parametrize("name", documented())
def test_entries_exist(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_nothing_has_two_entries() -> None:
    assert len(documented()) == len(set(documented()))


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("modeling_lavis", {"__version__"}),
        ("modeling_lavis.embedded", set()),
        ("modeling_lavis.data.checks", {"RowCheck", "row_problem"}),
        ("modeling_lavis.data.collation", {"COLLATIONS", "Collation"}),
        ("modeling_lavis.data.columns", {"ORIGIN", "PROBLEM", "contract_table", "task_columns"}),
        ("modeling_lavis.data.loading", {"without_decoding"}),
        ("modeling_lavis.data.mixtures", {"RowAdapter", "STOPPING_STRATEGIES"}),
        (
            "modeling_lavis.evaluation.retrieval",
            {"IMAGE_CHUNK_SIZE", "NOT_RANKED", "RetrievalModel", "TEXT_BATCH_SIZE"},
        ),
        ("modeling_lavis.evaluation.engine", {"MEMORY_BUDGET"}),
        ("modeling_lavis.evaluation.retrieval_rows", set()),
        ("modeling_lavis.export", set()),
        ("modeling_lavis.interpretability", set()),
        ("modeling_lavis.jobs", set()),
        ("modeling_lavis.plots", set()),
        ("modeling_lavis.search", set()),
        ("modeling_lavis.models.outputs", {"IGNORE_INDEX", "as_video_fields", "recorded_fields", "vision_fields"}),
        ("modeling_lavis.training", set()),
    ],
)
def test_public_names_have_entries(module: str, left_out: set[str]) -> None:
    names = {name.rpartition(".")[2] for name in documented()}
    assert set(importlib.import_module(module).__all__) - left_out <= names


def test_every_task_has_an_entry() -> None:
    from modeling_lavis.pipelines import TASKS

    assert {f"modeling_lavis.pipelines.{module}.{name}" for module, name in TASKS.values()} <= set(documented())


def test_collators_have_entries() -> None:
    for module in ("collators", "video_collators"):
        exported = importlib.import_module(f"modeling_lavis.data.{module}").__all__
        names = {f"modeling_lavis.data.{module}.{name}" for name in exported if name.endswith("Collator")}
        assert names <= set(documented())


# ---- the site's source ----


def nav_entries(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    return [page for child in children for page in nav_entries(child)]


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((TOP / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(nav_entries(site["nav"])) == sorted(stage.pages().values())


def test_links_are_those_of_the_site() -> None:
    def on_site(text: str, source: str) -> str:
        return stage.with_links_of_the_site(text, source)

    assert on_site("[a](docs/blip.md#lora) [b](LICENSE)", "README.md") == "[a](blip.md#lora) b"
    assert on_site("[a](../README.md) [b](alpro.md)", "docs/albef.md") == "[a](index.md) [b](alpro.md)"
    assert (
        on_site("[a](../blip.md) [b](https://x.org/y)", "docs/reference/blip.md")
        == "[a](../blip.md) [b](https://x.org/y)"
    )
    assert on_site("[a](../examples/motion/README.md)", "docs/alpro.md") == "a"
    assert on_site("```python\nx[a](docs/blip.md)\n```", "README.md") == "```python\nx[a](docs/blip.md)\n```"


def test_pages_are_staged(tmp_path: Path) -> None:
    stage.stage(tmp_path / "source")
    assert "usage: modeling-lavis caption" in (tmp_path / "source/reference/command_line.md").read_text(
        encoding="utf-8"
    )
    assert (tmp_path / "source/index.md").read_text(encoding="utf-8").startswith("# modeling_lavis")
    shown = (tmp_path / "source/evaluation.md").read_text(encoding="utf-8")
    assert "](images/retrieval_scale.png)" in shown and (tmp_path / "source/images/retrieval_scale.png").is_file()


# ---- docstrings ----

DOCSTRING = """\
Compare things.

Args:
    images, texts (`Tensor` of shape `(B, P)`): features, see [`compare`].
    k (`int`, *optional*, defaults to 5):
        how many; not
        more.
    **kwargs: options.

Returns:
    [`Result`] and [`Unknown`].

Raises:
    ValueError: `k` is wrong.

Example:

```python
>>> compare(1)  # doctest: +SKIP
Args:
```
"""

MARKDOWN = """\
Compare things.


**Arguments:**

- **`images`**, **`texts`** (`Tensor` of shape `(B, P)`): features, see [`compare`][m.C.compare].
- **`k`** (`int`, *optional*, defaults to 5):
    how many; not
    more.
- **`**kwargs`**: options.


**Returns:**

[`Result`][m.Result] and `Unknown`.


**Raises:**

- ValueError: `k` is wrong.


**Example:**


```python
>>> compare(1)
Args:
```
"""


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe")
    from docs.tools.docstrings import to_markdown

    names = {"m.C.compare": "m.C.compare", "Result": "m.Result"}
    assert to_markdown(DOCSTRING, "m.C", names) == MARKDOWN
    assert to_markdown("Do.\n\nExample:\n    >>> do()\n    1\n", "m", {}).endswith("```python\n>>> do()\n1\n```\n")
