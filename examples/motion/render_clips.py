# SPDX-License-Identifier: Apache-2.0
"""Draw small clips of shapes that move, grow, shrink, spin or stay still, with questions about them.

    python examples/motion/render_clips.py --output clips

writes `clips/videos/*.mp4`, and `qa_train.json` and `qa_val.json` with rows {video, question, answer}. Shapes, colours,
places and speeds are drawn from a seed; every motion is as frequent as any other. Needs the extra [video].
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
COLOURS = {"red": (200, 30, 30), "purple": (120, 40, 160), "black": (20, 20, 20), "brown": (120, 70, 20)}
GROUNDS = {"white": (250, 250, 250), "pink": (250, 190, 210), "blue": (160, 190, 245), "green": (160, 225, 165)}


def outline(shape: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a shape in pixels; `turn` in radians."""
    corners = SHAPES[shape]
    radii = [radius, 0.45 * radius] if shape == "star" else [radius]
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    return [
        (x + radii[corner % len(radii)] * math.sin(angle), y - radii[corner % len(radii)] * math.cos(angle))
        for corner, angle in enumerate(angles)
    ]


def draw_clip(motion: str, shape: str, colour: str, ground: str, draw: random.Random) -> list[np.ndarray]:
    """The frames (SIZE, SIZE, 3) of one clip, 8-bit RGB."""
    radius, reach = draw.uniform(0.14, 0.2) * SIZE, draw.uniform(0.2, 0.3) * SIZE
    low, high = radius, SIZE - radius
    middle = [draw.uniform(low, high), draw.uniform(low, high)]
    turn, speed = draw.uniform(0, 2 * math.pi), draw.uniform(0.2, 0.35)
    axis = {"moves left": (0, -1), "moves right": (0, 1), "moves up": (1, -1), "moves down": (1, 1)}.get(motion)
    if axis is not None:
        middle[axis[0]] = draw.uniform(low + reach - radius / 2, high - reach + radius / 2)
    frames = []
    for number in range(FRAMES):
        time = 2 * number / (FRAMES - 1) - 1  # -1 to 1
        place, size, angle = list(middle), radius, turn
        if axis is not None:
            place[axis[0]] += axis[1] * reach * time
        elif motion in ("grows", "shrinks"):
            size = radius * 1.8 ** (time if motion == "grows" else -time)
        elif motion == "spins":
            angle += speed * number
        picture = Image.new("RGB", (4 * SIZE, 4 * SIZE), GROUNDS[ground])
        corners = [(4 * x, 4 * y) for x, y in outline(shape, *place, size, angle)]
        ImageDraw.Draw(picture).polygon(corners, fill=COLOURS[colour])
        frames.append(np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    return frames


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    """Encode frames (H, W, 3) as H.264."""
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
    Draw both parts.

    Args:
        output: folder, made if there is none.
        train, val: clips of each part.
        seed: of everything that is drawn.

    Returns:
        Questions of each part.
    """
    draw = random.Random(seed)
    (output / "videos").mkdir(parents=True, exist_ok=True)
    counts = {}
    for part, clips in (("train", train), ("val", val)):
        rows: list[dict[str, Any]] = []
        for number in range(clips):
            motion = MOTIONS[number % len(MOTIONS)]
            shape, colour, ground = (draw.choice(sorted(names)) for names in (SHAPES, COLOURS, GROUNDS))
            if motion == "spins" and shape == "disc":
                shape = "star"  # nobody could see a disc spin
            name = f"videos/{part}_{number:04d}.mp4"
            write_video(output / name, draw_clip(motion, shape, colour, ground, draw))
            asked = {f"what does the {shape} do?": motion, "what color is the background?": ground}
            rows += [{"video": name, "question": question, "answer": answer} for question, answer in asked.items()]
        (output / f"qa_{part}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        counts[part] = len(rows)
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="is made if there is none")
    parser.add_argument("--train", metavar="N", type=int, default=480, help="clips to learn from (%(default)s)")
    parser.add_argument("--val", metavar="N", type=int, default=80, help="held-out clips (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of everything that is drawn (%(default)s)")
    args = parser.parse_args(argv)
    counts = render(args.output, args.train, args.val, args.seed)
    print(f"{args.output}: {counts['train']} questions to learn from, {counts['val']} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
