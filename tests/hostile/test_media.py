"""Images, videos and processors made to harm."""

import http.server
import io
import json
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest

from modeling_lavis import LavisImageProcessor, LavisVideoProcessor
from modeling_lavis.data.collators import open_row_image
from modeling_lavis.models import image_conversion, video_decoding
from modeling_lavis.models.image_conversion import open_image
from tests.http_servers import serve

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cheaply() -> Iterator[None]:
    """Every attack takes less than 300 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def png(width: int, height: int) -> bytes:
    """A PNG file of so many pixels, without most of their data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1)])
def test_huge_images(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png(*size))
    with pytest.raises(OSError, match="huge.png"):
        open_image(tmp_path / "huge.png")
    with pytest.raises(OSError, match="huge.png"):
        open_row_image({"bytes": png(*size), "path": "huge.png"})


def test_huge_images_without_the_limit_of_pil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other libraries switch PIL's limit off; ours stays."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "huge.png").write_bytes(png(100_000, 100_000))
    with pytest.raises(OSError, match=r"huge.png: it has 100000 x 100000 pixels; expected at most 268,435,456"):
        open_image(tmp_path / "huge.png")


def test_postscript_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", run)
    PIL.Image.new("RGB", (20, 20)).save(tmp_path / "drawing.eps")
    (tmp_path / "drawing.eps").rename(tmp_path / "drawing.png")  # the name says nothing
    for source in (tmp_path / "drawing.png", PIL.Image.open(tmp_path / "drawing.png")):
        with pytest.raises(OSError, match="drawing.png: it is PostScript, a program"):
            open_image(source)
    with pytest.raises(OSError, match="it is PostScript"):
        open_row_image({"bytes": (tmp_path / "drawing.png").read_bytes(), "path": None})


def test_images_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends and sends."""
    monkeypatch.setattr(image_conversion, "_MAX_DOWNLOAD_BYTES", 2**20)
    sent = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal sent
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(1000):
                    sent += self.wfile.write(bytes(2**16))
            except OSError:  # the client hung up
                pass

    with serve(Handler) as address, pytest.raises(OSError, match="more than 1,048,576 bytes"):
        open_image(f"{address}/endless.png")
    assert sent < 40 * 2**20


@pytest.mark.parametrize("path", ["a" * 5000, "a\x00b", "/dev/zero", "/dev/full"])
def test_names_of_files(path: str) -> None:
    with pytest.raises(OSError, match="image") as caught:
        open_image(path)
    assert len(str(caught.value)) < 500


# ---- processors ----


@pytest.mark.parametrize("size", [2**14, {"height": 2**15, "width": 2**15}, {"height": 10**9, "width": 1}])
def test_sizes_of_images(size: Any) -> None:
    with pytest.raises(ValueError, match="size is .* expected"):
        LavisImageProcessor(size=size)


def test_sizes_of_clips() -> None:
    with pytest.raises(ValueError, match="num_frames 32768 of size 8192 x 8192"):
        LavisVideoProcessor(size=8192, num_frames=2**15)
    frames = np.zeros((40, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="num_frames 40 of size 8192 x 8192"):
        LavisVideoProcessor(size=8, num_frames=2)(frames, size=8192, num_frames=40)


# ---- videos ----

av = pytest.importorskip("av", reason="videos need the extra [video]")

from tests.models.video_clips import write_clip  # noqa: E402


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def boxes_of(data: bytes, kind: bytes) -> int:
    """Place of the content of the first box of a kind."""
    return data.index(kind) + 4


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    """An mp4 file of eight frames."""
    return write_clip(tmp_path / "valid.mp4", frames=8).read_bytes()


@pytest.mark.parametrize("frames", [10**9, 2**32 - 1, 10**6])
def test_a_video_that_claims_a_billion_frames(frames: int, clip: bytes, tmp_path: Path) -> None:
    data, place = bytearray(clip), boxes_of(clip, b"stsz")
    data[place + 4 : place + 12] = struct.pack(">II", 1, frames)  # all of one size
    (tmp_path / "claims.mp4").write_bytes(data)
    with pytest.raises(OSError, match=r"claims.mp4: it promises [\d,]+ frames"):
        LavisVideoProcessor(size=32, num_frames=2)([str(tmp_path / "claims.mp4")])


def test_an_edit_list_without_end(clip: bytes, tmp_path: Path) -> None:
    data, place = bytearray(clip), boxes_of(clip, b"elst")
    data[place + 4 : place + 8] = struct.pack(">I", 2**31)
    (tmp_path / "edited.mp4").write_bytes(data)
    with pytest.raises(OSError, match="edited.mp4: it has an edit list of"):
        LavisVideoProcessor(size=32, num_frames=2)([str(tmp_path / "edited.mp4")])


def test_boxes_are_walked_like_by_ffmpeg(clip: bytes, tmp_path: Path) -> None:
    kinds = [kind for kind, _, _ in video_decoding._boxes(io.BytesIO(clip), len(clip))]
    assert {b"ftyp", b"moov", b"trak", b"stbl", b"stsz", b"mdat"} <= set(kinds)
    endless = box(b"moov", box(b"moov") * 10) + struct.pack(">I4s", 0, b"trak") + struct.pack(">I4s", 3, b"stsz")
    assert len(list(video_decoding._boxes(io.BytesIO(endless), len(endless)))) < 20
    for data in (b"", b"x", b"\x1aE\xdf\xa3" + bytes(100), bytes(1000)):
        assert len(list(video_decoding._boxes(io.BytesIO(data), len(data)))) <= 1


def test_frames_of_any_size(tmp_path: Path) -> None:
    """The header of an AVI file that promises frames of 60,000 x 60,000."""
    data = bytearray(write_clip(tmp_path / "valid.avi", frames=4, codec="mpeg4", b_frames=0).read_bytes())
    place = data.index(b"strf") + 8
    data[place + 4 : place + 12] = struct.pack("<ii", 60_000, 60_000)
    (tmp_path / "large.avi").write_bytes(data)
    try:
        values = LavisVideoProcessor(size=32, num_frames=2)([str(tmp_path / "large.avi")])
    except OSError as error:
        assert "large.avi" in str(error)
    else:  # the frames themselves have the right size, which counts
        assert np.asarray(values["pixel_values_videos"]).shape == (1, 2, 3, 32, 32)


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile 'secret.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation id="1">'
        "<BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["concat", "hls", "hls of an address", "sdp", "dash"],
)
def test_playlists_do_not_open_other_files(script: str, clip: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(clip)
    (tmp_path / "list.mp4").write_text(script)
    with pytest.raises(OSError, match="list.mp4"):
        LavisVideoProcessor(size=32, num_frames=2)([str(tmp_path / "list.mp4")])


def test_names_that_ffmpeg_takes_for_protocols(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(clip)
    (tmp_path / "concat:secret.mp4").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="concat:secret.mp4"):
        LavisVideoProcessor(size=32, num_frames=2)(["concat:secret.mp4"])


@pytest.mark.parametrize("kind", [LavisImageProcessor, LavisVideoProcessor])
@pytest.mark.parametrize("name", ["__class__", "preprocess", "from_pretrained", "valid_kwargs"])
def test_methods_of_processors_are_not_replaced(kind: Any, name: str, tmp_path: Path) -> None:
    kind(size=32).save_pretrained(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), name: "x"}))
    with pytest.raises(ValueError, match=f"{file} cannot be used: .*'{name}'"):
        kind.from_pretrained(tmp_path)
