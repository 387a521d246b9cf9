"""Commands with converted ALBEF models: answer, match, embed, and errors of other commands."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modeling_lavis.pipelines.loading import load
from tests.cli.conftest import Result
from tests.pipelines.albef_models import convert_recorded

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def albef(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def make(architecture: str) -> str:
        if architecture not in made:
            output = tmp_path_factory.mktemp("albef") / "model"
            made[architecture] = convert_recorded(goldens, architecture, output)
        return made[architecture]

    return make


def test_answer(run: Run, albef: Callable[[str], str], photos: dict[str, Path]) -> None:
    file, folder = str(photos["coffee"]), albef("albef_vqa")
    options = ["--json", "--question", "what is this?"]
    result = run("answer", *options, "--answers", "dog,man,red house", "--top-k", 2, file, model=folder)
    answerer = load("image-question-answering", folder, device="cpu")
    expected = answerer(file, question="what is this?", answers=["dog", "man", "red house"], top_k=2)
    assert result.status == 0 and result.records[0]["answers"] == expected
    assert expected[0]["score"] >= expected[1]["score"]
    result = run("answer", *options, "--max-new-tokens", 3, file, model=folder)
    assert result.records[0]["answers"] == answerer(file, question="what is this?", max_new_tokens=3)


@pytest.mark.parametrize("architecture", ["albef_retrieval", "albef_pretrain"])
def test_match(run: Run, albef: Callable[[str], str], photos: dict[str, Path], architecture: str) -> None:
    files, texts = [str(photos["coffee"]), str(photos["rocket"])], ["a dog", "the man"]
    result = run("match", "--json", *files, "--text", *texts, model=albef(architecture))
    expected = load("image-text-matching", albef(architecture), device="cpu", batch_size=8)(files, text=texts)
    assert result.status == 0 and [record["matches"] for record in result.records] == expected


@pytest.mark.parametrize("architecture", ["albef_feature_extractor", "albef_retrieval", "albef_pretrain"])
def test_embed(run: Run, albef: Callable[[str], str], photos: dict[str, Path], architecture: str) -> None:
    result = run("embed", str(photos["coffee"]), "--text", "a dog", model=albef(architecture))
    image, text = result.records
    row = load("multimodal-feature-extraction", albef(architecture), device="cpu")(str(photos["coffee"]), text="a dog")
    np.testing.assert_allclose(image["image_features"], row["image_features"], atol=1e-5)
    np.testing.assert_allclose(text["text_features"], row["text_features"], atol=1e-5)


@pytest.mark.parametrize(
    ("command", "architecture", "options"),
    [
        ("caption", "albef_retrieval", []),
        ("answer", "albef_retrieval", ["--question", "what?"]),
        ("match", "albef_vqa", ["--text", "a dog"]),
        ("embed", "albef_nlvr", []),
    ],
)
def test_model_of_another_task_is_a_one_line_error(
    run: Run, albef: Callable[[str], str], photos: dict[str, Path], command: str, architecture: str, options: list[str]
) -> None:
    result = run(command, str(photos["coffee"]), *options, model=albef(architecture))
    assert result.status != 0 and result.out == "" and result.err.count("\n") == 1
    assert "Albef" in result.err and "Traceback" not in result.err
