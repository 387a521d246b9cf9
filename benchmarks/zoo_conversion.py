# SPDX-License-Identifier: Apache-2.0
"""Time and memory of converting each published checkpoint, with files of its size, and of loading the repository.

    python -m benchmarks.zoo_conversion --work /tmp/zoo --json zoo.json

For each checkpoint, one after the other: a process writes stand-ins for the published files (exactly their keys and
shapes, random values); a process converts them as `modeling-lavis convert --zoo NAME --mirror FOLDER` does; a process
loads the repository through its Auto class; and everything is deleted. Processes are forked, so that imports are not
measured. Language models of more than --sparse-above GB
are sparse files of zeros, and their repositories are loaded on the meta device. CPU s are processor seconds of all
threads, which hardly depend on other programs on the machine.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor
from transformers.models.auto import modeling_auto

import modeling_lavis
from benchmarks import full_size, measure
from modeling_lavis.hub import writing, zoo
from modeling_lavis.hub.zoo_conversion import convert_entry
from modeling_lavis.models import auto_lavis


def is_sparse(entry: Any, above: float) -> bool:
    """Whether the language model of a checkpoint has more than `above` GB."""
    prefix = {"blip2_opt": "opt_model.", "blip2_t5": "t5_model."}.get(entry.architecture, "-")
    kinds = [kind for name, kind in full_size.keys_of(entry).items() if name.startswith(prefix)]
    return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in kinds) > above * 1e9


def auto_class_of(model_class: Any) -> Any:
    """The Auto class of a head, that of its task if there is one."""
    for module in (auto_lavis, modeling_auto):
        for name, auto_class in vars(module).items():
            mapping = getattr(auto_class, "_model_mapping", None)
            if mapping is None or not name.startswith("AutoModelFor"):
                continue
            fitting = mapping.get(model_class.config_class, None)
            if model_class is (fitting[0] if isinstance(fitting, tuple) else fitting):
                return auto_class
    return modeling_auto.AutoModel


def convert(entry: Any, work: Path, sparse: bool) -> dict[str, Any]:
    """Convert in this process; returns seconds, peak memory, and what is unexplained."""
    if sparse:
        writing.save_file = full_size.save_sparsely
    measure.reset_peak()
    with measure.AnonymousPeak() as anonymous:
        config = full_size.CONFIGS.get(entry.name)
        timing = measure.timed(
            lambda: convert_entry(entry, work / "repository", mirror=work / "mirror", config=config),
            repeats=1,
            warmups=0,
        )
    report = timing.result
    return {
        "convert_seconds": timing.seconds[0],
        "convert_processor_seconds": timing.processor_seconds[0],
        "convert_peak_bytes": measure.peak_bytes(),
        "convert_anonymous_bytes": anonymous.bytes,
        "repository_bytes": sum(path.stat().st_size for path in (work / "repository").rglob("*") if path.is_file()),
        "used": len(set(report.used.values())),
        "dropped": len(report.dropped),
        "initialized": len(report.initialised),
        "unexplained": full_size.unexplained(entry, report),
        "model_class": report.model_class,
    }


def load(entry: Any, work: Path, sparse: bool) -> dict[str, Any]:
    """Load the repository through its Auto class in this process; returns seconds and peak memory."""
    expected = getattr(modeling_lavis, zoo.model_class_of(entry.architecture))
    auto_class = auto_class_of(expected)
    options: dict[str, Any] = {"device_map": "meta"} if sparse else {}
    measure.reset_peak()
    timing = measure.timed(
        lambda: auto_class.from_pretrained(work / "repository", output_loading_info=True, **options),
        repeats=1,
        warmups=0,
    )
    peak = measure.peak_bytes()
    model, info = timing.result
    problems = {kind: sorted(map(str, found)) for kind, found in info.items() if found}
    if type(model) is not expected:
        problems["class"] = [f"{type(model).__name__} instead of {expected.__name__}"]
    AutoProcessor.from_pretrained(work / "repository")
    return {
        "load_seconds": timing.seconds[0],
        "load_processor_seconds": timing.processor_seconds[0],
        "load_peak_bytes": peak,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "auto_class": auto_class.__name__,
        "loading_problems": problems,
    }


def _run_step(step: str, name: str, work: Path, sparse: bool) -> dict[str, Any]:
    entry = zoo.by_name(name)
    if step == "write":
        return {"input_bytes": full_size.write_mirror(entry, work / "mirror", sparse=sparse)}
    return convert(entry, work, sparse) if step == "convert" else load(entry, work, sparse)


def measure_entry(name: str, work: Path, sparse_above: float) -> dict[str, Any]:
    """Write, convert, load and delete one checkpoint, each step in a process of its own."""
    entry = zoo.by_name(name)
    sparse = is_sparse(entry, sparse_above)
    found: dict[str, Any] = {"name": entry.name, "sparse": sparse, "keys": len(full_size.keys_of(entry))}
    shutil.rmtree(work / entry.name, ignore_errors=True)
    try:
        for step in ("write", "convert", "load"):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
                try:
                    found |= pool.submit(_run_step, step, entry.name, work / entry.name, sparse).result()
                except Exception as error:  # of any kind, also if the process was killed for its memory
                    return found | {"error": f"{step}: {type(error).__name__}: {error}"}
            if step == "convert":
                shutil.rmtree(work / entry.name / "mirror")
    finally:
        shutil.rmtree(work / entry.name, ignore_errors=True)
    return found


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line per checkpoint."""
    heads = ["checkpoint", "keys", "files GB", "used", "dropped", "new"]
    heads += ["convert s", "CPU s", "peak MB", "without pages of files"]
    heads += ["repository GB", "load s", "CPU s", "peak MB", "parameters", "loaded by"]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 2)} --- |"]
    for row in rows:
        name = f"`{row['name']}`{' (sparse)' if row['sparse'] else ''}"
        if "error" in row:
            lines.append(f"| {name} | {row['keys']} | failed: {row['error'].splitlines()[-1]} |")
            continue
        cells = [name, str(row["keys"]), f"{row['input_bytes'] / 1e9:.2f}"]
        cells += [str(row[kind]) for kind in ("used", "dropped", "initialized")]
        cells += [f"{row['convert_seconds']:.1f}", f"{row['convert_processor_seconds']:.1f}"]
        cells += [f"{row['convert_peak_bytes'] / 1e6:.0f}", f"{row['convert_anonymous_bytes'] / 1e6:.0f}"]
        cells += [f"{row['repository_bytes'] / 1e9:.2f}"]
        cells += [f"{row['load_seconds']:.1f}", f"{row['load_processor_seconds']:.1f}"]
        cells += [f"{row['load_peak_bytes'] / 1e6:.0f}", f"{row['parameters'] / 1e6:.1f} M"]
        lines.append(f"| {' | '.join([*cells, row['auto_class']])} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure checkpoints and print a table; returns 1 if one failed or anything is unexplained."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo_conversion", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="checkpoints, e.g. blip_caption/base_coco (all)")
    parser.add_argument("--work", type=Path, default=Path("zoo-conversion"), help="folder for the files (%(default)s)")
    parser.add_argument("--sparse-above", type=float, default=8.0, metavar="GB", help="see above (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads per process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file with all measurements; finished ones are kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        rows = [row for row in json.loads(options.json.read_text(encoding="utf-8")) if "error" not in row]
    finished = {row["name"] for row in rows}
    for name in options.names or [entry.name for entry in zoo.entries().values()]:
        if zoo.by_name(name).name in finished:
            continue
        rows.append(measure_entry(name, options.work, options.sparse_above))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if options.json is not None:
            _write(options.json, rows)
    print(as_table(rows))
    bad = [row for row in rows if row.get("error") or row.get("unexplained") or row.get("loading_problems")]
    return 1 if bad else 0


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
