"""Figures for Prometheus: one set per process, added up over all gunicorn workers when they share a directory."""

import contextlib

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.registry import REGISTRY
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

CALLS = Counter("stoa_calls_total", "Calls by how they ended", ["door", "provider", "outcome"])
ERRORS = Counter("stoa_call_errors_total", "Refused and failed calls by kind", ["door", "kind"])
TOKENS = Counter("stoa_tokens_total", "Tokens, in disjoint buckets", ["provider", "bucket"])
CREDITS = Counter("stoa_credits_total", "Credits charged", ["provider"])
LATENCY = Histogram(
    "stoa_call_seconds", "From the request to settlement", ["provider", "stream"], buckets=SECONDS
)
FIRST_BYTE = Histogram(
    "stoa_call_first_token_seconds", "From the request to the first token", ["provider"], buckets=SECONDS
)
OVERHEAD = Histogram(
    "stoa_ledger_seconds", "Round trips to the ledger", ["verb"], buckets=(0.001, 0.002, *SECONDS[:10])
)
IN_FLIGHT = Gauge("stoa_calls_in_flight", "Calls being relayed", multiprocess_mode="livesum")


def database_answers(engine: Engine) -> bool:
    """Whether the database answers a question now."""
    try:
        with engine.connect() as connection:
            return bool(connection.execute(text("SELECT 1")).scalar_one() == 1)
    except SQLAlchemyError:
        return False


def exposition(engine: Engine) -> bytes:
    """The figures in Prometheus' text format, with the ledger's live and lost holds read from the database."""
    registry = REGISTRY
    if values.ValueClass is not values.MutexValue:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + _holds(engine)


def _holds(engine: Engine) -> bytes:
    registry = CollectorRegistry()
    count = Gauge("stoa_holds", "Holds by state", ["state"], registry=registry)
    amount = Gauge("stoa_held_credits", "Credits in holds by state", ["state"], registry=registry)
    up = Gauge("stoa_database_up", "Whether the database answered this scrape", registry=registry)
    for state in ("live", "lost"):
        count.labels(state)
        amount.labels(state)
    with contextlib.suppress(SQLAlchemyError), engine.connect() as connection:
        for state, holds, credits in connection.execute(
            text("SELECT state, count(*), coalesce(sum(amount), 0) FROM credit_hold GROUP BY state")
        ):
            count.labels(state).set(holds)
            amount.labels(state).set(float(credits))
        up.set(1)
    return generate_latest(registry)
