"""Every example of the documentation runs and prints what its page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import checkpoint_table
from tests.documentation.examples import Example, WrongOutput, find_examples, run_example, shown_outputs
from tests.documentation.run_page import commands_of, setup_of

TOP = Path(__file__).resolve().parents[2]
#: pages with Python examples, and the optional packages that they need
PAGES: dict[str, tuple[str, ...]] = {
    "README.md": ("av", "accelerate", "datasets"),
    "docs/albef.md": ("accelerate",),
    "docs/alpro.md": ("accelerate", "av"),
    "docs/blip.md": ("accelerate", "datasets", "peft"),
    "docs/blip2.md": ("accelerate", "peft", "bitsandbytes"),
    "docs/collections.md": ("datasets",),
    "docs/data.md": ("datasets", "accelerate", "av"),
    "docs/deploy.md": ("onnx", "onnxscript", "onnxruntime"),
    "docs/evaluation.md": ("datasets", "matplotlib"),
    "docs/extending.md": ("accelerate", "datasets", "timm"),
    "docs/from-lavis.md": ("accelerate", "av", "datasets"),
    "docs/from-lavis-yaml.md": ("accelerate", "datasets", "timm"),
    "docs/hub.md": (),
    "docs/interpretability.md": (),
    "docs/pipelines.md": ("av",),
    "docs/processors.md": (),
    "docs/recipes.md": ("timm",),
    "docs/retrieval.md": (),
    "docs/training.md": ("accelerate", "datasets", "peft", "matplotlib"),
}
TEXTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *sorted(TOP.glob("docs/**/*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_examples_run(name: str, tmp_path: Path, goldens: Path) -> None:
    """One fresh process per page, without network and accelerators."""
    for package in PAGES[name]:
        pytest.importorskip(package)
    environment = {
        **os.environ,
        "PYTHONPATH": str(TOP),
        "LAVIS_GOLDENS": str(goldens.resolve()),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "huggingface"),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "tests.documentation.run_page", str(TOP / name)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]


def test_no_page_is_left_out() -> None:
    with_examples = {
        path.relative_to(TOP).as_posix()
        for path in [TOP / "README.md", *TOP.glob("docs/**/*.md")]
        if any(example.language == "python" for example in find_examples(path))
    }
    assert with_examples == set(PAGES)


def test_every_setup_belongs_to_a_page() -> None:
    prepared = {path.stem for path in Path(__file__).parent.glob("page_*.py")}
    assert prepared == {f"page_{Path(name).stem.lower()}" for name in PAGES if setup_of(Path(name))}


# ---- the harness itself ----


def example(code: str) -> Example:
    return Example("python", "", 10, code)


def test_output_is_compared(tmp_path: Path) -> None:
    run_example(example("x = 1\nprint(x)\n# 1\nprint({'a': 0.123})\n# {'a': 0.1...}\n"), tmp_path, {})
    with pytest.raises(WrongOutput, match=":11: the page shows\n2\n"):
        run_example(example("x = 1\nprint(x)\n# 2\n"), tmp_path, {})
    with pytest.raises(WrongOutput, match="does not show"):
        run_example(example("print(1)\n"), tmp_path, {})
    with pytest.raises(WrongOutput, match=":10:"):
        run_example(example("for i in range(2):\n    print(i)\n# 0\n"), tmp_path, {})


def test_comments_below_other_statements_are_prose() -> None:
    assert [shown for _, shown in shown_outputs("x = 1\n# a remark\nprint(x)\n# 1\n\n# a remark\n")] == [None, "1"]


def test_definitions_do_not_print() -> None:
    assert [shown for _, shown in shown_outputs("def f():\n    print(1)\n\n\nf()\nprint(2)\n# 2\n")] == [
        None,
        None,
        "2",
    ]


def test_errors_name_the_line_of_the_page(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_example(example("x = 1\n\nx / 0\n"), tmp_path / "page.md", {})
    last = caught.traceback[-1]
    assert (Path(str(last.path)).name, last.lineno + 1) == ("page.md", 12)


def test_blocks_are_found_with_their_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Top\n\n```bash\n# no heading\n```\n\n## Part\n\n```python\nx = 1\n```\n")
    assert find_examples(page) == [
        Example("bash", "Top", 4, "# no heading\n"),
        Example("python", "Part", 10, "x = 1\n"),
    ]
    page.write_text("```python\nx = 1\n")
    with pytest.raises(ValueError, match="has no end"):
        find_examples(page)


# ---- facts ----


def test_table_of_architectures_is_up_to_date() -> None:
    assert checkpoint_table.current() == checkpoint_table.table(), "run python -m tests.documentation.checkpoint_table"


def test_commands_are_those_of_the_command_line() -> None:
    """Pages show commands; each is run, so each has to be one that a preparation knows how to run."""
    for path in [TOP / "README.md", *TOP.glob("docs/*.md")]:
        commands = [words for part in find_examples(path) if part.language == "bash" for words in commands_of(part)]
        assert not commands or hasattr(setup_of(path), "commands"), path


def test_contributing_names_every_file_of_the_models() -> None:
    text = (TOP / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("### The files of")[1].split("\n### ")[0]
    files = {path.stem for path in (TOP / "modeling_lavis" / "models").glob("*.py")}
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(files)


# ---- links ----


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub and the site give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(TOP).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"
