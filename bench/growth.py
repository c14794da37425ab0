"""Performance by database size: the same pages on a server with a hundredth of the data and on one with all of it,
alternating; then export, settlement, pruning and the proof on both."""

import argparse
import contextlib
import http.client
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from bench import fill, settling, stoa
from bench.load import quantile
from bench.pages import BUDGET, PAGES, USAGE_BUDGET, USAGE_PAGES, VIEWER, addresses, days
from bench.stoa import Stoa
from models import ledger
from models.core import postgres
from models.core.pool import Pool
from models.core.settings import ROOT

SMALL = 10_000
"""Minimum messages of the smaller database, which otherwise has a hundredth of the larger one's."""
SIZE, LONG = 200_000, 10_000_000
"""Messages of the larger database for `make bench`, and with LONG=1."""

MAX_GROWTH = 4 / 3
"""Maximum ratio of a p95 on the large server to the small one."""

EXPORT = "/profile/usage.csv?range=custom&from={year}&to={today}"
WARM_UP = 10
MB = 2**20


@dataclass(slots=True)
class GrowthResult:
    """Measurements of one server. Times in seconds, rates per second."""

    messages: int
    server: Stoa
    folder: Path
    pages: dict[str, list[float]] = field(default_factory=dict)
    first_byte: list[float] = field(default_factory=list)
    """Of the export."""
    lines: int = 0
    export: float = 0.0
    """Lines per second."""
    growth: int = 0
    """Maximum growth of the worker's resident memory during the whole export, in bytes."""
    settle: float = 0.0
    prove: float = 0.0
    """Messages per second."""
    proof: str = ""
    pruned: float = 0.0
    idle: list[float] = field(default_factory=list)
    """Seconds to settle one call on an idle server."""
    pruning: list[float] = field(default_factory=list)
    """Seconds to settle one call while `flask usage prune` runs."""


def measure(
    folder: Path,
    upstream_port: int,
    messages: int,
    *,
    rounds: int = 100,
    seconds: float = 8,
    filled: Path | None = None,
    only_pages: bool = False,
) -> tuple[GrowthResult, GrowthResult]:
    """Start and fill two servers, and measure both. Returns the results of the small and of the large one.

    `filled`: an existing data directory of that size, which is used and kept. `only_pages`: leave out the rest.
    """
    with contextlib.ExitStack() as stack:
        results = []
        for size, existing in ((max(SMALL, messages // 100), None), (messages, filled)):
            data = existing or folder / f"grown-{size}"
            server = stack.enter_context(
                stoa.running(data, upstream_port, {"STOA_DEMO": "0"}, keep=existing is not None)
            )
            if existing is None:
                with server.sql() as connection:
                    fill.fill(connection, size, report=lambda line: print(line, file=sys.stderr))
            results.append(GrowthResult(size, server, data))
        _pages(results, rounds)
        if only_pages:
            return results[0], results[1]
        for result in results:
            _export(result)
        prefix = f"grown{time.time():.0f}"
        for result in results:
            stoa.open_accounts(result.server, 500, prefix)
            result.settle = settling.settlements(result.server, prefix=prefix, accounts=500, seconds=seconds)
        for result in results:
            _prune(result, seconds)
        for result in results:
            began = time.monotonic()
            result.proof = stoa.prove(result.folder)
            result.prove = result.messages / (time.monotonic() - began)
    return results[0], results[1]


# -- pages -----------------------------------------------------------------------------------------------------------


def _pages(results: Sequence[GrowthResult], rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        sessions = [
            (result, addresses(result.server), stack.enter_context(_browser(result.server)))
            for result in results
        ]
        for iteration in range(rounds + WARM_UP):
            print(f"round {iteration + 1} of {rounds + WARM_UP}", file=sys.stderr)
            for name, address in PAGES.items():
                for result, parameters, get in sessions:
                    seconds_taken = get(address.format(**parameters))
                    if iteration >= WARM_UP:
                        result.pages.setdefault(name, []).append(seconds_taken)


@contextmanager
def _ledger(server: Stoa) -> Iterator[Pool]:
    url = f"postgresql+psycopg://{postgres.SUPERUSER}@/{postgres.DATABASE}?host={server.socket_dir}"
    pool = Pool(url, 1)
    try:
        yield pool
    finally:
        pool.close()


def _settle(pool: Pool, request: str) -> None:
    """Settle a call of the viewer, as a worker does."""
    user = fill.user_id(VIEWER)
    admission = ledger.Admission("admitted", request, "", user_id=user, door="openai")
    done = ledger.Settlement(
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
    ledger.settle(pool, admission, done)


def _cookie() -> dict[str, str]:
    return {"Cookie": f"next-auth.session-token={fill.token(VIEWER)}"}


@contextmanager
def _browser(server: Stoa) -> Iterator[Callable[[str], float]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def get(path: str) -> float:
        began = time.perf_counter()
        connection.request("GET", path, headers=_cookie())
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}")
        return time.perf_counter() - began

    try:
        yield get
    finally:
        connection.close()


# -- the export ------------------------------------------------------------------------------------------------------


def _export(result: GrowthResult, tries: int = 5) -> None:
    """Export a year of calls: the first byte several times, the whole once while sampling the workers' memory."""
    for _ in range(tries):
        connection, answer, began = _start_export(result.server)
        answer.read(1)
        result.first_byte.append(time.perf_counter() - began)
        connection.close()
    time.sleep(0.5)
    before = result.server.memory()
    connection, answer, began = _start_export(result.server)
    while chunk := answer.read(MB):
        result.lines += chunk.count(b"\n")
        result.growth = max(
            result.growth, *(now - then for now, then in zip(result.server.memory(), before, strict=True))
        )
    result.export = result.lines / (time.perf_counter() - began)
    connection.close()


def _start_export(server: Stoa) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, float]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    began = time.perf_counter()
    connection.request("GET", EXPORT.format(**days()), headers=_cookie())
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"The export answered {answer.status}")
    return connection, answer, began


# -- pruning ---------------------------------------------------------------------------------------------------------


def _prune(result: GrowthResult, seconds: float) -> None:
    """Settle calls one by one, first on an idle server, then during a prune, which is stopped after `seconds`."""
    with _ledger(result.server) as pool:
        _settled(pool, result.idle, time.monotonic() + seconds / 2)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flask",
                "--app",
                "app:create_app",
                "usage",
                "prune",
                "--older-than",
                "90d",
            ],
            cwd=ROOT,
            env=dict(os.environ, STOA_DATA_DIR=str(result.folder)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        progress: list[tuple[float, int]] = []
        reader = threading.Thread(target=_progress, args=(process, progress), daemon=True)
        reader.start()
        try:
            # it counts before it prunes, and reports every two seconds
            while not progress and process.poll() is None:
                time.sleep(0.05)
            if progress:
                _settled(pool, result.pruning, time.monotonic() + seconds, process)
        finally:
            process.terminate()
            process.wait()
            reader.join(5)
    if len(progress) > 1:
        result.pruned = (progress[-1][1] - progress[0][1]) / (progress[-1][0] - progress[0][0])


def _progress(process: "subprocess.Popen[str]", progress: list[tuple[float, int]]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.match(r"([0-9,]+) of ", line)
        if found:
            progress.append((time.monotonic(), int(found[1].replace(",", ""))))


def _settled(
    pool: Pool, times: list[float], until: float, process: "subprocess.Popen[str] | None" = None
) -> None:
    while time.monotonic() < until and (process is None or process.poll() is None):
        began = time.perf_counter()
        _settle(pool, f"prune-{time.time_ns()}")
        times.append(time.perf_counter() - began)
        time.sleep(0.005)


# -- the table -------------------------------------------------------------------------------------------------------

Line = tuple[str, str, str, str, bool | None]
"""Name, measured value, ratio, target, and whether it was met (None: no target)."""


def lines(small: GrowthResult, large: GrowthResult) -> list[Line]:
    """Rows of the table. Ratios are to the small server in the same run."""
    rows: list[Line] = []
    for name, times in large.pages.items():
        p95, before = quantile(times, 0.95), quantile(small.pages[name], 0.95)
        measured = f"p95 {p95 * 1000:.1f} ms, p50 {quantile(times, 0.5) * 1000:.1f} (p95 {before * 1000:.1f} at {small.messages:,})"
        budget = USAGE_BUDGET if name in USAGE_PAGES else BUDGET
        met = p95 * 1000 < budget and p95 < MAX_GROWTH * before
        rows.append(
            (
                f"page: {name}, {large.messages:,} messages",
                measured,
                f"{p95 / before:.2f}x",
                f"{budget} ms, 1.33x",
                met,
            )
        )
    if not large.proof:
        return rows
    first, then = quantile(large.first_byte, 0.5), quantile(small.first_byte, 0.5)
    rows.append(
        (
            f"export of {large.lines:,} lines, first byte, p50",
            f"{first * 1000:.0f} ms ({then * 1000:.0f} at {small.messages:,})",
            f"{first / then:.2f}x",
            "",
            None,
        )
    )
    for name, now, before, unit in (
        ("  export, lines/s", large.export, small.export, "/s"),
        (f"settlements/s in SQL, {large.messages:,} messages", large.settle, small.settle, "/s"),
        (f"flask billing prove, messages/s, {large.messages:,} messages", large.prove, small.prove, "/s"),
    ):
        rows.append(
            (
                name,
                f"{now:,.0f}{unit} ({before:,.0f} at {small.messages:,})",
                f"{now / before:.2f}x",
                "",
                None,
            )
        )
    rows.insert(
        -2,
        (
            "  memory growth of its worker",
            f"{large.growth / MB:+.1f} MB ({small.growth / MB:+.1f} for {small.lines:,} lines)",
            "",
            "",
            None,
        ),
    )
    if large.pruning:
        idle, pruning = quantile(large.idle, 0.95), quantile(large.pruning, 0.95)
        rows.append(
            (
                f"settling a call during a prune ({large.pruned:,.0f} calls/s), p95",
                f"{pruning * 1000:.1f} ms ({idle * 1000:.1f} before it)",
                f"{pruning / idle:.2f}x",
                "",
                None,
            )
        )
    return rows


def notes(small: GrowthResult, large: GrowthResult) -> list[str]:
    """Notes below the table."""
    return [
        f"flask billing prove at {result.messages:,} messages: {result.proof}"
        for result in (small, large)
        if result.proof
    ]


def main() -> None:
    """`python -m bench.growth 500000`: fill two servers, measure both, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("messages", type=int, nargs="?", default=LONG)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--filled", type=Path, help="existing data directory of that size from `make fill`; it is kept"
    )
    parser.add_argument(
        "--only-pages", action="store_true", help="leave out export, settlement, pruning and proof"
    )
    options = parser.parse_args()
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    upstream = subprocess.Popen([sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    try:
        port = int(upstream.stdout.readline())
        results = measure(
            folder,
            port,
            options.messages,
            rounds=options.rounds,
            filled=options.filled,
            only_pages=options.only_pages,
        )
    finally:
        upstream.kill()
        upstream.wait()
    for row in lines(*results):
        met = {True: "met", False: "NOT MET", None: ""}[row[4]]
        cells = zip((*row[:4], met), (66, 58, 7, 9, 7), strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    for note in notes(*results):
        print(f"* {note}")


if __name__ == "__main__":
    main()
