"""Words from tokens of every kind of tokenizer."""

from pathlib import Path

import pytest

from modeling_lavis.interpretability.words import Word, find_words
from modeling_lavis.models.processing_lavis_blip import blip_tokenizer
from tests.models.tiny_tokenizers import tiny_tokenizer


@pytest.fixture(scope="module")
def bert(goldens: Path) -> object:
    return blip_tokenizer(str(goldens / "tokenizer"))


def test_sub_words_are_joined_and_special_tokens_left_out(bert: object) -> None:
    ids = bert("two people are bicyclists outside")["input_ids"]
    words = find_words(bert, ids)
    assert [word.text for word in words] == ["two", "people", "are", "bicyclists", "outside"]
    tokens = [position for word in words for position in word.tokens]
    assert tokens == list(range(1, len(ids) - 1))
    pieces = bert.convert_ids_to_tokens(ids)
    assert any(len(word.tokens) > 1 for word in words)
    for word in words:
        assert all(pieces[position].startswith("##") for position in word.tokens[1:])


def test_punctuation_belongs_to_the_word_before_it(bert: object) -> None:
    words = find_words(bert, bert("a dog, a red ball.")["input_ids"])
    assert [word.text.replace(" ", "") for word in words] == ["a", "dog,", "a", "red", "ball."]


def test_words_from_a_position_on(bert: object) -> None:
    ids = [bert.bos_token_id, *bert("a red ball", add_special_tokens=False)["input_ids"], bert.sep_token_id]
    first = find_words(bert, ids)[1].tokens[0]
    assert [word.text for word in find_words(bert, ids, first)] == ["red", "ball"]


def test_unknown_words_are_words(bert: object) -> None:
    words = find_words(bert, [bert.cls_token_id, bert.unk_token_id, bert.sep_token_id])
    assert words == [Word("[UNK]", (1,))]


@pytest.mark.parametrize("kind", ["adds BOS, which is EOS (OPT)", "adds EOS (T5)"])
def test_tokenizers_of_language_models(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    words = find_words(tokenizer, tokenizer("a photo of two ponies\n")["input_ids"])
    assert [word.text for word in words] == ["a", "photo", "of", "two", "ponies"]
    assert len(words[-1].tokens) > 1
