"""Recorded outputs of saved repositories (tests/repositories); works where the package is not installed, too."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tests.models.contract import tensors_of

REPOSITORIES = Path(__file__).parent / "repositories"
#: one folder for every public head and version
FOLDERS = sorted(path.parent for path in REPOSITORIES.glob("*/*/config.json"))
#: whole repositories, with processor and code: two for every format in which they were published
COMPLETE = sorted(path.parent for path in (REPOSITORIES / "complete").glob("*/*/config.json"))


def recorded_calls(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Arguments and expected outputs of every recorded call, by its name."""
    calls: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {}
    with safe_open(folder / "recorded.safetensors", "pt") as file:
        for call, options in json.loads(file.metadata()["options"]).items():
            calls[call] = (dict(options), {})
        for key in file.keys():
            call, role, name = key.split("/", 2)
            calls[call][0 if role == "input" else 1][name] = file.get_tensor(key)
    return calls


def compare(model: Any, folder: Path) -> None:
    """The outputs of a model are those recorded in a folder."""
    calls = recorded_calls(folder)
    assert calls
    for call, (inputs, expected) in calls.items():
        if call == "generate":
            assert model.generate(**inputs).tolist() == expected["ids"].tolist()
            continue
        with torch.no_grad():
            actual = tensors_of(model(**inputs))
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, atol=2e-5, rtol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def compare_complete(found: dict[str, torch.Tensor], folder: Path) -> None:
    """What processor and head compute now is what they computed when one of `COMPLETE` was saved."""
    with safe_open(folder / "recorded.safetensors", "pt") as file:
        assert set(file.keys()) <= found.keys()
        assert {"inputs.input_ids", "forward.logits"} <= set(file.keys())
        for name in file.keys():
            torch.testing.assert_close(
                found[name], file.get_tensor(name), atol=2e-5, rtol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
