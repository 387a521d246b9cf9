# SPDX-License-Identifier: Apache-2.0
"""Output as WebDataset shards."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modeling_lavis.jobs.items import Result
from modeling_lavis.jobs.journal import GrowingFile, JobError
from modeling_lavis.jobs.media import stored_content
from modeling_lavis.jobs.sinks import RECORDS, Sink, as_line, with_kept

_END = bytes(2 * tarfile.BLOCKSIZE)  # what ends an archive
_SHARD = re.compile(r"\d{5,}\.tar")


class WebDataset(Sink):
    """
    A folder of shards `00000.tar`, `00001.tar`, ...

    A sample has the image or video as it was stored, `.txt` with the text (of captions and answers) and `.json` with
    the record and the other columns of the input. Samples of WebDataset shards keep their key and all their files; a
    `.txt` that they have already becomes `.original.txt`, and an `.original.txt` `.original.original.txt`.

    Args:
        samples_per_shard (`int`, *optional*, defaults to 10,000): samples of a full shard.
    """

    is_folder = True

    def __init__(self, *args: Any, samples_per_shard: int = 10_000, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_per_shard = samples_per_shard
        self._shard = self._samples = self._total = 0
        self._last = ""  # key of the last sample

    def check(self) -> None:
        if self.output.exists() and (not self.output.is_dir() or any(self.output.glob("*.tar"))):
            raise JobError(f"{self.output} is a file, or has shards already. Choose another folder, or remove it.")
        self.output.mkdir(parents=True, exist_ok=True)

    def discard(self) -> None:
        for shard in shards_in(self.output):
            shard.unlink()

    def is_present(self) -> bool:
        records = self.folder / RECORDS
        return any(shards_in(self.output)) or (records.exists() and records.stat().st_size == 0)

    def open(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        super().open(sizes, note)
        self._take(note)
        name = self._name()
        finished = self.output / name
        if finished.exists() and not (self.folder / name).exists():
            finished.rename(self.folder / name)  # finished after the last line of the journal
        for path in (*shards_in(self.folder), *shards_in(self.output)):
            if int(path.stem) > self._shard:
                path.unlink()
        self._open(name, sizes.get(name, 0))

    def _take(self, note: Mapping[str, Any]) -> None:
        self._shard, self._samples, self._total = (note.get(name, 0) for name in ("shard", "samples", "total"))
        self._last = note.get("key", "")

    def _name(self) -> str:
        return f"{self._shard:05d}.tar"

    def add(self, result: Result) -> None:
        files = self._files(result)
        key = self._key(result)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for extension, value in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
            length = content.tell()
        if self._samples >= self.samples_per_shard:
            self._next_shard()
        self.files[self._name()].write(content.getvalue()[:length])
        self._samples += 1
        self._total += 1
        self._last = key

    def _key(self, result: Result) -> str:
        return self._key_of(None if result.item.members is None else result.item.name)

    def _key_of(self, sample: str | None) -> str:
        """Key of a sample by its place in a shard of the input, `None` if it is from elsewhere."""
        if sample is None:
            return f"{self._total:09d}"
        key = sample.partition("/")[2]
        # neighbours of one key, which are of two shards of the input, would be read as one sample
        return key if key != self._last else f"{key}-{self._total}"

    def _files(self, result: Result) -> dict[str, bytes]:
        record = with_kept(result.record or {}, result.item.fields, result.item.fields)
        files: dict[str, bytes] = {}
        if result.item.members is not None:
            files.update(result.item.members)
            if self.text is not None and "txt" in files:
                _rename(files, "txt", "original.txt")
            if "json" in files:
                stored = json.loads(files["json"])
                record = {**stored, **record} if isinstance(stored, Mapping) else {"original": stored, **record}
        else:
            try:
                extension, content = stored_content(result.item)
            except OSError as error:  # of the input, also if it says the same as one of the output would
                raise ValueError(str(error)) from error
            files[extension] = content
        if self.text is not None:
            files["txt"] = str(record[self.text]).encode("utf-8", "backslashreplace")
        fields = {name: value for name, value in record.items() if not _is_content(value)}
        return {**files, "json": as_line(fields)[:-1]}

    def _next_shard(self) -> None:
        self._end(self.files.pop(self._name()))
        self._shard += 1
        self._samples = 0
        self._open(self._name(), 0)

    def _end(self, file: GrowingFile) -> None:
        file.write(_END)
        file.flush()
        file.sync()
        file.close()
        file.path.rename(self.output / file.path.name)

    def note(self) -> dict[str, Any]:
        return {"shard": self._shard, "samples": self._samples, "total": self._total, "key": self._last}

    def finish(self, sizes: Mapping[str, int], note: Mapping[str, Any]) -> None:
        self._take(note)
        name = self._name()
        path = self.folder / name
        if not path.exists():
            return
        if self._samples == 0:
            path.unlink()
        else:
            self._end(GrowingFile(path, sizes[name]))


def shards_in(folder: Path) -> Iterator[Path]:
    """Shards of an output in a folder; other files are not touched."""
    return (path for path in folder.glob("*.tar") if _SHARD.fullmatch(path.name))


def _rename(files: dict[str, bytes], name: str, new_name: str) -> None:
    """Give a file another name; one that has that name already gets the next one."""
    if new_name in files:
        _rename(files, new_name, f"original.{new_name}")
    files[new_name] = files.pop(name)


def _is_content(value: Any) -> bool:
    """Whether a value is the content of a file, which has no place in JSON."""
    return isinstance(value, (bytes, bytearray)) or (
        isinstance(value, Mapping) and isinstance(value.get("bytes"), (bytes, bytearray))
    )


__all__ = ["WebDataset", "shards_in"]
