"""Which part of the project may import which: read off the syntax trees, so that unused paths count too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "modeling_lavis"

# A folder may import itself, the top level (version, import_utils) and these.
ALLOWED: dict[str, set[str]] = {
    "models": set(),
    "data": {"models"},
    "evaluation": {"models", "data"},
    "training": {"evaluation", "data", "models"},
    "pipelines": {"models", "evaluation"},
    "interpretability": {"models"},
    "hub": {"models"},
    "embedded": set(),
    "cli": {"training", "evaluation", "data", "models", "pipelines", "interpretability", "hub", "embedded"},
}


def modules_in(source: str, package: list[str]) -> set[str]:
    """Dotted names that a source imports, relative ones made absolute; function-level imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from modeling_lavis import hub` names a folder, `from modeling_lavis.hub import x` a thing in it
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(path: Path) -> set[str]:
    return modules_in(path.read_text(encoding="utf-8"), list(path.relative_to(ROOT).parent.parts))


def folders_used(path: Path) -> set[str]:
    return {
        name.split(".")[1]
        for name in imported_modules(path)
        if name.startswith("modeling_lavis.") and (PACKAGE / name.split(".")[1]).is_dir()
    }


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def test_every_folder_has_a_rule() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and python_files(path)}
    assert folders <= set(ALLOWED), "a new folder needs a line in ALLOWED, and in CONTRIBUTING.md"


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_arrows(folder: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(folders_used(path) - ALLOWED[folder] - {folder})
        for path in python_files(PACKAGE / folder)
        if folders_used(path) - ALLOWED[folder] - {folder}
    }
    assert wrong == {}


def test_the_package_never_imports_what_stands_outside_the_wheel() -> None:
    outside = {"conversion_scripts", "benchmarks", "examples", "tests", "model_cards"}
    wrong = {
        str(path.relative_to(ROOT)): sorted(used)
        for path in python_files(PACKAGE)
        if (used := {name.split(".")[0] for name in imported_modules(path)} & outside)
    }
    assert wrong == {}


def test_conversion_scripts_need_models_and_hub_only() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(folders_used(path) - {"models", "hub"})
        for path in python_files(ROOT / "conversion_scripts")
        if folders_used(path) - {"models", "hub"}
    }
    assert wrong == {}


def test_lavis_is_never_imported() -> None:
    """LAVIS is a peer to measure against; only its runner in the benchmarks may import it."""
    wrong = [
        str(path.relative_to(ROOT))
        for folder in ("modeling_lavis", "conversion_scripts", "examples")
        for path in python_files(ROOT / folder)
        if "lavis" in {name.split(".")[0] for name in imported_modules(path)}
    ]
    assert wrong == []


def test_no_import_climbs_out_of_its_folder() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level > 1
    ]
    assert wrong == []


def test_the_reader_of_imports_sees_every_form() -> None:
    """The checks above are only as good as `modules_in`."""
    source = """
import a.b
from c import d
from .e import f
from . import g
def h():
    from modeling_lavis.hub import i
"""
    assert modules_in(source, ["modeling_lavis", "cli"]) == {
        "a.b",
        "c.d",
        "modeling_lavis.cli.e.f",
        "modeling_lavis.cli.g",
        "modeling_lavis.hub.i",
    }
