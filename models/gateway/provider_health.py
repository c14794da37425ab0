"""How providers answer: calls, errors, latencies and time to first token by provider and model, counted from real calls.

A job counts the calls of each minute once they are all stored, so pages read rollups only. A call that failed over
counts for the provider that answered last, and as an error for each that was tried before.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import ARRAY, CheckConstraint, Integer, Numeric, func, select, text, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt, db
from models.gateway.gateway_call import PROVIDER_TROUBLE, CallBody, GatewayCall
from models.ledger.latency import BUCKETS, EDGES_MS, quantile

Window = Literal["1h", "24h", "7d"]
WINDOWS: dict[Window, tuple[timedelta, str, timedelta, int]] = {
    "1h": (timedelta(hours=1), "minutes", timedelta(minutes=5), 12),
    "24h": (timedelta(hours=24), "hour", timedelta(hours=1), 24),
    "7d": (timedelta(days=7), "quarter", timedelta(hours=6), 28),
}
"""Length, grain of the rollups, step and number of steps of the trend."""
FAULTS = ("timeout", "unreachable", "interrupted", "rate_limited", "server_error", "left_alone")
"""Errors that the provider is to blame for. `rejected` are requests that it refused; `other` errors are neither's."""
SETTLED_AFTER = timedelta(seconds=60)
"""A settlement is stored at most 30 seconds after the time that it carries."""
STEP = timedelta(minutes=5)
COUNTED_BACK = timedelta(days=31)
KEPT = {
    "minutes": timedelta(hours=3),
    "hour": timedelta(days=3),
    "quarter": timedelta(days=15),
    "day": timedelta(days=32),
}
MODELS = 15
"""Models of each provider that pages show."""
SCANNED = 5_000
MAX_REASON = 400


class ProviderRollup(Base):
    """Calls of a provider and a model in five minutes, an hour, a quarter of a day or a day (UTC), by class of error; an empty `error`
    counts the successful ones. Latencies are milliseconds; histograms have the buckets of `models/ledger/latency.py`.

    Tokens are as in `UsageRollup`, `cost` is dollars. `spoken_tokens` were sent in `spoken_ms` after the first one."""

    __tablename__ = "provider_rollup"
    __table_args__ = (
        CheckConstraint(
            "(grain = ANY (ARRAY['minutes'::text, 'hour'::text, 'quarter'::text, 'day'::text]))",
            name="grain_known",
        ),
    )

    grain: Mapped[str] = mapped_column(primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    error: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = mapped_column(BigInt)
    latency_hist: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    latency_max: Mapped[int]
    ttft_hist: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    ttft_max: Mapped[int]
    last_at: Mapped[datetime]
    input_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    cache_write_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    cache_read_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    output_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    reasoning_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    spoken_tokens: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    spoken_ms: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    cost: Mapped[Decimal] = mapped_column(Numeric, server_default=text("'0'::numeric"))


class ProviderCounting(Base):
    """Until when calls are counted in `provider_rollup`: one row."""

    __tablename__ = "provider_counting"
    __table_args__ = (CheckConstraint("(id = 1)", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    until: Mapped[datetime]


@dataclass(slots=True)
class Health:
    """The calls of a provider, or of one of its models, in a window. `errors` counts them by class; `trend` has (calls, faults) by step,
    oldest first; `models` is how many models the provider has."""

    calls: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    latency_max: int = 0
    ttft: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    ttft_max: int = 0
    last_success: datetime | None = None
    last_error: datetime | None = None
    trend: list[tuple[int, int]] = field(default_factory=list)
    models: int = 0

    @property
    def faults(self) -> int:
        """Errors that the provider is to blame for."""
        return sum(self.errors.get(each, 0) for each in FAULTS)

    @property
    def fault_rate(self) -> float:
        """The share of the calls that failed by the provider's fault."""
        return self.faults / self.calls if self.calls else 0.0

    def latency_ms(self, fraction: float) -> float | None:
        """A quantile of the successful calls."""
        return quantile(self.latency, fraction, self.latency_max)

    def ttft_ms(self, fraction: float) -> float | None:
        """A quantile of the time to first token of successful streams."""
        return quantile(self.ttft, fraction, self.ttft_max)

    def add(self, row: Any) -> None:
        """Add the sums of a class of error; an empty one is success."""
        self.calls += row.calls
        if row.error:
            self.errors[row.error] = row.calls
            self.last_error = max(self.last_error or row.last_at, row.last_at)
        else:
            self.latency, self.latency_max = row.latency, row.latency_max
            self.ttft, self.ttft_max = row.ttft, row.ttft_max
            self.last_success = row.last_at


@dataclass(frozen=True, slots=True)
class ProviderFault:
    """A call that failed or was cut at a provider, with the reason as stored, shortened."""

    call: GatewayCall
    reason: str | None


def health_of(window: Window, now: datetime, models: int = MODELS) -> dict[str, dict[str, Health]]:
    """Figures by provider and model, of the `models` with most calls of each; the model "" sums up its provider. Reads rollups only."""
    length, grain, step, steps = WINDOWS[window]
    first = _floor(now - length, step) + step
    parameters: dict[str, Any] = {"grain": grain, "first": first, "models": models}
    found: dict[str, dict[str, Health]] = {}
    for row in db.session.execute(text(_SUMS), parameters):
        provider = found.setdefault(row.provider, {})
        provider.setdefault(row.model, Health(trend=[(0, 0)] * steps)).add(row)
        provider[row.model].models = row.models
    shown = {model for provider in found.values() for model in provider}
    parameters |= {"step": step, "steps": steps, "faults": list(FAULTS), "shown": list(shown)}
    for row in db.session.execute(text(_TREND), parameters):
        if row.model in found[row.provider]:
            found[row.provider][row.model].trend[row.step] = (row.calls, row.faults)
    return found


def fault_rates(now: datetime) -> dict[str, tuple[int, float]]:
    """Calls of each provider in the last hour, and the share that failed by its fault."""
    rows = db.session.execute(
        select(
            ProviderRollup.provider,
            func.sum(ProviderRollup.calls),
            func.coalesce(func.sum(ProviderRollup.calls).filter(ProviderRollup.error.in_(FAULTS)), 0),
        )
        .where(ProviderRollup.grain == "minutes", ProviderRollup.bucket > now - timedelta(hours=1))
        .group_by(ProviderRollup.provider)
    )
    return {provider: (int(calls), int(faults) / int(calls)) for provider, calls, faults in rows}


def last_faults(providers: Collection[str]) -> dict[str, ProviderFault]:
    """The last fault of each provider that has one."""
    return {name: faults[0] for name in providers if (faults := provider_faults(name, limit=1))}


def provider_faults(
    provider: str, *, model: str | None = None, before: tuple[datetime, str] | None = None, limit: int
) -> Sequence[ProviderFault]:
    """Calls that failed or were cut at a provider, newest first; `before` are the time and the id of the last one of the page before. A
    model is looked for among the newest `SCANNED`."""
    calls = select(GatewayCall).where(text(PROVIDER_TROUBLE), GatewayCall.provider == provider)
    if before is not None:
        calls = calls.where(tuple_(GatewayCall.finished_at, GatewayCall.request_id) < before)
    newest = calls.order_by(GatewayCall.finished_at.desc(), GatewayCall.request_id.desc())
    recent = newest.limit(SCANNED if model else limit).subquery()
    query = (
        select(GatewayCall, CallBody.error_message)
        .join(recent, recent.c.request_id == GatewayCall.request_id)
        .outerjoin(CallBody, CallBody.request_id == GatewayCall.request_id)
        .order_by(GatewayCall.finished_at.desc(), GatewayCall.request_id.desc())
        .limit(limit)
    )
    if model:
        query = query.where(func.coalesce(recent.c.model, recent.c.requested_model) == model)
    return [ProviderFault(call, _reason(message)) for call, message in db.session.execute(query)]


def counted_until() -> datetime | None:
    """Until when calls are counted; None before the first count."""
    return db.session.scalars(select(ProviderCounting.until)).one_or_none()


def count_calls(providers: Collection[str], now: datetime) -> bool:
    """Count the calls of the next minutes; whether there are more. One transaction, to be committed; locks the one row of
    `provider_counting`, so each call is counted once."""
    db.session.execute(
        text("INSERT INTO provider_counting (id, until) VALUES (1, :since) ON CONFLICT DO NOTHING"),
        {"since": now - COUNTED_BACK},
    )
    row = db.session.scalars(
        select(ProviderCounting).with_for_update().execution_options(populate_existing=True)
    ).one()
    end = now - SETTLED_AFTER
    parameters = {"providers": list(providers), "since": row.until}
    since = db.session.scalars(text(_NEXT), parameters).one()
    if since is None or since >= end:
        row.until = max(row.until, end)
        _forget(now)
        return False
    until = min(since + STEP, end)
    kept = {f"{grain}_since": now - kept for grain, kept in KEPT.items()}
    db.session.execute(text(_COUNT), parameters | kept | {"since": since, "until": until})
    row.until = until
    return True


def _forget(now: datetime) -> None:
    for grain, kept in KEPT.items():
        db.session.execute(
            text("DELETE FROM provider_rollup WHERE grain = :grain AND bucket < :before"),
            {"grain": grain, "before": now - kept},
        )


def _floor(moment: datetime, step: timedelta) -> datetime:
    start = datetime(2000, 1, 1, tzinfo=UTC)
    return start + (moment - start) // step * step


def _reason(message: str | None) -> str | None:
    words = " ".join((message or "").split())
    return (words if len(words) <= MAX_REASON else f"{words[:MAX_REASON]}…") or None


def _slots(column: str) -> Iterator[str]:
    yield from (f"count(*) FILTER (WHERE {column} = {slot})::int" for slot in range(BUCKETS))


def summed_histogram(column: str, condition: str = "true") -> str:
    """SQL: the sum of the histograms of the rows that meet a condition."""
    sums = (f"sum({column}[{slot}]) FILTER (WHERE {condition})" for slot in range(1, BUCKETS + 1))
    return f"ARRAY[{', '.join(sums)}]"


_SUMS = f"""
SELECT * FROM (
    SELECT *, dense_rank() OVER (PARTITION BY provider ORDER BY model <> '', total DESC, model) AS place,
        count(*) FILTER (WHERE first AND model <> '') OVER (PARTITION BY provider) AS models
    FROM (
        SELECT provider, coalesce(model, '') AS model, error, sum(calls)::bigint AS calls, max(last_at) AS last_at,
            CASE WHEN error = '' THEN {summed_histogram("latency_hist")}::bigint[] END AS latency, max(latency_max) AS latency_max,
            CASE WHEN error = '' THEN {summed_histogram("ttft_hist")}::bigint[] END AS ttft, max(ttft_max) AS ttft_max,
            sum(sum(calls)) OVER (PARTITION BY provider, coalesce(model, '')) AS total,
            row_number() OVER (PARTITION BY provider, coalesce(model, '') ORDER BY error) = 1 AS first
        FROM provider_rollup WHERE grain = :grain AND bucket >= :first
        GROUP BY GROUPING SETS ((provider, model, error), (provider, error))
    ) sums
) ranked WHERE place <= :models + 1
"""  # noqa: S608 - constants
_TREND = """
SELECT provider, coalesce(model, '') AS model, step, sum(calls)::bigint AS calls,
    coalesce(sum(calls) FILTER (WHERE error = ANY (cast(:faults AS text[]))), 0)::bigint AS faults
FROM (
    SELECT provider, CASE WHEN model = ANY (cast(:shown AS text[])) THEN model ELSE '…' END AS model, error, calls,
        least(floor(extract(epoch FROM bucket - :first) / extract(epoch FROM cast(:step AS interval))), :steps - 1)::int AS step
    FROM provider_rollup WHERE grain = :grain AND bucket >= :first
) steps GROUP BY GROUPING SETS ((provider, model, step), (provider, step))
"""
_EDGES = f"'{{{','.join(map(str, EDGES_MS))}}}'::int[]"
ERROR_CLASS = """CASE
    WHEN c.error IS NULL AND c.state = 'settled' THEN ''
    WHEN c.error = 'upstream_timeout' THEN 'timeout'
    WHEN c.error = 'upstream_unreachable' THEN 'unreachable'
    WHEN c.error = 'upstream_unavailable' THEN 'left_alone'
    WHEN c.error IN ('upstream_cut', 'upstream_empty', 'upstream_too_large', 'upstream_error') THEN 'interrupted'
    WHEN c.error = 'upstream_status' AND c.http_status = 429 THEN 'rate_limited'
    WHEN c.error = 'upstream_status' AND c.http_status >= 500 THEN 'server_error'
    WHEN c.error = 'upstream_status' THEN 'rejected'
    ELSE 'other' END"""
_TOKENS = (
    "uncached_input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_SUMMED = (
    *("input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens"),
    *("spoken_tokens", "spoken_ms", "cost"),
)
# a shorter time is no measure of speed
_SPOKEN = "FILTER (WHERE c.latency_ms - c.ttft_ms >= 100 AND c.output_tokens > 0)"
_COLUMNS = f"c.provider, coalesce(c.model, c.requested_model) AS model, {ERROR_CLASS} AS error, c.finished_at, c.latency_ms, c.ttft_ms, {', '.join(f'c.{each}' for each in _TOKENS)}, c.cost"
_READ = ", ".join(
    f"c.{each}"
    for each in (
        *(
            "provider",
            "model",
            "requested_model",
            "state",
            "error",
            "http_status",
            "finished_at",
            "latency_ms",
            "ttft_ms",
            "cost",
        ),
        *("routing", *_TOKENS),
    )
)
# Settled calls are found by their message, and failed ones by an index of their own: an index of all calls by time would cost every call.
_NEXT = f"""
SELECT least(
    (SELECT min(m.finished_at) AT TIME ZONE 'UTC' FROM message m WHERE m.finished_at >= :since AT TIME ZONE 'UTC'),
    (SELECT min(first) FROM unnest(cast(:providers AS text[])) p (name), LATERAL (
        SELECT min(finished_at) AS first FROM gateway_call
        WHERE provider = p.name AND finished_at >= :since AND {PROVIDER_TROUBLE}
    ) f)
)
"""  # noqa: S608 - constants
_COUNT = f"""
INSERT INTO provider_rollup AS r
    (grain, bucket, provider, model, error, calls, latency_hist, latency_max, ttft_hist, ttft_max, last_at, {", ".join(_SUMMED)})
SELECT g.grain, g.bucket, c.provider, c.model, c.error, count(*),
    ARRAY[{", ".join(_slots("c.slot"))}], max(c.latency_ms), ARRAY[{", ".join(_slots("c.ttft_slot"))}], coalesce(max(c.ttft_ms), 0),
    max(c.finished_at), {", ".join(f"sum(c.{each})" for each in _TOKENS)},
    coalesce(sum(c.output_tokens) {_SPOKEN}, 0), coalesce(sum(c.latency_ms - c.ttft_ms) {_SPOKEN}, 0), sum(c.cost)
FROM (
    SELECT *, width_bucket(latency_ms, {_EDGES}) AS slot, width_bucket(ttft_ms, {_EDGES}) AS ttft_slot FROM (
        WITH ended AS (
            SELECT {_READ} FROM message m JOIN gateway_call c ON c.message_id = m.id
            WHERE m.finished_at >= :since AT TIME ZONE 'UTC' AND m.finished_at < :until AT TIME ZONE 'UTC'
                AND c.state = 'settled' AND c.provider = ANY (cast(:providers AS text[]))
            UNION ALL
            SELECT {_READ} FROM gateway_call c
            WHERE c.provider = ANY (cast(:providers AS text[])) AND c.state = 'failed' AND {PROVIDER_TROUBLE}
                AND c.finished_at >= :since AND c.finished_at < :until
        )
        SELECT {_COLUMNS} FROM ended c
        UNION ALL
        SELECT {_COLUMNS} FROM ended d
        CROSS JOIN LATERAL ROWS FROM (jsonb_to_recordset(d.routing -> 'after') AS (provider text, model text, error text))
            WITH ORDINALITY t (provider, model, error, number)
        CROSS JOIN LATERAL (
            SELECT t.provider, t.model, '' AS requested_model, 'failed' AS state, d.finished_at, 0 AS latency_ms, NULL::int AS ttft_ms,
                CASE WHEN t.error ~ '^[0-9]+$' THEN 'upstream_status' WHEN t.error = 'circuit_open' THEN 'upstream_unavailable'
                    ELSE t.error END AS error,
                CASE WHEN t.error ~ '^[0-9]+$' THEN t.error::int END AS http_status, {", ".join(f"0 AS {each}" for each in _TOKENS)},
                0::numeric AS cost
        ) c
        -- a call that failed everywhere is that of its provider above
        WHERE c.provider = ANY (cast(:providers AS text[])) AND t.number IS DISTINCT FROM CASE WHEN d.state = 'failed' THEN (
            SELECT min(e.number) FROM jsonb_array_elements(d.routing -> 'after') WITH ORDINALITY e (tried, number)
            WHERE e.tried ->> 'provider' = d.provider
        ) END
    ) calls
) c CROSS JOIN LATERAL (
    VALUES ('minutes', date_bin('5 minutes', c.finished_at, timestamptz '2000-01-01 00:00:00Z'), cast(:minutes_since AS timestamptz)),
        ('hour', date_bin('1 hour', c.finished_at, timestamptz '2000-01-01 00:00:00Z'), :hour_since),
        ('quarter', date_bin('6 hours', c.finished_at, timestamptz '2000-01-01 00:00:00Z'), :quarter_since),
        ('day', date_bin('1 day', c.finished_at, timestamptz '2000-01-01 00:00:00Z'), :day_since)
) g (grain, bucket, since)
WHERE g.bucket >= g.since
GROUP BY 1, 2, 3, 4, 5
ON CONFLICT (grain, bucket, provider, model, error) DO UPDATE SET
    calls = r.calls + excluded.calls,
    latency_hist = ARRAY(SELECT a + b FROM unnest(r.latency_hist, excluded.latency_hist) WITH ORDINALITY t (a, b, n) ORDER BY n),
    latency_max = greatest(r.latency_max, excluded.latency_max),
    ttft_hist = ARRAY(SELECT a + b FROM unnest(r.ttft_hist, excluded.ttft_hist) WITH ORDINALITY t (a, b, n) ORDER BY n),
    ttft_max = greatest(r.ttft_max, excluded.ttft_max),
    last_at = greatest(r.last_at, excluded.last_at),
    {", ".join(f"{each} = r.{each} + excluded.{each}" for each in _SUMMED)}
"""  # noqa: S608 - constants
