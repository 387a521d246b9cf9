"""What the page about evaluation needs: tiny models for tasks that the embedded model was not trained for, and data."""

import json
from pathlib import Path
from typing import Any

from tests.documentation.materials import TOKENIZER, caption_rows

_MODELS = {"captioning": "ForPreTraining", "vqa": "ForQuestionAnswering"}


def prepare(folder: Path) -> dict[str, Any]:
    from tests.pipelines.tiny_models import save_model

    for name, head in _MODELS.items():
        save_model(folder / name, head, TOKENIZER)
    save_model(folder / "entailment", "ForImageAndTextClassification", TOKENIZER, num_labels=3)
    rows = caption_rows()
    Path("my_photos").mkdir()
    Path("my_photos/val.json").write_text(json.dumps([_beside(row, "my_photos") for row in rows]))
    questions = [{"image": row["image"], "question": "what is it?", "answer": ["a dog"] * 10} for row in rows]
    Path("questions.json").write_text(json.dumps([_beside(row, ".") for row in questions]))
    Path("answer_list.json").write_text(json.dumps(["a dog", "a man"]))
    return {"vqa": str(folder / "vqa"), "entailment": str(folder / "entailment")}


def _beside(row: dict[str, Any], folder: str) -> dict[str, Any]:
    """The row with its image copied into a folder, which annotation files may not leave."""
    source = Path(row["image"])
    (Path(folder) / source.name).write_bytes(source.read_bytes())
    return {**row, "image": source.name}


def commands(words: list[str]) -> list[str]:
    """The command with a small model of its task, and a folder of few images."""
    from modeling_lavis.embedded import embedded_model_path

    model = embedded_model_path() if words[1] == "retrieval" else words[1]
    return [{"MODEL": model, "emoji_set": "my_photos"}.get(word, word) for word in words]


def check_predictions(names: dict[str, Any]) -> None:
    assert len(json.loads(Path("captions_results.json").read_text())) == 12


def check_commands(names: dict[str, Any]) -> None:
    assert {entry["image_id"] for entry in json.loads(Path("captions.json").read_text())}


CHECKS = {"Predictions": check_predictions, "On the command line": check_commands}
