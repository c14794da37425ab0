"""The store when it is large: its pages and its list beside the health route, in turn, and a publication of a hundred."""

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
from bench.fill import let_indexes_sleep, wake_indexes
from bench.growth import WARM_UP, Line
from bench.load import quantile
from bench.stoa import Stoa
from models.core import postgres
from models.core.db import db
from models.store.catalogue import catalogue

AGENTS = 10_000
"""With six versions each."""
RUNS, LONG = 100_000, 1_000_000
PER_PUBLISHER = 20
USERS = 2_000
PUBLISHED_AT_ONCE = 100

PAGES = {
    "store: first page": ("/store", 60),
    "store: search": ("/store?search=careful+reviewer", 100),
    "store: another search each time": ("/store?search={words}", 100),
    "store: page of the most used agent": ("/publishers/{publisher}/agents/{agent}/{version}", 100),
    "store: page of another agent each time": ("{other}", 100),
    "GET /api/agents": ("/api/agents", 100),
    "GET /api/agents, as fetch asks (gzip)": ("/api/agents", 100),
    "GET /api/agents, nothing new since": ("/api/agents", 100),
}
"""Each with its budget: so many milliseconds p95."""
PACKED = "GET /api/agents, as fetch asks (gzip)"
CONDITIONAL = "GET /api/agents, nothing new since"
SQL = Path(__file__).parent / "store.sql"
HEALTH = "/api/healthz"


@dataclass(slots=True)
class Shop:
    """What was measured. Times are seconds."""

    agents: int = 0
    versions: int = 0
    runs: int = 0
    filled: float = 0.0
    health: list[float] = field(default_factory=list)
    pages: dict[str, list[float]] = field(default_factory=dict)
    list_bytes: int = 0
    published: list[float] = field(default_factory=list)
    said: str = ""


def token(number: int) -> str:
    """The access token of a user; the first ones own a publisher each, of the same number."""
    return f"cb-pat-shop-{number:06d}"


def measure(
    folder: Path, upstream_port: int, agents: int = AGENTS, runs: int = RUNS, *, rounds: int = 100
) -> Shop:
    """Start a server, fill its store, measure."""
    shop = Shop()
    data = folder / "store"
    with stoa.running(data, upstream_port, {"STOA_DEMO": "0"}) as server:
        began = time.monotonic()
        fill(server, agents, runs)
        shop.filled = time.monotonic() - began
        with server.sql() as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM agent), (SELECT count(*) FROM agent_version),"
                " (SELECT count(*) FROM agent_run)"
            ).fetchone()
        assert row is not None
        shop.agents, shop.versions, shop.runs = (int(str(count)) for count in row)
        _look(server, shop, rounds)
        _publish(server, shop)
        began = time.monotonic()
        said = stoa.prove(data, "store")
        shop.said = f"{said[:-1]}, {time.monotonic() - began:.0f} s)"
    return shop


def fill(server: Stoa, agents: int, runs: int) -> None:
    """Make agents with versions, and runs that count, each with a billed call, over the last 360 days."""
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
            let_indexes_sleep(connection, ("agent_run", "gateway_call"))
            connection.execute(
                "SELECT pg_temp.fill_runs(1, %s, %s, %s, %s)", (runs, agents, publishers, users)
            )
            wake_indexes(connection, ("agent_run", "gateway_call"))
        connection.execute("VACUUM ANALYZE")
        _catalogue(server, publishers)
        _count(connection)
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


def _count(connection: psycopg.Connection[tuple[object, ...]], together: int = 500) -> None:
    """Tell every agent's figures; each holds a lock until its transaction ends, so not all in one."""
    names = connection.execute("SELECT publisher_id, id FROM agent ORDER BY 1, 2").fetchall()
    for first in range(0, len(names), together):
        with connection.transaction(), connection.pipeline():
            for name in names[first : first + together]:
                connection.execute("SELECT store_recount(%s, %s)", name)
        # plans made for empty tables are thrown away
        connection.execute("ANALYZE agent_run_bill, agent_day, agent_user")


# -- looking ---------------------------------------------------------------------------------------------------------


def _look(server: Stoa, shop: Shop, rounds: int) -> None:
    with server.sql() as connection:
        row = connection.execute(
            "SELECT publisher_id, id, latest_version FROM agent ORDER BY runs DESC LIMIT 1"
        ).fetchone()
        others = connection.execute(
            "SELECT format('/publishers/%%s/agents/%%s/%%s', publisher_id, agent_id, version) FROM agent_version"
            " WHERE agent_id <> %s ORDER BY md5(agent_id || version) LIMIT %s",
            (row[1] if row else "", rounds + WARM_UP),
        ).fetchall()
        # two words that make up names; each agent's name has one such pair
        pairs = connection.execute(
            "SELECT DISTINCT split_part(id, '-', 1) || '+' || split_part(id, '-', 2) FROM agent ORDER BY 1"
        ).fetchall()
    assert row is not None
    words = dict(zip(("publisher", "agent", "version"), map(str, row), strict=True))
    orders = ("", "&sort=usage", "&sort=newest", "&sort=name")
    fresh = [f"{pair}{order}" for order in orders for (pair,) in pairs]
    headers = {PACKED: {"Accept-Encoding": "gzip"}}
    with _visitor(server) as get:
        _, etag, shop.list_bytes = get("/api/agents", {})
        headers[CONDITIONAL] = {"If-None-Match": etag}
        for turn in range(rounds + WARM_UP):
            of_turn = words | {
                "words": fresh[turn % len(fresh)],
                "other": str(others[turn % len(others)][0]),
            }
            taken, _, _ = get(HEALTH, {})
            if turn >= WARM_UP:
                shop.health.append(taken)
            for name, (path, _) in PAGES.items():
                taken, _, _ = get(path.format(**of_turn), headers.get(name, {}))
                if turn >= WARM_UP:
                    shop.pages.setdefault(name, []).append(taken)


@contextmanager
def _visitor(server: Stoa) -> Iterator[Callable[[str, dict[str, str]], tuple[float, str, int]]]:
    """Somebody without a session: seconds, ETag and bytes of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    room = memoryview(bytearray(16 << 20))  # whoever reads must not have to find memory first

    def get(path: str, headers: dict[str, str]) -> tuple[float, str, int]:
        began = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        size = 0
        while read := answer.readinto(room):
            size += read
        taken = time.perf_counter() - began
        if answer.status != (304 if "If-None-Match" in headers else 200):
            raise SystemExit(f"{path} answered {answer.status}")
        return taken, answer.getheader("ETag") or "", size

    try:
        yield get
    finally:
        connection.close()


# -- publishing ------------------------------------------------------------------------------------------------------


def _publish(server: Stoa, shop: Shop, times: int = 5) -> None:
    """A hundred agents in one request, each of which may call the next two and one that is there already; three of
    the requests bring new agents, the others new versions of those."""
    with server.sql() as connection:
        row = connection.execute(
            "SELECT format('%s/%s@%s', publisher_id, id, latest_version) FROM agent WHERE publisher_id = 'publisher-0'"
        ).fetchone()
    assert row is not None
    for turn in range(times):
        group = turn % 3
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
                        "spawnableAgents": [*names[place + 1 : place + 3], str(row[0])],
                        "systemPrompt": "You read carefully. " * 40,
                    }
                    for place, name in enumerate(names)
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
        said = answer.read()
        shop.published.append(time.perf_counter() - began)
        connection_.close()
        if answer.status != 201:
            raise SystemExit(f"Publishing answered {answer.status}: {said[:500].decode()}")


# -- the table -------------------------------------------------------------------------------------------------------


def lines(shop: Shop) -> list[Line]:
    """The rows of the table: each page's p95 against its budget, and the health route's in the same turns."""
    health = quantile(shop.health, 0.95)
    rows: list[Line] = []
    for name, (_, budget) in PAGES.items():
        p95 = quantile(shop.pages[name], 0.95)
        figure = (
            f"p95 {p95 * 1000:.1f} ms, p50 {quantile(shop.pages[name], 0.5) * 1000:.1f}"
            f" (health {health * 1000:.1f}, {quantile(shop.health, 0.5) * 1000:.1f})"
        )
        rows.append((name, figure, "", f"under {budget} ms", p95 * 1000 < budget))
    slowest = max(shop.published)
    figure = f"{slowest:.2f} s at most, {quantile(shop.published, 0.5):.2f} p50 of {len(shop.published)}"
    rows.append(
        (f"publishing {PUBLISHED_AT_ONCE} agents in one request", figure, "", "under 2 s", slowest < 2)
    )
    return rows


def notes(shop: Shop) -> list[str]:
    """What stands under the table."""
    return [
        f"store of {shop.agents:,} agents, {shop.versions:,} versions, {shop.runs:,} runs, filled in {shop.filled:.0f} s;"
        f" GET /api/agents is {shop.list_bytes / 2**20:.1f} MB; flask store prove: {shop.said}"
    ]


def main() -> None:
    """`python -m bench.store 10000 1000000`: fill a server, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=__doc__)
    parser.add_argument("agents", type=int, nargs="?", default=AGENTS)
    parser.add_argument("runs", type=int, nargs="?", default=LONG)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    folder.mkdir(parents=True, exist_ok=True)
    shop = measure(folder, 9, options.agents, options.runs, rounds=options.rounds)
    for what, figure, ratio, target, met in lines(shop):
        print(f"{what:<44}{figure:<52}{ratio:>7}  {target:<28}{'' if met else 'NOT MET'}")
    print(*notes(shop), sep="\n")


if __name__ == "__main__":
    main()
