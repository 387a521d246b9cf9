# SPDX-License-Identifier: Apache-2.0
"""Render short clips of shapes that move, grow, shrink, spin or stay still, with questions about them.

    python examples/motion/render_clips.py --output clips

writes `clips/videos/*.mp4`, and `qa_train.json` and `qa_val.json` with rows {video, question, answer}. Shapes, colors,
positions and speeds are random with a fixed seed; all motions are equally frequent. Needs the extra [video].
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from modeling_lavis.models.video_decoding import require_av

SIZE, FRAMES, RATE = 64, 16, 8
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "spins", "stays still")
SHAPES = {"triangle": 3, "square": 4, "pentagon": 5, "star": 10, "disc": 24}
COLORS = {"red": (200, 30, 30), "purple": (120, 40, 160), "black": (20, 20, 20), "brown": (120, 70, 20)}
BACKGROUNDS = {"white": (250, 250, 250), "pink": (250, 190, 210), "blue": (160, 190, 245), "green": (160, 225, 165)}


def outline(shape: str, x: float, y: float, radius: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a shape in pixels; `angle` in radians."""
    corners = SHAPES[shape]
    radii = [radius, 0.45 * radius] if shape == "star" else [radius]
    angles = [angle + 2 * math.pi * corner / corners for corner in range(corners)]
    return [
        (x + radii[corner % len(radii)] * math.sin(angle), y - radii[corner % len(radii)] * math.cos(angle))
        for corner, angle in enumerate(angles)
    ]


def draw_clip(motion: str, shape: str, color: str, background: str, draw: random.Random) -> list[np.ndarray]:
    """Frames of a clip, 8-bit RGB of shape `(SIZE, SIZE, 3)`."""
    radius, reach = draw.uniform(0.14, 0.2) * SIZE, draw.uniform(0.2, 0.3) * SIZE
    low, high = radius, SIZE - radius
    center = [draw.uniform(low, high), draw.uniform(low, high)]
    start_angle, speed = draw.uniform(0, 2 * math.pi), draw.uniform(0.2, 0.35)
    axis = {"moves left": (0, -1), "moves right": (0, 1), "moves up": (1, -1), "moves down": (1, 1)}.get(motion)
    if axis is not None:
        center[axis[0]] = draw.uniform(low + reach - radius / 2, high - reach + radius / 2)
    frames = []
    for number in range(FRAMES):
        time = 2 * number / (FRAMES - 1) - 1  # -1 to 1
        position, size, angle = list(center), radius, start_angle
        if axis is not None:
            position[axis[0]] += axis[1] * reach * time
        elif motion in ("grows", "shrinks"):
            size = radius * 1.8 ** (time if motion == "grows" else -time)
        elif motion == "spins":
            angle += speed * number
        image = Image.new("RGB", (4 * SIZE, 4 * SIZE), BACKGROUNDS[background])
        corners = [(4 * x, 4 * y) for x, y in outline(shape, *position, size, angle)]
        ImageDraw.Draw(image).polygon(corners, fill=COLORS[color])
        frames.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    return frames


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    """Encode frames of shape `(height, width, 3)` as H.264."""
    av = require_av()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "20", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def render(output: Path, train: int = 480, val: int = 80, seed: int = 0) -> dict[str, int]:
    """
    Render both splits.

    Args:
        output (`Path`): folder, created if it does not exist.
        train (`int`, *optional*, defaults to 480): clips of the train split.
        val (`int`, *optional*, defaults to 80): clips of the val split.
        seed (`int`, *optional*, defaults to 0): seed of all random choices.

    Returns:
        `dict[str, int]`: number of questions per split.
    """
    draw = random.Random(seed)
    (output / "videos").mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, clips in (("train", train), ("val", val)):
        rows: list[dict[str, Any]] = []
        for number in range(clips):
            motion = MOTIONS[number % len(MOTIONS)]
            shape, color, background = (draw.choice(sorted(names)) for names in (SHAPES, COLORS, BACKGROUNDS))
            if motion == "spins" and shape == "disc":
                shape = "star"  # a spinning disc looks still
            name = f"videos/{split}_{number:04d}.mp4"
            write_video(output / name, draw_clip(motion, shape, color, background, draw))
            questions = {f"what does the {shape} do?": motion, "what color is the background?": background}
            rows += [{"video": name, "question": question, "answer": answer} for question, answer in questions.items()]
        (output / f"qa_{split}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        counts[split] = len(rows)
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, required=True, help="output folder, created if it does not exist"
    )
    parser.add_argument("--train", metavar="N", type=int, default=480, help="clips for training (%(default)s)")
    parser.add_argument("--val", metavar="N", type=int, default=80, help="held-out clips (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of all random choices (%(default)s)")
    args = parser.parse_args(argv)
    counts = render(args.output, args.train, args.val, args.seed)
    print(f"{args.output}: {counts['train']} questions for training, {counts['val']} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
