"""Workers keep neither files nor memory: they stay as large as they are after the first epochs."""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch.utils.data import DataLoader, get_worker_info

from modeling_lavis import AlproProcessor, LavisVideoProcessor
from modeling_lavis.data.collation import make_collator
from modeling_lavis.data.loading import load_data
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.data.data_files import encoded, picture, write_json, write_shard
from tests.models.video_clips import write_clip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

EPOCHS, SETTLED = 60, 20
# Of 480 rows per worker in the epochs between, whose pictures have 4 MiB and whose videos 80 MiB.
MAX_GROWTH, MAX_OBJECTS = 2**19, 2000


class Usage(NamedTuple):
    """
    What a process holds.

    Args:
        memory (`int`): bytes that `malloc` has given out. The resident memory would also count those that were given
            back and lie between others, which depends on the order in which the threads of a busy machine run.
        objects (`int`): blocks of Python's own allocator, which `malloc` does not see.
        files (`int`): files of the test that are open. Counted before garbage is collected: a file that is closed by
            the collector stays open for as long as nothing else fills its lists.
    """

    memory: int
    objects: int
    files: int

    @classmethod
    def of_this_process(cls, folder: Path) -> "Usage":
        files = sum(name.startswith(f"{folder}{os.sep}") for name in open_files("self"))
        gc.collect()
        return cls(malloc_in_use(), sys.getallocatedblocks(), files)


def malloc_in_use() -> int:
    """Bytes that glibc's `malloc` has given out, among them mapped ones."""
    libc = ctypes.CDLL(None)
    has_sizes = hasattr(libc, "mallinfo2")  # since glibc 2.33; before, the fields are integers of 32 bits
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    fields = [(name, ctypes.c_size_t if has_sizes else ctypes.c_uint) for name in names]
    function = libc.mallinfo2 if has_sizes else libc.mallinfo
    function.restype = type("MallInfo", (ctypes.Structure,), {"_fields_": fields})
    info = function()
    return info.uordblks + info.hblkhd


def open_files(process: int | str) -> list[str]:
    """Names of the open files of a process."""
    names = []
    for number in os.listdir(f"/proc/{process}/fd"):
        try:
            names.append(os.readlink(f"/proc/{process}/fd/{number}"))
        except FileNotFoundError:
            continue  # closed in the meantime, such as the one of this listing
    return names


class Measured:
    """A collator whose batches say what their worker held before it read them."""

    def __init__(self, collate: Callable[[Any], dict[str, Any]], folder: Path) -> None:
        self.collate, self.folder = collate, folder

    def __call__(self, rows: Any) -> dict[str, Any]:
        usage = Usage.of_this_process(self.folder)
        return {**self.collate(rows), "usage": (get_worker_info().id, usage)}


def keep_the_imports(number: int) -> None:
    """Leave what a worker starts with to itself, so that collecting garbage takes no time."""
    gc.freeze()


def sources(kind: str, folder: Path) -> Any:
    """A data set with images of every kind that keeps its file open while it is decoded; some are broken."""
    names = []
    for index in range(24):
        suffix = ("jpg", "png", "gif", "tif", "webp")[index % 5]
        frames = [picture("red", (64, 48)), picture("blue", (64, 48))]
        names.append(f"{index}.{suffix}")
        more = {"save_all": True, "append_images": frames[1:]} if suffix in ("gif", "tif", "webp") else {}
        frames[0].save(folder / names[-1], **more)
    (folder / names[3]).write_bytes(b"broken")
    rows = [{"image": name, "caption": "a dog"} for name in names]
    if kind == "paths":
        return load_data(write_json(folder / "train.json", rows), "captioning"), "captioning"
    if kind == "stream of shards":
        for number in range(2):
            samples = {f"{number}-{i}": {"png": encoded("red"), "txt": b"a dog"} for i in range(24)}
            write_shard(folder / f"{number}.tar", samples)
        return load_data(str(folder / "*.tar"), "captioning", streaming=True), "captioning"
    clip = write_clip(folder / "a.mp4", frames=8)
    values = [str(clip), clip.read_bytes(), str(folder / "none.mp4")] * 8
    return [{"video": value, "caption": "a dog"} for value in values], "video-retrieval"


@pytest.mark.parametrize("kind", ["paths", "stream of shards", "videos"])
def test_many_epochs(kind: str, tmp_path: Path, goldens: Path) -> None:
    if kind == "videos":
        processor: Any = AlproProcessor(
            LavisVideoProcessor(size=32, num_frames=4), bert_tokenizer(goldens / "tokenizer")
        )
    else:
        processor = LavisBlipProcessor(LavisImageProcessor(size=64), blip_tokenizer(goldens / "tokenizer"))
    data, task = sources(kind, tmp_path)
    collate = Measured(make_collator(task, processor, training=True, on_bad_row="skip"), tmp_path)
    loader = DataLoader(
        data, 6, collate_fn=collate, num_workers=2, persistent_workers=True, worker_init_fn=keep_the_imports
    )
    measured: list[dict[int, Usage]] = []
    counts: list[list[int]] = []
    processes: list[int] = []
    for epoch in range(EPOCHS):
        found: dict[int, Usage] = {}
        num_rows = 0
        for batch in loader:
            worker, usage = batch.pop("usage")
            found.setdefault(worker, usage)
            num_rows += len(batch["input_ids"])
            # nothing of an earlier batch is open, except a shard that is still read
            assert usage.files <= (kind == "stream of shards"), f"{usage.files} files in epoch {epoch}"
            del batch
        assert num_rows > 12
        processes = [os.getpid(), *(worker.pid for worker in loader._iterator._workers)]  # type: ignore[union-attr]
        if epoch in (SETTLED, EPOCHS - 1):
            measured.append({**found, -1: Usage.of_this_process(tmp_path)})
        counts.append([len(open_files(process)) for process in processes])
    early, late = measured
    assert early.keys() == late.keys() == {-1, 0, 1}
    for process, before in early.items():
        growth = late[process].memory - before.memory
        assert growth <= MAX_GROWTH, f"{before.memory:,} bytes of process {process} grew by {growth:,}"
        growth = late[process].objects - before.objects
        assert growth <= MAX_OBJECTS, f"{before.objects:,} objects of process {process} grew by {growth:,}"
    assert late[-1].files == 0
    # tensors of a batch that has just arrived are still open where they came from, for a moment
    lowest = [min(column) for column in zip(*counts[SETTLED // 2 : SETTLED])]
    end = time.monotonic() + 20
    while any(len(open_files(process)) > number for process, number in zip(processes, lowest)):
        names = {process: sorted(open_files(process)) for process in processes}
        assert time.monotonic() < end, f"{names} are more than {lowest}"
        time.sleep(0.1)
