"""
Import transformers' common tests from its unpacked source distribution.

The folder is named by the environment variable `TRANSFORMERS_SOURCE`. Its `tests` is imported as `transformers_tests`,
because this project has a package `tests`, too. Source distributions leave out some files that the common tests import;
empty stand-ins take the place of those that are missing.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import transformers
import transformers.utils

VARIABLE = "TRANSFORMERS_SOURCE"
PACKAGE = "transformers_tests"
COMMON_TESTS = (
    "test_configuration_common",
    "test_image_processing_common",
    "test_modeling_common",
    "test_processing_common",
    "test_video_processing_common",
)


def source_folder() -> Path:
    """
    The unpacked source distribution.

    Raises:
        ValueError: the environment variable is not set, the folder has no common tests, or it has those of another
            version than the installed one.
    """
    given = os.environ.get(VARIABLE)
    wanted = f"the unpacked source distribution of transformers {transformers.__version__}"
    how = f"pip download --no-deps --no-binary :all: transformers=={transformers.__version__}"
    if not given:
        raise ValueError(f"{VARIABLE} is not set; expected {wanted} (`{how}`, then unpack it)")
    folder = Path(given).resolve()
    missing = [name for name in COMMON_TESTS if not (folder / "tests" / f"{name}.py").is_file()]
    if missing:
        raise ValueError(f"{VARIABLE}={given} has no tests/{missing[0]}.py; expected {wanted} (`{how}`)")
    version = folder / "src" / "transformers" / "__init__.py"
    text = version.read_text(encoding="utf-8") if version.is_file() else ""
    found = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    if found and found[1] != transformers.__version__:
        raise ValueError(f"{VARIABLE}={given} is transformers {found[1]}; expected {wanted} (`{how}`)")
    return folder


def _stand_in(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module


class _Parameterized:
    """The part of the package `parameterized` that the common tests use."""

    @staticmethod
    def expand(cases: Iterable[Any], name_func: Callable[..., str] | None = None, **_: Any) -> Callable[..., None]:
        """Replace a test method by one method per case: `name_<index>` or `name_<index>_<first argument>`."""
        frame = sys._getframe(1).f_locals

        def decorate(method: Callable[..., None]) -> None:
            for index, case in enumerate(cases):
                arguments = case if isinstance(case, (tuple, list)) else (case,)
                suffix = f"_{arguments[0]}" if isinstance(arguments[0], str) else ""
                name = f"{method.__name__}_{index}{re.sub(r'[^a-zA-Z0-9]+', '_', suffix)}"
                if name_func is not None:
                    name = name_func(method, str(index), _stand_in_case(arguments))
                frame[name] = _with_arguments(method, name, arguments)

        return decorate


def _stand_in_case(arguments: Iterable[Any]) -> Any:
    return type("param", (), {"args": tuple(arguments), "kwargs": {}})()


def _with_arguments(method: Callable[..., None], name: str, arguments: Iterable[Any]) -> Callable[..., None]:
    def test(self: Any) -> None:
        method(self, *arguments)

    test.__name__ = name
    # the marks of pytest on the method
    test.__dict__.update(method.__dict__)
    return test


def _local_path(url: str) -> str:
    """The common tests name images on the Hub, which are not downloaded."""
    return url


#: Values that differ from the defaults of `PreTrainedConfig`.
_CONFIG_VALUES: dict[str, Any] = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "first"},
    "label2id": {"first": 0},
    "problem_type": "regression",
}
#: Files that source distributions leave out, with their names that the common tests import.
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": _CONFIG_VALUES},
}


def load() -> dict[str, ModuleType]:
    """
    Import the common tests.

    Returns:
        `dict[str, ModuleType]`: the modules by name, and `generation.test_utils`, which is a stand-in without tests if
        the source distribution lacks it.
    """
    folder = source_folder() / "tests"
    _stand_in(PACKAGE, __path__=[str(folder)])
    if importlib.util.find_spec("parameterized") is None:
        _stand_in("parameterized", parameterized=_Parameterized)
    if not (folder.parent / "utils" / "fetch_hub_objects_for_ci.py").is_file():
        _stand_in("fetch_hub_objects_for_ci", url_to_local_path=_local_path)
    for name, members in _LEFT_OUT.items():
        package, _, _ = name.partition(".")
        if not (folder / f"{name.replace('.', '/')}.py").is_file():
            _stand_in(f"{PACKAGE}.{package}", __path__=[str(folder / package)])
            _stand_in(f"{PACKAGE}.{name}", **members)
    # the tests of configurations import `tests/__init__.py` in the name of transformers
    with mock.patch.object(transformers.utils, "direct_transformers_import", lambda path: transformers):
        names = (*COMMON_TESTS, "generation.test_utils")
        return {name: importlib.import_module(f"{PACKAGE}.{name}") for name in names}


__all__ = ["COMMON_TESTS", "VARIABLE", "load", "source_folder"]
