"""All provider faults at once against the real server. tests/gateway/test_faults.py covers each fault in detail."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.fakes.upstream import usage
from tests.proof.cast import Person
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.stage import Result, Stage
from tests.proof.upstream import COMPLETION, PROMPT, Script

MODEL = "proof/faulty"
TIMEOUTS = {"STOA_CONNECT_TIMEOUT": "4", "STOA_FIRST_BYTE_TIMEOUT": "6", "STOA_IDLE_TIMEOUT": "6"}


@dataclass
class Fault:
    """A script, and the expected status, response text and usage source of the call."""

    name: str
    status: int
    source: str = ""
    """Expected usage source. Empty: the call fails and costs nothing."""
    script: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    model: str = MODEL
    text: bytes = b""
    tokens: tuple[int, int] | None = None


REPORTED = (PROMPT, COMPLETION)
ABSURD = (
    usage(-5, 10),
    usage(10, -5),
    usage(10**15, 10),
    usage("many", 10),
    {"prompt_tokens": 10},
    {},
)

FAULTS = [
    Fault("connection refused", 502, model="anthropic/claude-sonnet-4", text=b"cannot be reached"),
    Fault("black hole", 502, model="google/gemini-2.5-flash", text=b"cannot be reached"),
    Fault("silent", 504, script={"fault": "silent"}, text=b"did not respond"),
    Fault("slow first byte", 200, "provider", {"first": 1.0}, tokens=REPORTED),
    Fault("slow stream", 200, "provider", {"pace": 0.5}, True, tokens=REPORTED),
    *[
        Fault(f"status {status}", status, script={"status": status}, text=b"the provider says")
        for status in (400, 404, 500, 503)
    ],
    Fault("status 401 of our own key", 502, script={"status": 401}, text=b"your key is fine"),
    Fault("status 429", 429, script={"status": 429, "headers": {"Retry-After": "7"}}, text=b"says 429"),
    Fault("status 500 to a stream", 500, script={"status": 500}, stream=True, text=b"says 500"),
    Fault("hangs up", 502, script={"fault": "hang_up"}, text=b"closed the connection"),
    Fault("no HTTP", 502, script={"fault": "no_http"}, text=b"closed the connection"),
    Fault("headers of 64 KB", 502, script={"fault": "big_headers"}, text=b"closed the connection"),
    Fault("100 MB", 502, script={"fault": "huge"}, text=b"more than"),
    Fault("cut, whole answer", 502, script={"fault": "cut"}, text=b"before its response was complete"),
    Fault("cut mid-stream", 200, "counted", {"fault": "cut"}, True, text=b"upstream_cut"),
    Fault("invalid JSON", 502, script={"fault": "bad_json"}, text=b"cannot be read"),
    Fault("invalid SSE", 200, "provider", {"fault": "bad_sse"}, True, text=b"nonsense", tokens=REPORTED),
    Fault(
        "half a character",
        200,
        "provider",
        {"fault": "half_char"},
        True,
        text=b"\xef\xbf\xbd",
        tokens=REPORTED,
    ),
    Fault("error inside a 200", 200, "counted", {"fault": "error_inside"}, True, text=b"fell over"),
    Fault("no usage", 200, "counted", {"reports": False}),
    Fault("no usage, streamed", 200, "counted", {"reports": False}, True),
    Fault("usage zero", 200, "provider", {"prompt": 0, "completion": 0}, tokens=(0, 0)),
    *[Fault(f"usage absurd {index}", 200, "counted", {"use": use}) for index, use in enumerate(ABSURD)],
    *[
        Fault(
            f"cost absurd {cost}", 200, "provider", {"use": usage(1000, 100, cost=cost)}, tokens=(1000, 100)
        )
        for cost in (-1, 1e9, "NaN", True)
    ],
]


@contextlib.contextmanager
def unreachable_providers() -> Iterator[dict[str, str]]:
    """Unreachable providers: a closed port, and a listening socket with a full backlog."""
    with socket.socket() as closed, socket.socket() as full, contextlib.ExitStack() as fillers:
        closed.bind(("127.0.0.1", 0))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield TIMEOUTS | {
            "ANTHROPIC_API_KEY": "sk-proof-anthropic-key",
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "GEMINI_API_KEY": "sk-proof-gemini-key",
            "GEMINI_BASE_URL": f"http://127.0.0.1:{full.getsockname()[1]}",
        }


def faults(stage: Stage, workers: list[psutil.Process], *, times: int = 1) -> Result:
    """Run all faults concurrently, `times` times. Check status, text and charge of each, and that no worker restarted."""
    people = stage.people(len(FAULTS), 1_000_000)
    created = {process.pid: process.create_time() for process in workers}
    before = sum(process.memory_info().rss for process in workers)
    for _ in range(times):
        outcomes = run_in_thread(_all(stage, people))
        for fault, person, outcome in zip(FAULTS, people, outcomes, strict=True):
            _check(stage, fault, person, outcome)
    outcome_after = run_in_thread(call(stage.address, people[0].key, Script("after-faults"), model=MODEL))
    assert outcome_after.complete, f"calls fail afterwards: {outcome_after.status} {outcome_after.error}"
    restarted = [pid for pid, created_at in created.items() if not _same(pid, created_at)]
    assert not restarted, f"workers restarted: {restarted}"
    stage.prove()
    growth = (sum(process.memory_info().rss for process in workers) - before) >> 20
    return Result(
        "upstream faults",
        f"{len(FAULTS)} concurrent faults x {times}, status, text and charge of each checked",
        f"none of {len(workers)} workers restarted; memory of all workers {growth:+d} MB",
    )


async def _all(stage: Stage, people: list[Person]) -> list[Outcome]:
    return await asyncio.gather(
        *(
            call(
                stage.address,
                person.key,
                Script(f"fault-{index}-{person.id}", **fault.script),
                model=fault.model,
                stream=fault.stream,
                max_tokens=1000,
            )
            for index, (fault, person) in enumerate(zip(FAULTS, people, strict=True))
        )
    )


def _check(stage: Stage, fault: Fault, person: Person, outcome: Outcome) -> None:
    message = f"{fault.name}: {outcome.status} {outcome.error} {outcome.body[-300:]!r}"
    assert outcome.status == fault.status, message
    assert fault.text in outcome.body, message
    if fault.status == 429:
        assert outcome.headers.get("retry-after") == "7", message
    row = stage.rows(
        "SELECT state, usage_source, credits, micro_credits, cost, uncached_input_tokens, output_tokens"
        " FROM gateway_call WHERE user_id = :id ORDER BY started_at DESC LIMIT 1",
        id=person.id,
    )[0]
    if not fault.source:
        assert (row.state, row.credits, row.cost) == ("failed", 0, 0), (message, row)
        return
    assert (row.state, row.usage_source) in (
        ("settled", fault.source),
        ("settled", "estimated" if fault.source == "counted" else fault.source),
    ), (message, row)
    if fault.tokens is not None:
        assert (row.uncached_input_tokens, row.output_tokens) == fault.tokens, (message, row)
    if fault.tokens != (0, 0):
        assert 0 < row.cost < 1, (message, row)


def _same(pid: int, created: float) -> bool:
    try:
        return psutil.Process(pid).create_time() == created
    except psutil.NoSuchProcess:
        return False
