"""HTML of results: what is in it, and that no text becomes markup."""

from html.parser import HTMLParser
from typing import Any

import pytest

from modeling_lavis.demo.markup import Bar, Figure, WordMap, bar_table, error_message, figures, note, report, word_maps

HOSTILE = "<script>alert(1)</script>\"'& onload=x"


class Tags(HTMLParser):
    """The tags, attributes and texts of a piece of HTML."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str | None]] = {}
        self.texts: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_bars() -> None:
    found = Tags(bar_table(("Answer", "Share", "Score"), [Bar("a dog", 0.25, ("-1.5",)), Bar("nothing", None, ("x",))]))
    assert found.attributes["style"] == ["width:25.0%"]
    assert found.texts == ["Answer", "Share", "Score", "a dog", "25.0%", "-1.5", "nothing", "x"]
    assert found.attributes["scope"] == ["col", "col", "col", "row", "row"]
    assert Tags(bar_table(("a", "b"), [Bar("x", 1.7), Bar("y", -1.0)])).attributes["style"] == [
        "width:100.0%",
        "width:0.0%",
    ]


def test_figures_and_maps() -> None:
    found = Tags(figures([Figure("data:image/jpeg;base64,AA==", "dog.png", "score 1"), Figure(None, "gone.png", "")]))
    assert found.tags.count("img") == 1 and found.attributes["alt"] == ["dog.png"]
    assert {"dog.png", "score 1", "gone.png"} <= set(found.texts)
    found = Tags(word_maps("a dog", "data:x", [WordMap("a", "data:a"), WordMap("dog", "data:b")]))
    # each map follows its word, as the style sheet needs it
    assert [tag for tag in found.tags if tag in ("button", "img")] == ["img", "button", "img", "button", "img"]
    assert found.attributes["src"] == ["data:x", "data:a", "data:b"] and found.texts == ["a", "dog"]


@pytest.mark.parametrize(
    "markup",
    [
        bar_table((HOSTILE, "b", "c"), [Bar(HOSTILE, 0.5, (HOSTILE,))]),
        figures([Figure("data:x", HOSTILE, HOSTILE)]),
        word_maps(HOSTILE, "data:x", [WordMap(HOSTILE, "data:y")]),
        note(HOSTILE),
        error_message(HOSTILE),
        report(HOSTILE),
    ],
)
def test_texts_stay_texts(markup: str) -> None:
    found = Tags(markup)
    assert "script" not in found.tags and not {"onload", "x"} & set(found.attributes)
    assert HOSTILE in found.texts
