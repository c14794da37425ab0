"""What an account used, on what and when: figures for charts and tables, answered by the rollups alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Literal, NamedTuple

from sqlalchemy import TextClause, text

from models.db import db
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
    latency_ms: int = 0
    ttft_ms: int = 0
    ttft_calls: int = 0
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
    def mean_ms(self) -> float | None:
        return self.latency_ms / self.calls if self.calls else None

    @property
    def mean_ttft_ms(self) -> float | None:
        """Mean time to the first token of the calls that streamed; None when none did."""
        return self.ttft_ms / self.ttft_calls if self.ttft_calls else None

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


def spending(account_id: str, period: Period, by: By, now: datetime) -> Spending:
    """What the account used in `period`, by model or agent: the seven that cost most, and the rest as Other.

    Two queries whatever the period; at most 62 columns x 8 series come back. A series keeps its colour
    while the period changes, as colours go by rank over the last 30 days.
    """
    named = _slots(_top(account_id, period, by, now))
    starts = period.columns()
    place = {start: index for index, start in enumerate(starts)}
    rows: dict[str | None, dict[int, Figures]] = {key: {} for key in named}
    stacks: list[list[Figures]] = [[] for _ in starts]
    for key, start, figures in _cells(account_id, period, by, list(named)) if named else ():
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


def _top(account_id: str, period: Period, by: By, now: datetime) -> list[tuple[str, int | None]]:
    """The keys that cost most in the period, each with its rank over the last 30 days."""
    words = {
        "account": account_id,
        "ago": now - timedelta(days=30),
        "now": now,
        "grain": period.grain,
        "start": period.start,
        "end": period.end,
    }
    return [(key, rank) for key, rank in db.session.execute(_top_query(by), words)]


def _slots(ranked: Sequence[tuple[str, int | None]]) -> dict[str, int]:
    kept = {key: rank for key, rank in ranked if rank is not None and rank <= NAMED}
    free = [slot for slot in range(1, NAMED + 1) if slot not in kept.values()]
    return {key: kept.get(key) or free.pop(0) for key, _ in ranked}


def _cells(
    account_id: str, period: Period, by: By, named: list[str]
) -> list[tuple[str | None, datetime, Figures]]:
    words = {
        "account": account_id,
        "grain": period.grain,
        "start": period.start,
        "end": period.end,
        "named": named,
    }
    rows = db.session.execute(_cells_query(by, period.step), words)
    return [
        (key, start, Figures._make((*figures[:-BUCKETS], figures[-BUCKETS:])))
        for key, start, *figures in rows
    ]


# Written out, since what SQLAlchemy does with statements of so many sums takes longer than PostgreSQL takes for them.

_KEYS: dict[By, str] = {"model": "model", "agent": "agent_id"}
_STARTS: dict[Step, str] = {
    "hour": "bucket",
    "day": "bucket",
    "week": "greatest(date_trunc('week', bucket, 'UTC'), :start)",
}


@cache
def _top_query(by: By) -> TextClause:
    key = _KEYS[by]
    return text(
        f"""
        SELECT chosen.key, month.rank
        FROM (
            SELECT {key} AS key, sum(credits) AS credits, sum(calls) AS calls FROM usage_rollup
            WHERE account_id = :account AND grain = :grain AND bucket >= :start AND bucket < :end
            GROUP BY {key} ORDER BY 2 DESC, 3 DESC, 1 LIMIT {NAMED}
        ) AS chosen
        LEFT JOIN (
            SELECT {key} AS key, row_number() OVER (ORDER BY sum(credits) DESC, sum(calls) DESC, {key}) AS rank
            FROM usage_rollup
            WHERE account_id = :account AND grain = 'day' AND bucket >= :ago AND bucket < :now
            GROUP BY {key}
        ) AS month ON month.key = chosen.key
        ORDER BY chosen.credits DESC, chosen.calls DESC, chosen.key
        """  # noqa: S608
    )


@cache
def _cells_query(by: By, step: Step) -> TextClause:
    """A row per named key (null: the rest) and column of the chart, its sums in the order of `Figures`."""
    key = _KEYS[by]
    sums = ", ".join(f"sum({name})::bigint" for name in Figures._fields[:-2])
    buckets = ", ".join(f"coalesce(sum(latency_hist[{number}]), 0)::int" for number in range(1, BUCKETS + 1))
    return text(
        f"""
        SELECT CASE WHEN {key} = ANY (CAST(:named AS text[])) THEN {key} END, {_STARTS[step]}, {sums}, sum(cost), {buckets}
        FROM usage_rollup
        WHERE account_id = :account AND grain = :grain AND bucket >= :start AND bucket < :end
        GROUP BY 1, 2
        """  # noqa: S608
    )
