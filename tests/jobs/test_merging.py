"""Parts of a job, merged: the output of one job over everything."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from modeling_lavis.cli.main import main
from modeling_lavis.jobs import JobError, merge_shards
from modeling_lavis.jobs.items import Shard
from modeling_lavis.jobs.merging import _Passing
from tests.data.data_files import write_shard
from tests.jobs.stubs import content_of, run_stub, save_pictures

pytestmark = pytest.mark.slow


def name_of(kind: str, part: object) -> str:
    return f"{part}.{kind}" if kind in ("jsonl", "parquet") else str(part)


def run_part(
    data: Path, folder: Path, kind: str, shard: str | None = None, name: str = "whole", **identity: Any
) -> Path:
    output = folder / name_of(kind, name if shard is None else f"part{shard[0]}")
    form: dict[str, Any] = {"output_format": kind, **({"samples_per_shard": 7} if kind == "webdataset" else {})}
    known = {"verb": "caption", "inputs": [str(data)], "keep": [], **form, **identity}
    summary = run_stub(data, output, kind, identity=known, shard=Shard() if shard is None else Shard.parse(shard))
    assert summary.was_finished == (name == "merged")
    return output


def job_of(path: Path) -> Path:
    return path / ".caption.job" if path.is_dir() else path.with_name(f"{path.name}.job")


def contents(path: Path, kind: str) -> Any:
    failures = (job_of(path) / "failures.jsonl").read_bytes()
    if kind != "parquet":
        return (content_of(path) if path.is_dir() else path.read_bytes()), failures
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return table.schema, table.to_pylist(), failures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_pictures(folder, 60)
    for number in (3, 40, 41):
        (folder / "part1" / f"{number:06d}b.png").write_bytes(b"\x89PNG no image")
    return folder


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Shards, of which two have one key, and one has a broken image."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(5):
        samples = {}
        for key in ["first", *(f"{shard}_{number}" for number in range(9 if shard != 3 else 0))]:
            file = io.BytesIO()
            PIL.Image.new("RGB", (4, 4), (len(samples), shard, 0)).save(file, "PNG")
            samples[key] = {"png": b"" if key == "2_3" else file.getvalue(), "txt": key.encode(), "cls": b"1"}
        write_shard(folder / f"{shard}.tar", samples)
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt", "webdataset"])
def test_merged_parts_are_the_output_of_one_job(pictures: Path, tmp_path: Path, kind: str) -> None:
    parts = [run_part(pictures, tmp_path, kind, f"{number}/3") for number in (3, 1, 2)]
    whole = run_part(pictures, tmp_path, kind)
    output = tmp_path / name_of(kind, "merged")
    summary = merge_shards(parts, output)
    assert (summary.inputs, summary.written, summary.failed) == (63, 60, 3)
    assert contents(output, kind) == contents(whole, kind)
    assert merge_shards(parts, output).was_finished
    # the job over everything is finished by that
    assert run_part(pictures, tmp_path, kind, name="merged") == output
    assert json.loads((job_of(output) / "summary.json").read_text())["seconds"] == summary.seconds


def test_shards_of_shards(tars: Path, tmp_path: Path) -> None:
    parts = [run_part(tars, tmp_path, "webdataset", f"{number}/2") for number in (1, 2)]
    whole = run_part(tars, tmp_path, "webdataset")
    merge_shards(parts, tmp_path / "merged")
    assert contents(tmp_path / "merged", "webdataset") == contents(whole, "webdataset")
    assert len(list((tmp_path / "merged").glob("*.tar"))) == 6
    merge_shards(parts, tmp_path / "merged.jsonl")
    records = whole / ".caption.job" / "records.jsonl"
    assert (tmp_path / "merged.jsonl").read_bytes() == records.read_bytes()


def test_other_forms_of_output(pictures: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(pictures, photos)
    parts = [run_part(photos, tmp_path, "jsonl", f"{number}/2") for number in (1, 2)]
    merge_shards(parts, photos, output_format="txt")
    assert len(list(photos.rglob("*.txt"))) == 60
    shutil.rmtree(photos / ".caption.job")
    merge_shards(parts, photos, output_format="metadata")
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and rows[0]["file_name"] == "part0/000000.png"
    for row in rows:
        assert (photos / row["file_name"]).with_suffix(".txt").read_text() == row["caption"] + "\n"
    with pytest.raises(JobError, match="WebDataset shards are merged of"):
        merge_shards(parts, tmp_path / "out", output_format="webdataset")


@pytest.mark.parametrize("kind", ["jsonl", "webdataset"])
def test_an_interrupted_merge_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    parts = [run_part(pictures, tmp_path, kind, f"{number}/2") for number in (1, 2)]
    whole = run_part(pictures, tmp_path, kind)
    output = tmp_path / name_of(kind, "merged")
    stream = _Passing.stream

    def stopped(self: Any, blocks: Any) -> Any:
        for number, entry in enumerate(stream(self, blocks)):
            if number == 4:
                raise KeyboardInterrupt
            yield entry

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_Passing, "stream", stopped)
        merge_shards(parts, output)
    assert kind == "webdataset" or not output.exists()
    merge_shards(parts, output)
    assert contents(output, kind) == contents(whole, kind)


def test_parts_that_do_not_belong_together_are_named(pictures: Path, tmp_path: Path) -> None:
    first, second, third = (run_part(pictures, tmp_path, "jsonl", f"{number}/3") for number in (1, 2, 3))
    (tmp_path / "b").mkdir()
    other = run_part(pictures, tmp_path / "b", "jsonl", "2/3", seed=1)
    halves = run_part(pictures, tmp_path / "b", "jsonl", "1/2")
    whole = run_part(pictures, tmp_path, "jsonl")
    output = tmp_path / "out.jsonl"

    def refused(message: str, *parts: Path) -> None:
        with pytest.raises(JobError, match=message):
            merge_shards(parts, output)
        assert not output.exists() and not output.with_name("out.jsonl.job").exists()

    refused("There are 1 of 3 parts; missing: 1/3, 3/3", second)
    refused("part 2/3 is given twice", first, second, third, second)
    refused("part2.jsonl is of another job than .*seed was null, now it is 1", first, other, third)
    refused("part1.jsonl is of another job than .*shard was 3, now it is 2", first, halves)
    refused("whole.jsonl is not a part", whole)
    refused("is not the output of a job", pictures / "part0")
    with pytest.raises(JobError, match="is one of the parts"):
        merge_shards([first, second, third], second)
    text = third.read_text()
    third.write_text(text[: text.index("\n") + 1])
    refused(r"part 3/3 .* has 1 rows, but its journal has \d+", first, second, third)
    third.write_text(text)
    (tmp_path / "part2.jsonl.job" / "summary.json").unlink()
    refused(r"part 2/3 \(.*part2.jsonl\) is not finished", first, second, third)


def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pictures(Path("photos"), 10)
    Path("photos", "broken.png").write_bytes(b"no image")
    options = ["--num-beams", "1", "--block-size", "2", "--batch-size", "2", "--device", "cpu"]
    run: Callable[..., int] = lambda *words: main(list(words))  # noqa: E731
    run("caption", "photos", "--output", "1.jsonl", "--shard", "1/2", *options)
    capfd.readouterr()
    assert run("merge-shards", "1.jsonl", "--output", "all.jsonl") == 2
    assert "missing: 2/2" in capfd.readouterr().err
    run("caption", "photos", "--output", "2.jsonl", "--shard", "2/2", *options)
    capfd.readouterr()
    assert run("merge-shards", "1.jsonl", "2.jsonl", "--output", "all.jsonl", "--json") == 1
    assert json.loads(capfd.readouterr().out)["written"] == 10
    run("caption", "photos", "--output", "whole.jsonl", *options)
    assert Path("all.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    capfd.readouterr()
    run("caption", "photos", "--output", "all.jsonl", *options)
    assert "finished before" in capfd.readouterr().out
