"""The shapes example: rendered scenes, the questions about them, and the recipe that trains on them."""

import json
import random
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from modeling_lavis.training.recipes import load_recipe

from .example_scripts import EXAMPLES, load_script

RECIPE = EXAMPLES / "shapes" / "scenes.json"


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    return load_script("shapes/render_scenes")


def test_answers_of_relations(shapes: ModuleType) -> None:
    circle, square = shapes.Thing("circle", "red"), shapes.Thing("square", "blue")
    scene = [circle, None, square, None, None, None, square, None, None]
    truths = {
        "is a circle a red shape?": True,
        "is a circle a square?": False,
        "is a square below below a circle?": True,
        "is a square below a circle?": False,  # the next cell only
        "is a square right of right of a red shape?": True,
        "is a blue shape below below left of a circle?": False,  # out of the grid
        "is a circle left of right of a circle?": True,
        "is a square left of right of a square?": True,  # by the one in the left column
        "is a circle above above a blue shape?": True,
    }
    for question, truth in truths.items():
        subject, relations, place = shapes.split_question(question)
        assert shapes.join_question(subject, relations, place) == question
        assert shapes.is_true(scene, subject, relations, place) is truth, question
    assert len(set(shapes.all_questions())) == 36 * (1 + 4 + 16)
    with pytest.raises(ValueError, match="not a question of the grammar"):
        shapes.split_question("what color is the circle?")


def test_rendered_scenes_agree_with_their_answers(shapes: ModuleType, tmp_path: Path) -> None:
    withheld = set(shapes.all_questions()[40:60])
    assert shapes.render(tmp_path, scenes=30, questions=12, withhold=withheld) == 360
    rows = json.loads((tmp_path / "train.json").read_text())
    decided = [row["answer"] == ["yes"] for row in rows if row["question"].startswith("is ")]
    agreed, count = shapes.check(tmp_path / "train.json")
    assert len(decided) > count > 100 and agreed >= 0.97 * count  # a palette can make a small circle a square
    assert 0.35 < np.mean(decided) < 0.6
    assert not withheld & {row["question"] for row in rows}
    with Image.open(tmp_path / rows[0]["image"]) as image:
        assert image.size == (60, 60) and len(image.getcolors()) <= shapes.PALETTE
    shapes.render(tmp_path / "again", scenes=2, questions=12, withhold=withheld)
    assert json.loads((tmp_path / "again" / "train.json").read_text()) == rows[:24]


def test_contents_of_cells(shapes: ModuleType) -> None:
    circle, square = shapes.Thing("circle", "red"), shapes.Thing("square", "blue")
    scene = [circle, square, None, square, None, None, square, None, None]
    draw = random.Random(0)
    found = dict(shapes.draw_question(scene, draw) for _ in range(4000))
    expected = {
        "what is at the top left?": "red circle",
        "what is at the middle middle?": "nothing",
        "what is right of the top left?": "blue square",
        "what is left of the top left?": None,  # out of the grid
        "where is a circle?": "top left",
        "where is right of below a circle?": "middle middle",
        "where is a square?": None,  # there are three
        "is a square at the top middle?": "yes",
        "is a square at the middle middle?": "no",
        "is a blue shape below below a red circle?": "yes",
        "what is right of a circle?": "blue square",
        "what is below of a red shape?": None,  # "below" has no "of"
        "what is below below a red circle?": "blue square",
        "what is right of below a circle?": "nothing",
        "what is above a circle?": None,  # out of the grid
        "what is left of a square?": "red circle",  # two of three are at the edge
        "what is right of a square?": None,  # of three
    }
    assert {question: found.get(question) for question in expected} == expected


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_large_things_are_read_back(shapes: ModuleType, shape: str) -> None:
    draw = random.Random(0)
    scene = [shapes.Thing(shape, color) for color in shapes.COLORS] * 3
    shapes.RADII, radii = {"large": shapes.RADII["large"]}, shapes.RADII
    try:
        assert shapes.read_scene(shapes.draw_scene(scene, draw)) == scene
    finally:
        shapes.RADII = radii


def test_recipe() -> None:
    recipe = load_recipe(RECIPE)
    vision = recipe.model.config["vision_config"]
    assert recipe.model.image_size // vision["patch_size"] == 3  # a patch is a cell
    assert recipe.task == "vqa" and recipe.evaluation.ranks_answers and recipe.data.collator["keep_images"]
