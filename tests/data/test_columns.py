"""The contract of columns, and its table in the documentation."""

from pathlib import Path

import pytest

from modeling_lavis.data.annotations import ANNOTATIONS, splits_of
from modeling_lavis.data.columns import TASKS, contract_table, task_columns

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def test_the_table_of_columns_is_that_of_the_code() -> None:
    assert contract_table() in PAGE.read_text(encoding="utf-8")


def test_the_table_of_published_files_is_complete() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, annotations in ANNOTATIONS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        for split in splits_of(name, annotations.tasks[0]):
            assert split in line, (name, split)


def test_every_task_has_media_and_no_column_twice() -> None:
    for columns in TASKS.values():
        assert len(columns.names) == len(set(columns.names))
        assert columns.media in columns.needed(targets=False)
        assert columns[columns.media.name] == columns.media
    with pytest.raises(ValueError, match="no task 'vqa2'; expected one of captioning, retrieval"):
        task_columns("vqa2")
    with pytest.raises(KeyError, match="'vqa' has no column 'caption'"):
        TASKS["vqa"]["caption"]
