"""Outputs that must not touch what is not theirs, and what is kept of the input."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from modeling_lavis.jobs import JobError, JobOptions
from modeling_lavis.jobs.api import FORMATS, make_sink
from modeling_lavis.jobs.items import Item, Result
from modeling_lavis.jobs.journal import Journal, differences
from modeling_lavis.jobs.runner import restart_job
from modeling_lavis.jobs.shards import WebDataset
from modeling_lavis.jobs.sinks import Parquet, TextFiles, with_kept
from modeling_lavis.jobs.tasks import TASKS
from tests.jobs.stubs import StubPipeline, run_stub, save_pictures

pytestmark = pytest.mark.slow


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def text_sink(folder: Path, root: Path) -> TextFiles:
    return TextFiles(folder / "out", folder / "out" / ".caption.job", text="caption", root=root)


def test_restart_removes_the_text_files_of_the_job_and_no_others(tmp_path: Path) -> None:
    """Also those of a block that is not in the journal; and with another folder of inputs."""
    save_pictures(tmp_path / "a", 4)
    run_stub(tmp_path / "a", tmp_path / "out", "txt", identity={"output_format": "txt"})
    same = next((tmp_path / "out").rglob("*.txt"))
    foreign = tmp_path / "a" / same.relative_to(tmp_path / "out")
    foreign.write_bytes(same.read_bytes())
    changed = sorted((tmp_path / "out").rglob("*.txt"))[-1]
    changed.write_text("mine")
    (tmp_path / "out" / ".caption.job" / "records.jsonl").write_bytes(b"")
    (tmp_path / "b").mkdir()
    restart_job(text_sink(tmp_path, tmp_path / "b"), FORMATS)
    assert list((tmp_path / "out").rglob("*.txt")) == [changed]
    assert foreign.exists() and not (tmp_path / "out" / ".caption.job").exists()


def test_restart_removes_the_output_in_the_form_that_it_had(tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 3)
    run_stub(tmp_path / "in", tmp_path / "out", "webdataset", identity={"output_format": "webdataset"})
    (tmp_path / "out" / "2024-mine.tar").write_bytes(b"")
    restart_job(text_sink(tmp_path, tmp_path / "in"), FORMATS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2024-mine.tar"]


def test_restart_leaves_a_job_at_work_alone(tmp_path: Path) -> None:
    sink = text_sink(tmp_path, tmp_path)
    with Journal(sink.folder).held():
        (sink.folder / "job.json").write_text("{}")
        with pytest.raises(JobError, match="Another process"):
            restart_job(sink, FORMATS)
        assert (sink.folder / "job.json").exists()


def test_going_on_with_shards_leaves_other_archives_alone(tmp_path: Path) -> None:
    save_pictures(tmp_path / "in", 24)

    def stop(rows: list[Any]) -> None:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)

    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_stub(tmp_path / "in", tmp_path / "out", "webdataset", StubPipeline(before=stop))
    (tmp_path / "out" / "mine.tar").write_bytes(b"mine")
    run_stub(tmp_path / "in", tmp_path / "out", "webdataset")
    assert (tmp_path / "out" / "mine.tar").read_bytes() == b"mine"
    for path in (tmp_path / "out").glob("0*.tar"):
        path.unlink()
    with pytest.raises(JobError, match="is gone"):
        run_stub(tmp_path / "in", tmp_path / "out", "webdataset")


def test_neighbours_of_one_key_stay_two_samples(tmp_path: Path) -> None:
    from modeling_lavis.data.records import shard_samples

    content = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(content, "PNG")
    (tmp_path / "in").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / "in" / f"{number}.tar", "w") as archive:
            member = tarfile.TarInfo("sample.png")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
    run_stub(tmp_path / "in", tmp_path / "out", "webdataset")
    keys = [key for key, _ in shard_samples(str(tmp_path / "out" / "00000.tar"))]
    assert keys == ["sample", "sample-1", "sample"]


def test_a_job_that_goes_on_takes_first_failures_as_failures(tmp_path: Path) -> None:
    """Rows on which the model fails are the first of the second run, and so many that they would end a first run."""
    save_pictures(tmp_path / "in", 24)
    calls: list[int] = []

    def fail(rows: list[Any]) -> None:
        calls.append(1)
        if 2 < len(calls) and stops and len(calls) > 2:
            raise KeyboardInterrupt
        if len(calls) > 2 or not stops:
            raise RuntimeError("too long")

    stops = True
    with pytest.raises(KeyboardInterrupt):
        run_stub(tmp_path / "in", tmp_path / "out.jsonl", pipe=StubPipeline(before=fail))
    stops = False
    summary = run_stub(tmp_path / "in", tmp_path / "out.jsonl", pipe=StubPipeline(before=fail))
    assert (summary.written, summary.failed) == (8, 16)


def test_values_of_several_kinds_are_texts_in_parquet(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    sink = Parquet(tmp_path / "out.parquet", tmp_path)
    rows: list[dict[str, Any]] = [
        {"file": "a", "id": 1, "odd": {}, "big": 2**70, "n": 1, "x_features": [0.1]},
        {"file": "b", "id": "x", "odd": {}, "big": 1, "n": 1.5, "x_features": [0.2]},
        {"file": "c", "id": [1]},
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sink.finish({}, {})
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["1", "x", "[1]"] and table["odd"].to_pylist() == ["{}", "{}", None]
    assert table["n"].to_pylist() == [1, 1.5, None] and table["big"].to_pylist() == [str(2**70), "1", None]
    assert str(table.schema.field("x_features").type) == "list<element: float>"


def test_kept_columns_of_the_names_of_results() -> None:
    record = {"file": "a", "caption": "new"}
    kept = with_kept(record, {"caption": "old", "id": 1, "other": 2}, ["caption", "id"])
    assert kept == {"original_caption": "old", "id": 1, "file": "a", "caption": "new"}


@pytest.mark.parametrize("name", ["in", "."])
def test_content_of_a_table_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    sink = TextFiles(Path(name), tmp_path / "job", text="caption")
    with pytest.raises(ValueError, match="is not a file"):
        sink.relative(Result(Item("t.parquet, row 0", {"image": {"bytes": b"x", "path": "a.png"}})))
    assert sink.relative(Result(Item("a", {"image": os.path.join(name, "a.png")}))) == "a.png"


def test_differences_of_long_lists_are_named() -> None:
    names = [f"photos/{number:06d}.jpg" for number in range(100)]
    assert list(differences({"inputs": names}, {"inputs": names[1:]})) == ["inputs had 100 entries, now it has 99"]
    (text,) = differences(names, [*names[:50], "x", *names[51:]], "inputs")
    assert text == 'inputs[50] was "photos/000050.jpg", now it is "x"'


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    from modeling_lavis import jobs
    from modeling_lavis.embedded import embedded_model_path

    with pytest.raises(ValueError, match="is for WebDataset"):
        make_sink(tmp_path / "x.jsonl", TASKS["caption"], "in", JobOptions(samples_per_shard=3))
    sink = make_sink(
        tmp_path / "x", TASKS["caption"], "in", JobOptions(samples_per_shard=3, output_format="webdataset")
    )
    assert isinstance(sink, WebDataset)
    (path,) = save_pictures(tmp_path / "in", 1)
    model = embedded_model_path()
    for verb, options, message in (
        (jobs.caption, {"columns": {"imgae": "url"}}, "columns has imgae; caption reads the columns image, prompt"),
        (jobs.caption, {"keep": ["id"]}, "keep cannot be used here"),
        (jobs.embed, {"columns": {"text": "caption"}}, "columns cannot be used here"),
        (jobs.match, {}, "There is no text"),
    ):
        with pytest.raises(ValueError, match=message):
            verb(path, model, tmp_path / "out.jsonl", device="cpu", **options)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("draft_size", [None, 64])
def test_reasons_of_failures_are_the_same_in_each_run(draft_size: int | None) -> None:
    """Pillow names content in memory by an address."""
    from modeling_lavis.jobs.media import opened_row

    item = Item("t.tar/a", {"image": {"bytes": b"no image", "path": "a.png"}})
    with pytest.raises(OSError, match=r"^Cannot read the image a.png from its bytes: the content is not an image$"):
        with opened_row(item, draft_size):
            pass


def test_functions_refuse_options_of_writing(tmp_path: Path) -> None:
    from modeling_lavis import jobs

    with pytest.raises(ValueError, match="keep, shard cannot be used here"):
        jobs.RowFunction("caption", "model", keep=["a"], shard="1/2")
    with pytest.raises(ValueError, match="output_format, restart cannot be used without an output"):
        jobs.caption([], "model", restart=True, output_format="jsonl")


def test_a_job_does_not_go_on_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all relative names would be failures."""
    monkeypatch.chdir(tmp_path)
    save_pictures(Path("photos"), 20)

    def stop(rows: list[Any]) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_stub("photos", output, pipe=StubPipeline(before=stop))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="None of the inputs is there: photos, seen from .*elsewhere"):
        run_stub("photos", output)
    monkeypatch.chdir(tmp_path)
    assert run_stub("photos", output).written == 20
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_stub("photos", output).was_finished


@pytest.mark.parametrize("data", [".", "*.parquet"])
def test_the_output_is_no_input_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    monkeypatch.chdir(tmp_path)
    (path,) = save_pictures(tmp_path / "hidden", 1)
    pq.write_table(pyarrow.Table.from_pylist([{"image": {"bytes": path.read_bytes(), "path": None}}]), "in.parquet")
    assert run_stub(data, Path("out.parquet"), "parquet").written == 1
    assert run_stub(data, Path("out.parquet"), "parquet").was_finished


@pytest.mark.parametrize("with_summary", [True, False])
def test_an_output_that_is_gone_is_not_reported_as_written(tmp_path: Path, with_summary: bool) -> None:
    """Also if the process ended between moving the output to its place and writing the summary."""
    save_pictures(tmp_path / "in", 2)
    output = tmp_path / "out.jsonl"
    run_stub(tmp_path / "in", output)
    if not with_summary:
        (tmp_path / "out.jsonl.job" / "summary.json").unlink()
        assert run_stub(tmp_path / "in", output).written == 2
        (tmp_path / "out.jsonl.job" / "summary.json").unlink()
    output.unlink()
    with pytest.raises(JobError, match="out.jsonl is gone"):
        run_stub(tmp_path / "in", output)
