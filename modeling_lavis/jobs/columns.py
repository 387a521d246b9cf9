# SPDX-License-Identifier: Apache-2.0
"""Records of files and data sets as items of a job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from modeling_lavis.data.columns import Column, DataError, task_columns
from modeling_lavis.data.media_files import URLS
from modeling_lavis.data.rows import RowMaker, find_value
from modeling_lavis.jobs.items import Item

_TASKS = {"image": "captioning", "video": "video-retrieval"}
_TIMES = ("start", "end")


@dataclass(frozen=True)
class ItemMaker:
    """
    Makes items of records.

    Args:
        modality (`str`): `"image"` or `"video"`.
        texts (`tuple[str, ...]`, *optional*): further columns that the model takes, such as `question`.
        columns (`Mapping[str, str]`, *optional*): names of columns in the records, where they differ.
        media_root (`str`, *optional*): folder of relative paths; by default that of the file that names them.
        trusted (`bool`, *optional*, defaults to `False`): whether records may name any path: the user's own objects.
    """

    modality: str
    texts: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    media_root: str | None = None
    trusted: bool = False

    @cached_property
    def _paths(self) -> RowMaker:
        return RowMaker(task_columns(_TASKS[self.modality]), media_root=self.media_root, trusted=self.trusted)

    @cached_property
    def _media(self) -> Column:
        return self._paths.task.media

    def describe(self) -> dict[str, Any]:
        """What decides about the items, as JSON."""
        return {"columns": dict(self.columns), "media_root": self.media_root}

    def __call__(
        self, record: Mapping[str, Any], place: str, folder: str = "", members: Mapping[str, bytes] | None = None
    ) -> Item:
        """
        Make an item.

        Args:
            record (`Mapping[str, Any]`): the record.
            place (`str`): where it is from, for a record whose image has no path.
            folder (`str`, *optional*): folder of relative paths.
            members (`Mapping[str, bytes]`, *optional*): the files of a WebDataset sample.

        Returns:
            [`Item`]: the item; one with an error if the record has no image that can be opened.
        """
        used = {self._media.name, *self.texts, *_TIMES}
        names = {self.column(name, record) for name in used}
        has_media, value = find_value(record, self._media, self.columns)
        # a path in a column of another name, which `find_value` knows, is not a further column
        names |= {key for key, entry in record.items() if "file_name" in key and has_media and entry is value}
        fields = {key: entry for key, entry in record.items() if key not in names}
        name = place
        try:
            if not has_media:
                raise DataError(
                    f"there is no column {self.column(self.modality, record)!r}; the record has"
                    f" {', '.join(map(repr, record)) or 'nothing'}. Give the name of its column."
                )
            medium = value if self._is_url(value) else self._paths.medium(value, folder)
        except ValueError as error:
            return Item(name, fields=fields, members=members, error=f"{place}: {error}")
        if isinstance(medium, str) and members is None:  # samples of shards are called by their keys
            name = medium
        row = {self.modality: medium}
        for key in (*self.texts, *_TIMES):
            text = record.get(self.column(key, record))
            if text is not None:
                row[key] = text
        return Item(name, row, fields, members)

    def column(self, name: str, record: Mapping[str, Any]) -> str:
        """The name that a column has in a record; texts may be called captions."""
        if name == "text" and name not in record and name not in self.columns:
            return "caption"
        return self.columns.get(name, name)

    def _is_url(self, value: Any) -> bool:
        """Whether a value is a URL in a column that the caller named; other files may not cause requests."""
        return isinstance(value, str) and value.startswith(URLS) and (self.trusted or self._media.name in self.columns)


def file_item(name: str, modality: str, error: str | None = None) -> Item:
    """The item of a file or a URL without a record."""
    return Item(name, {} if error is not None else {modality: name}, error=error)


__all__ = ["ItemMaker", "file_item"]
