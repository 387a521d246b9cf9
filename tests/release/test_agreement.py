"""Version, changelog and citation agree, and so do the lowest versions that are declared, tested and documented."""

import re
from typing import Any

import pytest

import modeling_lavis
from tests.release import agreement, version_table
from tests.release.agreement import LOWEST, ROOT

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest needs this package
    import tomli as tomllib  # type: ignore[import-not-found, no-redef]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_version_changelog_and_citation_agree() -> None:
    assert agreement.disagreements(modeling_lavis.__version__, text_of("CHANGELOG.md"), text_of("CITATION.cff")) == []


RELEASED = "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-12-01\n\n### Added\n\n- All.\n"
CASES = {
    "release": ("0.1.0", RELEASED, "version: 0.1.0\ndate-released: 2026-12-01\n", None),
    "candidate": (
        "0.1.0rc1",
        RELEASED.replace("0.1.0", "0.1.0rc1"),
        "version: 0.1.0rc1\ndate-released: 2026-12-01\n",
        None,
    ),
    "development": ("0.2.0.dev0", RELEASED, "version: 0.2.0.dev0\n", None),
    "old citation": ("0.1.0", RELEASED, "version: 0.0.9\ndate-released: 2026-12-01\n", "version 0.0.9"),
    "no version cited": ("0.1.0", RELEASED, "date-released: 2026-12-01\n", "version None"),
    "other date": ("0.1.0", RELEASED, "version: 0.1.0\ndate-released: 2026-12-02\n", "date 2026-12-02"),
    "no date": ("0.1.0", RELEASED.replace(" - 2026-12-01", ""), "version: 0.1.0\n", "has no date"),
    "old changelog": ("0.2.0", RELEASED, "version: 0.2.0\ndate-released: 2026-12-01\n", r"no section \[0.2.0\]"),
    "unreleased entries": (
        "0.1.0",
        RELEASED.replace("[Unreleased]\n", "[Unreleased]\n\n- New.\n"),
        "version: 0.1.0\ndate-released: 2026-12-01\n",
        "unreleased entries",
    ),
    "development without entries": (
        "0.2.0.dev0",
        RELEASED.replace("## [Unreleased]\n\n", ""),
        "version: 0.2.0.dev0\n",
        "starts with 0.1.0",
    ),
    "dated development": ("0.2.0.dev0", RELEASED, "version: 0.2.0.dev0\ndate-released: 2026-12-01\n", "in development"),
    "empty changelog": ("0.1.0", "# Changelog\n", "version: 0.1.0\ndate-released: 2026-12-01\n", "no section"),
}


@pytest.mark.parametrize("case", CASES)
def test_disagreements_are_found(case: str) -> None:
    version, changelog, citation, problem = CASES[case]
    found = agreement.disagreements(version, changelog, citation)
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert re.search(problem, found[0])


def declared() -> dict[str, str]:
    """Lower bounds of the dependencies, and of the extras that are tested with them."""
    content = project()["project"]
    requirements = list(content["dependencies"])
    for extra in ("train", "video", "retrieval"):
        requirements += content["optional-dependencies"][extra]
    requirements += [line for line in content["optional-dependencies"]["test"] if line.startswith("pytest")]
    return agreement.lower_bounds(requirements)


def test_lowest_set_is_the_one_that_is_declared() -> None:
    """Every lower bound is tested, and nothing below it is needed."""
    pinned = agreement.pins(LOWEST.read_text(encoding="utf-8"))
    bounds = declared()
    assert len(bounds) >= 14
    assert {name: bound for name, bound in bounds.items() if not agreement.fits(pinned.get(name, ""), bound)} == {}


def test_lowest_python_is_the_one_that_is_declared() -> None:
    content = project()
    python = content["project"]["requires-python"].removeprefix(">=")
    assert version_table.lowest()[0] == python
    assert f"Programming Language :: Python :: {python}" in content["project"]["classifiers"]
    assert content["tool"]["ruff"]["target-version"] == f"py{python.replace('.', '')}"


def test_table_of_the_readme_has_the_lowest_set() -> None:
    first, last = version_table.current()
    assert first == version_table.lowest()
    assert len(last) == len(first)
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in last)


@pytest.mark.parametrize(
    ("pin", "bound", "expected"),
    [("2.8.0", "2.8", True), ("0.17.1", "0.17.1", True), ("2.80.0", "2.8", False), ("", "1.0", False)],
)
def test_fits(pin: str, bound: str, expected: bool) -> None:
    assert agreement.fits(pin, bound) is expected


def test_pins_and_bounds() -> None:
    assert agreement.pins("# a\ntorch==2.8.0  # b\n\nhuggingface_hub==1.5.0 ; x == 'y'\n") == {
        "torch": "2.8.0",
        "huggingface-hub": "1.5.0",
    }
    assert agreement.lower_bounds(["torch>=2.8", "ray[train]>=2.50", "modeling-lavis[train]", "av>=1; a < '2'"]) == {
        "torch": "2.8",
        "ray": "2.50",
        "av": "1",
    }
