"""Exported folders of the tests, and skipping where a package is missing."""

import os
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.export.formats import FORMATS
from modeling_lavis.import_utils import is_available


def needs(format_name: str) -> Any:
    """Mark that skips a test where a package of a format is not installed."""
    missing = [package for package in FORMATS[format_name].requires if not is_available(package)]
    reason = f"{' and '.join(missing)} not installed; pip install 'modeling-lavis[onnx,openvino]'"
    return pytest.mark.skipif(bool(missing), reason=reason)


def formats() -> list[Any]:
    """All formats as parameters of a test."""
    return [pytest.param(name, marks=needs(name)) for name in FORMATS]


def files_of(folder: str | os.PathLike[str]) -> set[str]:
    """Names of the files in a folder and its subfolders."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}
