"""What a database that has grown costs: two servers, one filled to a size and one with ten thousand messages, are asked for
the same pages in turn; then export, settling, pruning and the proof, each on both."""

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
from bench.stoa import Stoa
from models import ledger
from models.core import postgres
from models.core.pool import Pool
from models.core.settings import ROOT

SMALL = 10_000
SIZE, LONG = 200_000, 10_000_000
"""What `make bench` fills, and what with LONG=1."""

VIEWER = 0
"""The account with the large share."""

PAGES = {
    "usage": "/profile?tab=usage",
    "a year of usage": "/profile?tab=usage&range=custom&from={year}&to={today}",
    "statement": "/profile/statement",
    "runs": "/runs",
    "runs that failed": "/runs?status=failed",
    "runs of an agent": "/runs?agent=planner",
    "runs of no agent": "/runs?agent=nosuchagent",
    "run": "/runs/{run}",
    "call": "/runs/{run}/calls/{call}",
}
BUDGET, USAGE_BUDGET = 100, 60
"""Milliseconds for the p95 of a page, and of the usage page."""
MOST_GROWTH = 4 / 3
"""Of a p95, from the small server to the large one."""

EXPORT = "/profile/usage.csv?range=custom&from={year}&to={today}"
WARM_UP = 10
MB = 2**20


@dataclass(slots=True)
class Grown:
    """What was measured on one server. Times are seconds, rates per second."""

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
    """Resident bytes that the worker grew by at most while it sent the whole export, over what it had before."""
    settle: float = 0.0
    prove: float = 0.0
    """Messages per second."""
    said: str = ""
    pruned: float = 0.0
    calm: list[float] = field(default_factory=list)
    """Settling one call while nothing else goes on."""
    meanwhile: list[float] = field(default_factory=list)
    """Settling one call while `flask usage prune` works."""


def measure(
    folder: Path,
    upstream_port: int,
    messages: int,
    *,
    rounds: int = 100,
    seconds: float = 8,
    filled: Path | None = None,
) -> tuple[Grown, Grown]:
    """Start the two servers, fill them, measure by turns: what the small one and what the large one showed.

    `filled` is a data directory of that size to be used, and kept, instead of an empty one.
    """
    with contextlib.ExitStack() as stack:
        sides = []
        for size, kept in ((SMALL, None), (messages, filled)):
            data = kept or folder / f"grown-{size}"
            server = stack.enter_context(
                stoa.running(data, upstream_port, {"STOA_DEMO": "0"}, keep=kept is not None)
            )
            if kept is None:
                with server.sql() as connection:
                    fill.fill(connection, size, say=lambda line: print(line, file=sys.stderr))
            sides.append(Grown(size, server, data))
        _pages(sides, rounds)
        for grown in sides:
            _export(grown)
        mark = f"grown{time.time():.0f}"
        for grown in sides:
            stoa.open_accounts(grown.server, 500, mark)
            grown.settle = settling.settlements(grown.server, prefix=mark, accounts=500, seconds=seconds)
        for grown in sides:
            _prune(grown, seconds)
        for grown in sides:
            began = time.monotonic()
            grown.said = stoa.prove(grown.folder)
            grown.prove = grown.messages / (time.monotonic() - began)
    return sides[0], sides[1]


# -- pages -----------------------------------------------------------------------------------------------------------


def _pages(sides: Sequence[Grown], rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        looks = [
            (grown, _addresses(grown.server), stack.enter_context(_browser(grown.server))) for grown in sides
        ]
        for turn in range(rounds + WARM_UP):
            for name, address in PAGES.items():
                for grown, words, get in looks:
                    taken = get(address.format(**words))
                    if turn >= WARM_UP:
                        grown.pages.setdefault(name, []).append(taken)


def _addresses(server: Stoa) -> dict[str, str]:
    """What the addresses of the pages are filled in with; a run and a call some way down the list."""
    with server.sql() as connection:
        found = connection.execute(
            "SELECT run_id, request_id FROM gateway_call WHERE user_id = %s AND run_id IS NOT NULL AND state = 'settled'"
            " ORDER BY started_at DESC OFFSET 400 LIMIT 1",
            (fill.user_id(VIEWER),),
        ).fetchone()
    run, call = (str(name) for name in found) if found else ("", "")
    return {"run": run, "call": call} | _days()


def _days() -> dict[str, str]:
    year, today = (time.strftime("%Y-%m-%d", time.gmtime(time.time() - days * 86400)) for days in (360, 0))
    return {"year": year, "today": today}


@contextmanager
def _ledger(server: Stoa) -> Iterator[Pool]:
    url = f"postgresql+psycopg://{postgres.SUPERUSER}@/{postgres.DATABASE}?host={server.socket_dir}"
    pool = Pool(url, 1)
    try:
        yield pool
    finally:
        pool.close()


def _settle(pool: Pool, request: str) -> None:
    """A call of the viewer's, as a worker settles it."""
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


def _export(grown: Grown, tries: int = 5) -> None:
    """A year of the viewer's calls: the first byte some times over, the whole once, with an eye on the workers' memory."""
    for _ in range(tries):
        connection, answer, began = _asked_for_export(grown.server)
        answer.read(1)
        grown.first_byte.append(time.perf_counter() - began)
        connection.close()
    time.sleep(0.5)
    before = grown.server.memory()
    connection, answer, began = _asked_for_export(grown.server)
    while piece := answer.read(MB):
        grown.lines += piece.count(b"\n")
        grown.growth = max(
            grown.growth, *(now - then for now, then in zip(grown.server.memory(), before, strict=True))
        )
    grown.export = grown.lines / (time.perf_counter() - began)
    connection.close()


def _asked_for_export(server: Stoa) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse, float]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    began = time.perf_counter()
    connection.request("GET", EXPORT.format(**_days()), headers=_cookie())
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"The export answered {answer.status}")
    return connection, answer, began


# -- pruning ---------------------------------------------------------------------------------------------------------


def _prune(grown: Grown, seconds: float) -> None:
    """Calls settle one after the other, first alone, then while old bodies are dropped, which is stopped after a while."""
    with _ledger(grown.server) as pool:
        _settled(pool, grown.calm, time.monotonic() + seconds / 2)
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
            env=dict(os.environ, STOA_DATA_DIR=str(grown.folder)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        told: list[tuple[float, int]] = []
        reader = threading.Thread(target=_progress, args=(process, told), daemon=True)
        reader.start()
        try:
            # it counts before it drops, and speaks every two seconds
            while not told and process.poll() is None:
                time.sleep(0.05)
            if told:
                _settled(pool, grown.meanwhile, time.monotonic() + seconds, process)
        finally:
            process.terminate()
            process.wait()
            reader.join(5)
    if len(told) > 1:
        grown.pruned = (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])


def _progress(process: "subprocess.Popen[str]", told: list[tuple[float, int]]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.match(r"([0-9,]+) of ", line)
        if found:
            told.append((time.monotonic(), int(found[1].replace(",", ""))))


def _settled(
    pool: Pool, seen: list[float], until: float, process: "subprocess.Popen[str] | None" = None
) -> None:
    while time.monotonic() < until and (process is None or process.poll() is None):
        began = time.perf_counter()
        _settle(pool, f"prune-{time.time_ns()}")
        seen.append(time.perf_counter() - began)
        time.sleep(0.005)


# -- the table -------------------------------------------------------------------------------------------------------

Line = tuple[str, str, str, str, bool | None]
"""What, measured, ratio, target, whether it was met (None: there is none)."""


def lines(small: Grown, large: Grown) -> list[Line]:
    """The rows of the table. Ratios are to the small server in the same run."""
    rows: list[Line] = []
    for name, seen in large.pages.items():
        p95, before = quantile(seen, 0.95), quantile(small.pages[name], 0.95)
        figure = f"p95 {p95 * 1000:.1f} ms, p50 {quantile(seen, 0.5) * 1000:.1f} (p95 {before * 1000:.1f} at {small.messages:,})"
        budget = USAGE_BUDGET if name == "usage" else BUDGET
        met = p95 * 1000 < budget and p95 < MOST_GROWTH * before
        rows.append(
            (
                f"page: {name}, {large.messages:,} messages",
                figure,
                f"{p95 / before:.2f}x",
                f"{budget} ms, 1.33x",
                met,
            )
        )
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
    for what, now, before, unit in (
        ("  lines of the export", large.export, small.export, "/s"),
        (f"settlements/s in SQL, {large.messages:,} messages", large.settle, small.settle, "/s"),
        (f"messages proved, {large.messages:,} of them", large.prove, small.prove, "/s"),
    ):
        rows.append(
            (
                what,
                f"{now:,.0f}{unit} ({before:,.0f} at {small.messages:,})",
                f"{now / before:.2f}x",
                "",
                None,
            )
        )
    rows.insert(
        -2,
        (
            "  memory of the worker that sends it",
            f"{large.growth / MB:+.1f} MB ({small.growth / MB:+.1f} for {small.lines:,} lines)",
            "",
            "",
            None,
        ),
    )
    if large.meanwhile:
        calm, meanwhile = quantile(large.calm, 0.95), quantile(large.meanwhile, 0.95)
        rows.append(
            (
                f"settling a call while bodies are pruned ({large.pruned:,.0f} calls/s), p95",
                f"{meanwhile * 1000:.1f} ms ({calm * 1000:.1f} before it)",
                f"{meanwhile / calm:.2f}x",
                "",
                None,
            )
        )
    return rows


def notes(small: Grown, large: Grown) -> list[str]:
    """What stands under the table."""
    return [f"flask billing prove at {grown.messages:,} messages: {grown.said}" for grown in (small, large)]


def main() -> None:
    """`python -m bench.growth 500000`: fill two servers, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("messages", type=int, nargs="?", default=LONG)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--filled", type=Path, help="a data directory that `make fill` made of that size; it is kept"
    )
    options = parser.parse_args()
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    upstream = subprocess.Popen([sys.executable, "-m", "bench.upstream"], stdout=subprocess.PIPE, text=True)
    assert upstream.stdout is not None
    try:
        port = int(upstream.stdout.readline())
        sides = measure(folder, port, options.messages, rounds=options.rounds, filled=options.filled)
    finally:
        upstream.kill()
        upstream.wait()
    for row in lines(*sides):
        met = {True: "met", False: "NOT MET", None: ""}[row[4]]
        cells = zip((*row[:4], met), (66, 58, 7, 9, 7), strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    for note in notes(*sides):
        print(f"* {note}")


if __name__ == "__main__":
    main()
