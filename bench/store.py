"""A large store: its pages and agent list alternating with the health route, and publishing a hundred agents."""

import argparse
import hashlib
import http.client
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from flask import Flask

from bench import stoa
from bench.fill import disable_indexes, rebuild_indexes
from bench.growth import WARM_UP, Line
from bench.load import quantile
from bench.stoa import Stoa
from models.core import postgres
from models.core.db import db
from models.store.catalogue import catalogue

AGENTS = 10_000
"""Each with six versions on average."""
RUNS, LONG = 100_000, 1_000_000
PER_PUBLISHER = 20
USERS = 2_000
PUBLISHED_AT_ONCE = 100

PAGES = {
    "store: first page": ("/store", 60),
    "store: search": ("/store?search=careful+reviewer", 100),
    "store: search that matches every agent": ("/store?search=reads", 60),
    "store: a new search each time": ("/store?search={words}", 100),
    "store: page of the most used agent": ("/publishers/{publisher}/agents/{agent}/{version}", 100),
    "store: page of a different agent each time": ("{other}", 100),
    "GET /api/agents": ("/api/agents", 100),
    "GET /api/agents, gzip": ("/api/agents", 100),
    "GET /api/agents, not modified (304)": ("/api/agents", 100),
}
"""Path and p95 budget in milliseconds."""
COMPRESSED = "GET /api/agents, gzip"
CONDITIONAL = "GET /api/agents, not modified (304)"
SQL = Path(__file__).parent / "store.sql"
HEALTH = "/api/healthz"


@dataclass(slots=True)
class StoreResult:
    """Measurements. Times in seconds."""

    agents: int = 0
    versions: int = 0
    runs: int = 0
    filled: float = 0.0
    health: list[float] = field(default_factory=list)
    pages: dict[str, list[float]] = field(default_factory=dict)
    list_bytes: int = 0
    published: list[float] = field(default_factory=list)
    proof: str = ""


def token(number: int) -> str:
    """Access token of a user. User n owns publisher n, as long as there is one."""
    return f"cb-pat-shop-{number:06d}"


def measure(
    folder: Path, upstream_port: int, agents: int = AGENTS, runs: int = RUNS, *, rounds: int = 100
) -> StoreResult:
    """Start a server, fill its store, and measure."""
    result = StoreResult()
    data = folder / "store"
    with stoa.running(data, upstream_port, {"STOA_DEMO": "0"}) as server:
        began = time.monotonic()
        fill(server, agents, runs)
        result.filled = time.monotonic() - began
        with server.sql() as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM agent), (SELECT count(*) FROM agent_version),"
                " (SELECT count(*) FROM agent_run)"
            ).fetchone()
        assert row is not None
        result.agents, result.versions, result.runs = (int(str(count)) for count in row)
        _pages(server, result, rounds)
        _publish(server, result)
        began = time.monotonic()
        proof = stoa.prove(data, "store")
        result.proof = f"{proof[:-1]}, {time.monotonic() - began:.0f} s)"
    return result


def fill(server: Stoa, agents: int, runs: int) -> None:
    """Create agents with versions, and finished runs with a billed call each, over the last 360 days."""
    publishers = max(1, agents // PER_PUBLISHER)
    users = max(USERS, publishers)
    with server.sql() as connection:
        with connection.transaction():
            for setting in ("session_replication_role = replica", "work_mem = '256MB'", "jit = off"):
                connection.execute(f"SET LOCAL {setting}")
            connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute(SQL.read_text())
            hashes = [hashlib.sha256(token(number).encode()).hexdigest() for number in range(publishers)]
            connection.execute(
                "SELECT pg_temp.fill_agents(%s, %s, %s, %s::text[])", (agents, publishers, users, hashes)
            )
            disable_indexes(connection, ("agent_run", "gateway_call"))
            connection.execute(
                "SELECT pg_temp.fill_runs(1, %s, %s, %s, %s)", (runs, agents, publishers, users)
            )
            rebuild_indexes(connection, ("agent_run", "gateway_call"))
        connection.execute("VACUUM ANALYZE")
        _catalogue(server, publishers)
        _count_statistics(connection)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _catalogue(server: Stoa, publishers: int) -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = (
        f"postgresql+psycopg://{postgres.SUPERUSER}@/{postgres.DATABASE}?host={server.socket_dir}"
    )
    db.init_app(app)
    with app.app_context():
        for number in range(publishers):
            catalogue.refresh(f"publisher-{number}")
        db.session.commit()
        db.engine.dispose()


def _count_statistics(connection: psycopg.Connection[tuple[object, ...]], batch: int = 500) -> None:
    """Compute the statistics of every agent. Each holds a lock until its transaction ends, so this runs in batches."""
    names = connection.execute("SELECT publisher_id, id FROM agent ORDER BY 1, 2").fetchall()
    for first in range(0, len(names), batch):
        with connection.transaction(), connection.pipeline():
            for name in names[first : first + batch]:
                connection.execute("SELECT store_recount(%s, %s)", name)
        # discard the plans made for empty tables
        connection.execute("ANALYZE agent_run_bill, agent_day, agent_user")


# -- pages -----------------------------------------------------------------------------------------------------------


def _pages(server: Stoa, result: StoreResult, rounds: int) -> None:
    with server.sql() as connection:
        row = connection.execute(
            "SELECT publisher_id, id, latest_version FROM agent ORDER BY runs DESC LIMIT 1"
        ).fetchone()
        others = connection.execute(
            "SELECT format('/publishers/%%s/agents/%%s/%%s', publisher_id, agent_id, version) FROM agent_version"
            " WHERE agent_id <> %s ORDER BY md5(agent_id || version) LIMIT %s",
            (row[1] if row else "", rounds + WARM_UP),
        ).fetchall()
        # pairs of words from agent names; each name has one such pair
        pairs = connection.execute(
            "SELECT DISTINCT split_part(id, '-', 1) || '+' || split_part(id, '-', 2) FROM agent ORDER BY 1"
        ).fetchall()
    assert row is not None
    parameters = dict(zip(("publisher", "agent", "version"), map(str, row), strict=True))
    orders = ("", "&sort=usage", "&sort=newest", "&sort=name")
    new_searches = [f"{pair}{order}" for order in orders for (pair,) in pairs]
    headers = {COMPRESSED: {"Accept-Encoding": "gzip"}}
    with _visitor(server) as get:
        _, etag, result.list_bytes = get("/api/agents", {})
        headers[CONDITIONAL] = {"If-None-Match": etag}
        for iteration in range(rounds + WARM_UP):
            page_parameters = parameters | {
                "words": new_searches[iteration % len(new_searches)],
                "other": str(others[iteration % len(others)][0]),
            }
            seconds, _, _ = get(HEALTH, {})
            if iteration >= WARM_UP:
                result.health.append(seconds)
            for name, (path, _) in PAGES.items():
                seconds, _, _ = get(path.format(**page_parameters), headers.get(name, {}))
                if iteration >= WARM_UP:
                    result.pages.setdefault(name, []).append(seconds)


@contextmanager
def _visitor(server: Stoa) -> Iterator[Callable[[str, dict[str, str]], tuple[float, str, int]]]:
    """A visitor without a session. `get` returns seconds, ETag and size in bytes of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    buffer = memoryview(bytearray(16 << 20))  # allocated before the measurement

    def get(path: str, headers: dict[str, str]) -> tuple[float, str, int]:
        began = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        size = 0
        while read := answer.readinto(buffer):
            size += read
        seconds = time.perf_counter() - began
        if answer.status != (304 if "If-None-Match" in headers else 200):
            raise SystemExit(f"{path} answered {answer.status}")
        return seconds, answer.getheader("ETag") or "", size

    try:
        yield get
    finally:
        connection.close()


# -- publishing ------------------------------------------------------------------------------------------------------


def _publish(server: Stoa, result: StoreResult, times: int = 5) -> None:
    """Publish a hundred agents per request, each of which may spawn the next two and an existing one. Three requests
    publish new agents, the others new versions of them."""
    with server.sql() as connection:
        row = connection.execute(
            "SELECT format('%s/%s@%s', publisher_id, id, latest_version) FROM agent WHERE publisher_id = 'publisher-0'"
        ).fetchone()
    assert row is not None
    for iteration in range(times):
        group = iteration % 3
        names = [f"fresh-{group}-{number}" for number in range(PUBLISHED_AT_ONCE)]
        body = json.dumps(
            {
                "data": [
                    {
                        "id": name,
                        "publisher": "publisher-0",
                        "displayName": name,
                        "model": "openai/gpt-5",
                        "toolNames": ["spawn_agents", "end_turn"],
                        "spawnableAgents": [*names[position + 1 : position + 3], str(row[0])],
                        "systemPrompt": "You read carefully. " * 40,
                    }
                    for position, name in enumerate(names)
                ]
            }
        )
        connection_ = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        began = time.perf_counter()
        connection_.request(
            "POST",
            "/api/agents/publish",
            body,
            {"Content-Type": "application/json", "Authorization": f"Bearer {token(0)}"},
        )
        answer = connection_.getresponse()
        content = answer.read()
        result.published.append(time.perf_counter() - began)
        connection_.close()
        if answer.status != 201:
            raise SystemExit(f"Publishing answered {answer.status}: {content[:500].decode()}")


# -- the table -------------------------------------------------------------------------------------------------------


def lines(result: StoreResult) -> list[Line]:
    """Rows of the table: p95 of each page against its budget, and of the health route in the same rounds."""
    health = quantile(result.health, 0.95)
    rows: list[Line] = []
    for name, (_, budget) in PAGES.items():
        p95 = quantile(result.pages[name], 0.95)
        measured = (
            f"p95 {p95 * 1000:.1f} ms, p50 {quantile(result.pages[name], 0.5) * 1000:.1f}"
            f" (health {health * 1000:.1f}, {quantile(result.health, 0.5) * 1000:.1f})"
        )
        rows.append((name, measured, "", f"under {budget} ms", p95 * 1000 < budget))
    slowest = max(result.published)
    measured = (
        f"{slowest:.2f} s at most, {quantile(result.published, 0.5):.2f} p50 of {len(result.published)}"
    )
    rows.append(
        (f"publishing {PUBLISHED_AT_ONCE} agents in one request", measured, "", "under 2 s", slowest < 2)
    )
    return rows


def notes(result: StoreResult) -> list[str]:
    """Notes below the table."""
    return [
        f"store of {result.agents:,} agents, {result.versions:,} versions, {result.runs:,} runs, filled in {result.filled:.0f} s;"
        f" GET /api/agents is {result.list_bytes / 2**20:.1f} MB; flask store prove: {result.proof}"
    ]


def main() -> None:
    """`python -m bench.store 10000 1000000`: fill a server, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=__doc__)
    parser.add_argument("agents", type=int, nargs="?", default=AGENTS)
    parser.add_argument("runs", type=int, nargs="?", default=LONG)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    folder.mkdir(parents=True, exist_ok=True)
    result = measure(folder, 9, options.agents, options.runs, rounds=options.rounds)
    for name, measured, ratio, target, met in lines(result):
        print(f"{name:<44}{measured:<52}{ratio:>7}  {target:<28}{'' if met else 'NOT MET'}")
    print(*notes(result), sep="\n")


if __name__ == "__main__":
    main()
