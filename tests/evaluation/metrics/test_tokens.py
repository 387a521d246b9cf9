"""Penn Treebank tokens against what the Java program said about the same sentences."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from modeling_lavis.evaluation.metrics import tokenize_captions
from modeling_lavis.evaluation.metrics.ptb_tokenizer import PUNCTUATION

# pairs of a sentence and its tokens, in the order in which they stood in the file that the Java program read
RECORDED = [json.loads(line) for line in (Path(__file__).parent / "java_tokens.jsonl").read_text("utf-8").splitlines()]


def test_tokens_equal_the_java_program() -> None:
    found = tokenize_captions([sentence for sentence, _ in RECORDED])
    wrong = {sentence: (own, java) for own, (sentence, java) in zip(found, RECORDED, strict=True) if own != java}
    assert wrong == {}


def test_recordings_are_varied() -> None:
    """The comparison above is worth something only if it has many kinds of tokens."""
    tokens = {token for _, java in RECORDED for token in java.split()}
    needed = {"n't", "'s", "-lrb-", "p.m.", "u.s.", "gon", "3:30", "t-shirt", "at&t", "me@x.com", "<b>", "1/2"}
    assert needed <= tokens
    assert not tokens & PUNCTUATION
    assert len(RECORDED) > 400


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("A cat, a dog.", "a cat a dog"),
        ("It isn't the dog's (photo)!", "it is n't the dog 's -lrb- photo -rrb-"),
        ("Cannot pay $5.50 at 3:30 p.m. in the U.S.", "can not pay $ 5.50 at 3:30 p.m. in the u.s."),
        ("1 1/2 cups", "1\xa01/2 cups"),
        ("a \N{GRINNING FACE} na\xefve caf\xe9", "a na\xefve caf\xe9"),
        ("line\nbreak\r\nhere", "line break here"),
        ("", ""),
        (" ... !", ""),
    ],
)
def test_tokens(sentence: str, tokens: str) -> None:
    assert tokenize_captions([sentence]) == [tokens]


def test_the_next_sentence_decides_on_single_letters() -> None:
    assert tokenize_captions(["Plan b.", "The end"])[0] == "plan b"
    assert tokenize_captions(["Plan b.", "Cats"])[0] == "plan b."


def test_fast_path_for_plain_words_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "a I cat Cannot dr. inc. fig. street, U.S. gonna X the, Mr. end".split()
    generator = random.Random(0)
    sentences = [" ".join(generator.choices(words, k=6)) for _ in range(60)]
    expected = tokenize_captions(sentences)
    monkeypatch.setattr("modeling_lavis.evaluation.metrics.ptb_tokenizer._needs_rules", lambda plain: True)
    assert tokenize_captions(sentences) == expected


def test_no_captions() -> None:
    assert tokenize_captions([]) == []


def test_captions_that_are_no_strings() -> None:
    with pytest.raises(ValueError, match="single str"):
        tokenize_captions("a cat")
    with pytest.raises(ValueError, match=r"captions\[1\] is 3 of type int; expected str"):
        tokenize_captions(["a", 3])  # type: ignore[list-item]
