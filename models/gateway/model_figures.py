"""How a model answered here in the last days: latency, time to first token, speed and success, counted from real calls.

The server's figures come from rollups, an account's from its newest calls: both reads are bounded.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from models.core.db import db
from models.core.errors import DomainError
from models.gateway import model_names
from models.gateway.provider_health import ERROR_CLASS, FAULTS, summed_histogram
from models.gateway.route import Route
from models.gateway.routing import Router
from models.ledger.latency import quantile

DAYS = (7, 30)
NEWEST = 2_000
"""Calls of an account that its figures are computed from, at most."""
MOST_OWN_NAMES = 20
MOST_NAMES = 3_000
"""Names of models at a provider that are looked through, those called on most days first."""


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """Figures of the calls that ended since `since`. `faults` are the provider's; requests that it refused count neither way.
    Times are milliseconds; None: unknown. `newest`: only so many calls were looked at, because there are more."""

    since: datetime
    calls: int = 0
    faults: int = 0
    latency_p50: float | None = None
    latency_p95: float | None = None
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    tokens_per_second: float | None = None
    newest: int | None = None
    names: tuple[str, ...] = ()
    """The names that these calls have in their records."""

    @property
    def success_rate(self) -> float | None:
        """The share of the calls that the provider answered, of those that it should have."""
        counted = self.calls + self.faults
        return self.calls / counted if counted else None


def served_figures(router: Router, route: Route, days: int, now: datetime) -> ModelFigures:
    """The figures of all calls of the server for a model at its provider. Whole UTC days, today's included."""
    first = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days - 1)
    parameters: dict[str, Any] = {"provider": route.provider.name, "first": first}
    rows = db.session.execute(text(_NAMES), parameters | {"most": MOST_NAMES})
    names = same_model(router, route, [name for (name,) in rows])
    row = db.session.execute(text(_SERVED), parameters | {"names": names, "faults": list(FAULTS)}).one()
    if not row.calls:
        return ModelFigures(first, faults=row.faults or 0, names=tuple(names))
    return ModelFigures(
        first,
        calls=row.calls,
        faults=row.faults or 0,
        latency_p50=quantile(row.latency, 0.5, row.latency_max),
        latency_p95=quantile(row.latency, 0.95, row.latency_max),
        ttft_p50=quantile(row.ttft, 0.5, row.ttft_max),
        ttft_p95=quantile(row.ttft, 0.95, row.ttft_max),
        tokens_per_second=row.spoken_tokens * 1000 / row.spoken_ms if row.spoken_ms else None,
        names=tuple(names),
    )


def account_figures(account_id: str, names: Collection[str], days: int, now: datetime) -> ModelFigures:
    """The figures of an account's newest calls whose model, as answered or else requested, has one of these names."""
    since = now - timedelta(days=days)
    named = {f"name{number}": name for number, name in enumerate(sorted(names)[:MOST_OWN_NAMES])}
    # a branch for each name, so that each is planned by how common it is
    query = _OWN.replace(
        "<calls>", " UNION ALL ".join(_OWN_CALLS.replace("<name>", f":{key}") for key in named)
    )
    parameters = {"account": account_id, "since": since, "newest": NEWEST, "faults": list(FAULTS)}
    row = db.session.execute(text(query), parameters | named).one()
    seen = row.seen or 0
    return ModelFigures(
        since,
        calls=row.calls or 0,
        faults=row.faults or 0,
        latency_p50=row.latency_p50,
        latency_p95=row.latency_p95,
        ttft_p50=row.ttft_p50,
        ttft_p95=row.ttft_p95,
        tokens_per_second=row.spoken_tokens * 1000 / row.spoken_ms if row.spoken_ms else None,
        newest=NEWEST if seen >= NEWEST else None,
    )


def same_model(router: Router, route: Route, names: Iterable[str]) -> list[str]:
    """Those of the names in records of calls that mean the route's model: the provider answered with a name of the same row of
    its price table, or the client asked for a name that is routed to it."""
    provider = route.provider
    row = model_names.price_row(provider.table, route.model)
    found = []
    for name in names:
        if name.lower() in (route.model.lower(), route.requested.lower()) or (
            row is not None and model_names.price_row(provider.table, provider.upstream_model(name)) is row
        ):
            found.append(name)
        else:
            with suppress(DomainError):
                other = router.find_any(name)
                if (other.provider, other.model) == (provider, route.model):
                    found.append(name)
    return found


_NAMES = """
SELECT model FROM provider_rollup WHERE grain = 'day' AND bucket >= :first AND provider = :provider
GROUP BY model ORDER BY count(*) DESC, model LIMIT :most
"""
_SERVED = f"""
SELECT sum(calls) FILTER (WHERE error = '')::bigint AS calls,
    (sum(calls) FILTER (WHERE error = ANY (cast(:faults AS text[]))))::bigint AS faults,
    {summed_histogram("latency_hist", "error = ''")}::bigint[] AS latency, max(latency_max) FILTER (WHERE error = '') AS latency_max,
    {summed_histogram("ttft_hist", "error = ''")}::bigint[] AS ttft, max(ttft_max) FILTER (WHERE error = '') AS ttft_max,
    (sum(spoken_tokens) FILTER (WHERE error = ''))::bigint AS spoken_tokens,
    (sum(spoken_ms) FILTER (WHERE error = ''))::bigint AS spoken_ms
FROM provider_rollup
WHERE grain = 'day' AND bucket >= :first AND provider = :provider AND model = ANY (cast(:names AS text[]))
"""  # noqa: S608 - constants
_OWN = f"""
SELECT count(*) AS seen, count(*) FILTER (WHERE error = '') AS calls,
    count(*) FILTER (WHERE error = ANY (cast(:faults AS text[]))) AS faults,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE error = '') AS latency_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE error = '') AS latency_p95,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY ttft_ms) FILTER (WHERE error = '') AS ttft_p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY ttft_ms) FILTER (WHERE error = '') AS ttft_p95,
    (sum(output_tokens) FILTER (WHERE error = '' AND latency_ms - ttft_ms >= 100 AND output_tokens > 0))::bigint AS spoken_tokens,
    (sum(latency_ms - ttft_ms) FILTER (WHERE error = '' AND latency_ms - ttft_ms >= 100 AND output_tokens > 0))::bigint AS spoken_ms
FROM (
    SELECT {ERROR_CLASS} AS error, c.latency_ms, c.ttft_ms, c.output_tokens
    FROM (<calls>) c
    ORDER BY c.finished_at DESC LIMIT :newest
) calls
"""  # noqa: S608 - constants
_OWN_CALLS = """(
    SELECT g.state, g.error, g.http_status, g.latency_ms, g.ttft_ms, g.output_tokens, g.finished_at FROM gateway_call g
    WHERE g.account_id = :account AND coalesce(g.model, g.requested_model) = <name> AND g.finished_at >= :since
        AND g.provider IS NOT NULL
    ORDER BY g.finished_at DESC LIMIT :newest
)"""
