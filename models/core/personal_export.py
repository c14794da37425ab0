"""The files of the export of a user's data and of an organisation's archive: each room registers its own, which list what they hold of one owner.

Rows are read in batches, each on a connection of its own that is returned before the batch is yielded: an export of millions of
calls holds no transaction, and memory stays constant.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, Select, literal, tuple_

from models.core.csv_text import csv_cell, csv_lines
from models.core.db import db

Owner = Literal["person", "organisation"]
PEOPLE: tuple[Owner, ...] = ("person",)
Rows = Callable[[str], Iterable[Mapping[str, Any]]]
BATCH = 1_000
LINES_PER_CHUNK = 100


@dataclass(frozen=True)
class ExportFile:
    """One file: its name in the ZIP, what it holds, the meaning (with unit) of each column or field, and its text, in chunks, for
    the owner with this id. `chunks` needs the application context when it is called, and for files of organisations only then.
    `owners` says whose exports have it."""

    name: str
    about: str
    columns: Mapping[str, str]
    chunks: Callable[[str], Iterator[str]]
    owners: tuple[Owner, ...] = PEOPLE


_files: dict[str, ExportFile] = {}


def add_file(file: ExportFile) -> None:
    """Register a file of the export. A room calls it when it is imported."""
    _files[file.name] = file


def add_csv(
    name: str, about: str, columns: Mapping[str, str], rows: Rows, *, owners: tuple[Owner, ...] = PEOPLE
) -> None:
    """Register a CSV file; `rows` yields mappings with at least these columns."""
    names = tuple(columns)
    add_file(ExportFile(name, about, columns, lambda id: csv_lines(names, rows(id)), owners))


def add_json_lines(
    name: str, about: str, columns: Mapping[str, str], rows: Rows, *, owners: tuple[Owner, ...] = PEOPLE
) -> None:
    """Register a file with one JSON object a line. Times are ISO 8601 in UTC; decimals are text, because they are exact."""
    names = tuple(columns)
    add_file(ExportFile(name, about, columns, lambda id: _json_lines(names, rows(id)), owners))


def export_files(owner: Owner = "person") -> list[ExportFile]:
    """The files of a person, or of an organisation, by name."""
    return [_files[name] for name in sorted(_files) if owner in _files[name].owners]


def batches(query: Select[*tuple[Any, ...]], *order: Any, size: int = BATCH) -> Iterator[Mapping[str, Any]]:
    """The rows of the query by these columns, which are unique together and not null, as mappings. An index must start with the
    query's condition and the first of them. Needs the application context only when called."""
    return keyset(query, order, lambda _: size)


def keyset(
    query: Select[*tuple[Any, ...]], order: tuple[Any, ...], size: Callable[[int], int]
) -> Iterator[Mapping[str, Any]]:
    """As `batches`; `size` returns how many rows the batch with this number has."""
    return _keyset(db.engine, query, order, size)


def _keyset(
    engine: Engine, query: Select[*tuple[Any, ...]], order: tuple[Any, ...], size: Callable[[int], int]
) -> Iterator[Mapping[str, Any]]:
    names = [f"position_{index}" for index in range(len(order))]
    query = query.add_columns(*(column.label(name) for column, name in zip(order, names, strict=True)))
    query = query.order_by(*order)
    after: ColumnElement[bool] | None = None
    number = 0
    while True:
        limit = size(number)
        with engine.connect() as connection:
            batch = query if after is None else query.where(after)
            rows: Sequence[Any] = connection.execute(batch.limit(limit)).mappings().all()
        yield from rows
        if len(rows) < limit:
            return
        last = [literal(rows[-1][name], column.type) for column, name in zip(order, names, strict=True)]
        after = tuple_(*order) > tuple_(*last)
        number += 1
        del rows  # keeps only one batch in memory


def readme(files: Iterable[ExportFile], head: str) -> str:
    """The text that explains every file and its columns."""
    parts = [head.strip(), ""]
    for file in files:
        parts += [f"{file.name}", f"  {file.about}", ""]
        parts += [f"    {name}: {meaning}" for name, meaning in file.columns.items()]
        parts.append("")
    return "\n".join(parts)


def _json_lines(names: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for row in rows:
        lines.append(json.dumps({name: row[name] for name in names}, default=csv_cell, ensure_ascii=False))
        size += len(lines[-1])
        if len(lines) == LINES_PER_CHUNK or size > 1 << 20:
            yield "\n".join(lines) + "\n"
            lines, size = [], 0
    if lines:
        yield "\n".join(lines) + "\n"
