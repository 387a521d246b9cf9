"""Loads scripts of `examples/`, which is not a package, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_script(name: str) -> ModuleType:
    """The module of `examples/<name>.py`."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    if specification is None or specification.loader is None:
        raise ImportError(f"There is no examples/{name}.py.")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
