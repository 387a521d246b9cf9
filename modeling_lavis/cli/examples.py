# SPDX-License-Identifier: Apache-2.0
"""`--examples FILE` of `evaluate`: a contact sheet of the worst predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeling_lavis.cli.output import atomic_file, one_line, warn

COUNT = 12
_SIZE = 512  # pixels of an image that waits for the sheet

Line = tuple[str, str, str]


def save_examples(path: Path, rows: Any, found: Any) -> None:
    """Write [`example_sheet`] to a file, or say that there is nothing to draw."""
    sheet = example_sheet(rows, found)
    if sheet is None:
        warn(f"{one_line(str(path))} was not written: the data have nothing to compare with.", "warning")
        return
    with atomic_file(path) as file:
        sheet.save(file, format="PNG")


def example_sheet(rows: Any, found: Any) -> Any:
    """
    Draw the worst predictions with what they were compared with.

    Captions are ordered by CIDEr, answers by the share of people who gave them, classes by the probability of a wrong
    one.

    Args:
        rows (sequence of rows): the data.
        found (`EvaluationResult`): what the evaluation returned.

    Returns:
        `PIL.Image.Image`: the sheet, or `None` if the data have nothing to compare with.
    """
    from modeling_lavis.cli.contact_sheet import Cell, draw_cells

    if not found.references:
        return None
    qualities = _qualities(found)
    worst = sorted(range(len(qualities)), key=qualities.__getitem__)[:COUNT]
    cells = []
    for index in worst:
        row, prediction, reference = rows[found.positions[index]], found.predictions[index], found.references[index]
        cells.append(Cell(_image(row), _lines(row, prediction, reference, qualities[index])))
    return draw_cells(cells)


def _qualities(found: Any) -> list[float]:
    """A number for each prediction, the lowest for the worst."""
    pairs = list(zip(found.predictions, found.references, strict=True))
    if "caption" in found.predictions[0]:
        from modeling_lavis.evaluation.metrics import cider

        return cider([entry["caption"] for entry, _ in pairs], found.references).per_image
    if "label" in found.predictions[0]:
        return [entry["score"] * (1 if entry["label"] == reference else -1) for entry, reference in pairs]
    return [
        reference.count(entry["answer"]) / len(reference)
        if isinstance(reference, list)
        else float(entry["answer"] == reference)
        for entry, reference in pairs
    ]


def _lines(row: Any, prediction: Any, reference: Any, quality: float) -> Sequence[Line]:
    """Label, text and color of what is below an image."""
    from modeling_lavis.cli.contact_sheet import CORRECT, TEXT, WRONG

    if "caption" in prediction:
        color = CORRECT if prediction["caption"] in reference else WRONG
        return (
            ("caption", prediction["caption"], color),
            ("right", "; ".join(reference), TEXT),
            ("CIDEr", f"{quality:.2f}", TEXT),
        )
    asked = "question" if "question" in row else "sentence"
    text: list[Line] = [(asked, row[asked], TEXT)] if row.get(asked) else []
    if "label" in prediction:
        color = CORRECT if prediction["label"] == reference else WRONG
        return (*text, (f"class {prediction['score']:.2f}", prediction["label"], color), ("right", reference, TEXT))
    answers = reference if isinstance(reference, list) else [reference]
    color = CORRECT if prediction["answer"] in answers else WRONG
    return (*text, ("answer", prediction["answer"], color), ("right", "; ".join(dict.fromkeys(answers)), TEXT))


def _image(row: Any) -> Any:
    """The image of a row, two images side by side, or `None` for a video."""
    import PIL.Image

    from modeling_lavis.data.collators import open_row_image
    from modeling_lavis.models.image_conversion import parse_background, to_rgb

    if "images" not in row and "image" not in row:
        return None
    sources = row["images"] if "images" in row else [row["image"]]
    images = []
    for source in sources:
        image = to_rgb(open_row_image(source), parse_background("white")).copy()
        image.thumbnail((_SIZE, _SIZE))
        images.append(image)
    joined = PIL.Image.new(
        "RGB", (sum(image.width for image in images), max(image.height for image in images)), "white"
    )
    left = 0
    for image in images:
        joined.paste(image, (left, 0))
        left += image.width
    return joined


__all__ = ["COUNT", "example_sheet"]
