"""Cleaning of captions and questions against the rows recorded from the original."""

import json
from pathlib import Path

import pytest

from modeling_lavis.models.text_cleaning import clean_caption, clean_question, clean_text


def test_recorded_rows(goldens: Path) -> None:
    rows = json.loads((goldens / "processors" / "text.json").read_text(encoding="utf-8"))["rows"]
    clean = {"blip_caption": clean_caption, "blip_question": clean_question}
    assert {row["processor"] for row in rows} == set(clean)
    for row in rows:
        assert clean[row["processor"]](row["input"], **row["settings"]) == row["output"], row


def test_both_ways_differ_on_marks_and_newlines() -> None:
    text = "A man (with a hat) is riding: a horse!!\n"
    assert clean_text(text, "caption") == "a man with a hat is riding a horse"
    assert clean_text(text, "question") == "a man with a hat is riding a horse\n"
    assert clean_text(text, None) == text


@pytest.mark.parametrize("cleaning", ["caption", "question"])
def test_long_text_keeps_the_first_words(cleaning: str) -> None:
    text = " ".join(f"w{number}" for number in range(10_000))
    assert clean_text(text, cleaning).split(" ") == [f"w{number}" for number in range(50)]
    assert clean_text(text, cleaning, max_words=None) == text
    assert clean_text(text, cleaning, max_words=3) == "w0 w1 w2"


def test_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="'captions'.*'caption', 'question' or None"):
        clean_text("a", "captions")
