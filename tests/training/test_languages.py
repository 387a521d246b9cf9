"""Captions in other languages and alphabets: train, generate and decode, with several kinds of tokenizers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoProcessor, BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerFast

from modeling_lavis import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import clean_caption, clean_question, join_ideographs
from modeling_lavis.training.starting_points import from_pretrained_parts
from modeling_lavis.training.vocabularies import SPECIAL_TOKENS, train_tokenizer

CAPTIONS = {
    "spanish": ["un niño come una manzana", "el pingüino está en el árbol"],
    "chinese": ["一只狗在草地上", "两个孩子吃苹果，很高兴"],
    "japanese": ["公園で犬が走る", "リンゴを食べる子供"],
    "russian": ["мальчик ест яблоко", "ёж под деревом"],
    "arabic": ["ولد يأكل تفاحة", "كلب في الحديقة"],
    "german": ["Ein Junge isst einen Apfel", "Der große Bär schläft"],
}


def word_piece(captions: list[str]) -> Any:
    return train_tokenizer(captions, vocabulary_size=80)


def bert_word_piece(captions: list[str]) -> Any:
    """BERT's own tokenizer, which splits Chinese characters."""
    characters = sorted({character for caption in captions for character in caption})
    tokens = [*SPECIAL_TOKENS.values(), *characters, *(f"##{character}" for character in characters)]
    # otherwise an uncased tokenizer strips accents, and the marks of voiced kana with them
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, strip_accents=False)


def cased_word_piece(captions: list[str]) -> Any:
    return train_tokenizer(captions, vocabulary_size=80, lowercase=False)


def byte_level(captions: list[str]) -> Any:
    backend: Any = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(SPECIAL_TOKENS.values())
    trainer: Any = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    return finished(backend, captions, trainer)


def sentence_piece(captions: list[str]) -> Any:
    backend: Any = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = list(SPECIAL_TOKENS.values())
    trainer: Any = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="[UNK]")
    return finished(backend, captions, trainer)


def finished(backend: Any, captions: list[str], trainer: Any) -> Any:
    backend.train_from_iterator(captions, trainer)
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **SPECIAL_TOKENS)


def captioner(tokenizer: Any, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.1}
    text = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, **sizes))
    return from_pretrained_parts(
        "LavisBlipForConditionalGeneration",
        text=text,
        tokenizer=tokenizer,
        image_size=32,
        vision_config={**sizes, "hidden_size": 32},
        text_config={"hidden_dropout_prob": 0.0},
        initializer_range=0.1,
        processor_options=options,
    )


CASES = [
    ("chinese", bert_word_piece, ""),
    pytest.param("spanish", word_piece, "una foto de ", marks=pytest.mark.slow),
    pytest.param("spanish", byte_level, "una foto de ", marks=pytest.mark.slow),
    pytest.param("japanese", bert_word_piece, "", marks=pytest.mark.slow),
    pytest.param("japanese", sentence_piece, "", marks=pytest.mark.slow),
    pytest.param("chinese", byte_level, "", marks=pytest.mark.slow),
    pytest.param("russian", word_piece, "", marks=pytest.mark.slow),
    pytest.param("arabic", sentence_piece, "", marks=pytest.mark.slow),
    pytest.param("german", cased_word_piece, "Ein Bild: ", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("language", "make_tokenizer", "prompt"), CASES)
def test_captions(language: str, make_tokenizer: Any, prompt: str, tmp_path: Path) -> None:
    """A captioner memorizes two captions, and generates them letter by letter after saving and loading."""
    captions = CAPTIONS[language]
    tokenizer = make_tokenizer([f"{prompt}{caption}" for caption in captions])
    model, processor = captioner(tokenizer, prompt=prompt, max_text_length=40)
    pictures = [torch.zeros(3, 8, 8), torch.full((3, 8, 8), 1.0)]
    batch = {
        **processor(images=pictures, text=None if prompt else "", return_tensors="pt"),
        **processor.caption_labels(captions),
    }
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = type(model).from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, LavisBlipProcessor)
    prompts = processor.prompt_inputs([processor.prompt] * 2)
    inputs = {"pixel_values": processor(images=pictures, return_tensors="pt", text="")["pixel_values"], **prompts}
    output = model.generate(**inputs, num_beams=2, max_length=40, min_length=2)
    assert processor.post_process_captions(output) == captions


def test_cleaning_keeps_letters() -> None:
    """ASCII punctuation goes, and upper case; letters, accents and punctuation of other scripts stay."""
    for captions in CAPTIONS.values():
        assert [clean_caption(caption) for caption in captions] == [caption.lower() for caption in captions]
        assert [clean_question(caption) for caption in captions] == [caption.lower() for caption in captions]
    assert clean_caption("¿Qué es? ¡Un ÑANDÚ!") == "¿qué es? ¡un ñandú"
    assert clean_caption("什么？ 狗。") == "什么？ 狗。"


def test_case_is_kept_with_a_cased_tokenizer() -> None:
    cased = captioner(cased_word_piece(CAPTIONS["german"]))[1]
    assert cased.cleaning is None and captioner(word_piece(CAPTIONS["german"]))[1].cleaning == "caption"
    assert cased.clean(CAPTIONS["german"]) == CAPTIONS["german"]


def test_join_ideographs(tmp_path: Path) -> None:
    assert join_ideographs("一 只 dog 在 草 地 ， で 走 る 12 个 한국 말") == "一只 dog 在草地，で走る 12 个 한국 말"
    processor = captioner(bert_word_piece(CAPTIONS["chinese"]))[1]
    assert processor.join_ideographs is True
    processor.save_pretrained(tmp_path)
    again = LavisBlipProcessor.from_pretrained(tmp_path)
    ids = again.tokenizer(CAPTIONS["chinese"])["input_ids"]
    assert again.post_process_answers(ids) == CAPTIONS["chinese"]
    again.join_ideographs = False
    assert again.post_process_answers(ids)[0] == " ".join(CAPTIONS["chinese"][0])
    assert captioner(byte_level(CAPTIONS["chinese"]))[1].join_ideographs is False
    with pytest.raises(ValueError, match="join_ideographs is 'yes'; expected true or false"):
        captioner(word_piece(CAPTIONS["chinese"]), join_ideographs="yes")


def test_vocabulary_of_texts() -> None:
    tokenizer = train_tokenizer(["Der große Bär, zwei-mal", "一只狗"], vocabulary_size=60)
    again = train_tokenizer(["Der große Bär, zwei-mal", "一只狗"], vocabulary_size=60)
    assert tokenizer.get_vocab() == again.get_vocab()
    assert tokenizer.decode(tokenizer("DER Große bär, zwei-mal")["input_ids"], skip_special_tokens=True) == (
        "der große bär, zwei-mal"
    )
    assert tokenizer("每")["input_ids"][1] == tokenizer.unk_token_id
    with pytest.raises(ValueError, match="There are no texts to make a vocabulary from"):
        train_tokenizer([" "])
