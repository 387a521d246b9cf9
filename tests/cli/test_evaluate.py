"""`modeling-lavis evaluate`: metrics on stdout, predictions in a file, errors for options that do not fit the task."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.cli.evaluate import PIPELINES
from modeling_lavis.evaluation.tasks import EVALUATIONS
from tests.cli.conftest import Result
from tests.evaluation.tiny_tasks import ANSWERS, caption_rows, image, pipeline_maker, question_rows


@pytest.fixture(scope="module")
def pipe(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    return pipeline_maker(tmp_path_factory.mktemp("models"), goldens)


@pytest.fixture
def evaluate(run: Any, pipe: Any, tmp_path: Path) -> Callable[..., Result]:
    """Run the command on rows, which are written as LAVIS's annotation files with images beside them."""

    def evaluate_rows(task: str, head: str, rows: list[dict[str, Any]], *arguments: object) -> Result:
        model = pipe(PIPELINES[task], head).model.name_or_path
        return run("evaluate", task, "--data", write(rows, tmp_path), *arguments, model=model)

    return evaluate_rows


def write(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Write rows as a list in JSON, with their images as files."""
    written = []
    for index, row in enumerate(rows):
        images = row.get("images") or [row["image"]]
        names = [f"{index}_{place}.png" for place in range(len(images))]
        for name, value in zip(names, images, strict=True):
            value.save(folder / name)
        column = {"images": names} if "images" in row else {"image": names[0]}
        written.append({**row, **column})
    path = folder / "rows.json"
    path.write_text(json.dumps(written))
    return path


GENERATION = ["--num-beams", "2", "--max-new-tokens", "5"]


def test_captions(evaluate: Any, pipe: Any, tmp_path: Path) -> None:
    head, output = "ForConditionalGeneration", tmp_path / "captions.json"
    result = evaluate("captioning", head, caption_rows(), *GENERATION, "--json", "--output", output)
    assert result.status == 0, result.err
    (record,) = result.records
    assert record["task"] == "captioning" and record["skipped"] == 0 and "cider" in record["metrics"]
    written = json.loads(output.read_text())
    assert [entry["image_id"] for entry in written] == [4, 9, 2, 7, 1]
    captioner = pipe("image-captioning", head)
    expected = captioner(image(4), num_beams=2, max_new_tokens=5)[0]["generated_text"]
    assert written[0] == {"image_id": 4, "caption": expected}
    table = evaluate("captioning", head, caption_rows(), *GENERATION, "--split", "all")
    assert table.status == 0 and f"exact_match  {record['metrics']['exact_match']:.4f}" in table.out.replace("\n", "  ")


def test_ranked_answers(evaluate: Any, tmp_path: Path) -> None:
    head, output = "ForQuestionAnswering", tmp_path / "answers.json"
    options = ["--answers", ",".join(ANSWERS), "--num-candidates", "2", "--output", output]
    result = evaluate("vqa", head, question_rows(), *options, "--output-format", "a-okvqa", "--json")
    assert result.status == 0, result.err
    written = json.loads(output.read_text())
    assert list(written) == [str(100 + index) for index in range(5)]
    assert {entry["direct_answer"] for entry in written.values()} <= set(ANSWERS)
    assert result.records[0]["metrics"].keys() >= {"accuracy", "accuracy/answer_type/other"}
    rows = [{name: value for name, value in row.items() if name != "answer"} for row in question_rows()]
    without = evaluate("vqa", head, rows, "--answers", "yes,no", "--columns", "answer=")
    assert without.status == 0 and "no metrics" in without.out


def test_retrieval_without_rows_that_cannot_be_used(evaluate: Any) -> None:
    rows = [{"image": image(index), "caption": f"caption {index}"} for index in range(3)]
    options = ["--json", "--ranks", "1"]
    whole = evaluate("retrieval", "ForImageTextRetrieval", rows, *options)
    rows[1:1] = [{"image": image(0), "caption": ""}, {"image": image(1), "caption": " "}]
    assert evaluate("retrieval", "ForImageTextRetrieval", rows, *options).status == 1
    skipped = evaluate("retrieval", "ForImageTextRetrieval", rows, *options, "--on-bad-row", "skip")
    assert skipped.records == [{**whole.records[0], "skipped": 2}] and "2 rows are left out" in skipped.err


def test_classes_and_rows_that_cannot_be_read(evaluate: Any, pipe: Any, tmp_path: Path) -> None:
    head, names = "ForImageAndTextClassification", ["no", "maybe", "yes"]
    classifier = pipe("image-text-classification", head)
    best = [classifier(image(index), text="a dog", top_k=1)[0]["label"] for index in range(3)]
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({name: index for index, name in enumerate(names)}))
    made = [names[int(label.removeprefix("LABEL_"))] for label in best]
    rows = [{"image": image(index), "sentence": "a dog", "label": label} for index, label in enumerate(made)]
    options = ["--label2id", labels, "--json"]
    result = evaluate("classification", head, rows, *options)
    assert result.status == 0 and result.records[0]["metrics"] == {"accuracy": 1.0}
    listed = tmp_path / "names.json"
    listed.write_text(json.dumps(names))  # as train --labels takes it
    assert evaluate("classification", head, rows, "--label2id", listed, "--json").records == result.records
    rows[1]["label"] = "perhaps"
    assert evaluate("classification", head, rows, *options).status == 1
    skipped = evaluate("classification", head, rows, *options, "--on-bad-row", "skip")
    assert skipped.status == 0 and "'perhaps'" in skipped.err
    assert skipped.records == [{"task": "classification", "metrics": {"accuracy": 1.0}, "skipped": 1}]


@pytest.mark.parametrize(
    ("task", "head", "options", "message"),
    [
        ("captioning", "ForConditionalGeneration", ["--answers", "yes"], "--answers cannot be used with the task cap"),
        ("captioning", "ForConditionalGeneration", ["--k", "3"], "--k cannot be used"),
        (
            "vqa",
            "ForQuestionAnswering",
            ["--answers", "a", "--num-beams", "2"],
            "--num-beams cannot be used with --ans",
        ),
        ("vqa", "ForQuestionAnswering", ["--output-format", "list"], "--output-format is for --output"),
        ("vqa", "ForQuestionAnswering", ["--output", "x.txt"], "expected a file name that ends in .json"),
        ("vqa", "ForQuestionAnswering", ["--columns", "answer"], "such as caption=text"),
        ("vqa", "ForQuestionAnswering", ["--columns", "answer=reply"], "rows.json"),
        ("vqa", "ForQuestionAnswering", ["--format", "xml"], "format is 'xml'"),
        ("vqa", "ForQuestionAnswering", ["--label2id", "nothing.json"], "nothing.json"),
    ],
)
def test_errors(evaluate: Any, task: str, head: str, options: list[str], message: str) -> None:
    rows = question_rows() if task == "vqa" else caption_rows()
    result = evaluate(task, head, rows, *options)
    assert result.status == 2 and message in result.err and "Traceback" not in result.err


def test_tasks_of_the_command() -> None:
    assert set(PIPELINES) == set(EVALUATIONS)


@pytest.mark.slow
def test_processes_share_the_rows(pipe: Any, tmp_path: Path) -> None:
    """Two processes of torchrun write the predictions of one, each row once, and print the metrics once."""
    model = pipe("image-question-answering", "ForQuestionAnswering").model.name_or_path
    data = write(question_rows(), tmp_path)
    command = ["-m", "modeling_lavis", "evaluate", "vqa", "--model", model, "--data", str(data), "--device", "cpu"]
    command += ["--answers", ",".join(ANSWERS), "--json", "--batch-size", "2"]
    outputs = [str(tmp_path / name) for name in ("one.json", "two.json")]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    printed = [
        subprocess.run(
            [sys.executable, *start, *command, "--output", output],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for start, output in zip(([], launcher), outputs, strict=True)
    ]
    assert printed[0] == printed[1] and len(printed[1].splitlines()) == 1
    assert Path(outputs[0]).read_text() == Path(outputs[1]).read_text()


@pytest.mark.slow
def test_all_processes_stop_when_one_fails(pipe: Any, tmp_path: Path) -> None:
    model = pipe("image-question-answering", "ForQuestionAnswering").model.name_or_path
    data = write(question_rows(), tmp_path)
    (tmp_path / "1_0.png").write_bytes(b"broken")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launcher, "-m", "modeling_lavis", "evaluate", "vqa", "--model", model, "--data", str(data)]
    done = subprocess.run(
        [sys.executable, *command, "--answers", "yes,no", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "1_0.png" in done.stderr
