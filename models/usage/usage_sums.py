"""Sums of usage for the API, from rollups only: by model or key, and as a series of dates."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Select, case, cast, func, literal, select

from models.core.db import BigInt, db
from models.usage import zone_rollups
from models.usage.usage_rows import part_parameters, rollup_key, rollup_rows
from models.usage.usage_scope import UsageScope
from models.usage.usage_window import Group, UsageWindow

MOST_KEYS = 20
"""Keys of a split that a series shows apart; the rest is one more, whose key is None."""


class UsageSum(NamedTuple):
    """Sums of settled calls. `tokens_in` are all input tokens, `tokens_cached` those of them that were read from a cache; `cost` is
    what the provider charges, in dollars; `credits` are what was charged, none for calls with the caller's own provider key."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    cost: Decimal = Decimal(0)
    credits: int = 0

    @property
    def tokens_total(self) -> int:
        """Input, each token once, and output."""
        return self.tokens_in + self.tokens_out


class SeriesDate(NamedTuple):
    """One date of a series: its name, its sums, and those of each key that has any."""

    name: str
    total: UsageSum
    keys: dict[str | None, UsageSum]


def add_up(parts: Sequence[UsageSum]) -> UsageSum:
    """The sum of sums."""
    return UsageSum._make(map(sum, zip(*parts, strict=True))) if parts else UsageSum()


def usage_by(
    scope: UsageScope, window: UsageWindow, names: tuple[str, ...], filters: Mapping[str, str]
) -> dict[tuple[str, ...], UsageSum]:
    """Sums of the window for each combination of values of these dimensions, most credits first. One statement, which reads the
    rollups of the weeks in the window, and of the days and hours at its ends."""
    found = _run(scope, window, [window.start], filters, lambda given, splits: _by(names, given, splits))
    return {tuple(row[: len(names)]): UsageSum(*row[len(names) :]) for row in found}


def usage_series(
    scope: UsageScope, window: UsageWindow, group: Group, split: str | None, filters: Mapping[str, str]
) -> list[SeriesDate]:
    """Sums for each date of the window, empty ones included, and within each by `split`: its 20 keys with the most credits, and the
    rest as None. One statement. Raises Invalid for too many dates."""
    columns = window.columns(group)
    starts = [start for _, start in columns]
    rows = _run(scope, window, starts, filters, lambda given, splits: _series(split, given, splits))
    # of two dates with one start, the first was skipped by the clock
    places = {start: place for place, start in enumerate(starts)}
    cells: list[dict[str | None, UsageSum]] = [{} for _ in columns]
    for start, key, *sums in rows:
        cells[places[start]][key] = UsageSum(*sums)
    return [
        SeriesDate(name, add_up(list(cell.values())), cell if split else {})
        for (name, _), cell in zip(columns, cells, strict=True)
    ]


def _run(
    scope: UsageScope,
    window: UsageWindow,
    starts: list[datetime],
    filters: Mapping[str, str],
    statement: Any,
) -> Sequence[Any]:
    narrowed = scope.narrowed(filters)
    if narrowed is None:
        return []
    given = {**narrowed, "error": ""}
    counted = zone_rollups.counted_until(scope.account_id, window.zone)
    parameters, splits = part_parameters(scope.account_id, window.parts(starts, counted), given)
    return db.session.execute(statement(tuple(sorted(given)), splits), parameters).all()


def _sums(rows: Any) -> list[Any]:
    tokens_in = rows.input_tokens + rows.cache_write_tokens + rows.cache_read_tokens
    return [
        cast(func.sum(rows.calls), BigInt).label("requests"),
        cast(func.sum(tokens_in), BigInt).label("tokens_in"),
        cast(func.sum(rows.output_tokens), BigInt).label("tokens_out"),
        cast(func.sum(rows.cache_read_tokens), BigInt).label("tokens_cached"),
        func.sum(rows.cost).label("cost"),
        cast(func.sum(rows.credits), BigInt).label("credits"),
    ]


@cache
def _by(names: tuple[str, ...], given: tuple[str, ...], splits: bool) -> Select[*tuple[Any, ...]]:
    rows = rollup_rows(given, splits).c
    keys = [rollup_key(rows, name) for name in names]
    sums = _sums(rows)
    query: Select[*tuple[Any, ...]] = select(*keys, *sums).group_by(*keys)
    return query.order_by(sums[-1].desc(), sums[0].desc(), *keys)


@cache
def _series(split: str | None, given: tuple[str, ...], splits: bool) -> Select[*tuple[Any, ...]]:
    """A row for each start of a date and key: the most used ones, and null for the rest."""
    rows = rollup_rows(given, splits).c
    if split is None:
        whole: Select[*tuple[Any, ...]] = select(rows.start, literal(None), *_sums(rows))
        return whole.group_by(rows.start)
    # added up before they are ranked, so that the many rows are read only once
    summed = select(rollup_key(rows, split).label("key"), rows.start, *_sums(rows))
    cells = summed.group_by("key", rows.start).cte("cells").c
    order = func.sum(cells.credits).desc(), func.sum(cells.requests).desc(), cells.key
    top = select(cells.key).group_by(cells.key).order_by(*order).limit(MOST_KEYS).cte("top")
    shown = case((cells.key.in_(select(top.c.key)), cells.key)).label("shown")
    names = UsageSum._fields
    sums = [func.sum(getattr(cells, name)).label(name) for name in names]
    typed = [each if name == "cost" else cast(each, BigInt) for each, name in zip(sums, names, strict=True)]
    query: Select[*tuple[Any, ...]] = select(cells.start, shown, *typed).group_by(cells.start, "shown")
    return query
