"""Which models have which tabs, and what the page says about them."""

from pathlib import Path

import pytest

from modeling_lavis.demo.about import about, card_section, description, limits, tab_title, warning
from modeling_lavis.demo.models import load_page_model, models_by_tab
from modeling_lavis.embedded import embedded_model_path
from tests.pipelines.tiny_models import save_model
from tests.pipelines.tiny_video_models import save_video_model

pytestmark = pytest.mark.slow


def test_the_embedded_model() -> None:
    entry = load_page_model(embedded_model_path(), device="cpu")
    assert (entry.modality, list(entry.pipelines)) == ("image", ["caption", "match", "search"])
    assert len({id(pipe.model) for pipe in entry.pipelines.values()}) == 1
    assert len({id(pipe.processor) for pipe in entry.pipelines.values()}) == 1
    assert description(entry) == (
        "The embedded model: LavisBlipForPreTraining of the family BLIP, 2.1 million parameters."
    )
    assert "emoji" in str(warning(entry))
    text = " ".join(limits(entry))
    assert "Images that are not emoji get the name of some emoji" in text and "identify people" in text
    page = about([entry], models_by_tab([entry]), "64 MiB")
    assert "64 MiB" in page and "Questions: a model for <code>image-question-answering</code>" in page
    assert "Captions: a model for" not in page


def test_models_of_other_tasks(tmp_path: Path, goldens: Path) -> None:
    tokenizer = goldens / "tokenizer"
    answerer = load_page_model(save_model(tmp_path / "vqa", "ForQuestionAnswering", tokenizer), device="cpu")
    films = load_page_model(save_video_model(tmp_path / "film", "ForVideoTextRetrieval", tokenizer), device="cpu")
    matcher = load_page_model(save_model(tmp_path / "match", "ForImageTextRetrieval", tokenizer), device="cpu")
    other = load_page_model(save_model(tmp_path / "other", "ForPreTraining", tokenizer), device="cpu")
    assert list(answerer.pipelines) == ["answer"] and answerer.modality == "image"
    assert list(films.pipelines) == ["match", "search"] and films.modality == "video"
    assert warning(answerer) is None
    tabs = models_by_tab([answerer, matcher, films, other])
    assert [(tab_title(kind, entry.modality), entry) for kind, entry in tabs] == [
        ("Captions", other),
        ("Questions", answerer),
        ("Matching", matcher),
        ("Matching (videos)", films),
        ("Search", matcher),
        ("Search (videos)", films),
    ]
    pairs = save_model(tmp_path / "pairs", "ForImagesAndTextClassification", tokenizer)
    with pytest.raises(ValueError, match="LavisBlipForImagesAndTextClassification is for no tab of the page"):
        load_page_model(pairs, device="cpu")


def test_sections_of_cards(tmp_path: Path) -> None:
    assert card_section(tmp_path, "Limits") is None
    (tmp_path / "README.md").write_text("# A\n\n## Limits\n\n- one\n- two\n\n## Other\n\nx\n")
    assert card_section(tmp_path, "Limits") == "- one\n- two" and card_section(tmp_path, "Usage") is None
