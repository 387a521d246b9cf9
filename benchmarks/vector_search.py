# SPDX-License-Identifier: Apache-2.0
"""Recall, time, memory and size of the indexes of `modeling-lavis index` on synthetic vectors.

    python -m benchmarks.vector_search --work /tmp/vectors --threads 1 --json vectors.json

Vectors are drawn around centers, as features of a collection are, and normalized; queries lie between two of them. Each
index is written and searched in forked processes. Recall is the share of the ten best of the exact search. Memory
is the peak of what the system cannot drop, without pages of files, above what the process had before.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import AnonymousPeak, anonymous_bytes
from modeling_lavis.evaluation.faiss_indexes import build_faiss, choose_index
from modeling_lavis.evaluation.index_writing import Blocks, index_lock, write_array, write_index_files
from modeling_lavis.files import whole_file
from modeling_lavis.search.index import SearchIndex

KINDS = ("exact", "flat", "hnsw", "ivf-pq")
_BEST, _CENTERS, _BLOCK = 10, 1000, 2**14
#: columns of the table, with the keys of the measurements and their formats
_COLUMNS = {
    "vectors": ("count", ",d"),
    "index": ("index", "s"),
    "recall@10": ("recall", ".3f"),
    "build s": ("build_s", ".1f"),
    "CPU s": ("build_cpu_s", ".1f"),
    "build MB": ("build_mb", ".0f"),
    "disk MB": ("disk_mb", ".0f"),
    "open s": ("open_s", ".3f"),
    "first row s": ("row_s", ".3f"),
    "query ms": ("query_ms", ".1f"),
    "CPU ms": ("query_cpu_ms", ".1f"),
    "query MB": ("query_mb", ".0f"),
}


def blocks(count: int, dimension: int) -> Iterator[np.ndarray]:
    """Blocks of synthetic vectors, the same each time."""
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((_CENTERS, dimension), dtype=np.float32)
    for first in range(0, count, _BLOCK):
        rows = min(_BLOCK, count - first)
        noise = generator.standard_normal((rows, dimension), dtype=np.float32)
        values = centers[generator.integers(_CENTERS, size=rows)] + noise
        yield values / np.linalg.norm(values, axis=1, keepdims=True)


def draw(path: Path, count: int, dimension: int) -> None:
    """Write the vectors, from which all indexes are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_array(path, Blocks((count, dimension), blocks(count, dimension)))


def build(source: Path, folder: Path, kind: str, threads: int) -> dict[str, Any]:
    """Write an index; returns its description, seconds, memory and size."""
    import pyarrow

    _use_threads(threads)
    vectors = np.load(source, mmap_mode="r")
    count = len(vectors)
    names = [f"/data/photos/{number // 1000:06d}/{number:09d}.jpg" for number in range(count)]
    rows = pyarrow.table(
        {"file": names, "path": names, "bytes": [1] * count, "modified_ns": [1] * count}
        | dict.fromkeys(("start", "end"), pyarrow.nulls(count, pyarrow.float64()))
    )
    del names
    factory = choose_index(count, vectors.shape[1:], kind)
    parts = (vectors[first : first + _BLOCK] for first in range(0, count, _BLOCK))
    make_faiss = None if factory is None else lambda mapped: build_faiss(mapped, factory)
    before, started, cpu = anonymous_bytes(), time.perf_counter(), time.process_time()
    with AnonymousPeak() as peak, index_lock(folder):
        write_index_files(folder, {"kind": "image"}, rows, Blocks(vectors.shape, parts), make_faiss=make_faiss)
    return {
        "count": count,
        "index": factory or "exact",
        "build_s": time.perf_counter() - started,
        "build_cpu_s": time.process_time() - cpu,
        "build_mb": (peak.bytes - before) / 2**20,
        "disk_mb": sum(path.stat().st_size for path in folder.iterdir()) / 2**20,
    }


def query(folder: Path, queries: int, threads: int) -> dict[str, Any]:
    """Open an index and search it; returns the rows found, seconds and memory."""
    _use_threads(threads)
    before = anonymous_bytes()
    with AnonymousPeak() as peak:
        started = time.perf_counter()
        index = SearchIndex(folder)
        _ = index.files.faiss
        opened = time.perf_counter()
        index.record(len(index) // 2)
        has_row = time.perf_counter()
        pairs = np.random.default_rng(1).integers(len(index), size=(queries, 2))
        features = torch.nn.functional.normalize(torch.from_numpy(index.files.vectors[pairs].sum(axis=1)), dim=1)
        index.nearest(features[:1], _BEST)  # reads the files
        searching, cpu = time.perf_counter(), time.process_time()
        found = [index.nearest(row[None], _BEST).indices[0].tolist() for row in features]
        ended, cpu = time.perf_counter(), time.process_time() - cpu
    return {
        "open_s": opened - started,
        "row_s": has_row - opened,
        "query_ms": 1000 * (ended - searching) / queries,
        "query_cpu_ms": 1000 * cpu / queries,
        "query_mb": (peak.bytes - before) / 2**20,
        "found": found,
    }


def _use_threads(threads: int) -> None:
    import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def _in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def measure_count(count: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure all indexes of one number of vectors."""
    source = options.work / f"{count}.npy"
    draw(source, count, options.dimension)
    exact: list[list[int]] = []
    for kind in dict.fromkeys(("exact", *options.kinds)):  # recall is relative to it
        folder = options.work / f"{count}-{kind}"
        row = _in_fresh_process(build, source, folder, kind, options.threads)
        row |= _in_fresh_process(query, folder, options.queries, options.threads)
        found = row.pop("found")
        exact = exact or found
        row["recall"] = sum(len(set(got) & set(best)) for got, best in zip(found, exact)) / (_BEST * len(exact))
        yield row
    source.unlink()


def table_line(row: dict[str, Any]) -> str:
    """A row of the table, in Markdown."""
    return f"| {' | '.join(format(row[key], form) for key, form in _COLUMNS.values())} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vector_search", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the indexes, which stay there")
    parser.add_argument("--count", type=int, nargs="+", default=[100_000, 1_000_000], help="numbers of vectors")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    options = parser.parse_args(arguments)
    print(f"| {' | '.join(_COLUMNS)} |\n| ---: | --- |{' ---: |' * (len(_COLUMNS) - 2)}", flush=True)
    measured = []
    for count in options.count:
        for row in measure_count(count, options):
            measured.append(row)
            print(table_line(row), flush=True)
    if options.json is not None:
        with whole_file(options.json) as partial:
            partial.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
