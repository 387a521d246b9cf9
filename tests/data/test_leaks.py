"""Workers keep neither files nor memory: they stay as large as they are after the first epochs."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

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

PAGE = os.sysconf("SC_PAGE_SIZE")


def usage(process: int) -> tuple[int, int]:
    """Own memory in bytes, without what is shared, and number of open files of a process."""
    with open(f"/proc/{process}/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * PAGE, len(os.listdir(f"/proc/{process}/fd"))


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
    collate = make_collator(task, processor, training=True, on_bad_row="skip")
    loader = DataLoader(data, batch_size=6, collate_fn=collate, num_workers=2, persistent_workers=True)
    measured = []
    for _ in range(60):
        assert sum(len(batch["input_ids"]) for batch in loader) > 12
        workers = loader._iterator._workers  # type: ignore[union-attr]
        measured.append([usage(process) for process in (os.getpid(), *(worker.pid for worker in workers))])
    assert len({len(entry) for entry in measured}) == 1
    for early, late in zip(measured[20], measured[-1]):
        assert late[1] <= early[1] + 1  # open files
        # decoders of videos still enlarge the heap a little; the frames of 40 epochs would be 70 MiB per worker
        growth = 16 if kind == "videos" else 8
        assert late[0] <= early[0] + growth * 2**20, f"{early[0] / 2**20:.1f} MiB became {late[0] / 2**20:.1f} MiB"
