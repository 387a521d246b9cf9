# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: B023 -- the functions of traits are called at once
"""Render pairs of images of three towers of blocks, and statements about the towers.

    python examples/towers/render_towers.py --output towers

writes `towers/images/*.png`, `towers/statements.json` with rows {images, sentence, label}, and `towers/questions.json`
with rows {image, question, question_id, answer} about one image. The images are those of the towers of NLVR (Suhr et
al., 2017, https://aclanthology.org/P17-2034): the left one has two boxes with a tower each, the right one has the
third. A statement is about the number of towers, or of blocks at a place, with certain traits:

    there are exactly two towers with a black block at the top
    there is a yellow block as the base of a tower with at least two blocks

"True" and "False" are equally frequent for every statement.

    python examples/towers/render_towers.py --check data/nlvr/train.json

reads the towers of an annotation file back from their pixels and compares its labels with those of these rules.
"""

from __future__ import annotations

import argparse
import itertools
import json
import operator
import random
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

BOX, GAP, BLOCK = 100, 50, 20  # pixels of a box, between boxes and of a block
ROWS = (80, 59, 38, 17)  # first row of pixels of each block, from the base; no tower is higher
BACKGROUND, BETWEEN = (211, 211, 211), (128, 128, 128)
COLORS = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
ORDINALS = ("first", "second", "third", "fourth")
NUMBERS = ("no", "one", "two", "three", "four")

Tower = tuple[str, ...]  # colors, from the base
Scene = tuple[Tower, ...]  # of the three boxes, from the left
TOWERS = [colors for height in range(1, len(ROWS) + 1) for colors in itertools.product(COLORS, repeat=height)]


class Trait(NamedTuple):
    """A property of a tower: the phrase that follows "a tower with", and the set of towers that have the property."""

    words: str
    towers: frozenset[Tower]


class Statement(NamedTuple):
    """A sentence, and whether it is true of a scene."""

    sentence: str
    holds: Callable[[Scene], bool]


#: words for a number, and what they ask of a count
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "{}": operator.eq,
    "exactly {}": operator.eq,
    "only {}": operator.eq,
    "at least {}": operator.ge,
    "more than {}": operator.gt,
    "less than {}": operator.lt,
}
#: words before "a tower with", and how many of the three towers have to be such
TOWER_COUNTS: dict[str, Collection[int]] = {
    "there is a tower": (1, 2, 3),
    "there is at least one tower": (1, 2, 3),
    "there is one tower": (1,),
    "there is exactly one tower": (1,),
    "there is only one tower": (1,),
    "there are two towers": (2,),
    "there are exactly two towers": (2,),
    "there are at least two towers": (2, 3),
    "there are three towers": (3,),
    "there is no tower": (0,),
}
#: the same for a block of a color
BLOCK_COUNTS: dict[str, Collection[int]] = {
    "there is a {} block": (1, 2, 3),
    "there is at least one {} block": (1, 2, 3),
    "there is exactly one {} block": (1,),
    "there is only one {} block": (1,),
    "there are two {} blocks": (2,),
    "there are exactly two {} blocks": (2,),
    "there are at least two {} blocks": (2, 3),
    "there are three {} blocks": (3,),
    "there is no {} block": (0,),
}
PLACES = {"top": -1, "base": 0, "bottom": 0}
#: how often each form of statements occurs
FREQUENCIES = {"one tower": 3, "tower": 4, "two traits": 2, "block": 4, "order": 1, "one color": 1, "number": 1}


# ---- statements ----


def all_traits() -> dict[str, list[Trait]]:
    """Traits by kind: "height", "end", "order" and "colors"."""
    heights = [
        Trait(
            f"{comparison.format(NUMBERS[number])} {_blocks(number)}", _such(lambda tower: compare(len(tower), number))
        )
        for comparison, compare in COMPARISONS.items()
        for number in range(1, len(ROWS) + 1)
    ]
    ends = [
        Trait(f"a {color} block {word} the {place}", _such(lambda tower: tower[index] == color))
        for color in COLORS
        for place, index in PLACES.items()
        for word in ("at", "as")
    ]
    orders = []
    for upper, lower in itertools.product(COLORS, repeat=2):
        such = _such(lambda tower: (lower, upper) in _runs(tower, 2))
        orders += [
            Trait(f"a {upper} block {word} a {lower} block", such) for word in ("above", "over", "on", "on top of")
        ]
        orders += [Trait(f"a {lower} block {word} a {upper} block", such) for word in ("below", "under")]
    kinds = {"height": heights, "end": ends, "order": orders, "colors": _color_traits()}
    return {kind: [trait for trait in traits if _can_differ(trait)] for kind, traits in kinds.items()}


def _color_traits() -> list[Trait]:
    """Which colors the blocks have, and how many blocks have a color."""
    found = [
        Trait("blocks of only one color", _such(lambda tower: len({*tower}) == 1)),
        Trait("blocks of the same color", _such(lambda tower: len({*tower}) == 1)),
        Trait("blocks of all three colors", _such(lambda tower: len({*tower}) == 3)),
    ]
    for color in COLORS:
        found += [
            Trait(f"a {color} block", _such(lambda tower: color in tower)),
            Trait(f"{color} blocks", _such(lambda tower: color in tower)),
            Trait(f"no {color} block", _such(lambda tower: color not in tower)),
            Trait(f"only {color} blocks", _such(lambda tower: {*tower} == {color})),
            Trait(f"only one block which is {color}", _such(lambda tower: tower == (color,))),
            Trait(f"a {color} block in the middle", _such(lambda tower: color in tower[1:-1])),
        ]
        found += [
            Trait(f"a {color} {word} block", _such(lambda tower: tower[index : index + 1] == (color,)))
            for index, word in enumerate(ORDINALS)
        ]
        found += [
            Trait(
                f"{comparison.format(NUMBERS[number])} {color} {_blocks(number)}",
                _such(lambda tower: compare(tower.count(color), number)),
            )
            for number in (1, 2, 3)
            for comparison, compare in COMPARISONS.items()
        ]
        found += [
            Trait(
                f"{NUMBERS[number]} {color} blocks {words}",
                _such(lambda tower: (color,) * number in _runs(tower, number)),
            )
            for number in (2, 3)
            for words in ("stacked together", "attached to each other")
        ]
        for other in sorted({*COLORS} - {color}):
            both = _such(lambda tower: {color, other} <= {*tower})
            found += [
                Trait(f"{color} and {other} blocks", both),
                Trait(f"only {color} and {other} blocks", _such(lambda tower: {color, other} == {*tower})),
                Trait(f"a {color} block and a {other} block", both),
            ]
    return found


def _such(holds: Callable[[Tower], bool]) -> frozenset[Tower]:
    return frozenset(filter(holds, TOWERS))


def _blocks(number: int) -> str:
    return "block" if number == 1 else "blocks"


def _runs(tower: Tower, length: int) -> list[Tower]:
    """All sequences of `length` consecutive blocks of a tower."""
    return [tower[start : start + length] for start in range(len(tower) - length + 1)]


def _can_differ(trait: Trait) -> bool:
    return 0 < len(trait.towers) < len(TOWERS)


def all_statements() -> dict[str, list[Statement]]:
    """Statements by form: "one tower", "tower", "two traits", "block", "order", "one color" and "number"."""
    traits = all_traits()
    singles = [trait for of_kind in traits.values() for trait in of_kind]
    pairs = [
        Trait(f"{first.words} {joint} {second.words}", first.towers & second.towers)
        for first in traits["height"]
        for second in (*traits["end"], *traits["order"])
        for joint in ("and", "with", "having")
    ]
    forms: dict[str, list[Statement]] = {
        "one tower": [
            Statement(f"the {box} tower has {trait.words}", lambda scene, i=index, t=trait: scene[i] in t.towers)
            for index, box in enumerate(("left", "middle", "right"))
            for trait in singles
        ],
        "tower": [_count_towers(words, trait) for words in TOWER_COUNTS for trait in singles],
        "two traits": [_count_towers(words, trait) for words in TOWER_COUNTS for trait in pairs if _can_differ(trait)],
        "block": [],
        "order": [],
        "one color": [],
        "number": [],
    }
    for color, (words, counts) in itertools.product(COLORS, BLOCK_COUNTS.items()):
        for place, index in (("top", -1), ("base", 0)):
            sentence, such = (
                f"{words.format(color)} as the {place} of a tower",
                _such(lambda tower: tower[index] == color),
            )
            forms["block"] += _with_heights(sentence, such, counts, traits["height"])
    for color in COLORS:
        for article, counts in (("there is a", (1, 2, 3)), ("there is exactly one", (1,)), ("there is no", (0,))):
            forms["order"] += [
                _count(f"{article} {trait.words[2:]}", trait.towers, counts)
                for trait in traits["order"]
                if trait.words.startswith(f"a {color}") and counts != (1,)  # no tower may have two of these
            ]
            such = _such(lambda tower: {*tower} == {color})
            forms["one color"] += _with_heights(f"{article} {color} tower", such, counts, traits["height"])
        forms["number"] += [
            Statement(
                f"there {verb} {comparison.format(NUMBERS[number])} {color} {_blocks(number)}",
                lambda scene, k=compare, c=color, n=number: k(sum(tower.count(c) for tower in scene), n),
            )
            for number, verb in enumerate(("is", "are", "are", "are"), 1)
            for comparison, compare in COMPARISONS.items()
        ]
    return forms


def _with_heights(
    sentence: str, towers: frozenset[Tower], counts: Collection[int], heights: Sequence[Trait]
) -> list[Statement]:
    """A statement about a number of towers, and the same about those of each height."""
    return [
        _count(sentence, towers, counts),
        *(_count(f"{sentence} with {height.words}", towers & height.towers, counts) for height in heights),
    ]


def _count_towers(words: str, trait: Trait) -> Statement:
    return _count(f"{words} with {trait.words}", trait.towers, TOWER_COUNTS[words])


def _count(sentence: str, towers: frozenset[Tower], counts: Collection[int]) -> Statement:
    """The statement that the number of such towers is one of `counts`."""
    return Statement(sentence, lambda scene: sum(tower in towers for tower in scene) in counts)


# ---- images ----


def draw_pair(scene: Scene) -> tuple[Image.Image, Image.Image]:
    """The image of the left and the middle box, 250 x 100 pixels, and that of the right one, 100 x 100."""
    left = np.concatenate([_draw_box(scene[0]), np.full((BOX, GAP, 3), BETWEEN), _draw_box(scene[1])], axis=1)
    first, second = (Image.fromarray(pixels.astype(np.uint8)) for pixels in (left, _draw_box(scene[2])))
    return first, second


def _draw_box(tower: Tower) -> np.ndarray:
    pixels = np.full((BOX, BOX, 3), BACKGROUND)
    for row, color in zip(ROWS, tower, strict=False):
        pixels[row : row + BLOCK, (BOX - BLOCK) // 2 : (BOX + BLOCK) // 2] = COLORS[color]
    return pixels


def read_pair(first: Image.Image, second: Image.Image) -> Scene | None:
    """The towers of a pair of images; `None` if it has other things."""
    pixels = [np.asarray(image.convert("RGB"), int) for image in (first, second)]
    boxes = (pixels[0][:, :BOX], pixels[0][:, BOX + GAP :], pixels[1])
    scene = tuple(_read_box(box) for box in boxes)
    same = all(np.array_equal(_draw_box(tower), box) for tower, box in zip(scene, boxes, strict=True))
    return scene if same else None


def _read_box(pixels: np.ndarray) -> Tower:
    names = {value: name for name, value in COLORS.items()}
    centers = [names.get(tuple(pixels[row + BLOCK // 2, BOX // 2].tolist())) for row in ROWS]
    return tuple(name for name in centers if name)


# ---- data ----


def render(output: Path, statements: int, left_images: int = 4000, seed: int = 0) -> int:
    """
    Render pairs of images and write `images/` and `statements.json`.

    Args:
        output (`Path`): folder, created if it does not exist.
        statements (`int`): number of statements; each is written once about a pair of which it is true, once about one
            of which it is not.
        left_images (`int`, *optional*, defaults to 4000): different left images; all 120 right images occur.
        seed (`int`, *optional*, defaults to 0): seed of all random choices.

    Returns:
        `int`: number of rows.
    """
    draw, forms = random.Random(seed), all_statements()
    lefts = [(draw_tower(draw), draw_tower(draw)) for _ in range(left_images)]
    rows: list[dict[str, object]] = []
    (output / "images").mkdir(parents=True, exist_ok=True)
    while len(rows) < 2 * statements:
        statement = draw.choice(forms[draw.choices(list(FREQUENCIES), list(FREQUENCIES.values()))[0]])
        scenes: dict[bool, Scene] = {}
        for _ in range(400):  # a statement that is hardly ever true, or always, is left out
            scene: Scene = (*draw.choice(lefts), draw_tower(draw))
            if scenes and draw.random() < 0.6:  # often both pairs have one image in common
                (other,) = scenes.values()
                scene = (*other[:2], scene[2]) if draw.random() < 0.6 else (*scene[:2], other[2])
            scenes.setdefault(statement.holds(scene), scene)
            if len(scenes) == 2:
                rows += [
                    {
                        "images": _write_images(output, scenes[truth]),
                        "sentence": statement.sentence,
                        "label": str(truth),
                    }
                    for truth in (True, False)
                ]
                break
    (output / "statements.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return len(rows)


def draw_tower(draw: random.Random) -> Tower:
    """A random tower; all heights are equally frequent."""
    return tuple(draw.choice(sorted(COLORS)) for _ in range(draw.randint(1, len(ROWS))))


def _write_images(output: Path, scene: Scene) -> list[str]:
    """Write the images of a scene that are not there yet; their names say the colors."""
    first, second, third = ("".join(color[-1] for color in tower) for tower in scene)
    names = [f"images/{first}-{second}.png", f"images/{third}.png"]
    if not all((output / name).exists() for name in names):
        for name, image in zip(names, draw_pair(scene), strict=True):
            image.quantize(16).save(output / name)
    return names


def render_questions(output: Path, questions: int, left_images: int = 4000, seed: int = 0) -> int:
    """
    Render images and write `images/` and `questions.json` with questions about one image, left or right.

    Args:
        output (`Path`): folder, created if it does not exist.
        questions (`int`): number of questions.
        left_images (`int`, *optional*, defaults to 4000): different left images; all 120 right images occur.
        seed (`int`, *optional*, defaults to 0): seed of all random choices.

    Returns:
        `int`: number of rows.
    """
    draw, rows = random.Random(seed), []
    traits = [trait for of_kind in all_traits().values() for trait in of_kind]
    lefts = [(draw_tower(draw), draw_tower(draw)) for _ in range(left_images)]
    (output / "images").mkdir(parents=True, exist_ok=True)
    while len(rows) < questions:
        kind = draw.choices((_ask_color, _ask_number, _ask_towers, _ask_truth), (3, 2, 4, 4))[0]
        right, trait, wanted = draw.random() < 0.3, draw.choice(traits), draw.randint(0, 1 << 16)
        for _ in range(100):
            scene = (*draw.choice(lefts), draw_tower(draw))
            question, answer = kind(scene[2:] if right else scene[:2], trait, draw, wanted)
            if answer is not None:
                image = _write_images(output, scene)[right]
                rows.append({"image": image, "question": question, "question_id": len(rows), "answer": [answer]})
                break
    (output / "questions.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return len(rows)


def _ask_color(towers: Sequence[Tower], trait: Trait, draw: random.Random, wanted: int) -> tuple[str, str | None]:
    """The color of a block of a tower."""
    place, index = draw.choice((*PLACES.items(), *((f"{word} block", i) for i, word in enumerate(ORDINALS))))
    name, tower = draw.choice(list(_named(towers)))
    answer = tower[index] if index < len(tower) else "nothing"
    return f"what is the {place} of the {name} tower?", answer


def _ask_number(towers: Sequence[Tower], trait: Trait, draw: random.Random, wanted: int) -> tuple[str, str | None]:
    """How many blocks a tower has, of all colors or of one."""
    name, tower = draw.choice(list(_named(towers)))
    color = draw.choice(("", *COLORS))
    count = tower.count(color) if color else len(tower)
    return f"how many {color} blocks has the {name} tower?".replace("  ", " "), NUMBERS[count]


def _ask_towers(towers: Sequence[Tower], trait: Trait, draw: random.Random, wanted: int) -> tuple[str, str | None]:
    """How many towers have a trait, all answers equally frequent."""
    count = sum(tower in trait.towers for tower in towers)
    return f"how many towers with {trait.words}?", NUMBERS[count] if count == wanted % (len(towers) + 1) else None


def _ask_truth(towers: Sequence[Tower], trait: Trait, draw: random.Random, wanted: int) -> tuple[str, str | None]:
    """Whether a statement is true, "yes" as often as "no"."""
    words = list(TOWER_COUNTS)[wanted // 2 % len(TOWER_COUNTS)]
    holds = sum(tower in trait.towers for tower in towers) in TOWER_COUNTS[words]
    return f"{words} with {trait.words}", ("no", "yes")[holds] if holds == wanted % 2 else None


def _named(towers: Sequence[Tower]) -> Collection[tuple[str, Tower]]:
    """Towers of one image and their names."""
    return list(zip(("left", "middle") if len(towers) == 2 else ("right",), towers, strict=True))


def check(path: Path) -> tuple[int, int, int]:
    """Labels of an annotation file that agree with these rules, statements of these forms, and all statements."""
    known = {one.sentence: one for form in all_statements().values() for one in form}
    rows, agreed, compared = json.loads(path.read_text(encoding="utf-8")), 0, 0
    for row in rows:
        statement = known.get(normalize(row["sentence"]))
        if statement is None:
            continue
        first, second = (Image.open(path.parent / name) for name in row["images"])
        scene = read_pair(first, second)
        if scene is not None:
            compared += 1
            agreed += str(statement.holds(scene)) == row["label"]
    return agreed, compared, len(rows)


def normalize(sentence: str) -> str:
    """A sentence in the words of these forms: lower case, numbers in words, "with" for words of the same meaning."""
    sentence = " ".join(sentence.lower().rstrip(". ").split())
    for number, word in enumerate(NUMBERS[1:], 1):
        sentence = re.sub(rf"\b{number}\b", word, sentence)
    return re.sub(r"\b(that|which) has\b|\bhaving\b", "with", sentence).replace("bellow", "below")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", metavar="FOLDER", type=Path, help="output folder, created if it does not exist")
    task.add_argument(
        "--check", metavar="FILE", type=Path, help="annotation file to compare with, instead of rendering"
    )
    parser.add_argument("--statements", metavar="N", type=int, default=60000, help="statements (%(default)s)")
    parser.add_argument("--questions", metavar="N", type=int, default=100000, help="questions (%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of all random choices (%(default)s)")
    args = parser.parse_args(argv)
    if args.check is not None:
        agreed, compared, count = check(args.check)
        print(f"{args.check}: {agreed} of {compared} labels agree; {count - compared} of {count} statements are others")
        return 0
    count = render(args.output, args.statements, seed=args.seed)
    count += render_questions(args.output, args.questions, seed=args.seed)
    print(f"{args.output}: {count} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
