"""Import rules between the folders of the project, checked on the syntax trees, with function-level imports."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "modeling_lavis"

# Folders that a folder may import, besides itself and the top level (version, import_utils).
ALLOWED: dict[str, set[str]] = {
    "models": set(),
    "data": {"models"},
    "evaluation": {"models", "data"},
    "training": {"evaluation", "data", "models", "embedded", "plots"},
    "pipelines": {"models", "evaluation", "export"},
    "jobs": {"pipelines", "evaluation", "data", "models"},
    "search": {"jobs", "pipelines", "evaluation", "data", "models"},
    "interpretability": {"models", "evaluation", "pipelines"},
    "export": {"models", "data", "evaluation", "hub"},
    "hub": {"models", "data", "evaluation"},
    "embedded": set(),
    "demo": {"models", "data", "pipelines", "search", "interpretability", "hub", "embedded"},
    "plots": set(),
    "cli": {
        "training",
        "evaluation",
        "data",
        "models",
        "pipelines",
        "jobs",
        "search",
        "interpretability",
        "demo",
        "export",
        "plots",
        "hub",
        "embedded",
    },
}


def modules_in(source: str, package: list[str]) -> set[str]:
    """Absolute dotted names of all imports, including function-level imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from modeling_lavis import hub` names a folder, `from modeling_lavis.hub import x` a member of it
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
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
    assert folders <= set(ALLOWED), "add the new folder to ALLOWED and to CONTRIBUTING.md"


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_of_a_folder(folder: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(folders_used(path) - ALLOWED[folder] - {folder})
        for path in python_files(PACKAGE / folder)
        if folders_used(path) - ALLOWED[folder] - {folder}
    }
    assert wrong == {}


def test_package_imports_nothing_outside_the_wheel() -> None:
    outside = {"conversion_scripts", "benchmarks", "examples", "tests", "model_cards"}
    wrong = {
        str(path.relative_to(ROOT)): sorted(used)
        for path in python_files(PACKAGE)
        if (used := {name.split(".")[0] for name in imported_modules(path)} & outside)
    }
    assert wrong == {}


def test_conversion_scripts_import_models_and_hub_only() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(folders_used(path) - {"models", "hub"})
        for path in python_files(ROOT / "conversion_scripts")
        if folders_used(path) - {"models", "hub"}
    }
    assert wrong == {}


def test_lavis_is_not_imported() -> None:
    """Only the benchmarks may import LAVIS, as a peer."""
    wrong = [
        str(path.relative_to(ROOT))
        for folder in ("modeling_lavis", "conversion_scripts", "examples")
        for path in python_files(ROOT / folder)
        if "lavis" in {name.split(".")[0] for name in imported_modules(path)}
    ]
    assert wrong == []


def test_no_relative_imports_from_parent_folders() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level > 1
    ]
    assert wrong == []


def test_imports_of_every_form_are_found() -> None:
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
