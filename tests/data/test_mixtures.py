"""Mixtures of data sets: ratios, options of texts, types, ids, resuming."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image, IterableDataset, List, Value

from modeling_lavis.data.columns import DataError
from modeling_lavis.data.loading import load_data
from modeling_lavis.data.mixtures import mix
from tests.data.data_files import encoded, picture, write_shard
from tests.release.needs import needs


def captions(name: str, count: int, streaming: bool = False) -> Any:
    rows = [{"image": f"{name}{index}.png", "caption": f"{name} {index}", "image_id": index} for index in range(count)]
    return load_data(rows, "pretraining", streaming=streaming)


def sources_of(rows: Any) -> list[str]:
    return [row["caption"].split()[0] for row in rows]


def test_all_rows_once_without_ratios() -> None:
    data = mix([captions("a", 5), captions("b", 3)])
    assert isinstance(data, Dataset) and Counter(sources_of(data)) == {"a": 5, "b": 3}
    # equal ids of two data sets are two images
    assert len(set(data["image_id"])) == 8


@pytest.mark.parametrize("streaming", [False, True])
def test_ratios(streaming: bool) -> None:
    sources = [captions("a", 400, streaming), captions("b", 400, streaming)]
    ratios = [3, 1]  # of any sum, as in LAVIS
    data = mix(sources, ratios, seed=1, stopping_strategy="first_exhausted")
    assert isinstance(data, IterableDataset if streaming else Dataset)
    found = sources_of(data)
    assert 2.3 < found.count("a") / found.count("b") < 3.9
    assert found == sources_of(mix(sources, ratios, seed=1, stopping_strategy="first_exhausted"))
    assert found != sources_of(mix(sources, ratios, seed=2, stopping_strategy="first_exhausted"))


@pytest.mark.parametrize("streaming", [False, True])
def test_no_row_is_left_out_by_default(streaming: bool) -> None:
    data = mix([captions("a", 30, streaming), captions("b", 4, streaming)], [0.5, 0.5])
    counts = Counter(row["caption"] for row in data)
    assert len(counts) == 34 and max(counts[f"b {index}"] for index in range(4)) > 1


def test_map_style_and_streaming_together() -> None:
    data = mix([captions("a", 5), captions("b", 5, streaming=True)])
    assert isinstance(data, IterableDataset) and set(sources_of(data)) == {"a", "b"}


@needs("datasets>=5.2", "version 4.0 resumes a mixed stream too late; those between were not tested")
def test_a_stream_is_resumed() -> None:
    def made() -> Any:
        return mix([captions("a", 40, True), captions("b", 25, True)], [2, 1], seed=3)

    whole = [row["caption"] for row in made()]
    first, rest = made(), made()
    iterator = iter(first)
    begin = [next(iterator)["caption"] for _ in range(17)]
    rest.load_state_dict(first.state_dict())
    assert begin + [row["caption"] for row in rest] == whole


def test_options_of_texts() -> None:
    options = [None, {"prompt": "A photo of ", "cleaning": "caption", "max_words": 2}]
    data = mix([captions("A!", 1), captions("B!", 1)], text_options=options)
    assert data["caption"] == ["A! 0", "A photo of b 0"]
    lists = load_data([{"image": "a", "caption": ["X Y", "Z."]}], "captioning")
    data = mix([captions("a", 1), lists], text_options=[None, {"cleaning": "caption"}])
    assert data["caption"] == [["a 0"], ["x y", "z"]]


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_of_answers(streaming: bool) -> None:
    vqa = load_data([{"image": "a", "question": "q", "answer": ["x", "x", "y", "x"]}], "vqa", streaming=streaming)
    genome = load_data([{"image": "b", "question": "q", "answer": "z", "dataset": "vg"}], "vqa", streaming=streaming)
    rows = {row["image"]: row for row in mix([vqa, genome], text_options=[None, {"weight": 0.5}])}
    assert rows["b"]["answer"] == ["z"] and rows["b"]["weight"] == [0.5]
    assert rows["a"]["answer"] == ["x", "x", "y", "x"] and rows["a"]["weight"] is None
    (row,) = mix([vqa], text_options=[{"weight": 0.2}])
    assert row["answer"] == ["x", "y"] and row["weight"] == pytest.approx([0.15, 0.05])


@pytest.mark.parametrize("streaming", [False, True])
def test_paths_and_contents(streaming: bool) -> None:
    content = [{"image": encoded(color), "caption": f"{color} 0"} for color in ("red", "blue")]
    shuffled = load_data(content, "captioning").shuffle(seed=0)
    shuffled = shuffled.to_iterable_dataset() if streaming else shuffled
    data = mix([captions("a", 2, streaming), shuffled])
    assert data.features["image"] == Image(decode=False)
    by_caption = {row["caption"]: row["image"] for row in data}
    assert by_caption["a 1"] == {"bytes": None, "path": "a1.png"}
    assert by_caption["red 0"]["bytes"] == encoded("red") and by_caption["blue 0"]["bytes"] == encoded("blue")


def test_columns_of_one_data_set() -> None:
    plain = load_data([{"image": "a", "caption": "x"}], "generative-pretraining")
    prompted = load_data([{"image": "b", "caption": "y", "prompt": "a photo of"}], "generative-pretraining")
    assert mix([plain, prompted])["prompt"] == ["", "a photo of"]
    pictures = load_data([{"image": picture("red"), "caption": "x"}], "captioning")
    assert mix([pictures]).features["caption"] == Value("string")


def test_wrong_arguments() -> None:
    data = captions("a", 2)
    with pytest.raises(ValueError, match="no data sets"):
        mix([])
    with pytest.raises(ValueError, match="1 probabilities do not fit 2"):
        mix([data, data], [1.0])
    with pytest.raises(ValueError, match="expected positive numbers"):
        mix([data, data], [1.0, 0.0])
    with pytest.raises(ValueError, match="text_options has ..prefix..; expected cleaning"):
        mix([data], text_options=[{"prefix": "x"}])
    with pytest.raises(ValueError, match="cleaning is 'answer'"):
        mix([data], text_options=[{"cleaning": "answer"}])
    with pytest.raises(ValueError, match="stopping_strategy is 'never'"):
        mix([data, data], stopping_strategy="never")
    with pytest.raises(ValueError, match="Got list; expected data sets"):
        mix([[{"a": 1}]])
    with pytest.raises(DataError, match="have no answers"):
        mix([data], text_options=[{"weight": 1.0}])
    pairs = data.map(lambda row: {"image": [row["image"]] * 2}).cast_column("image", List(Image(decode=False)))
    other = data.map(lambda row: {"image": 1.5})
    with pytest.raises(DataError, match="column 'image' of data set 1 is .*float64"):
        mix([pairs, other])


@pytest.mark.parametrize("streaming", [False, True])
def test_data_sets_with_and_without_ids(streaming: bool, tmp_path: Path) -> None:
    samples = {color: {"png": encoded(color), "txt": color.encode()} for color in ("red", "blue")}
    shard = load_data(write_shard(tmp_path / "a.tar", samples), "retrieval", streaming=streaming)
    assert [row.get("image_id") for row in shard] == [None, None]
    found = [row["image_id"] for row in mix([captions("a", 2, streaming), shard])]
    assert len(set(found)) == 4 and None not in found
    without = mix([shard, shard])
    assert "image_id" not in without.features
