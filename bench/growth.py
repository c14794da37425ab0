"""What a database that has grown costs: pages, the export, settling and the proof, on one filled to a size and on one of ten
thousand messages, each time beside the health route of the same server in the same run."""

import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy.engine import Engine

from bench import fill, settling, stoa
from bench.load import quantile
from bench.stoa import Stoa
from models import billing, postgres

SMALL = 10_000
VIEWER = 0
"""The account with the large share."""

PAGES = {
    "usage": "/profile?tab=usage",
    "a year of usage, after a call each": "/profile?tab=usage&range=custom&from={year}&to={today}",
    "statement": "/profile/statement",
    "runs": "/runs",
    "runs that failed": "/runs?status=failed",
    "runs of an agent": "/runs?agent=planner",
    "runs of none": "/runs?agent=nosuchagent",
    "run": "/runs/{run}",
}
COLD = "usage, after a call each"


@dataclass(slots=True)
class Grown:
    """What was measured at one size. Times are seconds; `health` and `pages` are (p50, p95)."""

    messages: int
    health: tuple[float, float] = (0.0, 0.0)
    pages: dict[str, tuple[float, float]] = field(default_factory=dict)
    export: float = 0.0
    """Lines per second."""
    settle: float = 0.0
    """Settlements per second, in SQL."""
    prove: float = 0.0


def measure(
    folder: Path, upstream_port: int, messages: int, *, rounds: int = 200, seconds: float = 10
) -> Grown:
    """Start a server on an empty folder, fill it, and measure."""
    with stoa.running(folder / f"grown-{messages}", upstream_port, {"STOA_DEMO": "0"}) as server:
        with server.sql() as connection:
            fill.fill(connection, messages, say=lambda line: print(line, file=sys.stderr))
        grown = Grown(messages)
        _pages(server, grown, rounds)
        grown.export = _export(server)
        began = time.monotonic()
        said = stoa.prove(folder / f"grown-{messages}")
        grown.prove = time.monotonic() - began
        if "agree" not in said:
            raise SystemExit(f"At {messages:,} messages: {said}")
        stoa.open_accounts(server, 500, "grown")
        grown.settle = settling.measure(server, prefix="grown", accounts=500, seconds=seconds).function
    return grown


def _pages(server: Stoa, grown: Grown, rounds: int) -> None:
    with server.sql() as connection:
        found = connection.execute(
            "SELECT id FROM agent_run WHERE user_id = %s ORDER BY created_at DESC OFFSET 40 LIMIT 1",
            (fill.user_id(VIEWER),),
        ).fetchone()
        run = found[0] if found else ""
        today = time.strftime("%Y-%m-%d", time.gmtime())
        year = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 360 * 86400))
        engine = billing.gateway_engine(
            f"postgresql+psycopg://{postgres.SUPERUSER}@/{postgres.DATABASE}?host={server.socket_dir}", 1
        )
        taken: dict[str, list[float]] = {name: [] for name in ("health", *PAGES, COLD)}
        with _browser(server) as get:
            for turn in range(rounds + 10):
                for name, seen in taken.items():
                    if name == COLD:
                        _settle(engine, f"grown-{turn}")
                    page = "/api/healthz" if name == "health" else PAGES.get(name, PAGES["usage"])
                    seconds = get(page.format(run=run, today=today, year=year))
                    if turn >= 10:
                        seen.append(seconds)
    engine.dispose()
    times = {name: (quantile(seen, 0.5), quantile(seen, 0.95)) for name, seen in taken.items()}
    grown.health = times.pop("health")
    grown.pages = times


def _settle(engine: Engine, request: str) -> None:
    """A call of the viewer's, as a worker settles it."""
    user = fill.user_id(VIEWER)
    admission = billing.Admission("admitted", request, "", user_id=user, account_id=user, door="openai")
    done = billing.Settlement(
        provider="openai",
        requested_model="openai/gpt-5",
        model="openai/gpt-5",
        usage_source="provider",
        uncached_input_tokens=1000,
        output_tokens=200,
        cost=Decimal("0.02"),
        margin=Decimal("0.055"),
        latency_ms=1200,
        started_at=datetime.now(UTC),
        response="an answer",
    )
    billing.settle(engine, admission, done)


@contextmanager
def _browser(server: Stoa) -> Iterator[Callable[[str], float]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    cookie = {"Cookie": f"next-auth.session-token={fill.token(VIEWER)}"}

    def get(path: str) -> float:
        began = time.perf_counter()
        connection.request("GET", path, headers=cookie)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}")
        return time.perf_counter() - began

    try:
        yield get
    finally:
        connection.close()


def _export(server: Stoa) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    first = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 360 * 86400))
    last = time.strftime("%Y-%m-%d", time.gmtime())
    began, lines = time.perf_counter(), 0
    connection.request(
        "GET",
        f"/profile/usage.csv?range=custom&from={first}&to={last}",
        headers={"Cookie": f"next-auth.session-token={fill.token(VIEWER)}"},
    )
    answer = connection.getresponse()
    while piece := answer.read(1 << 20):
        lines += piece.count(b"\n")
    connection.close()
    return lines / (time.perf_counter() - began)


def lines(small: Grown, large: Grown) -> list[tuple[str, str, str, str, bool | None]]:
    """The rows of the table: what, measured, ratio, target, whether it was met (None: there is none)."""
    rows: list[tuple[str, str, str, str, bool | None]] = []
    for name, (p50, p95) in large.pages.items():
        ratio = p95 / large.health[1]
        before = small.pages[name][1]
        target = name == "usage"
        rows.append(
            (
                f"page of {name}, {large.messages:,} messages, p95",
                f"{p95 * 1000:.1f} ms (p50 {p50 * 1000:.1f}; {before * 1000:.1f} at {small.messages:,})",
                f"{ratio:.1f}x health",
                "under 4x" if target else "",
                ratio < 4 if target else None,
            )
        )
    for what, now, then, unit in (
        ("export", large.export, small.export, "lines/s"),
        ("settlements in SQL", large.settle, small.settle, "/s"),
        ("messages proved", large.messages / large.prove, small.messages / small.prove, "/s"),
    ):
        rows.append(
            (
                f"{what}, {large.messages:,} messages",
                f"{now:,.0f} {unit} ({then:,.0f} at {small.messages:,})",
                f"{now / then:.2f}x",
                "",
                None,
            )
        )
    return rows


def main() -> None:
    """`python -m bench.growth 500000`: fill two servers, measure, print."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    folder = Path(tempfile.gettempdir(), "stoa-bench")
    upstream = subprocess.Popen([sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    try:
        port = int(upstream.stdout.readline())
        small, large = (measure(folder, port, size) for size in (SMALL, messages))
    finally:
        upstream.kill()
        upstream.wait()
    print(f"health: p50 {large.health[0] * 1000:.2f} ms, p95 {large.health[1] * 1000:.2f} ms")
    for row in lines(small, large):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, (50, 52, 12, 9, 5), strict=True)))


if __name__ == "__main__":
    main()
