"""Evaluations of tasks: predictions are those of the pipelines, whatever the form of the rows and the batches."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from modeling_lavis.evaluation.question_answering import _metrics
from modeling_lavis.evaluation.results import EvaluationResult
from modeling_lavis.evaluation.tasks import EVALUATIONS, evaluate
from tests.evaluation.tiny_tasks import ANSWERS, LABELS, caption_rows, clip, image, pipeline_maker, question_rows

GENERATION = {"num_beams": 2, "max_new_tokens": 5, "min_length": 1}


@pytest.fixture(scope="module")
def pipe(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    return pipeline_maker(tmp_path_factory.mktemp("models"), goldens)


def run(pipe: Any, task: str, rows: Any, **options: Any) -> EvaluationResult:
    return evaluate(task, pipe.model, pipe.processor, rows, return_predictions=True, **options)


# ---- captions ----


@pytest.mark.parametrize("head", ["ForConditionalGeneration", "language model: has BOS (GPT-2)"])
def test_captions_are_those_of_the_pipeline(pipe: Any, head: str) -> None:
    captioner, rows = pipe("image-captioning", head), caption_rows()
    first = {row["image_id"]: row["image"] for row in reversed(rows)}
    expected = {key: captioner(value, **GENERATION)[0]["generated_text"] for key, value in first.items()}
    for batch_size in (1, 3):
        found = run(captioner, "captioning", rows, generation_options=GENERATION, batch_size=batch_size)
        assert [entry["image_id"] for entry in found.predictions] == [4, 9, 2, 7, 1]
        assert {entry["image_id"]: entry["caption"] for entry in found.predictions} == expected
    assert found.metrics["exact_match"] == 0.0 and {"bleu-1", "cider"} <= set(found.metrics)


def test_all_captions_of_an_image_are_references(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, rows = pipe("image-captioning", "ForConditionalGeneration"), caption_rows()
    given: list[Any] = []

    def caption_scores(predictions: Any, references: Any) -> dict[str, float]:
        given.append(references)
        return {}

    monkeypatch.setattr("modeling_lavis.evaluation.metrics.caption_scores", caption_scores)
    made = run(captioner, "captioning", rows, generation_options=GENERATION).predictions
    other_writing = made[1]["caption"].upper() + "!"  # cleaned away, as in training
    rows[5]["caption"] = ["men", other_writing]
    exact = [
        evaluate("captioning", captioner.model, captioner.processor, source, generation_options=GENERATION)
        for source in (rows, iter(rows))
    ]
    expected = [["a dog", "the dog"], ["two men", "men", other_writing], ["a cat", "the cat"], ["a man"], ["red"]]
    assert given[1:] == [expected, expected]
    assert exact == [{"exact_match": 0.2}] * 2


def test_one_caption_per_image(pipe: Any) -> None:
    captioner, counts = pipe("image-captioning", "ForConditionalGeneration"), []
    hook = captioner.model.vision_model.register_forward_hook(
        lambda module, args, output: counts.append(len(output.last_hidden_state))
    )
    run(captioner, "captioning", caption_rows(), generation_options=GENERATION, batch_size=4)
    hook.remove()
    assert counts == [4, 1]


@pytest.mark.parametrize("as_rows", [list, iter])
def test_images_with_ids_like_numbers_and_without_ids(pipe: Any, as_rows: Callable[..., Any]) -> None:
    captioner = pipe("image-captioning", "ForConditionalGeneration")
    rows: list[Any] = [{"image": image(0), "caption": "no id"}]
    rows += [{"image": image(i), "caption": str(i), "image_id": key} for i, key in enumerate([0, "7", "007", "7"])]
    found = run(captioner, "captioning", as_rows(rows), generation_options=GENERATION)
    assert found.references == [["no id"], ["0"], ["1", "3"], ["2"]]
    assert [entry["image_id"] for entry in found.predictions] == [0, 0, 7, "007"]


@pytest.mark.parametrize("as_rows", [list, iter])
def test_another_row_of_an_image_that_cannot_be_read(pipe: Any, tmp_path: Path, as_rows: Callable[..., Any]) -> None:
    captioner, broken = pipe("image-captioning", "ForConditionalGeneration"), str(tmp_path / "missing.png")
    rows = [{"image": broken, "caption": str(key), "image_id": key} for key in (0, 1, 2, 0)]
    rows += [{"image": image(key), "caption": f"{key} again", "image_id": key} for key in (0, 1)]
    found = run(captioner, "captioning", as_rows(rows), generation_options=GENERATION, on_bad_row="skip")
    assert {entry["image_id"]: texts for entry, texts in zip(found.predictions, found.references, strict=True)} == {
        0: ["0 again"],
        1: ["1 again"],
    }
    assert list(found.skipped) == [0, 1, 2, 3] and sorted(found.positions) == [4, 5]
    with pytest.raises(ValueError, match="nothing to evaluate"):
        run(captioner, "captioning", as_rows(rows[:4]), on_bad_row="skip")


@pytest.mark.slow
def test_rows_of_any_form(pipe: Any, tmp_path: Path) -> None:
    """A data set, with decoded images or bytes, a stream, paths below a folder, and other names of columns."""
    captioner, rows = pipe("image-captioning", "ForConditionalGeneration"), caption_rows()
    rows = [
        {**row, "caption": row["caption"] if isinstance(row["caption"], list) else [row["caption"]]} for row in rows
    ]
    options: dict[str, Any] = {"generation_options": GENERATION, "batch_size": 2}
    expected = run(captioner, "captioning", rows, **options)
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    assert run(captioner, "captioning", data, **options) == expected
    assert run(captioner, "captioning", data.cast_column("image", datasets.Image(decode=False)), **options) == expected
    assert run(captioner, "captioning", data.to_iterable_dataset(), **options) == expected
    assert run(captioner, "captioning", (row for row in rows), **options) == expected
    paths = []
    for index, row in enumerate(rows):
        row["image"].save(tmp_path / f"{index}.png")
        paths.append({"file": f"{index}.png", "text": row["caption"], "image_id": str(row["image_id"])})
    names = {"image": "file", "caption": "text"}
    assert run(captioner, "captioning", paths, columns=names, image_root=tmp_path, **options) == expected


def test_prompts(pipe: Any) -> None:
    captioner, rows = pipe("image-captioning", "language model: has BOS (GPT-2)"), caption_rows()
    rows = [{**row, "prompt": text} for row, text in zip(rows, ["a photo of", "", *["two"] * 5], strict=True)]
    found = run(captioner, "captioning", rows, generation_options=GENERATION, batch_size=5)
    prompts = {row["image_id"]: (row["image"], row["prompt"]) for row in reversed(rows)}
    expected = {
        key: captioner(value, prompt=prompt, **GENERATION)[0]["generated_text"]
        for key, (value, prompt) in prompts.items()
    }
    assert {entry["image_id"]: entry["caption"] for entry in found.predictions} == expected
    same = run(captioner, "captioning", rows, generation_options=GENERATION, prompt="red")
    assert same.predictions[0]["caption"] == captioner(image(4), prompt="red", **GENERATION)[0]["generated_text"]


# ---- questions ----


@pytest.mark.parametrize(
    "head",
    [
        "ForQuestionAnswering",
        "language model: has BOS (GPT-2)",
        pytest.param("language model: adds EOS (T5)", marks=pytest.mark.slow),
    ],
)
def test_answers_are_those_of_the_pipeline(pipe: Any, head: str) -> None:
    answerer, rows = pipe("image-question-answering", head), question_rows()
    ask = lambda row, **options: answerer(row["image"], question=row["question"], **options)[0]["answer"]  # noqa: E731
    free = [ask(row, **GENERATION) for row in rows]
    ranked = [ask(row, answers=ANSWERS) for row in rows]
    for batch_size in (1, 5):
        found = run(answerer, "vqa", rows, generation_options=GENERATION, batch_size=batch_size)
        assert found.predictions == [
            {"question_id": 100 + index, "answer": answer} for index, answer in enumerate(free)
        ]
        found = run(answerer, "vqa", rows, answers=ANSWERS, batch_size=batch_size)
        assert [entry["answer"] for entry in found.predictions] == ranked


def test_accuracy_of_answers_by_type(pipe: Any) -> None:
    answerer, rows = pipe("image-question-answering", "ForQuestionAnswering"), question_rows()
    right = run(answerer, "vqa", rows, answers=ANSWERS).predictions
    # four annotators of ten gave the answer, at least three of which is enough
    for row, entry in zip(rows, right, strict=True):
        row["answer"] = [entry["answer"]] * 4 + ["other"] * 6
    rows[1]["answer"] = ["other"] * 10
    metrics = evaluate("vqa", answerer.model, answerer.processor, rows, answers=ANSWERS)
    assert metrics == {"accuracy": 80.0, "accuracy/answer_type/other": 100.0, "accuracy/answer_type/yes/no": 50.0}


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([["yes"] * 10, ["dog"] * 6 + ["man"] * 4, ["two", *["2"] * 9]], None),
        ([["yes"] * 2, ["yes"] * 10], "1 of 2 questions have another number of answers.*question 0 with 2"),
        ([["yes"] * 10, ["no"]], "1 of 2 questions have another number of answers.*question 1 with 1"),
        (
            [["a dog"] * 6 + ["a man"] * 4],
            "equals an answer to 1 of 1 questions, for example 'a dog' of the question 0",
        ),
        ([["Two"] * 10], "equals an answer to 1 of 1 questions.*metric='exact'"),
    ],
)
def test_answers_that_are_not_those_of_vqa(
    references: list[list[str]], message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [{"question_id": n, "answer": "yes", "references": given} for n, given in enumerate(references)]
    for entry in questions:
        entry.update(question_type=None, answer_type=None)
    _metrics(questions, None)
    assert len(caplog.records) == (message is not None)
    assert message is None or re.search(message, caplog.text)
    _metrics(questions, "exact")
    assert len(caplog.records) == (message is not None)


def test_ways_to_compare_answers(pipe: Any) -> None:
    answerer, rows = pipe("image-question-answering", "ForQuestionAnswering"), question_rows()
    made = [entry["answer"] for entry in run(answerer, "vqa", rows, answers=ANSWERS).predictions]
    single = [
        {**row, "answer": text if index else "none"} for index, (row, text) in enumerate(zip(rows, made, strict=True))
    ]

    def score(data: Any, **options: Any) -> dict[str, float]:
        return evaluate("vqa", answerer.model, answerer.processor, data, answers=ANSWERS, **options)

    assert score(single) == score(single, metric="gqa") == score(single, metric="exact") == {"accuracy": 80.0}
    shouted = [{**row, "answer": f"The {text}!"} for row, text in zip(rows, made, strict=True)]
    assert score(shouted)["accuracy"] == 100.0 and score(shouted, metric="exact")["accuracy"] == 0.0
    several = [{**row, "answer": [text, "none", "nothing"]} for row, text in zip(rows, made, strict=True)]
    assert score(several, metric="exact") == {"accuracy": 100.0}
    assert score(several, metric="a-okvqa") == {"accuracy": pytest.approx(100 / 3)}
    assert score([{**row, "answer": None} for row in rows]) == {}
    with pytest.raises(ValueError, match="compares with one answer"):
        score(several, metric="gqa")
    with pytest.raises(ValueError, match="1 of 5 questions have no answer"):
        score([{**several[0], "answer": None}, *several[1:]])


def test_normalization_of_lengths_and_candidates(pipe: Any) -> None:
    answerer, rows = pipe("image-question-answering", "language model: has BOS (GPT-2)"), question_rows()
    for options in ({"length_normalization": "mean"}, {"num_candidates": 1}):
        expected = [
            answerer(row["image"], question=row["question"], answers=ANSWERS, **options)[0]["answer"] for row in rows
        ]
        found = run(answerer, "vqa", rows, answers=ANSWERS, **options)
        assert [entry["answer"] for entry in found.predictions] == expected


def test_another_template(pipe: Any) -> None:
    answerer, rows = pipe("image-question-answering", "language model: has BOS (GPT-2)"), question_rows()
    processor, model = answerer.processor, answerer.model
    found = run(answerer, "vqa", rows[:2], answers=ANSWERS, prompt="Q: {} A:")
    for row, entry in zip(rows, found.predictions, strict=False):
        inputs = processor(images=row["image"], return_tensors="pt")
        inputs.update(processor.question_inputs(row["question"], "Q: {} A:"))
        output = model.rank_answers(**inputs, **processor.answer_candidates(ANSWERS, template="Q: {} A:"))
        assert entry["answer"] == ANSWERS[int(output.best)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": []}, "expected a list of at least one string"),
        ({"answers": ["yes"], "generation_options": {"num_beams": 2}}, "ranked, not generated"),
        ({"answers": ["yes"], "length_normalization": "mean"}, "for language models"),
        ({"num_candidates": 3}, "pass it as answers"),
        ({"prompt": "Q:"}, "one '{}' for the question"),
        ({"metric": "bleu"}, "expected one of"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"on_bad_row": "ignore"}, "on_bad_row is 'ignore'"),
    ],
)
def test_wrong_options(pipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(pipe("image-question-answering", "ForQuestionAnswering"), "vqa", question_rows(), **options)


# ---- classes ----


def test_classes_are_those_of_the_pipeline(pipe: Any) -> None:
    classifier = pipe("image-text-classification", "ForImageAndTextClassification")
    texts = ["a dog", "two men in a red house", "a man", "a cat"]
    rows = [{"image": image(index), "sentence": text} for index, text in enumerate(texts)]
    expected = [classifier(row["image"], text=row["sentence"], top_k=1)[0] for row in rows]
    indices = [int(entry["label"].removeprefix("LABEL_")) for entry in expected]
    for batch_size in (1, 4):
        found = run(classifier, "classification", rows, batch_size=batch_size)
        assert found.metrics == {}
        assert [entry["label"] for entry in found.predictions] == [LABELS[index] for index in indices]
        assert [entry["score"] for entry in found.predictions] == pytest.approx(
            [e["score"] for e in expected], abs=1e-5
        )
    labelled = [{**row, "label": LABELS[index]} for row, index in zip(rows, indices, strict=True)]
    labelled[2]["label"] = (indices[2] + 1) % 3
    assert evaluate("classification", classifier.model, classifier.processor, labelled) == {"accuracy": 0.75}
    with pytest.raises(ValueError, match="1 of 4 rows have no 'label'"):
        run(classifier, "classification", [rows[0], *labelled[1:]])
    for label in (3, -1):
        with pytest.raises(ValueError, match=f"label {label} is none of the classes.*nor the index"):
            run(classifier, "classification", [{**rows[0], "label": label}])
    names = datasets.ClassLabel(names=[LABELS[2], LABELS[0], LABELS[1]])
    data = datasets.Dataset.from_list([{**rows[0], "label": names.str2int(LABELS[indices[0]])}])
    data = data.cast_column("image", datasets.Image()).cast_column("label", names)
    assert run(classifier, "classification", data).metrics == {"accuracy": 1.0}
    alone = run(classifier, "classification", [{"image": image(3)}], default_text="a cat")
    assert alone.predictions[0]["label"] == found.predictions[3]["label"]


def test_classes_have_the_names_of_the_model(pipe: Any) -> None:
    """Earlier versions left names of classes in `label2id` that the model has no more."""
    classifier = pipe("image-text-classification", "ForImageAndTextClassification")
    config = classifier.model.config
    kept = config.id2label, config.label2id
    try:
        config.id2label = {0: "red", 1: "green", 2: "blue"}
        config.label2id = {"red": 0, "green": 1, "blue": 2, "cat": 0, "dog": 1, "eel": 2}
        (found,) = run(classifier, "classification", [{"image": image(0), "sentence": "a dog"}]).predictions
    finally:
        config.id2label, config.label2id = kept
    assert found["label"] in ("red", "green", "blue")


def test_pairs_are_those_of_the_pipeline(pipe: Any) -> None:
    classifier = pipe("image-pair-classification", "ForImagesAndTextClassification")
    rows = [
        {"images": [image(index), image(index + 5)], "sentence": text, "label": str(index == 1)}
        for index, text in enumerate(["the left one is red", "a dog on the right", "two"])
    ]
    expected = [classifier(row["images"], text=row["sentence"], top_k=1)[0]["label"] for row in rows]
    found = run(classifier, "nlvr", rows, batch_size=2)
    names = {"LABEL_0": "False", "LABEL_1": "True"}
    assert [entry["label"] for entry in found.predictions] == [names[label] for label in expected]
    right = [names[label] == row["label"] for label, row in zip(expected, rows, strict=True)]
    assert found.metrics == {"accuracy": sum(right) / 3}


def test_answers_about_videos_are_those_of_the_pipeline(pipe: Any) -> None:
    answerer = pipe("video-question-answering", "ForVideoQuestionAnswering")
    rows = [
        {"video": clip(index), "question": text, "question_id": str(index)}
        for index, text in enumerate(["what is the man doing?", "who?", "what is it?"])
    ]
    expected = [answerer(row["video"], question=row["question"], top_k=1)[0]["answer"] for row in rows]
    found = run(answerer, "video-qa", rows, batch_size=2)
    assert found.predictions == [{"question_id": index, "answer": text} for index, text in enumerate(expected)]
    answers = [expected[0], "an unknown answer", answerer.model.config.label2id[expected[2]]]
    labelled = [{**row, "answer": answer} for row, answer in zip(rows, answers, strict=True)]
    assert evaluate("video-qa", answerer.model, answerer.processor, labelled) == {"accuracy": 2 / 3}


# ---- running ----


def test_modes_and_gradients_are_left_as_they_were(pipe: Any) -> None:
    classifier = pipe("image-text-classification", "ForImageAndTextClassification")
    model = classifier.model
    expected = run(classifier, "classification", [{"image": image(0), "sentence": "a dog"}] * 2)
    model.train()
    model.text_encoder.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    try:
        assert run(classifier, "classification", [{"image": image(0), "sentence": "a dog"}] * 2) == expected
        assert [module.training for module in model.modules()] == modes
        with pytest.raises(KeyError, match="'image'"):
            run(classifier, "classification", [{"sentence": "a dog"}])
        assert [module.training for module in model.modules()] == modes and torch.is_grad_enabled()
    finally:
        model.eval()


def test_autocast_of_the_caller_holds(pipe: Any) -> None:
    classifier, seen = pipe("image-text-classification", "ForImageAndTextClassification"), []
    hook = classifier.model.vision_model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        run(classifier, "classification", [{"image": image(0), "sentence": "a dog"}])
    run(classifier, "classification", [{"image": image(0), "sentence": "a dog"}])
    hook.remove()
    assert seen == [True, False]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_that_cannot_be_read(pipe: Any, tmp_path: Path, batch_size: int) -> None:
    classifier = pipe("image-text-classification", "ForImageAndTextClassification")
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [
        {"image": image(0), "sentence": "a dog", "label": 0},
        {"image": str(tmp_path / "broken.png"), "sentence": "a dog", "label": 0},
        {"image": image(1), "sentence": "a cat", "label": "no label"},
        {"image": image(2), "sentence": "a cat", "label": 1},
    ]
    with pytest.raises(OSError, match=r"broken\.png"):
        run(classifier, "classification", rows[:2], batch_size=batch_size)
    found = run(classifier, "classification", rows, batch_size=batch_size, on_bad_row="skip")
    assert list(found.skipped) == [1, 2] and "broken.png" in found.skipped[1] and "'no label'" in found.skipped[2]
    assert [entry["id"] for entry in found.predictions] == [0, 3]
    with pytest.raises(ValueError, match="nothing to evaluate.*Row 0:.*broken"):
        run(classifier, "classification", rows[1:2], on_bad_row="skip")


@pytest.mark.parametrize("rows", [[], iter(())])
def test_no_rows(pipe: Any, rows: Any) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        run(pipe("image-captioning", "ForConditionalGeneration"), "captioning", rows)


def test_every_task_has_an_evaluation() -> None:
    assert set(EVALUATIONS) == {
        "captioning",
        "retrieval",
        "vqa",
        "nlvr",
        "classification",
        "video-qa",
        "video-retrieval",
        "pretraining",
        "generative-pretraining",
    }
    with pytest.raises(ValueError, match="no task 'translation'; expected one of captioning"):
        evaluate("translation", None, None, [])


# ---- result files ----


def test_result_files(tmp_path: Path) -> None:
    found = EvaluationResult({}, [{"question_id": 3, "answer": "crème"}, {"question_id": "x1", "answer": "no"}])
    found.save_predictions(tmp_path / "vqa.json")
    assert json.loads((tmp_path / "vqa.json").read_text(encoding="utf-8")) == found.predictions
    found.save_predictions(tmp_path / "vqa.json", format="a-okvqa")
    assert json.loads((tmp_path / "vqa.json").read_text(encoding="utf-8")) == {
        "3": {"multiple_choice": "", "direct_answer": "crème"},
        "x1": {"multiple_choice": "", "direct_answer": "no"},
    }
    with pytest.raises(ValueError, match="expected one of"):
        found.save_predictions(tmp_path / "other.json", format="csv")
    with pytest.raises(ValueError, match="for answers to questions"):
        EvaluationResult({}, [{"image_id": 1, "caption": "a"}]).save_predictions(tmp_path / "a.json", format="a-okvqa")


def test_a_result_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text("old")
    with pytest.raises(TypeError, match="cannot be written"):
        EvaluationResult({}, [{"image_id": 1, "caption": object()}]).save_predictions(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
