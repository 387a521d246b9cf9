# SPDX-License-Identifier: Apache-2.0
"""Rows in memory as Arrow tables, which the workers of a data loader share without copies."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from modeling_lavis.data.columns import ORIGIN, DataError
from modeling_lavis.data.rows import ColumnTypes, RowMaker
from modeling_lavis.import_utils import require

CHUNK = 5000  # rows that are Python objects at a time


def in_memory(rows: Iterable[Mapping[str, Any]], maker: RowMaker) -> Any:
    """
    A data set of rows with paths.

    A column gets the type that holds all its values. A part of the rows becomes a table with the types of that part
    first, since the types of later rows are not known yet.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): rows that the maker made.
        maker (`RowMaker`): for its task, and the columns that it keeps.

    Returns:
        `datasets.Dataset`: the data set.
    """
    datasets: Any = require("datasets", extra="train", purpose="data sets")
    arrow: Any = require("pyarrow", extra="train")
    types, tables, iterator = ColumnTypes(maker.task, maker.keep), [], iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        of_chunk = ColumnTypes(maker.task)
        for row in chunk:
            of_chunk.look_at(row)
            types.keep_values(row)
        if of_chunk.is_mixed():
            chunk = [of_chunk.convert(row) for row in chunk]
        tables.append(_as_table(chunk, of_chunk.features().arrow_schema, arrow))
        types.add(of_chunk)
    features = types.features()
    kept = {name: features.pop(name) for name in maker.keep if name in features}
    schema = features.arrow_schema
    whole = arrow.concat_tables([_with_schema(table, schema, arrow) for table in tables])
    for name, feature in kept.items():
        whole = whole.append_column(name, arrow.array(types.kept_values[name], type=feature_type(feature, datasets)))
    return datasets.Dataset(whole)


def _as_table(rows: list[Mapping[str, Any]], schema: Any, arrow: Any) -> Any:
    try:
        return arrow.Table.from_pylist(rows, schema=schema)
    except (arrow.ArrowException, ValueError, OverflowError, TypeError) as error:
        for row in rows:  # which of them
            for name in schema.names:
                try:
                    arrow.array([row.get(name)], type=schema.field(name).type)
                except (arrow.ArrowException, ValueError, OverflowError, TypeError) as reason:
                    raise DataError(
                        f"{row.get(ORIGIN)}, column {name!r}: {str(row.get(name))[:60]!r} cannot be stored ({reason}). "
                        "Expected texts in Unicode, and integers of at most 64 bits."
                    ) from error
        raise


def feature_type(feature: Any, datasets: Any) -> Any:
    """The Arrow type of a type of a column."""
    return datasets.Features({"column": feature}).arrow_schema.field("column").type


def _with_schema(table: Any, schema: Any, arrow: Any) -> Any:
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(arrow.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name).combine_chunks()
        if arrow.types.is_list(field.type) and not arrow.types.is_list(column.type):
            offsets = arrow.array(range(len(column) + 1), arrow.int32())
            values = column.cast(field.type.value_type)
            column = arrow.ListArray.from_arrays(offsets, values, type=field.type, mask=column.is_null())
        columns.append(column if column.type == field.type else column.cast(field.type))
    return arrow.Table.from_arrays(columns, schema=schema)


__all__ = ["in_memory"]
