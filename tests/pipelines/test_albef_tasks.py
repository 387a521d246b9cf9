"""Tasks on converted ALBEF checkpoints: pipelines return what the model returns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

import modeling_lavis  # noqa: F401  (registers the tasks)
from modeling_lavis.evaluation.retrieval import similarity_matrices
from tests.pipelines.albef_models import convert_recorded
from tests.pipelines.comparison import approximate

OpenTask = Callable[[str, str], Any]
TEXTS = ["a dog", "the man in the red house", "a woman"]
QUESTIONS = ["what is this", "who is the man in the red house?"]


@pytest.fixture(scope="module")
def open_task(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> OpenTask:
    """Function that returns the pipeline of a task on a converted architecture. Each is converted once."""
    folders: dict[str, str] = {}

    def make(task: str, architecture: str) -> Any:
        if architecture not in folders:
            output = tmp_path_factory.mktemp("albef") / "model"
            folders[architecture] = convert_recorded(goldens, architecture, output)
        return pipeline(task, model=folders[architecture], device="cpu")

    return make


def test_ranked_answers(open_task: OpenTask, files: list[str]) -> None:
    run = open_task("image-question-answering", "albef_vqa")
    answers = ["dog", "a red house", "man", "yes", "no"]
    result = run(files[:2], question=QUESTIONS, answers=answers, top_k=3, batch_size=2)
    for file, question, rows in zip(files[:2], QUESTIONS, result, strict=True):
        inputs = run.processor(images=file, text=question, answers=answers, cleaning="question", return_tensors="pt")
        expected = run.model.rank_answers(**inputs)
        assert [row["answer"] for row in rows] == [answers[i] for i in expected.candidates[0, :3].tolist()]
        assert [row["score"] for row in rows] == pytest.approx(expected.scores[0, :3].tolist(), abs=1e-4)


def test_generated_answers(open_task: OpenTask, files: list[str]) -> None:
    run = open_task("image-question-answering", "albef_vqa")
    batched = run(files[:2], question=QUESTIONS, batch_size=2, max_new_tokens=3)
    assert batched == approximate([run(file, question=q, max_new_tokens=3) for file, q in zip(files, QUESTIONS)])
    assert all(isinstance(rows[0]["answer"], str) for rows in batched)


@pytest.mark.parametrize("architecture", ["albef_retrieval", "albef_pretrain"])
def test_matching(open_task: OpenTask, files: list[str], architecture: str) -> None:
    run = open_task("image-text-matching", architecture)
    inputs = run.processor(images=files[:2], text=TEXTS, return_tensors="pt")
    result = run(files[:2], text=TEXTS, batch_size=2)
    assert [len(rows) for rows in result] == [len(TEXTS)] * 2
    with torch.no_grad():
        for image, rows in enumerate(result):
            for text_index, row in enumerate(rows):
                text = {name: inputs[name][text_index : text_index + 1] for name in ("input_ids", "attention_mask")}
                output = run.model(pixel_values=inputs["pixel_values"][image, None], **text, match_head="both")
                assert row["text"] == TEXTS[text_index]
                assert row["score"] == pytest.approx(output.logits.softmax(-1)[0, 1].item(), abs=1e-4)
                cosine = (output.image_features @ output.text_features.T).item()
                assert row["similarity"] == pytest.approx(cosine, abs=1e-4)


@pytest.mark.parametrize("architecture", ["albef_retrieval", "albef_pretrain"])
def test_retrieval(open_task: OpenTask, files: list[str], architecture: str) -> None:
    run = open_task("image-text-retrieval", architecture)
    inputs = run.processor(images=files, text=TEXTS, return_tensors="pt")
    matrices = similarity_matrices(run.model, inputs["pixel_values"], inputs, k=len(files))
    results = run(TEXTS, images=files, top_k=2)
    assert len(results) == len(TEXTS)
    for text, rows in enumerate(results):
        best = matrices.t2i[text].topk(2)
        assert [row["index"] for row in rows] == best.indices.tolist()
        assert [row["score"] for row in rows] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_visual_entailment(open_task: OpenTask, files: list[str]) -> None:
    run = open_task("image-text-classification", "albef_classification")
    labels = run.model.config.id2label
    assert list(labels.values()) == ["contradiction", "neutral", "entailment"]
    inputs = run.processor(images=files[:2], text=TEXTS[:2], return_tensors="pt")
    with torch.no_grad():
        probabilities = run.model(**inputs).logits.softmax(-1)
    for rows, row in zip(run(files[:2], text=TEXTS[:2]), probabilities, strict=True):
        expected = {labels[index]: score for index, score in enumerate(row.tolist())}
        assert {entry["label"]: entry["score"] for entry in rows} == pytest.approx(expected, abs=1e-4)


def test_image_pair_classification(open_task: OpenTask, files: list[str]) -> None:
    run = open_task("image-pair-classification", "albef_nlvr")
    pairs = [[files[0], files[1]], [files[1], files[0]]]
    inputs = run.processor(images=pairs, text=TEXTS[:2], return_tensors="pt")
    with torch.no_grad():
        probabilities = run.model(**inputs).logits.softmax(-1)
    for rows, row in zip(run(pairs, text=TEXTS[:2], batch_size=2), probabilities, strict=True):
        scores = {entry["label"]: entry["score"] for entry in rows}
        assert scores == pytest.approx({"False": row[0].item(), "True": row[1].item()}, abs=1e-4)


@pytest.mark.parametrize("architecture", ["albef_feature_extractor", "albef_pretrain", "albef_retrieval"])
def test_features(open_task: OpenTask, files: list[str], architecture: str) -> None:
    run = open_task("multimodal-feature-extraction", architecture)
    result = run(files[0], text=TEXTS[0], return_tensors="pt")
    inputs = run.processor(images=files[0], text=TEXTS[0], return_tensors="pt")
    if architecture == "albef_feature_extractor":
        with torch.no_grad():
            output = run.model(**inputs)
        image, text = output.image_features[:, 0], output.text_features[:, 0]
        torch.testing.assert_close(result["multimodal_embeds"], output.multimodal_embeds[0, 0], atol=1e-4, rtol=1e-4)
    else:
        with torch.no_grad():
            image = run.model.get_image_features(inputs["pixel_values"]).pooler_output
            text = run.model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(result["image_features"], image[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result["text_features"], text[0], atol=1e-4, rtol=1e-4)


def test_zero_shot_image_classification_of_transformers(open_task: OpenTask, files: list[str]) -> None:
    run = open_task("zero-shot-image-classification", "albef_retrieval")
    result = run(files[0], candidate_labels=["dog", "man"], hypothesis_template="a {}")
    assert {row["label"] for row in result} == {"dog", "man"}
    assert sum(row["score"] for row in result) == pytest.approx(1, abs=1e-4)
