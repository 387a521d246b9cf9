"""The same command again: what it goes on with, what it refuses, and what `--restart` removes."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from modeling_lavis import jobs
from modeling_lavis.jobs.api import FORMATS, check_inputs
from modeling_lavis.jobs.columns import ItemMaker
from modeling_lavis.jobs.items import Shard
from modeling_lavis.jobs.journal import JobError
from modeling_lavis.jobs.opening import open_source
from modeling_lavis.jobs.runner import restart_job
from modeling_lavis.jobs.sinks import JsonLines, as_line, with_kept
from modeling_lavis.jobs.sources import Rows, Stream
from tests.jobs.stubs import StubFilter, StubPipeline, run_stub, save_pictures, use_stub_filter
from tests.jobs.test_collections import members, save_shards

pytestmark = pytest.mark.slow


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestRestart:
    @pytest.mark.parametrize("data", ["mistyped", "mistyped/*.png", "@mistyped.txt", "empty", ["in", "mistyped"]])
    def test_inputs_that_are_not_there_remove_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        save_pictures(Path("in"), 3)
        Path("empty").mkdir()
        output = Path("out.jsonl")
        run_stub("in", output)
        before = output.read_bytes()
        make_source = lambda path: open_source(data, ItemMaker("image"), path, [output])  # noqa: E731
        sink = JsonLines(output, Path("out.jsonl.job"))
        with pytest.raises(FileNotFoundError, match="Nothing was removed"):
            restart_job(sink, FORMATS, lambda: check_inputs(data, make_source))
        assert output.read_bytes() == before and run_stub("in", output).was_finished
        make_source = lambda path: open_source("in", ItemMaker("image"), path, [output])  # noqa: E731
        restart_job(sink, FORMATS, lambda: check_inputs("in", make_source))
        assert not output.exists()

    def test_both_outputs_of_capfilt_stay(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use_stub_filter(monkeypatch, StubFilter())
        save_pictures(tmp_path / "in", 3)
        output = tmp_path / "clean.jsonl"
        jobs.capfilt(tmp_path / "in", None, None, output)
        before = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
        with pytest.raises(FileNotFoundError, match="Nothing was removed"):
            jobs.capfilt(tmp_path / "mistyped", None, None, output, restart=True)
        assert {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before and len(before) == 2
        assert not jobs.capfilt(tmp_path / "in", None, None, output, restart=True).scoring.was_finished

    def test_a_job_that_cannot_begin_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use_stub_filter(monkeypatch, StubFilter())
        save_pictures(tmp_path / "in", 1)
        with pytest.raises(ValueError, match="media_root cannot be used here"):
            jobs.capfilt(tmp_path / "in", None, None, scores=tmp_path / "a.jsonl", media_root="/")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("forget", [True, False])
def test_without_job_json_nothing_else_counts(tmp_path: Path, forget: bool) -> None:
    """A process that was killed while it removed a job leaves some of its files."""
    save_pictures(tmp_path / "in", 20)
    output, calls = tmp_path / "out.jsonl", list[int]()

    def stop(rows: list[Any]) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stub(tmp_path / "in", output, pipe=StubPipeline(before=stop))
    folder = tmp_path / "out.jsonl.job"
    if forget:
        (folder / "job.json").unlink()
    save_pictures(tmp_path / "in", 21)
    summary = run_stub(tmp_path / "in", output, identity={"verb": "caption", **({"seed": 1} if forget else {})})
    assert summary.inputs == len(lines(output)) == (21 if forget else 20)


def test_records_that_are_gone_for_a_while(tmp_path: Path) -> None:
    """As on a disk that is not mounted: the job waits for them, and is not turned into one of other inputs."""
    save_shards(tmp_path / "shards")
    for data in (tmp_path / "shards", f"{tmp_path}/shards/*.tar"):
        output, calls = tmp_path / f"{len(str(data))}.jsonl", list[int]()

        def stop(rows: list[Any], calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_stub(data, output, pipe=StubPipeline(before=stop))
        (tmp_path / "shards").rename(tmp_path / "gone")
        with pytest.raises(FileNotFoundError, match="was begun with records"):
            run_stub(data, output)
        (tmp_path / "gone").rename(tmp_path / "shards")
        assert run_stub(data, output).written == 22


def test_files_that_are_gone_for_a_while(tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 20)

    def stop(rows: list[Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stub(tmp_path / "in", tmp_path / "out.jsonl", pipe=StubPipeline(before=stop))
    (tmp_path / "in").rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="None of the inputs is there"):
        run_stub(tmp_path / "in", tmp_path / "out.jsonl")
    (tmp_path / "gone").rename(tmp_path / "in")
    assert run_stub(tmp_path / "in", tmp_path / "out.jsonl").written == 20


class TestOtherRows:
    """Rows in memory and streams that are not those that a job began with."""

    def images(self, first: int) -> list[Any]:
        return [PIL.Image.new("RGB", (2, 2), (first + n, 0, 0)) for n in range(3)]

    @pytest.mark.parametrize("kind", ["images", "arrays", "bytes"])
    def test_lists(self, tmp_path: Path, kind: str) -> None:
        def rows(first: int) -> list[Any]:
            images = self.images(first)
            if kind == "arrays":
                return [{"image": np.asarray(image)} for image in images]
            if kind == "bytes":
                return [{"image": {"bytes": encoded(image), "path": None}} for image in images]
            return images

        run_stub(rows(0), tmp_path / "out.jsonl")
        assert run_stub(rows(0), tmp_path / "out.jsonl").was_finished
        with pytest.raises(JobError, match="input.fingerprint was"):
            run_stub(rows(1), tmp_path / "out.jsonl")

    def test_streams(self, tmp_path: Path) -> None:
        assert run_stub(iter(self.images(0)), tmp_path / "out.jsonl").inputs == 3
        assert run_stub(iter(self.images(0)), tmp_path / "out.jsonl").was_finished
        with pytest.raises(JobError, match="input.first was"):
            run_stub(iter(self.images(1)), tmp_path / "out.jsonl")
        assert Stream(iter([]), ItemMaker("image")).describe()["kind"] == "stream"

    def test_objects_that_read_rows_are_not_read_twice(self) -> None:
        class Reader:
            asked: list[int] = []

            def __len__(self) -> int:
                return 5

            def __getitem__(self, index: int) -> Any:
                self.asked.append(index)
                raise OSError("broken")

        assert Rows(Reader(), ItemMaker("image")).describe()["count"] == 5
        assert Reader.asked == [0]


def encoded(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_progress_of_a_part_counts_the_part(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    save_pictures(tmp_path / "in", 21)
    source = open_source(tmp_path / "in", ItemMaker("image"), tmp_path / "files.jsonl")
    pq.write_table(pa.table({"image": ["a"] * 21}), tmp_path / "a.parquet", row_group_size=8)
    for each in (source, open_source(tmp_path / "a.parquet", ItemMaker("image"), tmp_path / "none")):
        assert each.count(8) == 21
        assert [each.count(8, Shard(index, 2)) for index in range(2)] == [13, 8]
    assert Rows(list(range(21)), ItemMaker("image")).count(8, Shard(2, 3)) == 5


# ---- records ----


def test_lines_that_are_no_records_are_failures_of_their_own(tmp_path: Path) -> None:
    paths = save_pictures(tmp_path, 4)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    good = [json.dumps({"image": name}).encode() for name in names]
    bad = [b'{"image": "tor', b"[1, 2]", b"\xff\xfe{}", b"[" * 100_000]
    (tmp_path / "rows.jsonl").write_bytes(
        b"\n".join([bad[0], *good[:2], bad[1], bad[2], b"", good[2], bad[3], good[3]])
    )
    (tmp_path / "rows.csv").write_text(
        "image,id\n" + "\n".join([names[0], *(f"{name},1" for name in names[1:]), "a,b,c"])
    )
    expected = {
        "rows.jsonl": ["row 0", "row 3", "row 4", "row 6"],
        "rows.csv": ["row 0", "row 4"],
    }
    for name, places in expected.items():
        output = tmp_path / f"{name}.out.jsonl"
        summary = run_stub(tmp_path / name, output)
        failures = lines(tmp_path / f"{name}.out.jsonl.job" / "failures.jsonl")
        assert [row["file"] for row in failures] == [f"{name}, {place}" for place in places]
        assert summary.written == (4 if name == "rows.jsonl" else 3)


def test_columns_of_the_input_keep_their_values(tmp_path: Path) -> None:
    """Also several of one name, numbers that JSON does not have, and a value that is that of the image, too."""
    fields = {"caption": "old", "original_caption": "older"}
    kept = with_kept({"caption": "new"}, fields, ["caption", "original_caption"])
    assert kept == {"original_caption": "old", "original_original_caption": "older", "caption": "new"}
    line = as_line({"a": math.nan, "b": np.array([1.0, math.inf]), "c": [{"d": -math.inf}]})
    assert json.loads(line, parse_constant=pytest.fail) == {"a": None, "b": [1.0, None], "c": [{"d": None}]}
    item = ItemMaker("image", trusted=True)({"image": "a.png", "source": "a.png", "id": None}, "row 0")
    assert item.fields == {"source": "a.png", "id": None}
    item = ItemMaker("image")({"file_name": "a.png", "id": 1}, "row 0", "/x")
    assert item.fields == {"id": 1} and item.row == {"image": "/x/a.png"}


def test_texts_of_shards_are_kept_over_several_rounds(tmp_path: Path) -> None:
    save_shards(tmp_path / "0", shards=1, samples=3)
    for number in range(2):
        run_stub(tmp_path / str(number), tmp_path / str(number + 1), "webdataset")
    first, second, third = (members(tmp_path / str(number)) for number in range(3))
    for key, files in third.items():
        assert files["original.txt"] == second[key]["txt"]
        assert files["original.original.txt"] == first[key]["txt"]


def test_an_input_that_breaks_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may fail to read one file."""
    import errno

    paths = save_pictures(tmp_path / "in", 3)

    def broken(item: Any) -> tuple[str, bytes]:
        if item.name == str(paths[1]):
            raise OSError(errno.EIO, "Input/output error")
        return "png", Path(item.name).read_bytes()

    monkeypatch.setattr("modeling_lavis.jobs.shards.stored_content", broken)
    assert run_stub(tmp_path / "in", tmp_path / "out", "webdataset").failed == 1


def test_features_of_several_query_tokens_in_parquet(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from modeling_lavis.jobs.sinks import Parquet

    rows = [{"file": "a", "image_features": [[0.5, 1.0], [0.25, 0.0]]}]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Parquet(tmp_path / "out.parquet", tmp_path).finish({}, {})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == rows and "float" in str(table.schema.field("image_features").type)
    assert "double" not in str(table.schema)
