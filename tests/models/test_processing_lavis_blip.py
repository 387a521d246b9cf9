"""The BLIP processor: prompts, labels, post-processing, saving, transformers' formats, invalid inputs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, BertTokenizer, BlipImageProcessor, BlipProcessor

import modeling_lavis  # noqa: F401  (registers)
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor, LavisImageProcessorTorchvision
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import blip_tokenizer

CLS, SEP, PAD, DEC, ENC = 2, 3, 0, 600, 601
PROMPT = "a picture of "


@pytest.fixture
def tokenizer(goldens: Path):
    return blip_tokenizer(goldens / "tokenizer")


@pytest.fixture
def processor(tokenizer) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=32), tokenizer)


@pytest.fixture
def captioner(tokenizer) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=32), tokenizer, prompt=PROMPT, max_text_length=40)


def recorded(goldens: Path, folder: str) -> tuple[dict, dict, dict]:
    inputs = json.loads((goldens / folder / "inputs.json").read_text())
    strings = json.loads((goldens / folder / "outputs.json").read_text())["strings_and_notes"]
    return inputs, strings, load_file(goldens / folder / "outputs.safetensors")


# ---- texts ----


def test_token_ids_equal_recordings(goldens: Path, processor) -> None:
    inputs, _, outputs = recorded(goldens, "blip_vqa")
    batch = processor(text=inputs["text_input"], cleaning="question", return_tensors="pt")
    assert torch.equal(batch["input_ids"], outputs["tokenized.text_input"])
    assert torch.equal(batch["attention_mask"], (outputs["tokenized.text_input"] != PAD).long())
    answers = processor(answers=inputs["answer_list"], return_tensors="pt")
    expected = outputs["tokenized.answer_list"].clone()
    expected[:, 0] = DEC
    assert torch.equal(answers["answer_input_ids"], expected)


def test_text_cleaning(processor) -> None:
    dirty, clean = "A DOG, (on: a bench)!", "a dog, on a bench"
    assert processor(text=dirty)["input_ids"] == processor(text=clean, cleaning=None)["input_ids"]
    assert processor(text=dirty, cleaning=None)["input_ids"] != processor(text=clean)["input_ids"]
    assert processor.clean("is it 3.5?", "question") == ["is it 35?"]
    assert processor.clean("is it 3.5?") == ["is it 3 5?"]


def test_padding_and_truncation(processor) -> None:
    texts = ["a dog", "a dog on a bench in the park"]
    longest = processor(text=texts, return_tensors="pt")
    assert longest["input_ids"][0].tolist()[:1] == [CLS]
    assert longest["attention_mask"].sum(1).tolist() == [4, longest["input_ids"].shape[1]]
    assert processor(text=texts, padding="max_length", return_tensors="pt")["input_ids"].shape == (2, 35)
    short = processor(text=texts, max_length=5, return_tensors="pt")["input_ids"]
    assert short.shape == (2, 5) and short[1, -1] == SEP
    assert [len(row) for row in processor(text=texts, padding=False)["input_ids"]] == [4, 10]
    with pytest.raises(ValueError, match="padding=True"):
        processor(text=texts, padding=False, return_tensors="pt")
    unlimited = LavisBlipProcessor(processor.image_processor, processor.tokenizer, max_text_length=None, cleaning=None)
    assert len(unlimited(text="a " * 10_000)["input_ids"][0]) == 512


@pytest.mark.parametrize("text", ["", " ", "🙂🙃", "שלום עולם", "مرحبا", "word " * 10_000, "x" * 10_000, "\x00\n"])
def test_unusual_texts(processor, captioner, text: str) -> None:
    ids = processor(text=[text, "a dog"], return_tensors="pt")["input_ids"]
    assert ids.shape[0] == 2 and ids.shape[1] <= 35 and ids[0, 0] == CLS and SEP in ids[0]
    assert captioner(text=text, return_tensors="pt")["input_ids"][0, 0] == DEC
    assert captioner.caption_labels(text)["labels"].shape[1] <= 40


@pytest.mark.parametrize(
    ("text", "message"),
    [([], "empty list"), (5, "int at position 0"), (["a", None], "NoneType at position 1"), ("a\ud83d", "surrogate")],
)
def test_invalid_texts_raise(processor, captioner, text, message: str) -> None:
    for made in (processor, captioner):
        with pytest.raises(ValueError, match=message):
            made(text=text)


def test_invalid_options_raise(processor, tokenizer) -> None:
    with pytest.raises(TypeError, match="'paddding'. Did you mean 'padding'"):
        processor(text="a", paddding=True)
    for method in (processor.caption_labels, processor.answer_candidates, processor.prompt_inputs):
        with pytest.raises(TypeError, match="'max_lenght'. Did you mean 'max_length'"):
            method(["a"], max_lenght=3)
    with pytest.raises(ValueError, match="got nothing"):
        processor()
    for option, value in [("cleaning", "captions"), ("max_text_length", 0), ("max_words", 1.5), ("text_format", "x")]:
        with pytest.raises(ValueError, match=f"{option} is"):
            LavisBlipProcessor(LavisImageProcessor(), tokenizer, **{option: value})
    with pytest.raises(TypeError, match="image_processor"):
        LavisBlipProcessor(tokenizer, LavisImageProcessor())


# ---- images with texts ----


def test_images_and_texts(processor, photos) -> None:
    batch = processor(images=[photos["coffee"], photos["rocket"]], text=["a cup", "a rocket"], return_tensors="pt")
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"} == set(processor.model_input_names)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert set(processor(images=photos["coffee"], return_tensors="pt")) == {"pixel_values"}
    larger = processor(images=photos["coffee"], size=64, return_tensors="pt", text_kwargs={"max_length": 3}, text="a b")
    assert larger["pixel_values"].shape == (1, 3, 64, 64) and larger["input_ids"].shape == (1, 3)


def test_image_pairs(processor, photos) -> None:
    pairs = [[photos["coffee"], photos["rocket"]]] * 2
    batch = processor(images=pairs, text=["both", "none"], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 2, 3, 32, 32)
    with pytest.raises(ValueError, match="1 texts do not fit 2 pairs"):
        processor(images=pairs, text="both")


# ---- captioning ----


def test_prompts(captioner, photos) -> None:
    batch = captioner(images=[photos["coffee"], photos["rocket"]], return_tensors="pt")
    prompt_ids = captioner.tokenizer("a picture of", add_special_tokens=False)["input_ids"]
    assert batch["input_ids"].tolist() == [[DEC, *prompt_ids]] * 2
    assert SEP not in batch["input_ids"] and batch["attention_mask"].all()
    own = captioner(images=[photos["coffee"], photos["rocket"]], text="a photo of", return_tensors="pt")
    assert own["input_ids"].shape == (2, 4)
    assert captioner(images=photos["coffee"], text="", return_tensors="pt")["input_ids"].tolist() == [[DEC]]
    encoder = captioner(text="a dog", text_format="encoder", return_tensors="pt")["input_ids"]
    assert encoder[0, 0] == CLS and encoder[0, -1] == SEP


def test_prompts_are_padded_on_the_left(captioner) -> None:
    batch = captioner(text=["a dog on a bench", "a cat"], return_tensors="pt")
    assert batch["input_ids"][1].tolist()[:3] == [PAD, PAD, PAD] and batch["input_ids"][1, 3] == DEC
    assert batch["attention_mask"].tolist() == [[1] * 6, [0, 0, 0, 1, 1, 1]]


def test_caption_labels(captioner) -> None:
    batch = captioner.caption_labels(["A dog!", "a dog on a bench"])
    assert batch["input_ids"][:, 0].tolist() == [DEC, DEC]
    text = captioner.tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True)
    assert text == "a picture of a dog"
    assert (batch["labels"][:, :4] == -100).all()
    kept = batch["labels"][0] != -100
    assert torch.equal(batch["labels"][0][kept], batch["input_ids"][0][kept])
    assert captioner.tokenizer.decode(batch["labels"][0][kept]) == "a dog [SEP]"
    assert (batch["labels"] == -100).logical_or(batch["attention_mask"] == 1).all()
    again = captioner.caption_labels(["a picture of a dog"], add_prompt=False)
    assert torch.equal(again["labels"][0], batch["labels"][0][:7])


def test_prompts_are_truncated_on_request_only(captioner) -> None:
    long = " ".join(["a dog"] * 30)
    assert captioner.prompt_inputs(long)["input_ids"].shape == (1, 61)
    assert captioner.prompt_inputs(long, max_length=9)["input_ids"].shape == (1, 8)
    assert captioner.caption_labels(long)["input_ids"].shape == (1, 40)


def test_caption_labels_without_prompt(processor) -> None:
    batch = processor.caption_labels("a dog")
    assert batch["labels"].tolist() == [[-100, *batch["input_ids"][0, 1:].tolist()]]


@pytest.mark.parametrize("cut", ["prompt", "characters"])
def test_captions_equal_recorded_strings(goldens: Path, captioner, cut: str) -> None:
    _, strings, outputs = recorded(goldens, "blip_caption")
    names = [name for name in outputs if name.endswith(".sequences")]
    assert names
    for name in names:
        assert captioner.post_process_captions(outputs[name], cut=cut) == strings[name.removesuffix(".sequences")]


def test_answers_equal_recorded_strings(goldens: Path, processor) -> None:
    _, strings, outputs = recorded(goldens, "blip_vqa")
    names = [name for name in outputs if name.endswith(".sequences")]
    assert names
    for name in names:
        assert processor.post_process_answers(outputs[name]) == strings[name.removesuffix(".sequences")]


def test_prompts_are_removed_where_present(captioner) -> None:
    def row(text: str) -> list[int]:
        return [DEC, *captioner.tokenizer(text, add_special_tokens=False)["input_ids"], SEP]

    ids = [row("a picture of, a dog"), row("a dog")]
    assert captioner.post_process_captions(ids) == [", a dog", "a dog"]
    assert captioner.post_process_captions(ids, cut="characters") == [" a dog", ""]
    rows = SimpleNamespace(sequences=torch.tensor([row("a cat is here"), row("a dog is here")]))
    assert captioner.post_process_captions(rows, prompt=["A Cat", "a dog"]) == ["is here", "is here"]
    assert captioner.post_process_image_text_to_text(rows.sequences) == ["a cat is here", "a dog is here"]
    assert captioner.post_process_answers([row("it's a dog's, isn't it?")]) == ["it's a dog's, isn't it?"]
    with pytest.raises(ValueError, match="3 prompts do not fit 2 captions"):
        captioner.post_process_captions(ids, prompt=["a", "b", "c"])
    with pytest.raises(ValueError, match="cut is 'words'"):
        captioner.post_process_captions(ids, cut="words")


# ---- answers ----


def test_answer_counts_and_weights(processor) -> None:
    batch = processor.answer_labels([["yes"] * 7 + ["no"] * 3, "red", ["no", "yes"]])
    assert batch["answer_counts"].tolist() == [2, 1, 2]
    torch.testing.assert_close(batch["answer_weights"], torch.tensor([0.7, 0.3, 1.0, 0.5, 0.5]))
    decoded = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert decoded == [f"[DEC] {answer} [SEP]" for answer in ("yes", "no", "red", "no", "yes")]
    assert torch.equal(processor(answers=[["yes"], ["no"]], return_tensors="pt")["labels"][0], batch["labels"][0][:3])


def test_answers_have_their_own_maximal_length(processor) -> None:
    long = " ".join(["red"] * (processor.max_text_length + 5))
    listed = processor.answer_candidates([long, "red"])
    assert listed["answer_attention_mask"].sum(dim=1).tolist() == [processor.max_text_length + 7, 3]
    assert (processor.answer_labels([long])["labels"] != -100).sum() == processor.max_text_length + 7
    assert processor.answer_candidates([long], max_length=4)["answer_input_ids"].shape == (1, 4)


def test_answer_labels_with_weights(processor) -> None:
    batch = processor.answer_labels([["yes", "yes"], ["red"]], weights=[[0.5, 0.25], [0.2]])
    assert batch["answer_counts"].tolist() == [2, 1]
    torch.testing.assert_close(batch["answer_weights"], torch.tensor([0.5, 0.25, 0.2]))
    with pytest.raises(ValueError, match="Question 1 has 1 answers and 2 weights"):
        processor.answer_labels([["yes"], ["red"]], weights=[[1.0], [0.5, 0.5]])
    with pytest.raises(ValueError, match="2 questions, answers for 1"):
        processor.answer_labels([["yes"]], weights=[[1.0], [1.0]])
    with pytest.raises(ValueError, match=r"answers\[0\]"):
        processor.answer_labels([[]])


def test_ranked_answers(processor) -> None:
    output = SimpleNamespace(
        candidates=torch.tensor([[2, 0], [1, 2]]), scores=torch.tensor([[-1.0, -2.0], [-0.5, -3.0]])
    )
    ranked = processor.post_process_ranked_answers(output, ["a", "b", "c"])
    assert ranked[0] == [{"answer": "c", "score": -1.0}, {"answer": "a", "score": -2.0}]
    assert [row[0]["answer"] for row in processor.post_process_ranked_answers(output, ["a", "b", "c"], 1)] == ["c", "b"]
    with pytest.raises(ValueError, match="index 2 was ranked, but 2 answers"):
        processor.post_process_ranked_answers(output, ["a", "b"])


def test_post_process_classification(processor) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    named = processor.post_process_classification(SimpleNamespace(logits=logits), {0: "no", 1: "yes", 2: "maybe"})
    assert [entry["label"] for entry in named[0]] == ["yes", "maybe", "no"]
    assert named[0][0]["score"] == pytest.approx(logits.softmax(-1)[0, 1].item())
    assert processor.post_process_classification(logits, top_k=1)[0][0]["label"] == "1"
    with pytest.raises(ValueError, match="2 classes, the logits have 3"):
        processor.post_process_classification(logits, {0: "a", 1: "b"})


# ---- saving and loading ----


def test_save_and_load_in_this_and_a_new_process(captioner, tmp_path: Path, photos) -> None:
    captioner.cleaning, captioner.max_words = "question", 7
    captioner.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is LavisBlipProcessor and type(again.image_processor) is LavisImageProcessor
    assert again.to_dict() == captioner.to_dict()
    assert (again.pad_token_id, again.bos_token_id, again.enc_token_id) == (PAD, DEC, ENC)
    ours, theirs = (made(images=photos["coffee"], return_tensors="pt") for made in (captioner, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    program = (
        "import sys, modeling_lavis; from transformers import AutoProcessor;"
        "p = AutoProcessor.from_pretrained(sys.argv[1]);"
        "print(type(p).__name__, type(p.image_processor).__name__, p(text='a dog', text_format='prompt')['input_ids'])"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    expected = captioner(text="a dog", text_format="prompt")["input_ids"]
    assert run.stdout.strip() == f"LavisBlipProcessor LavisImageProcessor {expected}"


def test_torchvision_backend(processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path / "exact")
    chosen = LavisBlipProcessor.from_pretrained(tmp_path / "exact", backend="torchvision")
    assert type(chosen.image_processor) is LavisImageProcessorTorchvision and chosen.image_processor.size.height == 32
    chosen.save_pretrained(tmp_path / "faster")
    for load in (LavisBlipProcessor.from_pretrained, AutoProcessor.from_pretrained):
        assert type(load(tmp_path / "faster").image_processor) is LavisImageProcessorTorchvision
    with pytest.raises(ValueError, match="'fast'.*'pil'"):
        LavisBlipProcessor.from_pretrained(tmp_path / "exact", backend="fast")


def test_options_of_from_pretrained(captioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path)
    assert LavisBlipProcessor.from_pretrained(tmp_path, prompt="", max_text_length=9).max_text_length == 9


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BlipForConditionalGeneration", ("prompt", "caption", 40)),
        ("BlipForQuestionAnswering", (None, "question", 35)),
        ("BlipForImageTextRetrieval", (None, "caption", 35)),
    ],
)
def test_load_processor_of_transformers(goldens, tmp_path, photos, architecture: str, expected) -> None:
    foreign = BlipProcessor(
        BlipImageProcessor(size={"height": 32, "width": 32}), BertTokenizer.from_pretrained(goldens / "tokenizer")
    )
    foreign.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip", "architectures": [architecture]}))
    ours = LavisBlipProcessor.from_pretrained(tmp_path)
    assert type(ours.image_processor) is LavisImageProcessor
    assert (ours.bos_token_id, ours.enc_token_id, len(ours.tokenizer)) == (DEC, ENC, 602)
    assert (ours.text_format, ours.cleaning, ours.max_text_length) == expected
    batch = ours(images=photos["coffee"], text="a cup", text_format="encoder", return_tensors="pt")
    theirs = foreign(images=photos["coffee"].as_posix(), text="a cup", return_tensors="pt")
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    torch.testing.assert_close(batch["pixel_values"], theirs["pixel_values"], rtol=0, atol=0.05)


def test_load_older_format_of_transformers(goldens: Path, tmp_path: Path) -> None:
    for path in (goldens / "tokenizer").iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "BlipImageProcessor",
                "processor_class": "BlipProcessor",
                "image_mean": [0.5, 0.5, 0.5],
                "resample": 3,
                "size": {"height": 40, "width": 40},
                "size_divisor": 32,
            }
        )
    )
    ours = LavisBlipProcessor.from_pretrained(tmp_path)
    assert (ours.image_processor.size.height, ours.image_processor.image_mean) == (40, (0.5, 0.5, 0.5))
    assert (ours.bos_token_id, ours.enc_token_id) == (DEC, ENC)
