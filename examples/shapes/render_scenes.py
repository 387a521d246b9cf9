# SPDX-License-Identifier: Apache-2.0
"""Render scenes of colored shapes in a grid of 3 x 3 cells, with questions about what is beside what.

    python examples/shapes/render_scenes.py --output scenes

writes `scenes/images/*.png` and `scenes/train.json` with rows {image, question, question_id, answer}. The questions are
those of the grammar of SHAPES (Andreas et al., 2016, https://arxiv.org/abs/1511.02799), with up to two relations:

    is a square a circle?          is a red shape above a circle?          is a circle left of below a blue shape?

"Left of below a blue shape" is one cell: the left neighbour of the cell below a blue shape, where both are in the grid.
"yes" and "no" are equally frequent for every choice of relations, unless one of them is impossible. Other questions
lead up to these: what a cell has, a "red square" or "nothing", where a cell is, and whether a certain cell has a thing.

    what is at the top left?       what is above the middle left?          what is left of below a circle?
    where is a red square?         where is above a green triangle?        is a circle at the top left?

    python examples/shapes/render_scenes.py --check data/shapes_vqa/train.json

reads the scenes of an annotation file back from their pixels and compares its answers with those of these rules.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE, CELL, ENLARGEMENT = 3, 10, 2  # cells, pixels of a cell, pixels of the file for one of these
RADII = {"small": (2.0, 2.9), "large": (3.3, 4.2)}  # pixels from the center of a cell to the edge of a thing
NOISE, PALETTE = 50, 16  # largest change of each channel; colors of a file
SHAPES = ("circle", "square", "triangle")
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NOUNS = (*SHAPES, *(f"{color} shape" for color in COLORS))
KINDS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
#: rows down and columns to the right, from a cell to the one that is in the relation to it
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
PLACES = tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "middle", "right"))
_QUESTION = re.compile(rf"is a (?P<subject>.+?) (?P<relations>(?:(?:{'|'.join(RELATIONS)}) )*)a (?P<place>.+)\?")


class Thing(NamedTuple):
    """What is in a cell."""

    shape: str
    color: str

    def is_called(self, noun: str) -> bool:
        """Whether one of `NOUNS` or `KINDS` names it."""
        return noun in (self.shape, f"{self.color} shape", f"{self.color} {self.shape}")


Cell = tuple[int, int]  # row and column
Scene = list["Thing | None"]  # of the cells row by row, from the upper left


# ---- questions ----


def join_question(subject: str, relations: Sequence[str], place: str) -> str:
    """The text of a question: "is a SUBJECT RELATIONS a PLACE?"; the place can be one of `PLACES`, too."""
    return f"is a {subject} {describe(relations, place)}?"


def describe(relations: Sequence[str], place: str) -> str:
    """Relations to a place, in words."""
    if place in PLACES:
        return f"{' '.join(relations) or 'at'} the {place}"
    return " ".join([*relations, f"a {place}"])


def split_question(question: str) -> tuple[str, list[str], str]:
    """
    Subject, relations and place of a question.

    Raises:
        ValueError: the question is none of the grammar.
    """
    found = _QUESTION.fullmatch(question)
    if found is None or not {found["subject"], found["place"]} <= {*NOUNS, *KINDS}:
        raise ValueError(
            f"{question!r} is not a question of the grammar; expected one such as 'is a circle a square?'."
        )
    return found["subject"], re.findall("|".join(RELATIONS), found["relations"]), found["place"]


def related_cells(cells: Collection[Cell], relations: Sequence[str]) -> list[Cell]:
    """The cells in the grid that are in the relations to some cells; the last relation comes first."""
    for down, right in (RELATIONS[relation] for relation in reversed(relations)):
        moved = [(row + down, column + right) for row, column in cells]
        cells = [(row, column) for row, column in moved if 0 <= row < SIDE and 0 <= column < SIDE]
    return list(cells)


def cells_of(scene: Scene, place: str) -> list[Cell]:
    """The cells with a thing of a name, or the one of `PLACES`."""
    if place in PLACES:
        return [divmod(PLACES.index(place), SIDE)]
    return [divmod(number, SIDE) for number, thing in enumerate(scene) if thing and thing.is_called(place)]


def is_true(scene: Scene, subject: str, relations: Sequence[str], place: str) -> bool:
    """Whether a cell with the subject is in the relations to a cell with the place."""
    there = (scene[row * SIDE + column] for row, column in related_cells(cells_of(scene, place), relations))
    return any(thing is not None and thing.is_called(subject) for thing in there)


def all_questions() -> list[str]:
    """All questions of the grammar with up to two relations."""
    return [
        join_question(subject, relations, place)
        for count in range(3)
        for relations in itertools.product(RELATIONS, repeat=count)
        for subject, place in itertools.product(NOUNS, repeat=2)
    ]


# ---- images ----


def coverage(shape: str, radius: float) -> np.ndarray:
    """The share of each pixel of a cell that a shape covers, of shape `(CELL, CELL)`."""
    samples = 8  # along each side of a pixel
    offsets = (np.arange(CELL * samples) + 0.5) / samples - CELL / 2
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    if shape == "circle":
        inside = x**2 + y**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) <= radius
    else:
        inside = (abs(y) <= radius) & (abs(x) <= (y + radius) / 2)
    return inside.reshape(CELL, samples, CELL, samples).mean(axis=(1, 3))


def draw_scene(scene: Scene, draw: random.Random) -> Image.Image:
    """The image of a scene, RGB; with a palette; sizes and shades are random."""
    pixels = np.zeros((SIDE, CELL, SIDE, CELL, 3))
    for number, thing in enumerate(scene):
        if thing is not None:
            shade = [min(max(value + draw.uniform(-NOISE, NOISE), 0), 255) for value in COLORS[thing.color]]
            row, column = divmod(number, SIDE)
            radius = draw.uniform(*RADII[draw.choice(sorted(RADII))])
            pixels[row, :, column] = coverage(thing.shape, radius)[..., None] * shade
    image = Image.fromarray(pixels.reshape(SIDE * CELL, SIDE * CELL, 3).round().astype(np.uint8))
    return image.quantize(PALETTE).resize((SIDE * CELL * ENLARGEMENT,) * 2, Image.Resampling.NEAREST)


def read_scene(image: Image.Image) -> Scene:
    """The scene of an image: in each cell, the color with most light, and the shape by its outline."""
    small = image.convert("RGB").resize((SIDE * CELL, SIDE * CELL), Image.Resampling.BOX)
    pixels = np.asarray(small, float).reshape(SIDE, CELL, SIDE, CELL, 3).swapaxes(1, 2)
    return [_read_cell(pixels[divmod(number, SIDE)]) for number in range(SIDE * SIDE)]


def _read_cell(pixels: np.ndarray) -> Thing | None:
    """What is in a cell, of shape `(CELL, CELL, 3)`."""
    if not pixels.any():
        return None
    channel = int(pixels.sum((0, 1)).argmax())
    light = pixels[..., channel] / pixels[..., channel].max()
    rows, columns = (np.flatnonzero(light.any(axis)) for axis in (1, 0))
    box = light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    half, edge = len(box) // 2, box[-1] / box[-1].max()
    if box[:half].sum() < 0.75 * box[-half:].sum():
        shape = "triangle"
    else:  # the edge of a square is as bright near its end, and at its end if whole pixels are covered
        shape = "square" if edge[0 if box[-1].max() > 0.99 else 1] > 0.9 else "circle"
    return Thing(shape, list(COLORS)[channel])


# ---- data ----


def render(output: Path, scenes: int, questions: int = 14, seed: int = 0, withhold: Collection[str] = ()) -> int:
    """
    Render scenes and write `images/` and `train.json`.

    Args:
        output (`Path`): folder, created if it does not exist.
        scenes (`int`): number of images.
        questions (`int`, *optional*, defaults to 14): questions of each.
        seed (`int`, *optional*, defaults to 0): seed of all random choices.
        withhold (`Collection[str]`, *optional*, defaults to `()`): questions that are never asked.

    Returns:
        `int`: number of questions.
    """
    draw, rows = random.Random(seed), []
    (output / "images").mkdir(parents=True, exist_ok=True)
    for number in range(scenes):
        name = f"images/{number:05d}.png"
        filled = draw.uniform(0.6, 1.0)
        scene = [
            Thing(draw.choice(SHAPES), draw.choice(sorted(COLORS))) if draw.random() < filled else None
            for _ in range(SIDE * SIDE)
        ]
        draw_scene(scene, draw).save(output / name)
        for _ in range(questions):
            question, answer = draw_question(scene, draw, withhold)
            rows.append({"image": name, "question": question, "question_id": len(rows), "answer": [answer]})
    (output / "train.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return len(rows)


def draw_question(scene: Scene, draw: random.Random, withhold: Collection[str] = ()) -> tuple[str, str]:
    """A random question about a scene, and its answer."""
    while True:
        kind = draw.choices((_ask_what, _ask_where, _ask_whether), (3, 2, 5))[0]
        for _ in range(50):  # a scene can be without things that stand alone
            found = kind(scene, draw)
            if found is not None and found[0] not in withhold:
                return found


def _ask_what(scene: Scene, draw: random.Random) -> tuple[str, str] | None:
    """What a cell has; `None` if the place that was drawn is not one cell in the grid."""
    place = draw.choice(draw.choice((PLACES, PLACES, NOUNS, KINDS)))
    relations = _draw_relations(draw, draw.randint(0 if place in PLACES else 1, 2))
    cells = related_cells(cells_of(scene, place), relations)
    if len(cells) != 1:
        return None
    thing = scene[cells[0][0] * SIDE + cells[0][1]]
    answer = "nothing" if thing is None else f"{thing.color} {thing.shape}"
    return f"what is {describe(relations, place)}?", answer


def _ask_where(scene: Scene, draw: random.Random) -> tuple[str, str] | None:
    """Where a cell is, by its relations to a thing; `None` if that is not one cell in the grid."""
    place, relations = draw.choice(draw.choice((NOUNS, KINDS))), _draw_relations(draw, draw.randint(0, 2))
    cells = related_cells(cells_of(scene, place), relations)
    return (
        (f"where is {describe(relations, place)}?", PLACES[cells[0][0] * SIDE + cells[0][1]])
        if len(cells) == 1
        else None
    )


def _ask_whether(scene: Scene, draw: random.Random) -> tuple[str, str] | None:
    """Whether a thing is in relations to another, "yes" as often as "no"; `None` if a few tries find none."""
    relations = _draw_relations(draw, draw.choices((0, 1, 2), (3, 3, 4))[0])
    places, answer = draw.choice((NOUNS, NOUNS, KINDS, PLACES)), draw.random() < 0.5
    for _ in range(50):
        subject, place = draw.choice(NOUNS), draw.choice(places)
        if is_true(scene, subject, relations, place) == answer:
            return join_question(subject, relations, place), "yes" if answer else "no"
    return None


def _draw_relations(draw: random.Random, count: int) -> list[str]:
    return [draw.choice(sorted(RELATIONS)) for _ in range(count)]


def check(path: Path) -> tuple[int, int]:
    """How many answers of an annotation file to questions of the grammar agree with these rules, of how many."""
    rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if _QUESTION.fullmatch(row["question"])]
    agreed = 0
    for row in rows:
        with Image.open(path.parent / row["image"]) as image:
            answer = "yes" if is_true(read_scene(image), *split_question(row["question"])) else "no"
        agreed += answer in row["answer"]
    return agreed, len(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", metavar="FOLDER", type=Path, help="output folder, created if it does not exist")
    task.add_argument(
        "--check", metavar="FILE", type=Path, help="annotation file to compare with, instead of rendering"
    )
    parser.add_argument("--scenes", metavar="N", type=int, default=12000, help="images (%(default)s)")
    parser.add_argument("--questions", metavar="N", type=int, default=14, help="questions of each image (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of all random choices (%(default)s)")
    parser.add_argument(
        "--withhold", metavar="SHARE", type=float, default=0.0, help="share of questions never asked (%(default)s)"
    )
    parser.add_argument("--withhold-from", metavar="FILE", type=Path, help="annotation file of questions never asked")
    args = parser.parse_args(argv)
    if args.check is not None:
        agreed, count = check(args.check)
        print(f"{args.check}: {agreed} of {count} answers agree")
        return 0
    withheld = set(random.Random(args.seed).sample(all_questions(), round(args.withhold * len(all_questions()))))
    if args.withhold_from is not None:
        withheld |= {row["question"] for row in json.loads(args.withhold_from.read_text(encoding="utf-8"))}
    count = render(args.output, args.scenes, args.questions, args.seed, withheld)
    print(f"{args.output}: {count} questions about {args.scenes} scenes, {len(withheld)} questions withheld")
    return 0


if __name__ == "__main__":
    sys.exit(main())
