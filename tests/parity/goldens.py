"""Reads golden sets: folders with a checkpoint, inputs, and recorded outputs of the original."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# Folders that are not golden sets; see the README of the goldens.
TOKENIZER, PROCESSORS, TRANSFER, FULL_SIZE = "tokenizer", "processors", "transfer", "full_size_keys"
METRICS = "metrics"
# Folder of a recorded training run, inside a golden set.
TRAJECTORY = "trajectory"
SIDE_FOLDERS = {TOKENIZER, PROCESSORS, TRANSFER, FULL_SIZE, METRICS}


def goldens_root() -> Path:
    """The folder of the golden sets: `LAVIS_GOLDENS`, defaults to `tests/goldens`."""
    default = Path(__file__).resolve().parents[1] / "goldens"
    root = Path(os.environ.get("LAVIS_GOLDENS") or default)
    if not root.is_dir():
        raise OSError(f"No golden sets at {root}. Point LAVIS_GOLDENS at a folder in the form of tests/goldens.")
    return root


def golden_folders(root: Path | None = None) -> list[Path]:
    """All folders except the known side folders, so that an unknown folder is replayed or fails."""
    return sorted(p for p in (root or goldens_root()).iterdir() if p.is_dir() and p.name not in SIDE_FOLDERS)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


class GoldenSet:
    """One recorded architecture.

    Attributes: `folder`; `architecture` (LAVIS's name, from config.json); `config`; `inputs` (JSON and tensors in one
    dictionary); `tensors` (recorded tensors by name); `strings` (recorded strings and notes by name); `load` (missing
    and unexpected keys when the original loads the checkpoint).
    """

    def __init__(self, folder: Path, outputs: str = "outputs") -> None:
        self.folder = Path(folder)
        self._outputs_name = outputs

    def __repr__(self) -> str:
        return f"GoldenSet({self.folder.name})"

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json")

    @property
    def architecture(self) -> str:
        return self.config["arch"]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        values = read_json(self.folder / "inputs.json")
        described = values.pop("tensors", {})
        path = self.folder / "inputs.safetensors"
        tensors = load_file(path) if path.exists() else {}
        if set(described) != set(tensors):
            raise OSError(f"{path}: inputs.json describes {sorted(described)}, the file holds {sorted(tensors)}.")
        return values | tensors

    @cached_property
    def _outputs(self) -> dict[str, Any]:
        return read_json(self.folder / f"{self._outputs_name}.json")

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{self._outputs_name}.safetensors")

    @property
    def strings(self) -> dict[str, Any]:
        return self._outputs["strings_and_notes"]

    @property
    def load(self) -> dict[str, list[str]]:
        return {"missing_keys": [], "unexpected_keys": [], **self._outputs["load"]}

    @cached_property
    def checkpoint_keys(self) -> set[str]:
        """Keys of checkpoint.pth."""
        blob = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return set(blob.get("model", blob))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pth"

    @property
    def tokenizer_folder(self) -> Path:
        return (self.folder / self.config["tokenizer"]).resolve()

    @property
    def batch_size(self) -> int:
        return int(self.config["batch_size"])

    def names(self) -> Iterator[str]:
        """Names of all recorded entries: tensors first, then strings."""
        yield from self.tensors
        yield from self.strings

    def below(self, prefix: str) -> list[str]:
        """Names of the recorded tensors that start with `prefix`, in order."""
        return sorted(name for name in self.tensors if name.startswith(prefix))

    def cases(self, prefix: str, suffix: str = ".sequences") -> list[str]:
        """The middle parts of the names `<prefix>.<case><suffix>`."""
        pattern = re.compile(re.escape(prefix) + r"\.([^.]+)" + re.escape(suffix) + "$")
        return [m.group(1) for name in sorted(self.tensors) if (m := pattern.match(name))]

    def alpha(self, epochs: int) -> float:
        """Weight of the soft targets at the recorded iteration, ramped up linearly over the first `epochs` epochs."""
        at = self.inputs["schedule"]
        done = at["epoch"] * at["num_iters_per_epoch"] + at["iters"]
        return self.config["alpha"] * min(1.0, done / (epochs * at["num_iters_per_epoch"]))


class Trajectory(GoldenSet):
    """
    The recorded training run of an architecture, a folder inside its golden set.

    Attributes beside those of a golden set: `settings` (of optimizer and schedule); `batches` (the inputs of each
    batch, tensors and texts in one dictionary).
    """

    def __init__(self, golden: GoldenSet) -> None:
        super().__init__(golden.folder / TRAJECTORY)
        self._golden = golden

    def __repr__(self) -> str:
        return f"Trajectory({self._golden.name})"

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        return self._golden.config

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        return read_json(self.folder / "trajectory.json")

    @property
    def settings(self) -> dict[str, Any]:
        return self._recorded["settings"]

    @property
    def strings(self) -> dict[str, Any]:
        """The learning rate of every step; the other entries of the file are inputs and notes."""
        return {"lr": self._recorded["lr"]}

    @cached_property
    def batches(self) -> list[dict[str, Any]]:
        tensors = load_file(self.folder / "batches.safetensors")
        texts = self._recorded["batches"]
        numbers = {int(name.partition(".")[0]) for name in tensors}
        if numbers != set(range(len(texts))):
            raise OSError(f"{self.folder}: texts of {len(texts)} batches, tensors of the batches {sorted(numbers)}.")
        return [
            {**batch, **{n.partition(".")[2]: t for n, t in tensors.items() if int(n.partition(".")[0]) == number}}
            for number, batch in enumerate(texts)
        ]


def call_numbers(names: list[str]) -> list[int]:
    """The last component of each name as a number; raises ValueError unless they are 0, 1, 2, ..."""
    numbers = sorted(int(name.rsplit(".", 1)[1]) for name in names)
    if numbers != list(range(len(numbers))):
        raise ValueError(f"Recorded calls are not numbered from 0 without a gap: {names}")
    return numbers


def is_exact(tensor: torch.Tensor) -> bool:
    """Whether a tensor (ids, masks, labels) must equal the recorded one exactly."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def excess(actual: torch.Tensor, recorded: torch.Tensor, tolerance: float = 1e-4) -> float:
    """Largest `abs(a - b) - tolerance * abs(b)`, which must be at most `tolerance`; infinity if any value is NaN."""
    a, b = actual.detach().double(), recorded.double()
    if a.numel() == 0:
        return 0.0
    worst = ((a - b).abs() - tolerance * b.abs()).max().item()
    return math.inf if math.isnan(worst) else worst
