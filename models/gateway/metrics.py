"""Prometheus metrics: one set per process, summed over all gunicorn workers when they share a directory."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

import psycopg
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from models.core.pool import Pool

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

CALLS = Counter("stoa_calls_total", "Calls by how they ended", ["door", "provider", "outcome"])
ERRORS = Counter("stoa_call_errors_total", "Refused and failed calls by kind", ["door", "kind"])
FAILOVERS = Counter(
    "stoa_failovers_total", "Calls that went on to another provider", ["provider", "next_provider"]
)
RETRIES = Counter(
    "stoa_retries_total", "Further rounds over the providers of a call, by the last error", ["error"]
)
OPEN_UPSTREAMS = Gauge(
    "stoa_upstream_open",
    "Workers in which the circuit breaker of a model at a provider is open",
    ["provider", "model"],
    multiprocess_mode="livesum",
)
REPLAYS = Counter("stoa_replays_total", "Answers replayed for an idempotency key", ["door"])
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
SOCKETS = Gauge("stoa_websockets", "Open WebSockets", multiprocess_mode="livesum")


Family = TypeVar("Family", Counter, Gauge, Histogram)


@lru_cache(maxsize=1024)
def of(family: Family, *labels: str) -> Family:
    """The cached child of a metric for these labels. The number of label values is bounded (doors, providers,
    outcomes)."""
    return family.labels(*labels)


class timed:
    """Observe the duration of a round trip to the ledger."""

    __slots__ = ("_started", "_verb")

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        of(OVERHEAD, self._verb).observe(time.perf_counter() - self._started)


def open_upstreams() -> dict[str, dict[str, int]]:
    """By provider and model, in how many workers of this machine the circuit breaker is open."""
    families: Iterable[Metric] = OPEN_UPSTREAMS.collect()
    if values.ValueClass is not values.MutexValue:
        families = multiprocess.MultiProcessCollector(None).collect()  # type: ignore[no-untyped-call]
    found: dict[str, dict[str, int]] = {}
    for family in families:
        for sample in family.samples if family.name == "stoa_upstream_open" else ():
            if sample.value:
                found.setdefault(sample.labels["provider"], {})[sample.labels["model"]] = int(sample.value)
    return found


def database_answers(pool: Pool) -> bool:
    """Whether the database answers a query now. Retries once on a new connection, because a pooled one may have died."""
    for _ in range(2):
        try:
            return pool.execute("SELECT 1") == [(1,)]
        except psycopg.Error:
            continue
    return False


def exposition(pool: Pool, unsettled: Mapping[str, int]) -> bytes:
    """All metrics in Prometheus' text format, with the live and lost holds read from the database, and `unsettled` calls
    by state."""
    registry = REGISTRY
    if values.ValueClass is not values.MutexValue:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry) + _ledger_metrics(_Ledger(pool, unsettled))


class _Ledger(Collector):
    """Numbers read from the database and the spool at each scrape; a gauge would exist once per worker."""

    def __init__(self, pool: Pool, unsettled: Mapping[str, int]) -> None:
        self.pool = pool
        self.unsettled = unsettled

    def collect(self) -> Iterator[Metric]:
        found = {"live": (0, 0), "lost": (0, 0)}
        up = False
        with contextlib.suppress(psycopg.Error):
            for state, holds, credits in self.pool.execute(
                "SELECT state, count(*), coalesce(sum(amount), 0)::bigint FROM credit_hold GROUP BY state"
            ):
                found[state] = (holds, credits)
            up = True
        count = GaugeMetricFamily("stoa_holds", "Holds by state", labels=["state"])
        amount = GaugeMetricFamily("stoa_held_credits", "Credits in holds by state", labels=["state"])
        for state, (holds, credits) in found.items():
            count.add_metric([state], holds)
            amount.add_metric([state], credits)
        yield count
        yield amount
        calls = GaugeMetricFamily("stoa_unsettled_calls", "Calls in the spool by state", labels=["state"])
        for state, number in self.unsettled.items():
            calls.add_metric([state], number)
        yield calls
        yield GaugeMetricFamily("stoa_database_up", "Whether the database answered this scrape", value=up)


def _ledger_metrics(ledger: _Ledger) -> bytes:
    registry = CollectorRegistry()
    registry.register(ledger)
    return generate_latest(registry)
