"""Packaging: all packages and data files are part of the wheel."""

import configparser
from pathlib import Path

import pytest

from modeling_lavis.hub import zoo

ROOT = Path(__file__).resolve().parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def folder_of(package: str) -> Path:
    places = dict(line.split(" = ") for line in SETUP["options"]["package_dir"].split("\n") if line)
    return ROOT / places.get(package, package.replace(".", "/"))


PACKAGES = SETUP["options"]["packages"].split()


def test_all_code_folders_are_packages() -> None:
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("modeling_lavis/**/*.py")}
    assert found | {"modeling_lavis.hub.model_cards"} == set(PACKAGES)


@pytest.mark.parametrize("package", list(SETUP["options.package_data"]))
def test_package_data_patterns_match_files(package: str) -> None:
    assert package in PACKAGES
    for pattern in SETUP["options.package_data"][package].split():
        assert any(folder_of(package).glob(pattern)), f"{package}: {pattern}"


def test_all_data_files_are_packaged() -> None:
    packaged = {
        path
        for package, patterns in SETUP["options.package_data"].items()
        for pattern in patterns.split()
        for path in folder_of(package).glob(pattern)
    }
    found = {
        path
        for top in ("modeling_lavis", "model_cards")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    }
    assert found <= packaged


def test_no_symbolic_links() -> None:
    """Some archives and file systems do not support symbolic links."""
    tops = ("modeling_lavis", "model_cards", "tests", "examples", "benchmarks", "conversion_scripts")
    assert [path for top in tops for path in (ROOT / top).rglob("*") if path.is_symlink()] == []


def test_facts_folder_of_a_source_tree_and_of_a_wheel(tmp_path: Path) -> None:
    assert zoo.FACTS_FOLDER == folder_of("modeling_lavis.hub.model_cards")
    installed = tmp_path / "modeling_lavis" / "hub"
    (installed / "model_cards").mkdir(parents=True)
    copy = installed / "zoo.py"
    copy.write_bytes(Path(zoo.__file__).read_bytes())
    namespace = {"__file__": str(copy), "__name__": "zoo"}
    exec(compile(copy.read_text(encoding="utf-8").split("@dataclass")[0], str(copy), "exec"), namespace)
    assert namespace["FACTS_FOLDER"] == installed / "model_cards"
