"""Checkpoints made to harm: each is refused before its promises take memory or time, and nothing in it is run."""

import io
import json
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modeling_lavis.hub import pickles
from modeling_lavis.hub.checkpoints import CheckpointError, read_checkpoint
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.parts import _weight_files
from modeling_lavis.hub.settings import top_level_config
from modeling_lavis.hub.shapes import count_blocks
from tests.conversion.golden_sets import arguments, checkpoint, weights

MIB = 2**20


@pytest.fixture(autouse=True)
def cheaply() -> Iterator[None]:
    """Every attack takes less than 300 MiB and five seconds."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    assert time.monotonic() - start < 5


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    """A zip file in the form of a checkpoint."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", b"3\n")
        for name, content in entries.items():
            file.writestr(f"archive/{name}", content)
    return path


def pickled_storage(elements: int) -> bytes:
    """The pickle of a dictionary with a tensor of a storage of so many elements."""
    buffer = io.BytesIO()
    torch.save({"model": {"x": torch.zeros(3)}}, buffer)
    with zipfile.ZipFile(buffer) as file:
        data = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    number = b"K\x03"  # BININT1 3, first as the size of the storage
    assert data.count(number) >= 2
    return data.replace(number, b"\x8a\x08" + struct.pack("<q", elements))


def nested(levels: int, key: bool) -> bytes:
    """The pickle of tuples in each other, as a value or as a key of a dictionary."""
    inner = b"N" + b"\x85" * levels
    return b"\x80\x02}" + ((inner + b"N") if key else (b"X\x01\x00\x00\x00x" + inner)) + b"s."


def bomb_compressed(path: Path) -> None:
    archive(path, b"\x80\x02}.", zipfile.ZIP_DEFLATED, zeros=bytes(20 * MIB))


def bomb_of_a_pickle(path: Path) -> None:
    archive(path, b"\x80\x02]" + b"}" * (pickles.MAX_INDEX_BYTES + 10) + b".")


def bomb_that_overlaps(path: Path) -> None:
    """Two entries of the directory with the same bytes."""
    archive(path, pickled_storage(3), **{"data/0": bytes(MIB), "data/1": bytes(12)})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    while b"data/1" not in data[place : place + 80]:
        place = data.index(b"PK\x01\x02", place + 4)
    data[place + 20 : place + 28] = struct.pack("<II", MIB, MIB)
    path.write_bytes(data)


def promise_of_a_storage(path: Path) -> None:
    archive(path, pickled_storage(2**50), **{"data/0": bytes(12)})


def promise_in_the_old_format(path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    head, tail = data[:200], data[200:]
    path.write_bytes(head + tail.replace(b"K\x03", b"\x8a\x08" + struct.pack("<q", 2**45)))


def promise_of_a_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**50) + b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')


def promise_of_a_shape(path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**10], "data_offsets": [0, 2**52]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def empty_and_huge(path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**18, 0], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def expanded(path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1).expand(10**6, 10**6)}}, path)


def shared(path: Path) -> None:
    values = torch.zeros(MIB)
    torch.save({"model": {f"x{number}": values for number in range(1000)}}, path)


def sparse(path: Path) -> None:
    torch.save({"model": {"x": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**15,))}}, path)


def without_values(path: Path) -> None:
    torch.save({"model": {"x": torch.empty(10**9, 10**9, device="meta")}}, path)


def deep_key(path: Path) -> None:
    archive(path, nested(1_000_000, key=True))


def deep_value(path: Path) -> None:
    archive(path, nested(1_000_000, key=False))


def deep_in_the_old_format(path: Path) -> None:
    torch.save({}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x80\x02}q\x00.", nested(1_000_000, key=True)))
    assert path.stat().st_size > 1_000_000


def long_key(path: Path) -> None:
    save_file({"x" * 100_000: torch.zeros(1)}, path)


def directory_in_a_comment(path: Path) -> None:
    archive(path, pickled_storage(3), **{"data/0": bytes(12)})
    path.write_bytes(path.read_bytes() + b"PK\x05\x06" + bytes(30))


ATTACKS: dict[Callable[[Path], None], str] = {
    bomb_compressed: "compressed entry",
    bomb_of_a_pickle: "has a pickle of",
    bomb_that_overlaps: "has entries of|truncated",
    promise_of_a_storage: "promises a storage of",
    promise_in_the_old_format: "promises a storage of",
    promise_of_a_header: "promises a header of",
    promise_of_a_shape: "truncated or corrupted",
    empty_and_huge: "too few bytes",
    expanded: "too few bytes",
    shared: "share their values",
    sparse: "dense tensors|objects other than tensors",
    without_values: "dense tensors|corrupted|objects other than tensors",
    deep_key: "nests more than 100 levels",
    deep_value: "nests more than 100 levels",
    deep_in_the_old_format: "nests more than 100 levels",
    long_key: "a key of 100,000 characters",
    directory_in_a_comment: "truncated",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attacks(attack: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "given.pth"
    attack(path)
    with pytest.raises(CheckpointError, match=ATTACKS[attack]) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_honest_checkpoints_pass(tmp_path: Path) -> None:
    state = weights("blip_caption")
    tied = {**state, "again": state["visual_encoder.cls_token"]}
    for name, options in (("new", {}), ("old", {"_use_new_zipfile_serialization": False})):
        torch.save(
            {"model": tied, "optimizer": {"state": [1, {"a": (1, (2, (3,)))}]}, "epoch": 2}, tmp_path / name, **options
        )
        assert read_checkpoint(tmp_path / name).tensors.keys() == tied.keys()


def test_a_pickle_is_followed_like_by_its_reader() -> None:
    """Levels of what pickle itself writes, with shared objects, are those of the objects."""
    shared_tuple = ((1, 2), [3, {"a": (4,)}])
    for value in ({}, [1, 2], {"a": {"b": [(1, 2), {"c": 3}]}}, [shared_tuple, shared_tuple], (), {1: set()}):
        assert pickles.check_pickle(io.BytesIO(pickle.dumps(value, protocol=2)), 100)
    deep: Any = 1
    for _ in range(pickles.MAX_LEVELS + 1):
        deep = (deep,)
    with pytest.raises(pickles.PromiseError, match="nests"):
        pickles.check_pickle(io.BytesIO(pickle.dumps({"a": [deep]}, protocol=2)), 100)


def test_numbers_of_blocks_are_no_loops() -> None:
    with pytest.raises(ValueError, match=r"no weights blocks.0"):
        count_blocks({"blocks.999999.x": (1,), f"blocks.{'9' * 5000}.x": (1,)}, "blocks.")


def test_numbers_of_classes_are_no_loops() -> None:
    """A weight without values can have any number of rows."""
    with pytest.raises(ValueError, match="classes; expected 1 to"):
        top_level_config(True, {"cls_head.2.weight": (10**18, 0)}, {}, None)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", 3, None])
def test_indexes_name_files_of_their_folder_only(name: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(OSError, match="index.json names the file|is not an index"):
        _weight_files(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"weight_map": 3}', '{"weight_map": {"a": []}}', "1" * 5000])
def test_indexes_of_another_form(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(OSError, match="is not an index"):
        _weight_files(tmp_path)


def test_settings_that_nest_without_end(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"vision": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="settings.json is not valid JSON: it nests too deeply"):
        convert(**arguments("blip_caption", tmp_path / "out", config=tmp_path / "settings.json"))


def test_special_files_do_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "given.pth")
    with pytest.raises(CheckpointError, match="FIFO"):
        read_checkpoint(tmp_path / "given.pth")


def test_the_published_form_is_stored(tmp_path: Path) -> None:
    """What the checks expect of a zip file is what PyTorch writes."""
    assert any(name.endswith("data.pkl") for name in pickles.check_archive(checkpoint("blip_caption")))
