"""The towers example: rendered pairs of images, their statements and questions, and the recipes that train on them."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from modeling_lavis.training.recipes import load_recipe

from .example_scripts import EXAMPLES, load_script

FOLDER = EXAMPLES / "towers"


@pytest.fixture(scope="module")
def towers() -> ModuleType:
    return load_script("towers/render_towers")


def test_truth_of_statements(towers: ModuleType) -> None:
    scene = (("black", "blue", "blue"), ("yellow",), ("black", "yellow", "blue", "yellow"))
    truths = {
        "there is exactly one tower with a blue block at the top": True,
        "there are two towers with a black block at the base": True,
        "there is one tower with a black block at the base": False,  # there are two
        "there is a tower with four blocks": True,
        "there is no tower with only two blocks": True,
        "there is a blue block on a black block": True,
        "there is no blue block above a black block": False,
        "there is a tower with a yellow block over a black block": True,
        "there is a tower with a black block over a yellow block": False,
        "there is a tower with two blue blocks stacked together": True,
        "there is a tower with two yellow blocks stacked together": False,  # another is between them
        "there is a yellow tower with only one block": True,
        "there is a black tower": False,
        "there are three yellow blocks": True,
        "there are exactly four blue blocks": False,
        "there are two black blocks as the base of a tower with at least three blocks": True,
        "there is a yellow block as the top of a tower with four blocks": True,
        "there are at least two towers with a blue block in the middle": True,
        "there is exactly one tower with at least three blocks having a blue block at the top": True,
        "there is a tower with only blue and black blocks": True,
        "there is only one tower with blocks of all three colors": True,
        "the left tower has a blue third block": True,
        "the middle tower has a blue second block": False,
        "the right tower has more than three blocks": True,
    }
    known = {one.sentence: one for form in towers.all_statements().values() for one in form}
    assert {sentence: known[sentence].holds(scene) for sentence in truths} == truths


def test_images_are_read_back(towers: ModuleType) -> None:
    scene = (("black", "blue", "yellow", "blue"), ("yellow",), ("blue", "black"))
    first, second = towers.draw_pair(scene)
    assert first.size == (250, 100) and second.size == (100, 100)
    assert towers.read_pair(first, second) == scene
    second.putpixel((3, 3), (0, 0, 0))
    assert towers.read_pair(first, second) is None


def test_rendered_statements_agree_with_their_images(towers: ModuleType, tmp_path: Path) -> None:
    assert towers.render(tmp_path, statements=150, left_images=40) == 300
    rows = json.loads((tmp_path / "statements.json").read_text())
    assert towers.check(tmp_path / "statements.json") == (300, 300, 300)
    labels = defaultdict(Counter)
    for row in rows:
        labels[row["sentence"]][row["label"]] += 1
    assert all(counts["True"] == counts["False"] for counts in labels.values())
    towers.render(tmp_path / "again", statements=20, left_images=40)
    assert json.loads((tmp_path / "again" / "statements.json").read_text()) == rows[:40]


def test_rendered_questions(towers: ModuleType, tmp_path: Path) -> None:
    assert towers.render_questions(tmp_path, questions=300, left_images=40) == 300
    rows = json.loads((tmp_path / "questions.json").read_text())
    traits = {trait.words: trait.towers for kind in towers.all_traits().values() for trait in kind}
    compared = Counter()
    for row in rows:
        with Image.open(tmp_path / row["image"]) as image:
            other = towers.draw_pair(((), (), ()))
            pair = (image, other[1]) if image.width > image.height else (other[0], image)
            scene = [tower for tower in towers.read_pair(*pair) if tower]
        words, (answer,) = row["question"].rstrip("?").split(), row["answer"]
        if row["question"].startswith("how many towers"):
            such = traits[" ".join(words[4:])]
            assert answer == towers.NUMBERS[sum(tower in such for tower in scene)], row
            compared["towers"] += 1
        elif words[0] in ("what", "how"):
            tower = scene[0 if words[-2] != "middle" else 1]
            if words[0] == "what":
                place = words[3]
                index = towers.PLACES[place] if place in towers.PLACES else towers.ORDINALS.index(place)
                assert answer == (tower[index] if index < len(tower) else "nothing"), row
            else:
                count = tower.count(words[2]) if words[2] in towers.COLORS else len(tower)
                assert answer == towers.NUMBERS[count], row
            compared[words[0]] += 1
        else:
            count_words, _, trait = row["question"].partition(" with ")
            holds = sum(tower in traits[trait] for tower in scene) in towers.TOWER_COUNTS[count_words]
            assert answer == ("no", "yes")[holds], row
            compared["truth"] += 1
    assert min(compared[kind] for kind in ("towers", "what", "how", "truth")) > 20


@pytest.mark.parametrize(("name", "task"), [("questions", "vqa"), ("statements", "nlvr")])
def test_recipes(towers: ModuleType, name: str, task: str) -> None:
    recipe = load_recipe(FOLDER / f"{name}.json")
    vision = recipe.model.config["vision_config"]
    # a row of patches is a row of blocks
    assert recipe.model.image_size / towers.BOX * towers.BLOCK == vision["patch_size"]
    assert recipe.task == task and recipe.data.collator["keep_images"]
