"""Files of data sets made to harm: archives, tables and annotation files."""

import gzip
import io
import json
import os
import pickle
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.data import records
from modeling_lavis.data.columns import DataError
from tests.data.data_files import caption_rows, encoded, write_parquet, write_pictures

pytest.importorskip("datasets", reason="data sets need the extra [train]")

from modeling_lavis.data.loading import load_data, load_label2id

GIB = 2**30

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cheaply() -> Iterator[None]:
    """Every attack takes less than 500 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a file in an archive."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("compressed", [False, True])
def test_files_of_many_gigabytes_in_shards(kind: bytes, compressed: bool, tmp_path: Path) -> None:
    data = header("a.png", 500 * GIB, kind) + bytes(2**16)
    path = tmp_path / ("x.tar.gz" if compressed else "x.tar")
    path.write_bytes(gzip.compress(data) if compressed else data)
    with pytest.raises(DataError, match="536,870,912,000 bytes; expected at most"):
        load_data(path, "captioning")


def test_sparse_files_in_shards(tmp_path: Path) -> None:
    """GNU's archives can describe gigabytes of zeros in one block."""
    block = bytearray(header("a.png", 512, tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"00000000000 00000001000 "  # 512 bytes at 0
    block[483:495] = b"77777777777 "  # the size with zeros: 8 GiB
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(512 * 4))
    with pytest.raises(DataError, match="is sparse"):
        load_data(tmp_path / "x.tar", "captioning")


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/evil.json", "a/../../evil.json"])
def test_names_in_shards_are_not_paths(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for extension, content in (("json", b'{"caption": "x"}'), ("png", encoded("red"))):
            member = tarfile.TarInfo(name.replace("json", extension))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    before = set(tmp_path.rglob("*"))
    (row,) = load_data(tmp_path / "x.tar", "captioning", streaming=True)
    assert row["image"]["bytes"] == encoded("red")
    assert set(tmp_path.rglob("*")) == before and not (tmp_path.parent / "evil.json").exists()


def test_links_in_shards_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("a.txt", tarfile.SYMTYPE), ("a.json", tarfile.LNKTYPE), ("a.cls", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match="no rows"):
        load_data(tmp_path / "x.tar", "captioning")


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["FOLDER_OF_RUN_CODE"],)


def test_pickles_in_parquet_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early versions of Arrow unpickled extension types."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("FOLDER_OF_RUN_CODE", str(tmp_path / "was_run"))
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(RunsCode()),
    }
    fields = [pyarrow.field("image", pyarrow.string(), metadata=metadata), pyarrow.field("caption", pyarrow.string())]
    table = pyarrow.table([["a.png"], ["x"]], schema=pyarrow.schema(fields))
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    try:
        assert list(load_data(tmp_path / "x.parquet", "captioning", streaming=True))[0]["caption"] == "x"
    except DataError:
        pass
    assert not (tmp_path / "was_run").exists()


def test_batches_of_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "caption": "x" * 1000} for row in caption_rows(["a.png"] * 300)]
    write_parquet(tmp_path / "x.parquet", rows)
    monkeypatch.setattr(records, "_MAX_BATCH", 10_000)
    with pytest.raises(DataError, match="256 rows have .* bytes; expected at most 10,000"):
        load_data(tmp_path / "x.parquet", "captioning")


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize("content", ["[" * 100_000, '[{"image": ' + "1" * 5000 + "}]", '{"image": "\xff'])
def test_json_that_no_parser_takes(kind: str, content: str, tmp_path: Path) -> None:
    (tmp_path / f"x.{kind}").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=f"x.{kind}"):
        load_data(tmp_path / f"x.{kind}", "captioning")
    with pytest.raises(DataError, match=f"x.{kind}"):
        load_label2id(tmp_path / f"x.{kind}")


@pytest.mark.parametrize("content", ["image,caption\na.png," + "x" * 200_000, "image,caption\na.png,\0\0\n"])
def test_csv_that_no_parser_takes(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(content)
    try:
        load_data(tmp_path / "x.csv", "captioning")
    except DataError as error:
        assert "x.csv" in str(error)


HARMFUL = {
    "huge id": ({"image_id": 10**400}, "at most 64"),
    "id of half a character": ({"image_id": "\ud800"}, "not valid Unicode"),
    "caption of half a character": ({"caption": "\udfff x"}, "not valid Unicode"),
    "one of several captions": ({"caption": ["a", "\ud800"]}, "not valid Unicode"),
    "path of half a character": ({"image": "\ud800.png"}, "not valid Unicode"),
    "nested caption": ({"caption": json.loads("[" * 400 + "]" * 400)}, "expected a text"),
    "absolute path": ({"image": "/etc/passwd"}, "leads out of"),
    "parent": ({"image": "../../x.png"}, "leads out of"),
    "address": ({"image": "http://127.0.0.1/x.png"}, "is a URL"),
    "address of a file": ({"image": "file:///etc/passwd"}, "is a URL"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_rows(name: str, tmp_path: Path) -> None:
    changes, message = HARMFUL[name]
    rows = caption_rows(write_pictures(tmp_path))
    rows[1].update(changes)
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=f"x.json, row 1, column .*{message}"):
        load_data(tmp_path / "x.json", "captioning")
    kept = load_data(tmp_path / "x.json", "captioning", on_bad_row="keep")
    assert [row["problem"] is None for row in kept] == [True, False, True, True]


@pytest.mark.parametrize(
    "state",
    [
        {"_data_files": [{"filename": "../../secret.arrow"}]},
        {"_data_files": [{"filename": "/etc/passwd"}]},
        {"_data_files": [{}]},
        {"_data_files": 3},
        [],
    ],
)
def test_saved_data_sets_name_files_of_their_folder_only(state: Any, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(
        DataError, match="names .*outside|expected files of its own folder|not a folder that save_to_disk"
    ):
        load_data(tmp_path, "captioning")
    (tmp_path / "state.json").unlink()
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["../other"]}))
    with pytest.raises(DataError, match="expected files of its own folder"):
        load_data(tmp_path, "captioning", split="train")
