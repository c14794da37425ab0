"""What an account used, on what and when: figures for charts and tables, answered by the rollups alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Literal, NamedTuple

from models.asking import read
from models.pool import Pool
from models.usage.latency import BUCKETS, merged, quantile
from models.usage.period import Period, Step

By = Literal["model", "agent"]

NAMED = 7
"""So many series keep their names; the rest is Other."""

OTHER_SLOT = 8


class Figures(NamedTuple):
    """Sums over some calls. Credits are whole, cost is dollars, spans are ms.

    Tokens stand in disjoint buckets: `input_tokens` is what no cache served, `reasoning_tokens` is within
    `output_tokens`.
    """

    calls: int = 0
    input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    credits: int = 0
    cost: Decimal = Decimal(0)
    histogram: Sequence[int] = (0,) * BUCKETS

    @property
    def prompt_tokens(self) -> int:
        """All that was read: uncached, written to and read from a cache."""
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def plain_output_tokens(self) -> int:
        """Output that was not reasoning."""
        return self.output_tokens - self.reasoning_tokens

    @property
    def p50_ms(self) -> float | None:
        return quantile(self.histogram, 0.5)

    @property
    def p95_ms(self) -> float | None:
        return quantile(self.histogram, 0.95)


NOTHING = Figures()


def total(parts: Sequence[Figures]) -> Figures:
    """The sum of figures, the histograms bucket by bucket."""
    if not parts:
        return NOTHING
    *sums, histograms = zip(*parts, strict=True)
    return Figures._make((*map(sum, sums), merged(histograms)))


@dataclass(frozen=True)
class Series:
    """One model or agent through the period. `key` None is all that is not named; `slot` is its colour, 1 to 8."""

    key: str | None
    slot: int
    columns: list[Figures]
    total: Figures


@dataclass(frozen=True)
class Spending:
    """The whole picture of a period. Every total is the sum of the same cells."""

    period: Period
    by: By
    starts: list[datetime]
    series: list[Series]
    columns: list[Figures]
    total: Figures


def spending(pool: Pool, account_id: str, period: Period, by: By, now: datetime) -> Spending:
    """What the account used in `period`, by model or agent: the seven that cost most, and the rest as Other.

    One statement whatever the period; at most 62 columns x 8 series come back. A series keeps its colour
    while the period changes, as colours go by rank over the last 30 days.
    """
    words = (account_id, period.grain, period.start, period.end, now - timedelta(days=30), now)
    cells = read(pool, _cells(by, period.step), words)
    named = _slots({key: rank for rank, key, *_ in cells if key is not None})
    starts = period.columns()
    place = {start: index for index, start in enumerate(starts)}
    rows: dict[str | None, dict[int, Figures]] = {}
    stacks: list[list[Figures]] = [[] for _ in starts]
    for _, key, _, start, *sums in cells:
        figures = Figures._make((*sums[:-BUCKETS], sums[-BUCKETS:]))
        rows.setdefault(key, {})[place[start]] = figures
        stacks[place[start]].append(figures)
    series = [
        Series(
            key,
            OTHER_SLOT if key is None else named[key],
            [row.get(index, NOTHING) for index in range(len(starts))],
            total(list(row.values())),
        )
        for key, row in rows.items()
    ]
    columns = [total(stack) for stack in stacks]
    return Spending(period, by, starts, series, columns, total([one.total for one in series]))


def _slots(ranks: Mapping[str, int | None]) -> dict[str, int]:
    kept = {key: rank for key, rank in ranks.items() if rank is not None and rank <= NAMED}
    free = [slot for slot in range(1, NAMED + 1) if slot not in kept.values()]
    return {key: kept.get(key) or free.pop(0) for key in ranks}


_KEYS: dict[By, str] = {"model": "model", "agent": "agent_id"}
_STARTS: dict[Step, str] = {
    "hour": "bucket",
    "day": "bucket",
    "week": "greatest(date_trunc('week', bucket, 'UTC'), $3)",
}


@cache
def _cells(by: By, step: Step) -> str:
    """A row for each of the keys that cost most (then null: the rest) and column of the chart: the key's rank
    over the last 30 days, the key, its place, the column, and sums in the order of `Figures`. Of account $1 by grain $2 from $3 to $4; the 30 days
    last from $5 to $6."""
    key = _KEYS[by]
    sums = ", ".join(f"sum({name})::bigint" for name in Figures._fields[:-2])
    buckets = ", ".join(f"coalesce(sum(latency_hist[{number}]), 0)::int" for number in range(1, BUCKETS + 1))
    return f"""
        WITH chosen AS (
            SELECT {key} AS key, row_number() OVER (ORDER BY sum(credits) DESC, sum(calls) DESC, {key}) AS place
            FROM usage_rollup
            WHERE account_id = $1 AND grain = $2 AND bucket >= $3 AND bucket < $4
            GROUP BY 1 ORDER BY 2 LIMIT {NAMED}
        ), month AS (
            SELECT {key} AS key, row_number() OVER (ORDER BY sum(credits) DESC, sum(calls) DESC, {key}) AS rank
            FROM usage_rollup
            WHERE account_id = $1 AND grain = 'day' AND bucket >= $5 AND bucket < $6
            GROUP BY 1
        ), cells AS (
            SELECT chosen.key, chosen.place, {_STARTS[step]} AS start, {sums}, sum(cost), {buckets}
            FROM usage_rollup LEFT JOIN chosen ON chosen.key = {key}
            WHERE account_id = $1 AND grain = $2 AND bucket >= $3 AND bucket < $4
            GROUP BY 1, 2, 3
        )
        SELECT month.rank, cells.* FROM cells LEFT JOIN month ON month.key = cells.key ORDER BY cells.place
        """  # noqa: S608
