"""What the page about pipelines needs: tiny models for tasks that the embedded model was not trained for, and clips."""

from pathlib import Path
from typing import Any

from tests.documentation.materials import TOKENIZER


def prepare(folder: Path) -> dict[str, Any]:
    from tests.models.video_clips import write_clip
    from tests.pipelines.tiny_models import save_model
    from tests.pipelines.tiny_video_models import save_video_model

    images = {
        "vqa": "ForQuestionAnswering",
        "entailment": "ForImageAndTextClassification",
        "nlvr": "ForImagesAndTextClassification",
    }
    videos = {"video_qa": "ForVideoQuestionAnswering", "video_retrieval": "ForVideoTextRetrieval"}
    names: dict[str, Any] = {name: str(save_model(folder / name, head, TOKENIZER)) for name, head in images.items()}
    names |= {name: str(save_video_model(folder / name, head, TOKENIZER)) for name, head in videos.items()}
    names["clips"] = [str(write_clip(folder / name, frames=12)) for name in ("one.mp4", "two.mkv")]
    return names


def check_every_task(names: dict[str, Any]) -> None:
    """Every registered task stands in the table and has a section with an example."""
    from modeling_lavis.pipelines import TASKS
    from tests.documentation.examples import find_examples
    from tests.documentation.materials import TESTS

    page = TESTS.parent / "docs" / "pipelines.md"
    headings = {example.heading for example in find_examples(page)}
    assert set(TASKS) <= headings
    assert all(f"| [`{task}`](#{task}) |" in page.read_text(encoding="utf-8") for task in TASKS)


CHECKS = {"Pipelines of transformers": check_every_task}
