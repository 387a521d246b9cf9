"""Inputs and outputs of every kind, with files of every kind."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.items import Position, Shard
from modeling_lavis.jobs.opening import open_source
from tests.http_servers import serve
from tests.jobs.stubs import SINKS, content_of, run_stub, save_pictures

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.slow


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def png(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


def save_shards(folder: Path, shards: int = 2, samples: int = 11) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for sample in range(samples):
                key = f"{shard}_{sample:03d}"
                meta = json.dumps({"width": 4, "url": f"http://x/{key}"}).encode()
                files = {"png": png((sample, shard, 0)), "txt": f"alt {key}".encode(), "json": meta, "bin": b"\0\1"}
                for extension, content in files.items():
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """Samples of all shards by key."""
    from modeling_lavis.data.records import shard_samples

    return {key: files for path in sorted(folder.glob("*.tar")) for key, files in shard_samples(str(path))}


# ---- files ----


def save_odd_files(folder: Path) -> dict[str, bool]:
    """Files whose names or contents are unusual, and whether each is an image."""
    folder.mkdir(parents=True)
    good = png((1, 2, 3))
    jpeg = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).convert("RGB").save(jpeg, "JPEG")
    found: dict[str, bytes] = {
        "plain.png": good,
        "snow ☃ 雪.png": good,
        "new\nline.png": good,
        "quote\"'.png": good,
        "-dash.png": good,
        "percent%20.png": good,
        "n" * 240 + ".png": good,
        "empty.png": b"",
        "cut.png": good[: len(good) // 2],
        "cut.jpg": jpeg.getvalue()[:300],
        "text.jpg": b"<html>not found</html>",
        "zeros.png": bytes(1000),
        "head.gif": b"GIF89a",
        "broken.webp": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(20),
        "broken.bmp": b"BM" + bytes(60),
        "broken.tif": b"II*\0" + bytes(100),
        "bomb.png": _bomb(),
    }
    for name, content in found.items():
        (folder / name).write_bytes(content)
    (folder / os.fsdecode(b"latin-\xe9.png")).write_bytes(good)
    (folder / "link.png").symlink_to("plain.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "fifo.png")
    valid = {name: content == good for name, content in found.items()}
    return {**valid, os.fsdecode(b"latin-\xe9.png"): True, "link.png": True, "dangling.png": False, "fifo.png": False}


def _bomb() -> bytes:
    """A PNG that says it has 60000 x 60000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x\x9c") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_file_is_in_the_output_or_among_the_failures(tmp_path: Path, kind: str) -> None:
    expected = save_odd_files(tmp_path / "in")
    output = tmp_path / f"out.{kind}"
    summary = run_stub(tmp_path / "in", output, kind)
    failures = lines(tmp_path / f"out.{kind}.job" / "failures.jsonl")
    if kind == "parquet":
        table = datasets.Dataset.from_parquet(str(output), cache_dir=str(tmp_path / "cache"))
        written = [os.path.basename(row["file"]) for row in table]
        expected[os.fsdecode(b"latin-\xe9.png").encode("utf-8", "backslashreplace").decode()] = expected.pop(
            os.fsdecode(b"latin-\xe9.png")
        )
    else:
        written = [os.path.basename(row["file"]) for row in lines(output)]
    failed = [os.path.basename(row["file"]) for row in failures]
    assert sorted(written) == sorted(name for name, valid in expected.items() if valid)
    assert sorted(failed) == sorted(name for name, valid in expected.items() if not valid)
    assert all(row["error"] for row in failures)
    assert (summary.inputs, summary.failed) == (len(expected), len(failures))


def test_text_files_of_odd_names(tmp_path: Path) -> None:
    expected = save_odd_files(tmp_path / "in")
    summary = run_stub(tmp_path / "in", tmp_path / "in", "txt")
    valid = {name for name, is_valid in expected.items() if is_valid}
    texts = {path.stem for path in (tmp_path / "in").glob("*.txt")}
    assert texts == {Path(name).stem for name in valid}
    assert summary.written == len(valid)


def test_text_files_do_not_replace_others(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png((1, 1, 1)))
    (tmp_path / "a.jpg").write_bytes(png((2, 2, 2)))
    (tmp_path / "b.png").write_bytes(png((3, 3, 3)))
    (tmp_path / "b.txt").write_text("mine")
    summary = run_stub(tmp_path, tmp_path, "txt")
    assert summary.written == 1 and (tmp_path / "b.txt").read_text() == "mine"
    failures = lines(tmp_path / ".caption.job" / "failures.jsonl")
    assert [Path(row["file"]).name for row in failures] == ["a.png", "b.png"]
    assert all("exists already" in row["error"] for row in failures)
    assert (tmp_path / "a.txt").read_text() == "value 6\n"  # of a.jpg, the first


def test_duplicates_count_once(tmp_path: Path) -> None:
    (first, second) = save_pictures(tmp_path / "in", 2)
    (tmp_path / "list.txt").write_text(f"{second}\n{first}\n\n{first}\n")
    data = [str(first), str(tmp_path / "in"), f"{tmp_path}/in/**/*.png", f"@{tmp_path}/list.txt"]
    run_stub(data, tmp_path / "out.jsonl")
    assert [row["file"] for row in lines(tmp_path / "out.jsonl")] == [str(first), str(second)]


def test_files_that_come_later_belong_to_another_job(tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 3)
    run_stub(tmp_path / "in", tmp_path / "out.jsonl")
    save_pictures(tmp_path / "in", 5)
    assert run_stub(tmp_path / "in", tmp_path / "out.jsonl").inputs == 3


def test_urls_and_data_uris(tmp_path: Path) -> None:
    import base64
    import http.server

    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            super().do_GET()

    (tmp_path / "a b.png").write_bytes(png((9, 9, 9)))
    with serve(Handler, directory=str(tmp_path)) as base:
        uri = "data:image/png;base64," + base64.b64encode(png((1, 0, 0))).decode()
        (tmp_path / "urls.txt").write_text(f"{base}/a%20b.png?x=1\n{base}/missing.png\n{uri}\n")
        summary = run_stub([f"@{tmp_path}/urls.txt"], tmp_path / "out.jsonl")
        requested.clear()
        shards = run_stub([f"@{tmp_path}/urls.txt"], tmp_path / "shards", "webdataset")
    assert [row["caption"] for row in lines(tmp_path / "out.jsonl")] == ["value 27", "value 1"]
    (failure,) = lines(tmp_path / "out.jsonl.job" / "failures.jsonl")
    assert failure["file"] == f"{base}/missing.png" and "404" in failure["error"]
    assert summary.failed == shards.failed == 1
    assert requested.count("/a%20b.png?x=1") == 1  # for the model and the shard
    assert [set(files) for files in members(tmp_path / "shards").values()] == [{"png", "txt", "json"}] * 2


# ---- records ----


def test_metadata_of_an_image_folder(tmp_path: Path) -> None:
    paths = save_pictures(tmp_path, 3)
    rows = [{"file_name": path.relative_to(tmp_path).as_posix(), "license": "x"} for path in paths]
    rows += [{"file_name": "missing.png"}, {"file_name": "../outside.png"}, {"other": 1}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path.parent / f"{tmp_path.name}.jsonl"
    summary = run_stub(tmp_path, output)
    assert (summary.written, summary.failed) == (3, 3)
    errors = [row["error"] for row in lines(output.with_name(f"{output.name}.job") / "failures.jsonl")]
    assert "No such image" in errors[0] and "leads out of" in errors[1] and "no column 'image'" in errors[2]


def test_metadata_output_loads_as_an_image_folder(tmp_path: Path) -> None:
    save_pictures(tmp_path, 4)
    (tmp_path / "part0" / "broken.png").write_bytes(b"no image")
    run_stub(tmp_path, tmp_path, "metadata")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), split="train", cache_dir=str(tmp_path / "c"))
    rows = lines(tmp_path / "metadata.jsonl")
    assert run_stub(tmp_path, tmp_path, "metadata").was_finished
    assert sorted(loaded["caption"]) == sorted(row["caption"] for row in rows) and len(rows) == 4
    assert set(loaded.column_names) == {"image", "caption", "score"}


def test_parquet_row_groups_are_read_from_any_place(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": png((n, 0, 0)), "path": f"{n}.png"}, "id": n} for n in range(37)]
    for part in range(2):
        pq.write_table(
            pa.Table.from_pylist(rows[part * 20 : part * 20 + 20]), tmp_path / f"{part}.parquet", row_group_size=9
        )
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    source = open_source([f"{tmp_path}/*.parquet"], ItemMaker("image"), tmp_path / "list")
    whole = list(source.blocks(4))
    names = [item.name for block in whole for item in block.items]
    assert len(names) == 38 and names[0] == "0.parquet, row 0" and "broken" in names[-1]
    for index, block in enumerate(whole):
        after = Position(block.position.unit, block.position.block + 1)
        rest = [later.position for later in source.blocks(4, after)]
        assert rest == [later.position for later in whole[index + 1 :]]
        first = next(iter(source.blocks(4, block.position)))
        assert [item.name for item in first.items] == [item.name for item in block.items]
    parts = [[b.position for b in source.blocks(4, shard=Shard(index, 3))] for index in range(3)]
    assert sorted(position for part in parts for position in part) == [block.position for block in whole]
    assert run_stub([f"{tmp_path}/*.parquet"], tmp_path / "out.jsonl").written == 37


def test_webdataset_keeps_all_other_files(tmp_path: Path) -> None:
    save_shards(tmp_path / "in")
    summary = run_stub(tmp_path / "in", tmp_path / "out", "webdataset")
    assert (summary.written, summary.failed) == (22, 0)
    before, after = members(tmp_path / "in"), members(tmp_path / "out")
    assert list(before) == list(after)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 4  # seven samples each
    for key, files in after.items():
        old = before[key]
        assert {name: files[name] for name in ("png", "bin")} == {name: old[name] for name in ("png", "bin")}
        assert files["original.txt"] == old["txt"]
        record = json.loads(files["json"])
        assert record["url"] == f"http://x/{key}" and record["caption"] == files["txt"].decode() and "score" in record


def test_a_shard_that_ends_too_early(tmp_path: Path) -> None:
    save_shards(tmp_path)
    shard = tmp_path / "000.tar"
    os.truncate(shard, shard.stat().st_size // 2)
    summary = run_stub(tmp_path, tmp_path / "out.jsonl")
    (failure,) = lines(tmp_path / "out.jsonl.job" / "failures.jsonl")
    assert failure["file"] == str(shard) and "cannot be read" in failure["error"]
    assert 11 + 3 < summary.written < 22


@pytest.mark.parametrize("streaming", [False, True])
def test_data_sets(tmp_path: Path, streaming: bool) -> None:
    rows = {"picture": [{"bytes": png((n, 0, 0)), "path": None} for n in range(10)], "label": list(range(10))}
    rows["picture"][4] = {"bytes": b"no image", "path": None}
    data = datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())
    data = data.to_iterable_dataset() if streaming else data
    summary = run_stub(data, tmp_path / "out.jsonl")
    assert (summary.written, summary.failed) == (9, 1)
    assert [row["file"] for row in lines(tmp_path / "out.jsonl")][3:5] == ["row 3", "row 5"]


def test_images_in_memory(tmp_path: Path) -> None:
    images = [PIL.Image.new("RGB", (4, 4), (n, 0, 0)) for n in range(5)]
    assert run_stub(images, tmp_path / "out.jsonl").written == 5
    assert run_stub(({"image": image} for image in images), tmp_path / "stream.jsonl").written == 5
    assert run_stub(images, tmp_path / "shards", "webdataset").written == 5
    stored = [files["png"] for files in members(tmp_path / "shards").values()]
    assert [np.asarray(PIL.Image.open(io.BytesIO(content)))[0, 0, 0] for content in stored] == list(range(5))


def test_inputs_of_two_kinds_are_refused(tmp_path: Path) -> None:
    save_shards(tmp_path / "shards")
    save_pictures(tmp_path / "in", 1)
    with pytest.raises(ValueError, match="two kinds"):
        run_stub([str(tmp_path / "shards"), str(tmp_path / "in")], tmp_path / "out.jsonl")


@pytest.mark.parametrize("kind", SINKS)
def test_no_inputs_at_all(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    output = tmp_path / (f"out.{kind}" if kind in ("jsonl", "parquet") else "out")
    summary = run_stub(tmp_path / "in", output, kind)
    assert (summary.inputs, summary.failed) == (1, 1)  # the folder, which has no image
    assert all(content in (b"",) or name.endswith(".parquet") for name, content in content_of(tmp_path / "in").items())
