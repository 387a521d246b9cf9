"""What the page about collections needs: photographs, shards with texts, and the embedded model in place of others."""

import json
from pathlib import Path
from typing import Any


def prepare(folder: Path) -> dict[str, Any]:
    import PIL.Image

    from modeling_lavis.embedded import embedded_images, embedded_model_path
    from tests.data.data_files import write_shard

    (folder / "photos").mkdir()
    for number, image in enumerate(embedded_images()[:4]):
        with PIL.Image.open(image.path) as opened:
            opened.convert("RGB").save(folder / "photos" / f"{number}.jpg")
    (folder / "shards").mkdir()
    for number in range(2):
        content = (folder / "photos" / f"{number}.jpg").read_bytes()
        write_shard(folder / "shards" / f"{number}.tar", {f"{number}": {"jpg": content, "txt": b"a dog"}})
    return {"model": embedded_model_path()}


def commands(words: list[str]) -> list[str]:
    from modeling_lavis.embedded import embedded_model_path

    words = [embedded_model_path() if word in ("my-captioner", "my-matcher") else word for word in words]
    return words if "merge-shards" in words else [*words, "--device", "cpu"]


def check_filtered(names: dict[str, Any]) -> None:
    statistics = json.loads(Path("clean", ".capfilt.job", "statistics.json").read_text())
    assert statistics["images"] == {"both": 0, "web": 0, "synthetic": 2, "none": 0}
    assert statistics["texts"]["web"]["texts"] == 2 and Path("examples.png").exists() and Path("strict").is_dir()


def check_text_files(names: dict[str, Any]) -> None:
    texts = [path.read_text() for path in sorted(Path("photos").glob("*.txt"))]
    assert len(texts) == 4 and all(text.startswith("in the style of sks, ") for text in texts)


def check_unique(names: dict[str, Any]) -> None:
    listed = Path("unique.txt").read_text().splitlines()
    captioned = [json.loads(line)["file"] for line in Path("captions-of-unique.jsonl").read_text().splitlines()]
    assert 0 < len(listed) <= 4 and captioned == listed


def check_parts(names: dict[str, Any]) -> None:
    parts = [Path(f"part-{number}.jsonl").read_text().splitlines() for number in (1, 2)]
    assert [[json.loads(line)["file"] for line in part] for part in parts] == [["0.tar/0"], ["1.tar/1"]]
    assert Path("captions-of-all.jsonl").read_text().splitlines() == [*parts[0], *parts[1]]


CHECKS = {
    "Caption a folder for diffusion training": check_text_files,
    "Clean a web-crawled set": check_filtered,
    "Deduplicate": check_unique,
    "Many machines": check_parts,
}
