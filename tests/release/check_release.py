"""Builds a wheel and a source distribution, and installs them into a fresh environment: `make release-check`.

    python -m tests.release.check_release FOLDER [--python PYTHON] [--constraint FILE]

FOLDER gets the distributions in `dist` and the environment in `environment`, in which the package is used, uninstalled,
and repositories are loaded by their attached code. Needs the extra `release`, and the packages that this one declares,
from the index that pip uses.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from modeling_lavis.hub import loading_probe
from modeling_lavis.hub.portable import attach_code
from tests.recorded_outputs import COMPLETE, compare_complete
from tests.release.agreement import ROOT, version_of_package

#: What a user can do with the declared dependencies alone, in a process that does not see the source tree.
SMOKE = """
import importlib, importlib.util, pathlib, sys
import modeling_lavis
folder = pathlib.Path(modeling_lavis.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
for name in modeling_lavis.__all__:
    try:
        getattr(modeling_lavis, name)
    except ImportError as error:  # the extra is named
        assert "modeling-lavis[" in str(error), (name, error)
from modeling_lavis.hub import zoo
assert len(zoo.entries()) >= 38
for name in ("torchvision", "timm", "peft", "datasets", "accelerate", "av"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed: the check is not one of the base install"
print("installed:", modeling_lavis.__version__)
"""


def run(*command: str | Path, cwd: Path | None = None, variables: Mapping[str, str] | None = None) -> str:
    """Run a command; its output, or an error that ends with it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"HF_HUB_OFFLINE": "1", **(variables or {})}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it, as `twine upload` would get them; check their metadata."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    return wheel, source


def package_files() -> set[str]:
    """Paths in the wheel of all code and data of the package."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "modeling_lavis").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".tmp") and not path.name.startswith(".")
    }
    cards = {f"modeling_lavis/hub/model_cards/{path.name}" for path in (ROOT / "model_cards").glob("*.*")}
    return found | cards


def check_contents(wheel: Path, source: Path) -> None:
    """The wheel has the files of the package and nothing else; the source distribution has what its readers need."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if names != package_files():
        missing, other = sorted(package_files() - names), sorted(names - package_files())
        raise SystemExit(f"{wheel.name}: missing {missing[:20]}, not of the package {other[:20]}")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "setup.cfg"}
    if not wanted <= inside:
        raise SystemExit(f"{source.name}: missing {sorted(wanted - inside)}")


def install(wheel: Path, environment: Path, python: str | None, constraint: Path | None) -> Path:
    """A fresh environment with the wheel and its declared dependencies; returns its interpreter."""
    shutil.rmtree(environment, ignore_errors=True)
    if python is None:
        venv.create(environment, with_pip=True, symlinks=True)
    else:
        run(python, "-m", "venv", environment)
    interpreter = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(interpreter, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    limits = () if constraint is None else ("--constraint", constraint)
    run(interpreter, "-m", "pip", "install", "--quiet", *limits, wheel)
    run(interpreter, "-m", "pip", "check")
    return interpreter


def use(interpreter: Path, folder: Path) -> None:
    """What the declared dependencies are enough for, from a folder that is not the source tree."""
    version = version_of_package((ROOT / "modeling_lavis" / "__init__.py").read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    printed = run(interpreter, "-I", "-c", SMOKE, cwd=folder)
    if f"installed: {version}" not in printed:
        raise SystemExit(f"The environment has another version than {version}: {printed}")
    command = interpreter.with_name("modeling-lavis")
    if run(command, "--version", cwd=folder) != f"modeling-lavis {version}\n":
        raise SystemExit(f"modeling-lavis --version does not print {version}")
    run(command, "demo", cwd=folder)


def use_code_of_repositories(interpreter: Path, folder: Path) -> None:
    """
    Repositories with attached code give the recorded results where this package is not installed, and nothing else
    than its declared dependencies is. Uninstalls it.
    """
    run(interpreter, "-m", "pip", "uninstall", "--quiet", "--yes", "modeling-lavis")
    shutil.rmtree(folder, ignore_errors=True)
    probe = Path(loading_probe.__file__).read_text(encoding="utf-8")
    for saved in (path for path in COMPLETE if path.parent == COMPLETE[-1].parent):
        copy = Path(shutil.copytree(saved, folder / saved.name))
        attach_code(copy)
        found = folder / f"{saved.name}.safetensors"
        modules = {"HF_MODULES_CACHE": str(folder / "modules")}
        run(interpreter, "-I", "-c", probe, copy, found, "--without-package", cwd=folder, variables=modules)
        compare_complete(load_file(found), saved)


def main(arguments: list[str] | None = None) -> None:
    """Build, check, install and use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--environment", type=Path, help="where the environment goes; FOLDER/environment by default")
    parser.add_argument("--python", help="interpreter of the environment; by default the one that runs this")
    parser.add_argument("--constraint", type=Path, help="constraints file of pip")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    wheel, source = build(folder / "dist")
    check_contents(wheel, source)
    environment = (options.environment or folder / "environment").resolve()
    interpreter = install(wheel, environment, options.python, options.constraint)
    use(interpreter, folder / "outside")
    run(interpreter, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", source)
    use(interpreter, folder / "outside")
    use_code_of_repositories(interpreter, folder / "repositories")
    print(f"{wheel.name} and {source.name} are complete, and work in {environment}")


if __name__ == "__main__":
    main()
