"""The format of an index, as docs/collections.md describes it, read without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.search import SearchIndex, build_index, remove_from_index
from tests.search.stubs import StubRetriever, save_pictures

pytestmark = pytest.mark.slow

READER = """
import json, os, sys
import faiss, numpy, pandas, pyarrow.parquet

folder = sys.argv[1]
head = json.load(open(os.path.join(folder, "index.json")))
assert head["format"] == "modeling-lavis index" and head["version"] == 1
paths = {kind: os.path.join(folder, entry["name"]) for kind, entry in head["files"].items()}
assert all(os.path.getsize(paths[kind]) == entry["bytes"] for kind, entry in head["files"].items())

rows = pandas.read_parquet(paths["rows"])
vectors = numpy.load(paths["vectors"], mmap_mode="r")
states = numpy.load(paths["states"], mmap_mode="r")
index = faiss.read_index(paths["faiss"])
assert len(rows) == len(vectors) == index.ntotal == head["count"] and list(vectors.shape) == head["shape"]
assert pyarrow.parquet.read_schema(paths["rows"]).names == list(rows.columns)
assert vectors.dtype == states.dtype == numpy.float32
assert numpy.allclose(numpy.linalg.norm(vectors, axis=-1), 1)
similarity, found = index.search(vectors[3:4], 1)
ends = numpy.cumsum(rows.num_states)
assert len(states) == ends.iloc[-1]
assert not any(name.startswith(("modeling_lavis", "torch")) for name in sys.modules)
print(json.dumps({
    "kind": head["kind"],
    "search": head["search"],
    "columns": list(rows.columns),
    "file": rows.file[int(found[0, 0])],
    "similarity": float(similarity[0, 0]),
    "bytes": int(rows.bytes[3]),
    "states": states[ends[2] - rows.num_states[2] : ends[2]].tolist(),
    "num_states": rows.num_states.tolist(),
}))
"""


def test_an_index_is_read_without_this_package(tmp_path: Path) -> None:
    for name in ("faiss", "pandas"):
        pytest.importorskip(name)
    save_pictures(tmp_path / "pictures", range(6))
    states_of_four = 4 * 48 * 4
    made = build_index(
        tmp_path / "pictures", StubRetriever(), tmp_path / "index", index="flat", disk_budget=states_of_four
    )
    assert made.with_states == 4
    remove_from_index(tmp_path / "index", [str(tmp_path / "pictures" / "001.png")])
    command = [sys.executable, "-I", "-c", READER, str(tmp_path / "index")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    path = tmp_path / "pictures" / "004.png"
    assert (found["kind"], found["search"], found["num_states"]) == ("image", "Flat", [4, 4, 4, 0, 0])
    assert found["columns"] == ["file", "path", "bytes", "modified_ns", "start", "end", "num_states"]
    assert (found["file"], found["bytes"]) == (str(path), os.path.getsize(path))
    assert found["similarity"] == pytest.approx(1, abs=1e-5)
    states: Any = SearchIndex(tmp_path / "index").files.states
    assert found["states"] == states[2].tolist() and states[3] is None
