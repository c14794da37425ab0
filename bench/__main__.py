"""`make bench`: start the server, a constant upstream and the load generator, and print one table. See docs/performance.md."""

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

from bench import (
    analysis,
    atlas,
    conversations,
    growth,
    load,
    peers,
    projects,
    sandbox,
    search,
    settling,
    sockets,
    stoa,
    store,
)
from bench.load import Target, quantile

CONNECTIONS = 64
ACCOUNTS = 1000
STREAMS = 1000
MB = 2**20
GIVE_BACK_SECONDS = 30
"""Interval at which a worker returns free memory (views/server/gunicorn_config.py, which must not be imported here)."""


@dataclass(slots=True)
class Row:
    """A row of the table."""

    name: str
    measured: str
    ratio: str = ""
    target: str = ""
    met: bool | None = None


@dataclass(slots=True)
class Plan:
    """Durations in seconds and sizes of each part."""

    rounds: int
    throughput: float
    latency: float
    first_byte: float
    settling: float
    growth_calls: int
    growth_messages: int
    page_rounds: int
    agents: int
    agent_runs: int

    @classmethod
    def of(cls, long: bool, scale: float) -> "Plan":
        """The default or long plan, times `scale`."""
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
            max(growth.SMALL, int(plan.growth_messages * scale)),
            max(10, int(plan.page_rounds * scale)),
            max(100, int(plan.agents * scale)),
            max(1000, int(plan.agent_runs * scale)),
        )


@dataclass(slots=True)
class Bench:
    """One run of the benchmark."""

    plan: Plan
    folder: Path
    parts: set[str]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Run all selected parts, then print the table."""
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
                load.closed_loop(many, connections=8, seconds=1 if self.plan.rounds > 1 else 0.3, calls=100)
                idle = server.memory()
                mixed = Target("stoa", server.port, [*many.requests, *streaming.requests])
                load.closed_loop(mixed, connections=CONNECTIONS, seconds=20, calls=1500)
                warm = server.memory()
                if "throughput" in self.parts:
                    self._throughput(server, upstream, stack, many, hot)
                if "budgets" in self.parts:
                    self._budgets(server, many)
                if "latency" in self.parts:
                    self._latency(upstream, many)
                if "first" in self.parts:
                    self._first_byte(upstream, streaming)
                if "memory" in self.parts:
                    self._memory(server, mixed, idle, warm)
                if "streams" in self.parts:
                    self._streams(server, control, streaming)
                if "settling" in self.parts:
                    self._ledger_counts(server)
                    self._settling(server)
            if "sockets" in self.parts:
                self._sockets(upstream)
            if "conversations" in self.parts:
                found = conversations.measure(self.folder, upstream.port)
                self.rows += [Row(*line) for line in conversations.lines(found)]
            if "search" in self.parts:
                searched = search.measure(
                    self.folder, upstream.port, int(search.CHUNKS * min(1.0, self.plan.throughput / 10))
                )
                self.rows += [Row(*line) for line in search.lines(searched)]
                self.notes += search.notes(searched)
            if "projects" in self.parts:
                moved = projects.measure(self.folder, upstream.port, min(1.0, self.plan.throughput / 10))
                self.rows += [Row(*line) for line in projects.lines(moved)]
                self.notes += projects.notes(moved)
            if "analysis" in self.parts:
                analysed = analysis.measure(min(1.0, self.plan.throughput / 10))
                self.rows += [Row(*line) for line in analysis.lines(analysed)]
            if "atlas" in self.parts:
                mapped = atlas.measure(self.folder, min(1.0, self.plan.throughput / 10))
                self.rows += [Row(*line) for line in atlas.lines(mapped)]
                self.notes += atlas.notes(mapped)
            if "sandbox" in self.parts:
                started = sandbox.measure(self.folder, min(1.0, self.plan.throughput / 10))
                self.rows += [Row(*line) for line in sandbox.lines(started)]
            if "growth" in self.parts:
                self._growth(upstream)
            if "store" in self.parts:
                self._store(upstream)
        print(_table(head, self.rows, self.notes))

    def _head(self) -> list[str]:
        cpus = len(os.sched_getaffinity(0))
        return [
            f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {platform.machine()}, {cpus} cores in total, "
            f"load before the start {os.getloadavg()[0]:.2f}, fdatasync {_fdatasync_rate(self.folder):.0f}/s",
            f"2 gunicorn workers (flask serve), embedded PostgreSQL (fsync, full_page_writes and synchronous_commit on), "
            f"{ACCOUNTS} accounts, {CONNECTIONS} connections; the upstream responds immediately",
        ]

    def _throughput(
        self, server: stoa.Stoa, upstream: "_Upstream", stack: contextlib.ExitStack, many: Target, hot: Target
    ) -> None:
        direct = load.closed_loop(
            upstream.target(), connections=CONNECTIONS, seconds=min(3, self.plan.throughput)
        )
        others: dict[str, tuple[Target, psutil.Process]] = {}
        if "peers" in self.parts:
            for title, start in (("Portkey", peers.portkey), ("LiteLLM", peers.litellm)):
                try:
                    before = set(psutil.Process().children())
                    target = stack.enter_context(start(self.folder / "peers", upstream.port))
                    (process,) = set(psutil.Process().children()) - before
                    others[title] = target, process
                    load.closed_loop(target, connections=CONNECTIONS, seconds=2)
                    _signal(process, signal.SIGSTOP)
                except peers.PeerUnavailable as reason:
                    self.notes.append(f"{title} was not measured: {reason}")
        rates: dict[str, list[float]] = {name: [] for name in ("Stoa", *others)}
        cores: dict[str, float] = {}
        failed: dict[str, int] = {}
        for _ in range(self.plan.rounds):
            meter = _CpuUsage(server, upstream)
            result = load.closed_loop(many, connections=CONNECTIONS, seconds=self.plan.throughput)
            cores = meter.cores(result.seconds)
            rates["Stoa"].append(result.rate)
            failed["Stoa"] = failed.get("Stoa", 0) + result.failed
            p50 = quantile(result.latencies, 0.5)
            for title, (target, process) in others.items():
                _signal(process, signal.SIGCONT)
                other = load.closed_loop(target, connections=CONNECTIONS, seconds=self.plan.throughput)
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
        for title, minimum, name in (
            ("Portkey", 1, "Portkey, pass-through, one process, default configuration"),
            ("LiteLLM", 10, "LiteLLM proxy, 2 workers, no database"),
        ):
            if mean.get(title):
                ratio = mean["Stoa"] / mean[title]
                self.rows.append(
                    Row(
                        f"  against {name}",
                        f"{mean[title]:,.0f}/s",
                        f"{ratio:.2f}x",
                        f"at least {minimum}x",
                        ratio >= minimum,
                    )
                )
        single = load.closed_loop(hot, connections=CONNECTIONS, seconds=self.plan.throughput)
        failed["Stoa, one account"] = single.failed
        self.rows.append(
            Row(
                "  with a single account",
                f"{single.rate:,.0f}/s",
                f"{single.rate / mean['Stoa']:.2f}x of many",
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
            for name, share in cores.items()
        )
        self.notes.append(f"cores used during Stoa's calls: {shares}")
        self.notes.append(f"load generator directly against the upstream: {direct.rate:,.0f} calls/s")
        stack.close()

    def _budgets(self, server: stoa.Stoa, many: Target) -> None:
        """Calls with five budgets in force against calls with none, in turns, so that machine drift affects both."""
        keys = stoa.open_accounts(server, ACCOUNTS, "limited")
        stoa.limit_accounts(server, "limited")
        limited = server.target("stoa", keys)
        load.closed_loop(limited, connections=CONNECTIONS, seconds=min(3, self.plan.throughput))
        rates: dict[str, list[float]] = {"none": [], "five": []}
        failed = 0
        for _ in range(max(self.plan.rounds, 2)):
            for name, target in (("none", many), ("five", limited)):
                result = load.closed_loop(target, connections=CONNECTIONS, seconds=self.plan.throughput)
                rates[name].append(result.rate)
                failed += result.failed
        none, five = (sum(found) / len(found) for found in rates.values())
        self.rows.append(
            Row(
                "calls/s with five budgets in force against none",
                f"{five:,.0f}/s against {none:,.0f}/s",
                f"{five / none:.2f}x",
                "at least 0.85x",
                five / none >= 0.85,
            )
        )
        if failed:
            self.notes.append(f"budgets: {failed} calls FAILED")

    def _latency(self, upstream: "_Upstream", many: Target) -> None:
        found = load.fixed_rate([upstream.target(), many], rate=50, seconds=self.plan.latency)
        for part, limit in ((0.5, 4), (0.99, 20)):
            direct, through = (
                quantile([answer.last for answer in found[name] if answer.status == 200], part) * 1000
                for name in ("upstream", "stoa")
            )
            added = through - direct
            self.rows.append(
                Row(
                    f"added latency at 50 calls/s, p{part * 100:.0f}",
                    f"{added:.1f} ms ({through:.1f} - {direct:.1f})",
                    f"{added / limit:.2f} of it",
                    f"under {limit} ms",
                    added < limit,
                )
            )
        self._note_failures("latency", found)

    def _first_byte(self, upstream: "_Upstream", streaming: Target) -> None:
        found = load.fixed_rate(
            [upstream.target(stream=True), streaming], rate=20, seconds=self.plan.first_byte
        )
        direct, through = (
            quantile([answer.first for answer in found[name] if answer.status == 200], 0.5) * 1000
            for name in ("upstream", "stoa")
        )
        added = through - direct
        self.rows.append(
            Row(
                "added time to first byte of a stream, p50",
                f"{added:.1f} ms ({through:.1f} - {direct:.1f})",
                f"{added / 5:.2f} of it",
                "under 5 ms",
                added < 5,
            )
        )
        self._note_failures("first byte", found)

    def _note_failures(self, where: str, found: dict[str, list[load.Answer]]) -> None:
        failed = sum(1 for answer in found["stoa"] if answer.status != 200 or not answer.whole)
        if failed:
            self.notes.append(f"{where}: {failed} of {len(found['stoa'])} calls FAILED")

    def _streams(self, server: stoa.Stoa, control: "_Control", streaming: Target) -> None:
        scale = min(1.0, self.plan.throughput / 10)
        streams = int(STREAMS * scale)
        control.set(chunks=int(40 * scale) or 4, interval=0.5)
        before, memory = stoa.LedgerCounts.read(server), server.memory()
        result = load.open_streams(streaming, streams=streams, ramp=8 * scale, timeout=90)
        control.set(chunks=8, interval=0)
        time.sleep(1)
        after = stoa.LedgerCounts.read(server)
        settled = after.settled - before.settled
        good = result.complete == settled == result.max_open == streams and after.holds == 0
        self.rows.append(
            Row(
                f"concurrent streams, a chunk every 0.5 s ({result.seconds:.0f} s)",
                f"{result.max_open} open, {result.complete} complete, {settled} settled, {result.lost} lost, {after.holds} holds left",
                f"{settled / STREAMS:.2f}x",
                f"{STREAMS}, all settled",
                good and streams >= STREAMS,
            )
        )
        if "memory" in self.parts:
            after_streams = server.memory()
            time.sleep(GIVE_BACK_SECONDS + 1)
            self.rows.append(
                Row(
                    "  memory per worker before, after, and 30 s later",
                    ", ".join(_mb(each) for each in (memory, after_streams, server.memory())) + " MB",
                )
            )

    def _memory(self, server: stoa.Stoa, mixed: Target, idle: list[int], warm: list[int]) -> None:
        while (calls := stoa.LedgerCounts.read(server).settled) < self.plan.growth_calls:
            load.closed_loop(mixed, connections=CONNECTIONS, seconds=30, calls=self.plan.growth_calls - calls)
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
                else growth < 0.05,  # fewer calls can only show a violation
            )
        )

    def _ledger_counts(self, server: stoa.Stoa) -> None:
        counts = stoa.LedgerCounts.read(server)
        agree = counts.settled == counts.messages == counts.rollup_calls
        self.notes.append(
            f"ledger: {counts.settled:,} calls settled, {counts.messages:,} messages, {counts.rollup_calls:,} in rollups "
            f"({'equal' if agree else 'NOT EQUAL'}), {counts.failed} failed, {counts.holds} holds left; "
            f"flask billing prove: {stoa.prove(self.folder / 'data')}"
        )

    def _sockets(self, upstream: "_Upstream") -> None:
        scale = min(1.0, self.plan.throughput / 10)
        found = sockets.measure(
            self.folder, upstream.port, sockets=int(sockets.SOCKETS * scale) or sockets.KEYS
        )
        good = found.complete == found.settled == found.open * sockets.TURNS and found.holds == 0
        self.rows += [
            Row(
                f"WebSockets open at once, one worker, {sockets.TURNS} turns each ({found.seconds:.0f} s)",
                f"{found.open} open, {found.complete} complete, {found.failed} failed, {found.settled} settled, {found.holds} holds left",
                f"{found.open / sockets.SOCKETS:.2f}x",
                f"{sockets.SOCKETS}, all settled",
                good and found.open >= sockets.SOCKETS,
            ),
            Row(
                "  a turn, p50 and p95, and memory of the worker before and with them",
                f"{quantile(found.turns, 0.5) * 1000:.0f} and {quantile(found.turns, 0.95) * 1000:.0f} ms; "
                + " and ".join(f"{each / MB:.0f}" for each in found.memory)
                + " MB",
                f"{found.memory[1] / MB / 170:.2f} of it",
                "under 170 MB",
                found.memory[1] < 170 * MB,
            ),
        ]

    def _growth(self, upstream: "_Upstream") -> None:
        """Needs 3 kB of disk per message."""
        servers = growth.measure(
            self.folder,
            upstream.port,
            self.plan.growth_messages,
            rounds=self.plan.page_rounds,
            seconds=self.plan.settling,
        )
        self.rows += [Row(*line) for line in growth.lines(*servers)]
        self.notes += growth.notes(*servers)

    def _store(self, upstream: "_Upstream") -> None:
        result = store.measure(
            self.folder, upstream.port, self.plan.agents, self.plan.agent_runs, rounds=self.plan.page_rounds
        )
        self.rows += [Row(*line) for line in store.lines(result)]
        self.notes += store.notes(result)

    def _settling(self, server: stoa.Stoa) -> None:
        stoa.open_accounts(server, ACCOUNTS, "plain")
        rates = settling.measure(server, prefix="plain", accounts=ACCOUNTS, seconds=self.plan.settling)
        ratio = rates.function / rates.rows
        self.rows.append(
            Row(
                "settlements/s: gateway_settle against pgbench writing the same rows",
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
    """Configures the responses of the upstream."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/control"

    def set(self, **settings: float) -> None:
        call = urllib.request.Request(self._url, json.dumps(settings).encode(), method="POST")
        urllib.request.urlopen(call, timeout=10).read()


class _CpuUsage:
    """CPU usage by process group."""

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

    def cores(self, seconds: float) -> dict[str, float]:
        after = self._read()
        return {name: (after[name] - before) / max(seconds, 0.001) for name, before in self._before.items()}


def _mb(workers: list[int]) -> str:
    return f"{sum(workers) / len(workers) / MB:.0f}"


def _signal(process: psutil.Process, number: int) -> None:
    # idle peers still poll, so they are stopped during other measurements
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _fdatasync_rate(folder: Path) -> float:
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
    cells = [("name", "measured", "ratio", "target", "")]
    cells += [
        (row.name, row.measured, row.ratio, row.target, {True: "met", False: "NOT MET", None: ""}[row.met])
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths).rstrip())
    return "\n".join(["", *head, "", *lines, "", *(f"* {note}" for note in notes), ""])


PARTS = (
    "throughput",
    "budgets",
    "peers",
    "latency",
    "first",
    "streams",
    "sockets",
    "conversations",
    "search",
    "projects",
    "sandbox",
    "analysis",
    "atlas",
    "memory",
    "settling",
    "growth",
    "store",
)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--long", action="store_true", default=os.environ.get("LONG", "") not in ("", "0"))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply all durations and sizes, for a quick try"
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run: {','.join(PARTS)}")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(os.environ.get("STOA_BENCH_DIR") or Path(tempfile.gettempdir(), "stoa-bench"))
    Bench(Plan.of(options.long, options.scale), folder, set(options.only.split(","))).run()


if __name__ == "__main__":
    main()
