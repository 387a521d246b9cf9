"""Places that state the version, and the lowest versions of dependencies: whether they agree."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOWEST = Path(__file__).parent / "lowest.txt"
_RELEASE = re.compile(r"\d+\.\d+\.\d+(rc\d+)?")
_HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)
_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9.]+)")


def version_of_package(source: str) -> str:
    """`__version__` in the text of a module."""
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if found is None:
        raise ValueError('The module has no line `__version__ = "..."`.')
    return found[1]


def disagreements(version: str, changelog: str, citation: str) -> list[str]:
    """
    What is wrong with version, changelog and citation, one sentence each.

    A version in development (`0.2.0.dev0`) has a section Unreleased on top, and the citation names it without a date. A
    release has a section with its date on top, or below an empty section Unreleased, and the citation has both.
    """
    problems = []
    cited = re.search(r'^version: "?([^"\n]+)"?$', citation, re.MULTILINE)
    if cited is None or cited[1] != version:
        problems.append(f"CITATION.cff has the version {cited and cited[1]}, the package {version}.")
    dated = re.search(r'^date-released: "?([0-9-]+)"?$', citation, re.MULTILINE)
    sections = [(match[1], match[2]) for match in _HEADING.finditer(changelog)]
    if not sections:
        return [*problems, "CHANGELOG.md has no section."]
    if not _RELEASE.fullmatch(version):
        if sections[0] != ("Unreleased", None):
            problems.append(f"CHANGELOG.md starts with {sections[0][0]}; {version} is in development: Unreleased.")
        if dated is not None:
            problems.append(f"CITATION.cff has the date {dated[1]}, but {version} is in development.")
        return problems
    if sections[0][0] == "Unreleased":
        if re.search(r"## \[Unreleased\]\s*(?=## \[)", changelog) is None:
            problems.append(f"CHANGELOG.md has unreleased entries above the release {version}.")
        sections = sections[1:]
    if not sections or sections[0][0] != version:
        problems.append(f"CHANGELOG.md has no section [{version}] on top.")
    elif sections[0][1] is None:
        problems.append(f"The section [{version}] of CHANGELOG.md has no date.")
    elif dated is None or dated[1] != sections[0][1]:
        problems.append(f"CITATION.cff has the date {dated and dated[1]}, CHANGELOG.md {sections[0][1]}.")
    return problems


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """Names and lower bounds of requirements such as `torch>=2.8; sys_platform == "linux"`."""
    found = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is not None:
            found[match[1].lower().replace("_", "-")] = match[2]
    return found


def pins(constraints: str) -> dict[str, str]:
    """Names and versions of a constraints file, without comments."""
    lines = [line.partition("#")[0].partition(";")[0].strip() for line in constraints.splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pairs}


def fits(pin: str, bound: str) -> bool:
    """Whether a pinned version is the lowest that a bound allows: `2.8.0` for `2.8`, `0.17.1` for `0.17.1`."""
    return pin == bound or pin.startswith(f"{bound}.")
