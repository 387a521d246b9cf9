"""Parts of pages that are made from files: the table of recipes, and the examples of the page about extensions.

`python -m tests.documentation.generated_parts` writes them into the pages.
"""

import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
TRAINING, EXTENDING = TOP / "docs" / "training.md", TOP / "docs" / "extending.md"
START = "<!-- table of recipes: made by tests/documentation/generated_parts.py -->\n\n"
END = "\n<!-- end of the table -->"
#: a link to a file, and the block below it that shows the file
_FILE = re.compile(r"(\[`(examples/extending/\w+\.py)`\]\([^)]*\):?\n\n)```python\n.*?\n```\n", flags=re.DOTALL)


def _number(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")


def recipe_table() -> str:
    """The table of the recipes with a published run, without the markers around it."""
    from modeling_lavis.training.recipes import list_recipes, load_recipe

    lines = [
        "| recipe | task | pixels | learning rate, lowest | schedule, warm-up | weight decay | length | "
        "rows x devices | best model by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe in map(load_recipe, list_recipes()):
        if recipe.source is None:
            continue
        optimizer, run = recipe.optimizer, recipe.run
        schedule = optimizer.schedule + (f" {optimizer.decay_rate}" if optimizer.decay_rate is not None else "")
        if optimizer.warmup_learning_rate is not None:
            schedule += f", {optimizer.warmup_steps} steps from {_number(optimizer.warmup_learning_rate)}"
        frames = f", {recipe.model.num_frames} frames" if recipe.model.num_frames is not None else ""
        cells = (
            f"`{recipe.name}`",
            recipe.task,
            f"{recipe.model.image_size}{frames}",
            f"{_number(optimizer.learning_rate)}, {_number(optimizer.min_learning_rate)}",
            schedule,
            _number(optimizer.weight_decay),
            f"{run.steps} steps" if run.epochs is None else f"{run.epochs:g} epochs",
            f"{run.train_batch_size} x {run.num_devices}",
            " + ".join(f"`{name}`" for name in recipe.evaluation.metric) or "the last one",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def current_table() -> str:
    """The table that stands in the page."""
    return TRAINING.read_text(encoding="utf-8").split(START)[1].split(END)[0]


def shown_part(path: Path) -> str:
    """A file from its imports to its last function, as a page shows it."""
    return path.read_text(encoding="utf-8").split('"""\n\n', 1)[1].split("\n\n\nif __name__")[0]


def extending_page() -> str:
    """The page about extensions with the files as they are."""

    def with_file(match: re.Match[str]) -> str:
        return f"{match.group(1)}```python\n{shown_part(TOP / match.group(2))}\n```\n"

    return _FILE.sub(with_file, EXTENDING.read_text(encoding="utf-8"))


def shown_files() -> list[str]:
    """The files that the page about extensions shows."""
    return [match.group(2) for match in _FILE.finditer(EXTENDING.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    before, _, rest = TRAINING.read_text(encoding="utf-8").partition(START)
    TRAINING.write_text(before + START + recipe_table() + END + rest.split(END)[1], encoding="utf-8")
    EXTENDING.write_text(extending_page(), encoding="utf-8")
