"""Text cleaning against recordings of the original, and BERT's tokenizer with BLIP's special tokens."""

import json
from pathlib import Path

import pytest

from modeling_lavis.models.tokenization_lavis import blip_tokenizer, clean_caption, clean_question, clean_text

DEC, ENC = 600, 601


def test_cleaning_equals_recordings(goldens: Path) -> None:
    rows = json.loads((goldens / "processors" / "text.json").read_text(encoding="utf-8"))["rows"]
    clean = {"blip_caption": clean_caption, "blip_question": clean_question}
    assert {row["processor"] for row in rows} == set(clean)
    for row in rows:
        assert clean[row["processor"]](row["input"], **row["settings"]) == row["output"], row


def test_caption_and_question_cleaning() -> None:
    text = "A man (with a hat) is riding: a horse!!\n"
    assert clean_text(text, "caption") == "a man with a hat is riding a horse"
    assert clean_text(text, "question") == "a man with a hat is riding a horse\n"
    assert clean_text(text, None) == text


@pytest.mark.parametrize("cleaning", ["caption", "question"])
def test_max_words(cleaning: str) -> None:
    text = " ".join(f"w{number}" for number in range(10_000))
    assert clean_text(text, cleaning).split(" ") == [f"w{number}" for number in range(50)]
    assert clean_text(text, cleaning, max_words=None) == text
    assert clean_text(text, cleaning, max_words=3) == "w0 w1 w2"


def test_unknown_cleaning_raises() -> None:
    with pytest.raises(ValueError, match="'captions'.*'caption', 'question' or None"):
        clean_text("a", "captions")


def test_tokenizer_sources_agree(goldens: Path) -> None:
    tokenizer = blip_tokenizer(goldens / "tokenizer")
    pieces = (goldens / "tokenizer" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    others = [goldens / "tokenizer" / "vocab.txt", pieces, {piece: number for number, piece in enumerate(pieces)}]
    for source in [goldens / "tokenizer", *others]:
        made = blip_tokenizer(source)
        assert (made.bos_token_id, made.convert_tokens_to_ids("[ENC]"), len(made)) == (DEC, ENC, 602)
        assert made("What's THAT?")["input_ids"] == tokenizer("what's that?")["input_ids"]
    assert blip_tokenizer(tokenizer) is tokenizer


def test_special_token_ids_after_bert_base() -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(30_517))]
    made = blip_tokenizer(pieces)
    assert (made.bos_token_id, made.convert_tokens_to_ids("[ENC]"), len(made)) == (30522, 30523, 30524)


def test_invalid_vocabulary_raises(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\na\nb\n")
    with pytest.raises(ValueError, match="vocab.txt is not a BERT vocabulary"):
        blip_tokenizer(tmp_path / "vocab.txt")
    with pytest.raises(TypeError, match="int"):
        blip_tokenizer(3)
