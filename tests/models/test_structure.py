"""Structure of modeling_lavis/models: number and size of files, import cycles, inheritance of public classes."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from torch import nn

import modeling_lavis

FOLDER = Path(modeling_lavis.__file__).parent / "models"
FILES = sorted(FOLDER.glob("*.py"))
MAX_FILES, MAX_LINES = 50, 800
MAX_OWN_BASES, MAX_OWN_CLASSES = 2, 8

#: Public encoders, which belong to no family, with the base class of each.
ENCODERS = {
    "LavisViTModel": "LavisPreTrainedModel",
    "LavisEvaModel": "LavisViTModel",
    "LavisClipVisionModel": "LavisViTModel",
    "LavisTimesformerModel": "LavisViTModel",
    "LavisQFormerModel": "LavisBertPreTrainedModel",
}

# ---- files ----


def test_number_of_files() -> None:
    assert len(FILES) <= MAX_FILES


def test_size_of_files() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def imported_siblings(tree: ast.AST) -> set[str]:
    """Files that a file imports, in functions too, without imports for type checkers only."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return set().union(*(imported_siblings(node) for node in tree.orelse))
    if isinstance(tree, ast.ImportFrom):
        return {tree.module.partition(".")[0]} if tree.level == 1 and tree.module else set()
    return set().union(*(imported_siblings(node) for node in ast.iter_child_nodes(tree)))


def test_no_import_cycles() -> None:
    graph = {path.stem: imported_siblings(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}
    assert sum(map(len, graph.values())) > len(FILES), "the imports were not found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_imports_of_every_form_are_found() -> None:
    source = """
from typing import TYPE_CHECKING
from .a import x
from .. import above
if TYPE_CHECKING:
    from .types_only import y
else:
    from .b import y
def function():
    from .c import z
"""
    assert imported_siblings(ast.parse(source)) == {"a", "b", "c"}


# ---- classes ----


def public_models() -> dict[str, type[nn.Module]]:
    names = [name for name in modeling_lavis.__all__ if name.endswith("Model") or "For" in name]
    classes = {name: getattr(modeling_lavis, name) for name in names if not name.startswith("Auto")}
    return {name: value for name, value in classes.items() if issubclass(value, nn.Module)}


def is_own(base: type) -> bool:
    return base.__module__.startswith("modeling_lavis")


MODELS = public_models()
HEADS = [name for name in MODELS if name not in ENCODERS]
by_model = pytest.mark.parametrize("name", MODELS)


def test_all_heads_and_encoders_are_found() -> None:
    assert len(HEADS) == 20 and set(ENCODERS) <= set(MODELS)


@by_model
def test_direct_bases(name: str) -> None:
    bases = [base.__name__ for base in MODELS[name].__bases__[:-1] if is_own(base)]
    assert len(bases) <= MAX_OWN_BASES, f"{name} inherits from {bases} besides its base class"


@by_model
def test_last_base_is_the_base_class_of_the_family(name: str) -> None:
    family = name.removesuffix("Model").partition("For")[0]
    assert MODELS[name].__bases__[-1].__name__ == ENCODERS.get(name, f"{family}PreTrainedModel")


@by_model
def test_depth_of_inheritance(name: str) -> None:
    classes = [base.__name__ for base in MODELS[name].__mro__ if is_own(base)]
    assert len(classes) <= MAX_OWN_CLASSES, f"{name} inherits from {classes}"
