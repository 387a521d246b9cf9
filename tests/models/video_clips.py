"""Video files whose frames encode their own index, written with PyAV."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import PIL.Image

IMAGE = Path(__file__).parents[1] / "goldens" / "processors" / "images" / "coffee.png"
WIDTH, HEIGHT, BLOCK, BITS = 96, 64, 8, 12


@cache
def _base_frame() -> np.ndarray:
    return np.asarray(PIL.Image.open(IMAGE).convert("RGB").resize((WIDTH, HEIGHT)))


def numbered_frame(number: int) -> np.ndarray:
    """An image `(HEIGHT, WIDTH, 3)` with the binary digits of a number as black and white blocks at the top."""
    frame = _base_frame().copy()
    for bit in range(BITS):
        frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return frame


def frame_number(frame: np.ndarray) -> int:
    """The number in a frame; robust to compression."""
    blocks = np.asarray(frame)[1 : BLOCK - 1, :WIDTH].reshape(BLOCK - 2, BITS, BLOCK, -1)[:, :, 1:-1]
    return sum(int(value > 127) << bit for bit, value in enumerate(blocks.mean(axis=(0, 2, 3))))


def _as_frame(image: np.ndarray, pixel_format: str) -> av.VideoFrame:
    """Convert an image `(H, W, 3)` to a frame of a pixel format."""
    if pixel_format != "pal8":  # FFmpeg's scaler does not write palettes
        return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
    indexed = PIL.Image.fromarray(image).quantize(256)
    palette = np.zeros((256, 4), np.uint8)  # alpha first
    found = np.array(indexed.getpalette(), np.uint8).reshape(-1, 3)
    palette[:, 0], palette[: len(found), 1:] = 255, found
    return av.VideoFrame.from_ndarray((np.asarray(indexed), palette), format="pal8")


def write_clip(
    path: Path,
    frames: int = 30,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: Sequence[int] | None = None,
    gap: int = 10,
    b_frames: int = 2,
    rate: int = 10,
    options: dict[str, str] | None = None,
    width: int = WIDTH,
) -> Path:
    """
    Write a video file and return its path.

    Args:
        times: timestamps of the frames in hundredths of a second; evenly spaced by default.
        gap: frames between key frames.
        options: codec options of FFmpeg.
        width: width of the frames; beyond WIDTH, the last column is repeated.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, HEIGHT, pixel_format
        stream.options = options or {}
        if codec != "gif":
            stream.codec_context.gop_size = gap
            stream.codec_context.max_b_frames = b_frames
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for number in range(frames):
            image = np.pad(numbered_frame(number), ((0, 0), (0, width - WIDTH), (0, 0)), mode="edge")
            frame = _as_frame(image, pixel_format)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def rotate_clip(source: Path, path: Path, quarters: int) -> Path:
    """Copy an mp4 file with a display matrix that rotates it clockwise by quarter turns."""
    content = bytearray(source.read_bytes())
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    offset = content.index(plain, content.index(b"tkhd"))
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters % 4]
    content[offset : offset + 36] = struct.pack(
        ">9i", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30
    )
    path.write_bytes(content)
    return path
