"""Tiny data sets in the forms that users have: files, folders, shards."""

import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

COLORS = {"red": (200, 20, 20), "green": (20, 180, 40), "blue": (10, 30, 220), "grey": (90, 90, 90)}


def picture(color: str, size: tuple[int, int] = (24, 18)) -> PIL.Image.Image:
    """An image of one color."""
    return PIL.Image.new("RGB", size, COLORS[color])


def encoded(color: str, format: str = "PNG") -> bytes:
    """An image of one color, as the content of a file."""
    buffer = io.BytesIO()
    picture(color).save(buffer, format)
    return buffer.getvalue()


def write_pictures(folder: Path, prefix: str = "") -> list[str]:
    """Write one image file for each color, JPEG and PNG in turn; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index, color in enumerate(COLORS):
        names.append(f"{prefix}{color}.{'jpg' if index % 2 else 'png'}")
        picture(color).save(folder / names[-1])
    return names


def caption_rows(names: Sequence[str]) -> list[dict[str, Any]]:
    """A caption for each image."""
    return [
        {"image": name, "caption": f"a {Path(name).stem} square", "image_id": index, "extra": index / 2}
        for index, name in enumerate(names)
    ]


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSON Lines, and the folders above the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a CSV file; lists as JSON."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()})
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_shard(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """Write a WebDataset shard: the files of each sample by their extension."""
    with tarfile.open(path, "w") as archive:
        for key, files in samples.items():
            for extension, content in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def write_caption_shards(folder: Path, count: int = 2) -> list[Path]:
    """Shards with the images of all colors and their captions, `count` in all."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = {
        f"{index:04d}": {
            "png": encoded(color),
            "txt": f"a {color} square".encode(),
            "json": json.dumps({"image_id": index}).encode(),
        }
        for index, color in enumerate(COLORS)
    }
    keys = list(samples)
    return [
        write_shard(folder / f"shard-{number}.tar", {key: samples[key] for key in keys[number::count]})
        for number in range(count)
    ]
