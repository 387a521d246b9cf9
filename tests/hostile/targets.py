"""What the changed files are given to, and what they are made of: one target for each kind of input.

A target works, or it refuses with a `ValueError` or an `OSError`; whatever else it does is a defect.
"""

import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.conversion import golden_sets
from tests.hostile import mutations

#: Exceptions that a user may see for a wrong file. (`ImportError` names a package that is not installed.)
REFUSALS = (ValueError, OSError)


class Target(ABC):
    """
    A kind of input.

    Attributes:
        limit: largest growth of the memory of a process that reads inputs of less than a mebibyte, in MiB.
    """

    limit = 1024

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # for valid files, which are written once
        folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        """Write an input to a new folder; returns what it was made of."""

    @abstractmethod
    def read(self, place: Path, what: str) -> None:
        """Read the input of [`write`]; raises an exception if it is refused."""

    def check(self, place: Path, what: str, refused: bool) -> None:  # noqa: B027
        """Raise `AssertionError` if what reading left behind is wrong."""


class Checkpoints(Target):
    """Conversions of PyTorch files of both formats."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.state = golden_sets.weights("blip_caption")
        self.files = {"zip": golden_sets.checkpoint("blip_caption").read_bytes()}
        buffer = io.BytesIO()
        torch.save({"model": self.state}, buffer, _use_new_zipfile_serialization=False)
        self.files["legacy"] = buffer.getvalue()

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(("pickle", "pickle", "zip", "legacy", "legacy")))
        changes = draw(mutations.edits())
        change = mutations.edited_pickle if what == "pickle" else mutations.edited
        if what == "legacy":  # most of the file are numbers
            changes = [(kind, position % 60_000, argument) for kind, position, argument in changes]
        (place / "given.pth").write_bytes(change(self.files["zip" if what == "pickle" else what], changes))
        return what

    def read(self, place: Path, what: str) -> None:
        from modeling_lavis.hub.convert import convert

        arguments = golden_sets.arguments("blip_caption", place / "output", checkpoint=place / "given.pth")
        convert(**arguments, with_code=False)

    def check(self, place: Path, what: str, refused: bool) -> None:
        left = {path.name for path in place.iterdir()} - {"given.pth"}
        assert left == (set() if refused else {"output"}), f"a conversion left {sorted(left)}"
        if not refused:
            from safetensors.torch import load_file

            json.loads((place / "output" / "config.json").read_text())
            load_file(place / "output" / "model.safetensors")


class Safetensors(Checkpoints):
    """Conversions of safetensors files."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        save_file(self.state, folder / "valid.safetensors")
        self.data = (folder / "valid.safetensors").read_bytes()

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(("header", "bytes")))
        if what == "header":
            data = mutations.edited_header(self.data, draw(mutations.json_edits))
        else:
            data = mutations.edited(self.data, draw(mutations.edits()))
        (place / "given.pth").write_bytes(data)
        return what


def _write_json(draw: Callable[[Any], Any], stored: Any, path: Path) -> None:
    """Changed values, or changed bytes of their JSON."""
    if draw(st.integers(0, 5)):
        path.write_bytes(mutations.as_json(mutations.edited_json(stored, draw(mutations.json_edits))))
    else:
        path.write_bytes(mutations.edited(json.dumps(stored).encode(), draw(mutations.edits())))


class Configurations(Target):
    """`config.json` of every family, and the model on the meta device that it describes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from tests.models.test_wrong_values import CONFIGS

        self.configs = {name: make() for name, make in CONFIGS.items()}
        self.stored = {}
        for name, config in self.configs.items():
            config.save_pretrained(folder)
            self.stored[name] = json.loads((folder / "config.json").read_text())

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(sorted(self.stored)))
        _write_json(draw, self.stored[what], place / "config.json")
        return what

    def read(self, place: Path, what: str) -> None:
        config = type(self.configs[what]).from_pretrained(place)
        config.to_json_string()


class Settings(Checkpoints):
    """Files of settings of a conversion."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.settings = golden_sets.settings("blip_caption")

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        _write_json(draw, self.settings, place / "given.pth")
        return "settings"

    def read(self, place: Path, what: str) -> None:
        from modeling_lavis.hub.convert import convert

        arguments = golden_sets.arguments("blip_caption", place / "output", config=place / "given.pth")
        convert(**arguments, with_code=False)


class Processors(Target):
    """`processor_config.json` of every processor, with a call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from tests.models.test_wrong_values import processors

        self.processors = processors(str(golden_sets.TOKENIZER))
        self.stored = {}
        for name, (processor, _) in self.processors.items():
            processor.save_pretrained(folder / name)
            file = next(path for path in (folder / name).iterdir() if path.name.endswith("processor_config.json"))
            self.stored[name] = file.name, json.loads(file.read_text())

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(sorted(self.stored)))
        name, stored = self.stored[what]
        for path in (self.folder / what).iterdir():
            if path.name != name:
                os.symlink(path, place / path.name)
        _write_json(draw, stored, place / name)
        return what

    def read(self, place: Path, what: str) -> None:
        processor, call = self.processors[what]
        type(processor).from_pretrained(place)(**call, return_tensors="np")


class Annotations(Target):
    """Files of data sets, in every published and every own form."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from tests.data import data_files
        from tests.data.test_annotations import CASES

        self.cases: dict[str, tuple[str, str | None, str | None]] = {}
        for name, (write, format, task, split, _) in CASES.items():
            (folder / name).mkdir()
            write(folder / name)
            self.cases[name] = task, format, split
        rows = data_files.caption_rows(["a.png", "b.png"])
        own: dict[str, Callable[[Path], Any]] = {
            "json": lambda path: data_files.write_json(path, rows),
            "jsonl": lambda path: data_files.write_json_lines(path, rows),
            "csv": lambda path: data_files.write_csv(path, rows),
            "parquet": lambda path: data_files.write_parquet(path, rows),
            "tar": lambda path: shutil.move(str(data_files.write_caption_shards(path.parent / "_", 1)[0]), path),
        }
        for name, write_file in own.items():
            (folder / name).mkdir()
            write_file(folder / name / f"data.{name}")
            shutil.rmtree(folder / name / "_", ignore_errors=True)
            self.cases[name] = "captioning", None, None

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(sorted(self.cases)))
        shutil.copytree(self.folder / what, place, dirs_exist_ok=True)
        files = sorted(path for path in place.rglob("*") if path.is_file() and path.stat().st_size)
        file = files[draw(st.integers(0, len(files) - 1))]
        stored: Any = None
        if file.suffix == ".json" and draw(st.integers(0, 4)):
            try:
                stored = json.loads(file.read_text())
            except ValueError:  # JSON Lines
                stored = None
        if stored is not None:
            file.write_bytes(mutations.as_json(mutations.edited_json(stored, draw(mutations.json_edits))))
            return what
        data = mutations.edited(file.read_bytes(), draw(mutations.edits()))
        fix = mutations.FIXES.get(file.suffix)
        file.write_bytes(fix(data) if fix is not None and draw(st.booleans()) else data)
        return what

    def read(self, place: Path, what: str) -> None:
        from modeling_lavis.data.loading import load_data

        task, format, split = self.cases[what]
        source = place if format else next(place.glob("data.*"))
        for row in load_data(source, task, format=format, split=split, streaming=what in ("tar", "parquet")):
            media = row.get("image") or row.get("images") or row.get("video")
            for entry in media if isinstance(media, list) else [media]:
                if isinstance(entry, str) and not entry.startswith("data:"):
                    inside = os.path.normpath(entry).startswith(str(place))
                    assert inside, f"a row names {entry!r:.80}, outside of its folder"


class Images(Target):
    """Images of several formats, through the image processor."""

    limit = 4096

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from modeling_lavis import LavisImageProcessor

        self.processor = LavisImageProcessor(size=32)
        photo = PIL.Image.open(golden_sets.GOLDENS / "processors" / "images" / "coffee.png").convert("RGB")
        photo = photo.resize((60, 40))
        self.files: dict[str, bytes] = {}
        modes = {
            "png": "RGB",
            "jpeg": "RGB",
            "gif": "P",
            "webp": "RGB",
            "bmp": "RGB",
            "tiff": "RGB",
            "ppm": "RGB",
            "tga": "RGB",
            "ico": "RGBA",
            "jpeg2000": "RGB",
            "avif": "RGB",
            "pcx": "RGB",
            "sgi": "RGB",
            "dds": "RGB",
            "icns": "RGBA",
            "eps": "RGB",
        }
        variants = {"png, 16 bits": ("png", "I;16"), "png, palette": ("png", "P"), "png, alpha": ("png", "RGBA")}
        variants |= {"tiff, floats": ("tiff", "F"), "tiff, LZW": ("tiff", "RGB"), "bmp, RLE": ("bmp", "P")}
        for name, (kind, mode) in {**{kind: (kind, mode) for kind, mode in modes.items()}, **variants}.items():
            buffer = io.BytesIO()
            options = {"compression": "tiff_lzw"} if name == "tiff, LZW" else {}
            image = photo.convert("L").convert(mode) if mode in ("I;16", "F") else photo.convert(mode)
            try:
                image.save(buffer, kind, **options)
            except (KeyError, OSError, ValueError):  # a build of PIL without this format
                continue
            self.files[name] = buffer.getvalue()

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(sorted(self.files)))
        data = mutations.edited(self.files[what], draw(mutations.edits()))
        if what.startswith("png") and draw(st.integers(0, 3)):
            data = mutations.with_png_checksums(data)
        (place / "image").write_bytes(data)
        return what

    def read(self, place: Path, what: str) -> None:
        values = self.processor(place / "image", return_tensors="np")["pixel_values"]
        assert values.shape == (1, 3, 32, 32) and np.isfinite(values).all()


class Videos(Target):
    """Videos of several containers, through the video processor."""

    limit = 4096

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from modeling_lavis import LavisVideoProcessor
        from tests.models.video_clips import write_clip

        self.processor = LavisVideoProcessor(size=32, num_frames=3)
        options: dict[str, dict[str, Any]] = {
            "clip.mp4": {},
            "clip.mkv": {},
            "clip.avi": {"codec": "mpeg4", "b_frames": 0},
            "clip.webm": {"codec": "libvpx-vp9", "b_frames": 0},
            "clip.ts": {},
            "clip.gif": {"codec": "gif", "pixel_format": "pal8"},
        }
        self.files = {}
        for name, kind in options.items():
            try:
                self.files[name] = write_clip(folder / name, frames=8, **kind).read_bytes()
            except Exception:  # a build of FFmpeg without this codec
                continue
        assert "clip.mp4" in self.files

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(sorted(self.files)))
        data, changes = self.files[what], draw(mutations.edits())
        if what == "clip.mp4" and draw(st.booleans()):  # the tables are at the end
            start = data.rindex(b"moov")
            changes = [(kind, start + position % (len(data) - start), value) for kind, position, value in changes]
        (place / what).write_bytes(mutations.edited(data, changes))
        return what

    def read(self, place: Path, what: str) -> None:
        values = self.processor([str(place / what)], return_tensors="np")["pixel_values_videos"]
        assert values.shape == (1, 3, 3, 32, 32) and np.isfinite(values).all()


class Repositories(Target):
    """Whole repositories: weights, index, configurations and generation settings, loaded by the Auto class."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from tests.models.lavis_blip_cases import CASES

        case = next(case for case in CASES if case.name == "LavisBlipForConditionalGeneration")
        model = case.model()
        model.save_pretrained(folder / "one")
        model.save_pretrained(folder / "shards", max_shard_size="20KB")
        self.kind = type(model)

    def write(self, draw: Callable[[Any], Any], place: Path) -> str:
        what = draw(st.sampled_from(("one", "shards")))
        shutil.copytree(self.folder / what, place, dirs_exist_ok=True)
        files = sorted(place.iterdir())
        file = files[draw(st.integers(0, len(files) - 1))]
        if file.suffix == ".json":
            _write_json(draw, json.loads(file.read_text()), file)
        elif draw(st.booleans()):
            file.write_bytes(mutations.edited_header(file.read_bytes(), draw(mutations.json_edits)))
        else:
            file.write_bytes(mutations.edited(file.read_bytes(), draw(mutations.edits())))
        return what

    def read(self, place: Path, what: str) -> None:
        self.kind.from_pretrained(place)


TARGETS: dict[str, type[Target]] = {
    "checkpoints": Checkpoints,
    "safetensors": Safetensors,
    "configurations": Configurations,
    "settings": Settings,
    "processors": Processors,
    "annotations": Annotations,
    "images": Images,
    "videos": Videos,
    "repositories": Repositories,
}
