"""Files of an index and search among vectors, without a model."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_lavis.evaluation.faiss_indexes import build_faiss, choose_index
from modeling_lavis.evaluation.index_files import IndexFiles
from modeling_lavis.evaluation.index_rows import records_table
from modeling_lavis.evaluation.index_writing import Blocks, write_index_files
from modeling_lavis.evaluation.vector_search import search_vectors


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def brute(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    several = vectors if vectors.ndim == 3 else vectors[:, None]
    scores = np.einsum("bp,iqp->biq", queries, several).max(-1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def write(folder: Path, vectors: np.ndarray, **options: Any) -> IndexFiles:
    rows = records_table([{"file": f"{number}.png"} for number in range(len(vectors))])
    return write_index_files(folder, {"kind": "image"}, rows, Blocks(vectors.shape, [vectors]), **options)


@pytest.mark.parametrize("shape", [(3000, 16), (700, 4, 16)])
def test_exact_search(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modeling_lavis.evaluation.vector_search._BLOCK_BYTES", 2**14)  # many blocks
    vectors, queries = unit(*shape), unit(5, 16, seed=1)
    found = search_vectors(vectors, torch.from_numpy(queries), 7)
    np.testing.assert_array_equal(found.indices.numpy(), brute(vectors, queries, 7))
    with pytest.raises(ValueError, match="cannot be compared"):
        search_vectors(vectors, torch.zeros(1, 8), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "recall"), [("flat", 1.0), ("hnsw", 0.95), ("ivf-pq", 0.7)])
@pytest.mark.parametrize("shape", [(4000, 16), (1000, 4, 16)])
def test_faiss(kind: str, recall: float, shape: tuple[int, ...]) -> None:
    pytest.importorskip("faiss")
    vectors, queries = unit(*shape), unit(20, 16, seed=1)
    index = build_faiss(vectors, str(choose_index(len(vectors), shape[1:], kind)))
    found = search_vectors(vectors, torch.from_numpy(queries), 10, index)
    wanted = brute(vectors, queries, 10)
    hits = np.mean([len(set(row) & set(other)) / 10 for row, other in zip(found.indices.tolist(), wanted.tolist())])
    assert hits >= recall
    several = vectors.reshape(len(vectors), -1, 16)
    similarities = np.einsum("bp,bnqp->bnq", queries, several[found.indices.numpy()]).max(-1)
    np.testing.assert_allclose(found.similarities.numpy(), similarities, atol=1e-5)  # exact, whatever the index


def test_the_choice_of_an_index() -> None:
    assert choose_index(1_000_000, (256,)) is None
    assert choose_index(1_000_001, (256,), memory=2**31) == "HNSW32"
    assert choose_index(1_000_001, (256,), memory=2**30) == "IVF2048,PQ64"
    assert choose_index(10, (256,), "faiss:IVF2,Flat") == "IVF2,Flat"
    with pytest.raises(ValueError, match="expected auto, exact"):
        choose_index(10, (256,), "lsh")


@pytest.mark.slow
def test_extending_an_index_equals_building_it() -> None:
    faiss = pytest.importorskip("faiss")
    vectors = unit(3000, 16)
    part = build_faiss(vectors[:2000], "IVF16,Flat")
    extended = build_faiss(vectors, "IVF16,Flat", part)
    assert extended.ntotal == 3000
    index = faiss.deserialize_index(faiss.serialize_index(extended))
    assert index.nprobe == 16  # kept in the file
    found = search_vectors(vectors, torch.from_numpy(vectors[2500:2600]), 1, index)
    assert found.indices[:, 0].tolist() == list(range(2500, 2600))
    with pytest.raises(ValueError, match="FAISS refuses"):
        build_faiss(vectors[:20], "IVF16,PQ4")


def test_an_index_that_is_interrupted_stays_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, unit(5, 4))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match="There are 5 vectors; expected 6"):
        write_index_files(tmp_path, {}, records_table([]), Blocks((6, 4), [unit(5, 4)]))
    assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / "vectors-7.npy").write_bytes(b"what a killed process left")
    mapped = IndexFiles.open(tmp_path)
    write(tmp_path, unit(6, 4))
    assert sorted(os.listdir(tmp_path)) == ["index.json", "rows-8.parquet", "vectors-8.npy"]
    assert len(mapped.vectors) == 5, "who has it open reads on"


@pytest.mark.parametrize("name", ["vectors-1.npy", "rows-1.parquet"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, unit(5, 4))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1])
    with pytest.raises(OSError, match="expected .* bytes"):
        IndexFiles.open(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(OSError, match="is missing"):
        IndexFiles.open(tmp_path)


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not an index"):
        IndexFiles.open(tmp_path)
    write(tmp_path, unit(5, 4))
    head = json.loads((tmp_path / "index.json").read_text())
    for change, message in (
        ({"format": "other"}, "is not the head"),
        ({"version": 2}, "has version 2"),
        ({"count": 4}, "expected 4 of each"),
        ({"files": {}}, "names no file of rows and vectors"),
        ({"files": {"vectors": {"name": "../x.npy", "bytes": 1}}}, "does not have"),
    ):
        (tmp_path / "index.json").write_text(json.dumps({**head, **change}))
        with pytest.raises(ValueError, match=message):
            IndexFiles.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        IndexFiles.open(tmp_path)
