# SPDX-License-Identifier: Apache-2.0
"""JSON files of a repository: read with errors that name the file, written completely or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeling_lavis.files import read_json, whole_file


def read_object(path: Path) -> dict[str, Any]:
    """
    Read a JSON object.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: If the file is not valid JSON, or contains something other than an object.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Save the model again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, expected a JSON object. Save the model again.")
    return content


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted names, as `save_pretrained` writes configurations."""
    with whole_file(path) as partial:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        partial.write_text(f"{text}\n", encoding="utf-8")


__all__ = ["read_object", "write_object"]
