"""`make bench`: start the server, a constant upstream and the load, print one table. See docs/performance.md."""

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import growth, load, peers, settling, stoa, store
from bench.load import Target, quantile

CONNECTIONS = 64
ACCOUNTS = 1000
STREAMS = 1000
MB = 2**20
GIVE_BACK_SECONDS = 30
"""How often a worker returns free memory (views/server/gunicorn_config.py, which must not be imported here)."""


@dataclass(slots=True)
class Row:
    """A line of the table."""

    what: str
    figure: str
    ratio: str = ""
    target: str = ""
    met: bool | None = None


@dataclass(slots=True)
class Plan:
    """How long each part takes, in seconds."""

    rounds: int
    throughput: float
    latency: float
    first_byte: float
    settling: float
    growth_calls: int
    grown: int
    looks: int
    agents: int
    agent_runs: int

    @classmethod
    def of(cls, long: bool, scale: float) -> "Plan":
        """The default, the long one, or a fraction of either."""
        plan = (
            cls(3, 30, 60, 30, 30, 200_000, growth.LONG, 200, store.AGENTS, store.LONG)
            if long
            else cls(2, 10, 20, 12, 10, 30_000, growth.SIZE, 100, store.AGENTS, store.RUNS)
        )
        return cls(
            plan.rounds if scale >= 1 else 1,
            plan.throughput * scale,
            plan.latency * scale,
            plan.first_byte * scale,
            plan.settling * scale,
            int(plan.growth_calls * scale),
            max(growth.SMALL, int(plan.grown * scale)),
            max(10, int(plan.looks * scale)),
            max(100, int(plan.agents * scale)),
            max(1000, int(plan.agent_runs * scale)),
        )


@dataclass(slots=True)
class Bench:
    """One run."""

    plan: Plan
    folder: Path
    parts: set[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Everything, in order, then the table."""
        head = self._head()
        with _upstream() as upstream:
            control = _Control(upstream.port)
            with (
                stoa.running(self.folder / "data", upstream.port, {}) as server,
                contextlib.ExitStack() as stack,
            ):
                keys = stoa.open_accounts(server, ACCOUNTS)
                many, hot = server.target("stoa", keys), server.target("stoa", keys[:1])
                streaming = server.target("stoa", keys, stream=True)
                load.closed(many, connections=8, seconds=1 if self.plan.rounds > 1 else 0.3, calls=100)
                idle = server.memory()
                mixed = Target("stoa", server.port, [*many.requests, *streaming.requests])
                load.closed(mixed, connections=CONNECTIONS, seconds=20, calls=1500)
                warm = server.memory()
                if "throughput" in self.parts:
                    self._throughput(server, upstream, stack, many, hot)
                if "latency" in self.parts:
                    self._latency(upstream, many)
                if "first" in self.parts:
                    self._first_byte(upstream, streaming)
                if "memory" in self.parts:
                    self._memory(server, mixed, idle, warm)
                if "streams" in self.parts:
                    self._streams(server, control, streaming)
                if "settling" in self.parts:
                    self._books(server)
                    self._settling(server)
            if "growth" in self.parts:
                self._growth(upstream)
            if "store" in self.parts:
                self._store(upstream)
        print(_table(head, self.rows, self.notes))

    def _head(self) -> list[str]:
        cpus = len(os.sched_getaffinity(0))
        return [
            f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {platform.machine()}, {cpus} cores for everything, "
            f"load before the start {os.getloadavg()[0]:.2f}, fdatasync {_syncs(self.folder):.0f}/s",
            f"2 gunicorn workers (flask serve), embedded PostgreSQL (fsync, full_page_writes and synchronous_commit on), "
            f"{ACCOUNTS} accounts, {CONNECTIONS} connections; the upstream answers at once",
        ]

    def _throughput(
        self, server: stoa.Stoa, upstream: "_Upstream", stack: contextlib.ExitStack, many: Target, hot: Target
    ) -> None:
        direct = load.closed(upstream.target(), connections=CONNECTIONS, seconds=min(3, self.plan.throughput))
        others: dict[str, tuple[Target, psutil.Process]] = {}
        if "peers" in self.parts:
            for title, start in (("Portkey", peers.portkey), ("LiteLLM", peers.litellm)):
                try:
                    before = set(psutil.Process().children())
                    target = stack.enter_context(start(self.folder / "peers", upstream.port))
                    (process,) = set(psutil.Process().children()) - before
                    others[title] = target, process
                    load.closed(target, connections=CONNECTIONS, seconds=2)
                    _signal(process, signal.SIGSTOP)
                except peers.Absent as reason:
                    self.notes.append(f"{title} was not measured: {reason}")
        rates: dict[str, list[float]] = {name: [] for name in ("Stoa", *others)}
        used: dict[str, float] = {}
        failed: dict[str, int] = {}
        for _ in range(self.plan.rounds):
            meter = _Cores(server, upstream)
            seen = load.closed(many, connections=CONNECTIONS, seconds=self.plan.throughput)
            used = meter.used(seen.seconds)
            rates["Stoa"].append(seen.rate)
            failed["Stoa"] = failed.get("Stoa", 0) + seen.failed
            p50 = quantile(seen.latencies, 0.5)
            for title, (target, process) in others.items():
                _signal(process, signal.SIGCONT)
                other = load.closed(target, connections=CONNECTIONS, seconds=self.plan.throughput)
                _signal(process, signal.SIGSTOP)
                rates[title].append(other.rate)
                failed[title] = failed.get(title, 0) + other.failed
        mean = {title: sum(found) / len(found) for title, found in rates.items()}
        self.rows.append(
            Row(
                "non-streaming calls/s, billed",
                f"{mean['Stoa']:,.0f}/s (p50 {p50 * 1000:.0f} ms at {CONNECTIONS} connections)",
            )
        )
        for title, least, what in (
            ("Portkey", 1, "Portkey, plain pass-through, one process as it ships"),
            ("LiteLLM", 10, "LiteLLM proxy, 2 workers, no database"),
        ):
            if mean.get(title):
                ratio = mean["Stoa"] / mean[title]
                self.rows.append(
                    Row(
                        f"  against {what}",
                        f"{mean[title]:,.0f}/s",
                        f"{ratio:.2f}x",
                        f"at least {least}x",
                        ratio >= least,
                    )
                )
        one = load.closed(hot, connections=CONNECTIONS, seconds=self.plan.throughput)
        failed["Stoa, one account"] = one.failed
        self.rows.append(
            Row(
                "  the same, all calls of one account",
                f"{one.rate:,.0f}/s",
                f"{one.rate / mean['Stoa']:.2f}x of many",
            )
        )
        for title, (_, process) in others.items():
            _signal(process, signal.SIGCONT)
            if failed[title]:
                self.notes.append(f"{title} failed {failed[title]} calls")
        for title in ("Stoa", "Stoa, one account"):
            if failed[title]:
                self.notes.append(f"{title} FAILED {failed[title]} calls")
        shares = ", ".join(
            f"{name} {share:.2f} ({share / rates['Stoa'][-1] * 1000:.2f} ms a call)"
            for name, share in used.items()
        )
        self.notes.append(f"cores used during Stoa's calls: {shares}")
        self.notes.append(f"the generator straight at the upstream: {direct.rate:,.0f} calls/s")
        stack.close()

    def _latency(self, upstream: "_Upstream", many: Target) -> None:
        found = load.paced([upstream.target(), many], rate=50, seconds=self.plan.latency)
        for part, limit in ((0.5, 4), (0.99, 20)):
            direct, through = (
                quantile([answer.last for answer in found[name] if answer.status == 200], part) * 1000
                for name in ("upstream", "stoa")
            )
            added = through - direct
            self.rows.append(
                Row(
                    f"added latency at 50 calls/s, p{part * 100:.0f}",
                    f"{added:.1f} ms ({through:.1f} over {direct:.1f})",
                    f"{added / limit:.2f} of it",
                    f"under {limit} ms",
                    added < limit,
                )
            )
        self._bad("latency", found)

    def _first_byte(self, upstream: "_Upstream", streaming: Target) -> None:
        found = load.paced([upstream.target(stream=True), streaming], rate=20, seconds=self.plan.first_byte)
        direct, through = (
            quantile([answer.first for answer in found[name] if answer.status == 200], 0.5) * 1000
            for name in ("upstream", "stoa")
        )
        added = through - direct
        self.rows.append(
            Row(
                "time to first byte added to a stream, p50",
                f"{added:.1f} ms ({through:.1f} over {direct:.1f})",
                f"{added / 5:.2f} of it",
                "under 5 ms",
                added < 5,
            )
        )
        self._bad("first byte", found)

    def _bad(self, where: str, found: dict[str, list[load.Answer]]) -> None:
        bad = sum(1 for answer in found["stoa"] if answer.status != 200 or not answer.whole)
        if bad:
            self.notes.append(f"{where}: {bad} of {len(found['stoa'])} calls FAILED")

    def _streams(self, server: stoa.Stoa, control: "_Control", streaming: Target) -> None:
        scale = min(1.0, self.plan.throughput / 10)
        streams = int(STREAMS * scale)
        control.set(chunks=int(40 * scale) or 4, interval=0.5)
        before, memory = stoa.Books.read(server), server.memory()
        seen = load.held(streaming, streams=streams, ramp=8 * scale, patience=90)
        control.set(chunks=8, interval=0)
        time.sleep(1)
        after = stoa.Books.read(server)
        settled = after.settled - before.settled
        good = seen.complete == settled == seen.most_at_once == streams and after.holds == 0
        self.rows.append(
            Row(
                f"streams open at once, a chunk every 0.5 s ({seen.seconds:.0f} s)",
                f"{seen.most_at_once} open, {seen.complete} complete, {settled} settled, {seen.lost} lost, {after.holds} holds left",
                f"{settled / STREAMS:.2f}x",
                f"{STREAMS}, all settled",
                good and streams >= STREAMS,
            )
        )
        if "memory" in self.parts:
            at_once = server.memory()
            time.sleep(GIVE_BACK_SECONDS + 1)
            self.rows.append(
                Row(
                    "  memory per worker before, after, and half a minute later",
                    ", ".join(_mb(each) for each in (memory, at_once, server.memory())) + " MB",
                )
            )

    def _memory(self, server: stoa.Stoa, mixed: Target, idle: list[int], warm: list[int]) -> None:
        while (calls := stoa.Books.read(server).settled) < self.plan.growth_calls:
            load.closed(mixed, connections=CONNECTIONS, seconds=30, calls=self.plan.growth_calls - calls)
        now = server.memory()
        worst = max(idle)
        growth = sum(now) / sum(warm) - 1
        self.rows.append(
            Row(
                "memory per worker, idle",
                " and ".join(f"{each / MB:.0f}" for each in idle) + " MB",
                f"{worst / MB / 150:.2f} of it",
                "under 150 MB",
                worst < 150 * MB,
            )
        )
        self.rows.append(
            Row(
                f"memory growth over {calls:,} calls, half of them streams (after the first 1,600)",
                f"{_mb(warm)} to {_mb(now)} MB",
                f"{growth * 100:+.1f} %",
                "under 5 % over 200,000",
                None
                if growth < 0.05 and calls < 200_000
                else growth < 0.05,  # fewer calls prove only the contrary
            )
        )

    def _books(self, server: stoa.Stoa) -> None:
        books = stoa.Books.read(server)
        agree = books.settled == books.messages == books.rollup_calls
        self.notes.append(
            f"books: {books.settled:,} calls settled, {books.messages:,} messages, {books.rollup_calls:,} in rollups "
            f"({'equal' if agree else 'NOT EQUAL'}), {books.failed} failed, {books.holds} holds left; "
            f"flask billing prove: {stoa.prove(self.folder / 'data')}"
        )

    def _growth(self, upstream: "_Upstream") -> None:
        """Needs 3 kB of disk a message while it runs."""
        sides = growth.measure(
            self.folder,
            upstream.port,
            self.plan.grown,
            rounds=self.plan.looks,
            seconds=self.plan.settling,
        )
        self.rows += [Row(*line) for line in growth.lines(*sides)]
        self.notes += growth.notes(*sides)

    def _store(self, upstream: "_Upstream") -> None:
        shop = store.measure(
            self.folder, upstream.port, self.plan.agents, self.plan.agent_runs, rounds=self.plan.looks
        )
        self.rows += [Row(*line) for line in store.lines(shop)]
        self.notes += store.notes(shop)

    def _settling(self, server: stoa.Stoa) -> None:
        stoa.open_accounts(server, ACCOUNTS, "plain")
        rates = settling.measure(server, prefix="plain", accounts=ACCOUNTS, seconds=self.plan.settling)
        ratio = rates.function / rates.rows
        self.rows.append(
            Row(
                "settlements/s (gateway_settle) against pgbench writing the same rows",
                f"{rates.function:,.0f}/s against {rates.rows:,.0f}/s",
                f"{ratio:.2f}x",
                "at least 0.5x",
                ratio >= 0.5,
            )
        )


@dataclass(frozen=True, slots=True)
class _Upstream:
    port: int
    process: psutil.Process

    def target(self, *, stream: bool = False) -> Target:
        return Target("upstream", self.port, [load.request("gpt-4o", {}, stream=stream)])


@contextlib.contextmanager
def _upstream() -> Iterator[_Upstream]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.upstream"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    try:
        yield _Upstream(int(process.stdout.readline()), psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()


class _Control:
    """Tells the upstream how to answer."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/control"

    def set(self, **ways: float) -> None:
        call = urllib.request.Request(self._url, json.dumps(ways).encode(), method="POST")
        urllib.request.urlopen(call, timeout=10).read()


class _Cores:
    """Which process took how much of the two cores."""

    def __init__(self, server: stoa.Stoa, upstream: _Upstream) -> None:
        postmaster = psutil.Process(int((server.socket_dir / "postmaster.pid").read_text().splitlines()[0]))
        self._groups = {
            "workers": server.workers(),
            "PostgreSQL": [postmaster, *postmaster.children()],
            "upstream": [upstream.process],
            "generator": [psutil.Process()],
        }
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        found = {}
        for name, processes in self._groups.items():
            found[name] = 0.0
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    found[name] += times.user + times.system
        return found

    def used(self, seconds: float) -> dict[str, float]:
        after = self._read()
        return {name: (after[name] - before) / max(seconds, 0.001) for name, before in self._before.items()}


def _mb(workers: list[int]) -> str:
    return f"{sum(workers) / len(workers) / MB:.0f}"


def _signal(process: psutil.Process, number: int) -> None:
    # a peer that only waits still polls: it is stopped while another is measured
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _syncs(folder: Path) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sync"
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        count, began = 0, time.monotonic()
        while time.monotonic() - began < 1:
            os.pwrite(handle, b"x" * 8192, 0)
            os.fdatasync(handle)
            count += 1
        return count / (time.monotonic() - began)
    finally:
        os.close(handle)
        path.unlink()


def _table(head: list[str], rows: list[Row], notes: list[str]) -> str:
    cells = [("what", "measured", "ratio", "target", "")]
    cells += [
        (row.what, row.figure, row.ratio, row.target, {True: "met", False: "NOT MET", None: ""}[row.met])
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return "\n".join(["", *head, "", *lines, "", *(f"* {note}" for note in notes), ""])


PARTS = ("throughput", "peers", "latency", "first", "streams", "memory", "settling", "growth", "store")


def main() -> None:
    """Read the command line, run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--long", action="store_true", default=os.environ.get("LONG", "") not in ("", "0"))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="a fraction of each duration, for trying it out"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    Bench(Plan.of(options.long, options.scale), folder, set(options.only.split(","))).run()


if __name__ == "__main__":
    main()
