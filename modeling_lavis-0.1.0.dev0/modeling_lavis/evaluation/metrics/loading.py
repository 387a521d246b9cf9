# SPDX-License-Identifier: Apache-2.0
"""The metrics as modules of the package evaluate."""

from pathlib import Path
from typing import Any

from modeling_lavis.import_utils import require

_MODULES = Path(__file__).resolve().parent / "modules"


def metric_names() -> list[str]:
    """Names of the metrics that [`load_metric`] loads."""
    return sorted(path.name for path in _MODULES.iterdir() if (path / f"{path.name}.py").is_file())


def module_path(name: str) -> Path:
    """
    Folder of a metric, for `evaluate.load(str(path))`. It needs no network.

    Args:
        name (`str`): one of [`metric_names`], for example `"vqa_accuracy"`.

    Raises:
        ValueError: If there is no such metric.
    """
    if name not in metric_names():
        raise ValueError(f"There is no metric {name!r}; expected one of {', '.join(metric_names())}.")
    return _MODULES / name


def load_metric(name: str, config_name: str | None = None, **options: Any) -> Any:
    """
    Load a metric as `evaluate.load` does, from this package.

    Args:
        name (`str`): one of [`metric_names`].
        config_name (`str`, *optional*): `"types"` for `vqa_accuracy` by question and answer type.
        options: further arguments of `evaluate.load`, such as `num_process`, `process_id` and `experiment_id`.

    Returns:
        `evaluate.Metric`: with `add_batch` and `compute`.

    Raises:
        ValueError: If there is no such metric.
        ImportError: If the package evaluate is not installed.
    """
    path = module_path(name)
    evaluate = require("evaluate", extra="train", purpose="metrics with add_batch and compute")
    return evaluate.load(str(path), config_name, **options)


__all__ = ["load_metric", "metric_names", "module_path"]
