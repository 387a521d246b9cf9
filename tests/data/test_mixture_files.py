"""Mixtures as files: `{"mixture": [...]}` in the place of a data set."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import IterableDataset

from modeling_lavis.data.columns import DataError
from modeling_lavis.data.loading import load_data
from modeling_lavis.data.mixtures import mix
from tests.data.data_files import write_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        rows = [{"image": file, "caption": f"{name} {file}"} for file in write_pictures(tmp_path / name)]
        (tmp_path / name / "train.json").write_text(json.dumps(rows))
    return tmp_path


def write(folder: Path, content: Any) -> str:
    path = folder / "mixture.json"
    path.write_text(json.dumps(content))
    return str(path)


def captions(data: Any) -> list[str]:
    return [row["caption"] for row in data]


def test_file_equals_mix(folder: Path) -> None:
    entries = [
        {"source": "a", "split": "train", "probability": 3},
        {"source": "b/train.json", "probability": 1, "prompt": "a picture of ", "cleaning": "caption", "max_words": 1},
    ]
    path = write(folder, {"mixture": entries, "seed": 5, "stopping_strategy": "first_exhausted"})
    parts = [load_data(str(folder / name / "train.json"), "captioning") for name in ("a", "b")]
    expected = mix(
        parts,
        [3, 1],
        seed=5,
        text_options=[None, {"prompt": "a picture of ", "cleaning": "caption", "max_words": 1}],
        stopping_strategy="first_exhausted",
    )
    mixture = load_data(path, "captioning")
    assert captions(mixture) == captions(expected) and "a picture of b" in captions(mixture)
    assert [row["image"] for row in mixture] == [row["image"] for row in expected]


def test_streaming_and_no_ratios(folder: Path) -> None:
    path = write(folder, {"mixture": [{"source": "a/train.json"}, {"source": "b/train.json"}]})
    whole = load_data(path, "captioning")
    assert len(whole) == 8
    stream = load_data(path, "captioning", streaming=True)
    assert isinstance(stream, IterableDataset) and set(captions(stream)) == set(captions(whole))


def test_other_objects_in_json_files_are_no_mixtures(folder: Path) -> None:
    lines = folder / "a" / "lines.json"
    lines.write_text("\n".join(json.dumps({"image": "red.png", "caption": f"mixture {n}"}) for n in range(2)))
    assert captions(load_data(str(lines), "captioning")) == ["mixture 0", "mixture 1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mixture": []}, "expected a list of data sets"),
        ({"mixture": ["a"]}, "data set 0: got 'a'; expected an object with \"source\""),
        ({"mixture": [{"source": "a", "ratio": 1}]}, "data set 0: unknown 'ratio'; expected source, split"),
        ({"mixture": [{"source": "a"}], "sead": 1}, "unknown 'sead'; expected mixture, seed"),
        ({"mixture": [{"source": "a", "probability": 1}, {"source": "b"}]}, "give it for all, or for none"),
    ],
)
def test_wrong_entries_are_named(folder: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        load_data(write(folder, content), "captioning")
    assert message in str(error.value) and "mixture.json" in str(error.value)


def test_options_of_one_data_set_are_refused_for_a_mixture(folder: Path) -> None:
    path = write(folder, {"mixture": [{"source": "a/train.json"}]})
    with pytest.raises(DataError, match="is a mixture; give split, columns for each of its data sets"):
        load_data(path, "captioning", split="train", columns={"caption": "text"})
