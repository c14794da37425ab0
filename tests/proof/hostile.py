"""Denial-of-service inputs for every endpoint that accepts them, beside normal calls and a health check of each worker
every 50 ms."""

import asyncio
import gzip
import json
import multiprocessing
import random
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import brotli  # type: ignore[import-untyped]
import psutil
from sqlalchemy.orm import Session

from models.accounts import User
from tests import factories
from tests.proof.cast import Person
from tests.proof.load import CODEBUFF, OPENAI, call, parse_response, run_in_thread
from tests.proof.load import Outcome as Load
from tests.proof.stage import Result, Stage
from tests.proof.upstream import Script

MAX_WAIT = 1.0
"""Maximum seconds of a health check."""
CHECK_SECONDS = 0.05
REQUEST_TIMEOUT = 90.0
TIMEOUTS = {"STOA_HEADER_TIMEOUT": "4", "STOA_BODY_TIMEOUT": "6", "STOA_RUN_BYTES": "1000000"}
"""Short server timeouts, to keep the proof short."""
CLOSE_TIMEOUT = 30.0
STEP = 60_000
"""Bytes of a step in a flood."""
MB = 1 << 20


@dataclass
class Attack:
    """A request to send repeatedly, and its expected statuses."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    expected: tuple[int, ...] = (200,)


def hostile(
    stage: Stage,
    workers: list[psutil.Process],
    *,
    times: int = 4,
    slow: int = 0,
    floods: int = 0,
    max_wait: float = MAX_WAIT,
    everywhere: bool = True,
) -> Result:
    """Send each attack `times` concurrently, to every endpoint that accepts it or to one, then `slow` connections that never
    complete their request, then `floods` steps from a banned account and from another one. No health check may take longer
    than `max_wait` seconds. Not `everywhere`: long answers have a quarter of their words."""
    with stage.session() as session:
        attacks = _attacks(stage, session, words=4_000 if everywhere else 1_000)
    if not everywhere:
        attacks = _one_endpoint_each(attacks)
    calls, checks, slowest = run_in_thread(_run(stage, workers, attacks, times, slow, floods))
    stage.prove()
    assert all(worker.is_running() for worker in workers), "a worker was lost"
    worst, attack_name = slowest
    assert worst < max_wait, f"a worker did not answer for {worst:.2f} s during {attack_name}"
    return Result(
        "hostile",
        f"{len(attacks)} attacks, {times} concurrent each, {slow} slow connections, {floods} steps by a banned account and"
        f" as many by another, beside {calls} calls",
        f"{checks} health checks on connections to all {len(workers)} workers, at most {worst:.2f} s, during {attack_name}",
    )


async def _run(
    stage: Stage, workers: list[psutil.Process], attacks: list[Attack], times: int, slow: int, floods: int
) -> tuple[int, int, tuple[float, str]]:
    windows: list[tuple[float, str]] = []
    unexpected: list[str] = []
    async with (
        _monitored(stage.address, [worker.pid for worker in workers]) as answers,
        _load(stage) as calls,
    ):
        random.shuffle(attacks)
        for attack in attacks:
            windows.append((time.monotonic(), attack.name))
            unexpected += await asyncio.gather(*(_attack(stage, attack, number) for number in range(times)))
        if slow:
            windows.append((time.monotonic(), "slow connections"))
            await _slow_connections(stage.address, slow)
        if floods:
            windows.append((time.monotonic(), "floods of steps"))
            await _flood(stage, floods)
        windows.append((time.monotonic(), "nothing"))
    unexpected = [response for response in unexpected if response]
    assert not unexpected, f"{len(unexpected)} unexpected responses: {unexpected[:3]}"
    assert calls
    failed = [outcome for outcome in calls if not outcome.complete]
    assert not failed, (
        f"{len(failed)} of {len(calls)} normal calls failed: {failed[0].status} {failed[0].error}"
    )
    at, worst = max(answers, key=lambda answer: answer[1])
    names = [name for begun, name in windows if begun <= at + worst] or ["the start"]
    return len(calls), len(answers), (worst, names[-1])


async def _attack(stage: Stage, attack: Attack, number: int) -> str:
    """The unexpected response; empty if it is as expected, or 503: the server cannot admit the call in time."""
    outcome = await _send(stage.address, attack, f"127.0.1.{1 + number % 200}")
    if outcome.status in (*attack.expected, 503):
        return ""
    return f"{attack.name}: {outcome.status} {outcome.error} {outcome.body[:200]!r}"


async def _send(address: str, attack: Attack, source: str) -> Load:
    """Send from a separate source address, so that per-address limits do not apply."""
    parts = urlsplit(address)
    outcome = Load(Script(attack.name))
    data = bytearray()
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
            lines = [f"{attack.method} {attack.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in attack.headers.items()]
            lines += ["Content-Type: application/json", f"Content-Length: {len(attack.body)}"]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + attack.body)
            try:
                while chunk := await reader.read(65_536):
                    data += chunk
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    parse_response(bytes(data), outcome)
    return outcome


# -- monitoring ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _load(stage: Stage) -> AsyncIterator[list[Load]]:
    """Two clients with streaming and non-streaming calls until the end of the context."""
    people = stage.people(2, 10_000_000)
    calls: list[Load] = []
    stop = asyncio.Event()

    async def client(person: Person) -> None:
        while not stop.is_set():
            script = Script(f"beside-{random.getrandbits(60):x}", words=20, pace=0.01)
            stream = len(calls) % 2 == 0
            calls.append(await call(stage.address, person.key, script, model="proof/beside", stream=stream))
            await asyncio.sleep(0.1)

    clients = [asyncio.create_task(client(person)) for person in people]
    try:
        yield calls
    finally:
        stop.set()
        await asyncio.gather(*clients)


@asynccontextmanager
async def _monitored(address: str, workers: list[int]) -> AsyncIterator[list[tuple[float, float]]]:
    """Start time and duration of health checks from a separate process. Filled at the end of the context."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_monitor, args=(address, workers, there), daemon=True)
    process.start()
    answers: list[tuple[float, float]] = []
    try:
        assert await asyncio.to_thread(here.poll, 60), "the monitor did not start"
        assert here.recv() == "started"
        yield answers
    finally:
        with suppress(OSError):
            here.send("stop")
        if await asyncio.to_thread(here.poll, 30):
            results = here.recv()
            assert not isinstance(results, str), results
            answers += results
        process.join(10)


def _monitor(address: str, workers: list[int], parent: Connection) -> None:
    try:
        parent.send(asyncio.run(_check_health(address, workers, parent)))
    except Exception as error:
        parent.send(f"the monitor failed: {type(error).__name__}: {error}")


async def _check_health(address: str, workers: list[int], parent: Connection) -> list[tuple[float, float]]:
    connections = await _connect_to_each(address, workers)
    parent.send("started")
    answers: list[tuple[float, float]] = []

    async def check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not parent.poll():
            began = time.monotonic()
            await _health(reader, writer)
            answers.append((began, time.monotonic() - began))
            await asyncio.sleep(CHECK_SECONDS)

    await asyncio.gather(*(check(*connection) for connection in connections))
    return answers


async def _connect_to_each(
    address: str, workers: list[int]
) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """One open connection to each worker. Any worker may accept a connection, so more are opened until all have one."""
    parts = urlsplit(address)
    found: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
    opened = []
    for _ in range(20):
        more = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(10)]
        await asyncio.gather(*(_health(*connection) for connection in more))
        opened += more
        ports = {writer.get_extra_info("sockname")[1]: (reader, writer) for reader, writer in opened}
        for worker in workers:
            for connection in psutil.Process(worker).net_connections("tcp"):
                if connection.raddr and connection.raddr.port in ports:
                    found.setdefault(worker, ports[connection.raddr.port])
        if len(found) == len(workers):
            break
    assert len(found) == len(workers), f"{len(found)} of {len(workers)} workers accepted a connection"
    for _, writer in opened:
        if all(writer is not used for _, used in found.values()):
            writer.close()
    return list(found.values())


async def _health(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /api/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


# -- slow clients and floods ---------------------------------------------------------------------------------


async def _slow_connections(address: str, count: int) -> None:
    """Open connections that never send their announced body or the rest of their head. The server closes them within
    its timeouts, and keeps serving other clients."""
    parts = urlsplit(address)
    heads = (
        b"POST /api/v1/token-count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
        b"POST /api/v1/token-count HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
        b"POST /api/v1/token-count HTTP/1.1\r\nHost: loc",
        b"",
    )
    ended = Counter[str]()

    async def slow(number: int) -> None:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port, local_addr=(f"127.0.2.{1 + number % 5}", 0)
            )
            try:
                writer.write(heads[number % len(heads)])
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    while await reader.read(4096):
                        pass
            except TimeoutError:
                ended["open"] += 1
                return
            finally:
                writer.transport.abort()
        ended["closed"] += 1

    waiting = [asyncio.create_task(slow(number)) for number in range(count)]
    other_client = Attack("another client", "GET", "/api/healthz")
    while not all(task.done() for task in waiting):
        began = time.monotonic()
        outcome = await _send(address, other_client, "127.0.3.1")
        assert outcome.status == 200, f"another client was refused: {outcome.status} {outcome.error}"
        assert time.monotonic() - began < MAX_WAIT, "another client waited too long"
        await asyncio.sleep(0.2)
    assert not ended["open"], (
        f"{ended['open']} of {count} slow connections were still open after {CLOSE_TIMEOUT:g} s"
    )


async def _flood(stage: Stage, count: int) -> None:
    """A banned account writes nothing, another account no more than its quota."""
    with stage.session() as session:
        runs = []
        for banned in (True, False):
            user = factories.user(factories.new_id("flood-"))
            runs.append((factories.token(user), factories.run(user).id))
            user.banned = banned
            session.commit()

    async def write(key: str, run: str, number: int) -> int | None:
        step = {"stepNumber": number, "errorMessage": "x" * STEP, "status": "completed"}
        path = f"/api/v1/agent-runs/{run}/steps"
        attack = Attack("step", "POST", path, json.dumps(step).encode(), {"Authorization": f"Bearer {key}"})
        return (await _send(stage.address, attack, "127.0.4.1")).status

    for (key, run), limit in zip(runs, (0, int(TIMEOUTS["STOA_RUN_BYTES"]) + STEP), strict=True):
        answers: Counter[int | None] = Counter()
        for begin in range(0, count, 20):
            answers.update(await asyncio.gather(*(write(key, run, begin + number) for number in range(20))))
        assert all(status is not None and 200 <= status < 500 for status in answers), answers
        written = stage.number(
            "SELECT sum(octet_length(error_message)) FROM agent_step WHERE agent_run_id = :run", run=run
        )
        assert written <= limit, f"{written:,} bytes were written, {limit:,} allowed; {dict(answers)}"


# -- the attacks ---------------------------------------------------------------------------------------------


def _attacks(stage: Stage, session: Session, words: int) -> list[Attack]:
    rich, banned = stage.people(2, 10_000_000)
    user, publisher_owner = session.get_one(User, rich.id), session.get_one(User, banned.id)
    run = factories.run(user).id
    attacks = [
        *_chat_attacks(rich, run, words),
        *_large_bodies(rich),
        *_definitions(rich),
        *_pages(session, user),
    ]
    publisher_owner.banned = True
    session.commit()
    return [*attacks, *_unauthenticated(banned)]


def _one_endpoint_each(attacks: list[Attack]) -> list[Attack]:
    """One attack of each name, at the first endpoint for the first, at the second for the second, and so on."""
    named: dict[str, list[Attack]] = {}
    for attack in attacks:
        named.setdefault(attack.name.partition(" at /")[0], []).append(attack)
    return [found[number % len(found)] for number, found in enumerate(named.values())]


def _chat(name: str, key: str, body: dict[str, Any], run: str | None = None, **more: Any) -> Attack:
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "x"}], **body}
    if run:
        body["codebuff_metadata"] = {"run_id": run}
    path = CODEBUFF if run else OPENAI
    return Attack(name, "POST", path, json.dumps(body).encode(), {"Authorization": f"Bearer {key}"}, **more)


def _nested(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"type": "array", "minItems": 20, "items": inner}
    return inner


def _chat_attacks(rich: Person, run: str, words: int) -> list[Attack]:
    long = "x" * 100_000
    cyclic = {"type": "object", "properties": {f"p{n}": {"$ref": "#"} for n in range(60)}}
    schemas = {
        "arrays in arrays": _nested(7, {"type": "string"}),
        "arrays of a constant": _nested(6, {"const": long}),
        "choices": _nested(4, {"enum": [f"{n}{long[:200]}" for n in range(2_000)]}),
        "a cycle": cyclic,
        "many required": {
            "properties": {f"p{n}": {} for n in range(15_000)},
            "required": [f"p{n}" for n in range(15_000)],
        },
    }
    prompts = {
        "dashes": "-a" * 10_000,
        "dots": "." * 20_000,
        "digits": "1" * 20_000 + "a",
        "quotes": '"“a' * 7_000,
        "marks": "<user_message>" * 500_000,
        "say": "say “" * 4_000,
        "names": "it" * 10_000,
    }
    found = []
    for name, schema in schemas.items():
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        tool = {
            "type": "function",
            "function": {"name": "it", "parameters": {"type": "object", "properties": {"a": schema}}},
        }
        found.append(_chat(f"a schema of {name}", rich.key, {"response_format": form}))
        found.append(_chat(f"a tool of {name}", rich.key, {"tools": [tool], "tool_choice": "required"}, run))
    tools = [{"type": "function", "function": {"name": f"tool{n}", "parameters": {}}} for n in range(20_000)]
    spawn = [{"type": "function", "function": {"name": "spawn_agents"}}]
    for name, prompt in prompts.items():
        messages = [{"role": "user", "content": prompt}]
        found.append(_chat(f"a prompt of {name}", rich.key, {"messages": messages, "tools": tools[:20]}))
        spawn_messages = [{"role": "user", "content": f"spawn_agents {prompt}"}]
        found.append(
            _chat(
                f"agents in a prompt of {name}", rich.key, {"messages": spawn_messages, "tools": spawn}, run
            )
        )
    found.append(_chat("twenty thousand tools", rich.key, {"tools": tools}))
    found.append(_chat("a hundred thousand stops", rich.key, {"stop": [str(n) for n in range(100_000)]}))
    many = {"messages": [{"role": "user", "content": f"Write {words} words."}], "n": 128}
    found.append(_chat("128 long answers", rich.key, many))
    found.append(_chat("128 long streams", rich.key, {**many, "stream": True}))
    return found


def _compressed(name: str, path: str, key: str, body: bytes, coding: str) -> Attack:
    headers = {"Authorization": f"Bearer {key}", "Content-Encoding": coding}
    return Attack(name, "POST", path, body, headers, (400, 413))


def _large_bodies(rich: Person) -> list[Attack]:
    key = {"Authorization": f"Bearer {rich.key}"}
    start = b'{"model": "stoa/demo", "messages": [{"role": "user", "content": "'
    bodies = {
        "numbers": (b"[" + b"1," * (10 * MB - 2) + b"1]", (413,)),
        "lists": (b"[" + b"[]," * (6 * MB) + b"1]", (413,)),
        "texts": (b"[" + b'"",' * (6 * MB) + b"1]", (413,)),
        "quotes": (b'["' * (9 * MB), (413,)),
        "brackets": (b"[" * (19 * MB), (413,)),
        "half emoji": (start + b"\\ud83d" * (3 * MB) + b'"}]}', (200, 402)),
        "escapes": (start + b"\\\\" * (9 * MB) + b"\\ud83d" + b'"}]}', (200, 402)),
        "one letter": (start + b"a" * (19 * MB) + b'"}]}', (200, 402)),
        "signs": (start + b"!?" * (9 * MB) + b'"}]}', (200, 402)),
        "values up to the limit": (
            b'{"messages": [' + b"{}," * 90_000 + b'1], "model": "stoa/demo"}',
            (400,),
        ),
        "messages": (
            b'{"model": "stoa/demo", "messages": ['
            + b'{"role":"user","content":""},' * 60_000
            + b'{"role":"user","content":"x"}]}',
            (200, 402),
        ),
    }
    found = []
    for name, (body, expected) in bodies.items():
        for path, more in ((OPENAI, ()), (CODEBUFF, (400,)), ("/api/v1/token-count", (200, 400))):
            found.append(Attack(f"20 MB of {name} at {path}", "POST", path, body, key, (*expected, *more)))
    zeros = b" " * (80 * MB)
    for name, body, coding in (
        ("gzip", gzip.compress(zeros, 9), "gzip"),
        ("deflate", zlib.compress(zeros, 9), "deflate"),
        ("brotli", brotli.compress(zeros, quality=5), "br"),
        ("gzip in gzip", gzip.compress(gzip.compress(zeros, 9)), "gzip, gzip"),
        ("empty members", gzip.compress(b"") * 800_000, "gzip"),
    ):
        found += [
            _compressed(f"a bomb of {name}", path, rich.key, body, coding) for path in (OPENAI, CODEBUFF)
        ]
    return found


def _unauthenticated(banned: Person) -> list[Attack]:
    body = b"[" + b"[]," * (6 * MB) + b"1]"
    refused = (400, 401, 403, 404, 413)
    paths = (
        OPENAI,
        CODEBUFF,
        "/api/v1/token-count",
        "/api/v1/agent-runs",
        "/api/v1/agent-runs/x/steps",
        "/api/v1/usage",
        "/api/agents/publish",
        "/api/agents/validate",
        "/api/auth/cli/code",
        "/api/auth/cli/logout",
    )
    callers = {"an anonymous client": {}, "an unknown key": {"Authorization": "Bearer cb-pat-unknown"}}
    callers["a banned account"] = {"Authorization": f"Bearer {banned.key}"}
    return [
        Attack(f"18 MB of {name} at {path}", "POST", path, body, headers, refused)
        for path in paths
        for name, headers in callers.items()
    ]


def _definitions(rich: Person) -> list[Attack]:
    plain = {"displayName": "A", "model": "m"}
    lists = {
        "wrong servers": [{"mcpServers": {str(n): {} for n in range(99)}} for _ in range(500)],
        "wrong tools": [{"toolNames": [1] * 380} for _ in range(500)],
        "many agents to spawn": [
            {"spawnableAgents": [f"b{n}-{at}" for n in range(380)]} for at in range(500)
        ],
        "long descriptions": [
            {"description": "d" * 10_000, "spawnerPrompt": "e" * 9_000} for _ in range(500)
        ],
        "long prompts": [{"systemPrompt": "p\n" * 25_000} for _ in range(250)],
        "deep schemas": [
            {"inputSchema": {"params": {"type": "object", "a": _nested(55, 1)}}} for _ in range(400)
        ],
    }
    found = []
    for name, definitions in lists.items():
        sent = [{**plain, "id": f"a{at}", **definition} for at, definition in enumerate(definitions)]
        body = json.dumps({"agentDefinitions": sent}).encode()
        key = {"Authorization": f"Bearer {rich.key}"}
        found.append(Attack(f"definitions with {name}", "POST", "/api/agents/validate", body, key, (200,)))
        small = json.dumps({"agentDefinitions": sent[: max(1, len(sent) * 900_000 // len(body))]}).encode()
        found.append(Attack(f"anonymous definitions with {name}", "POST", "/api/agents/validate", small[:MB]))
    return found


def _pages(session: Session, owner: User) -> list[Attack]:
    """Public pages of agents that were published to make them slow."""
    publisher = factories.publisher(owner, factories.new_id("hostile-")[:30])
    texts = {
        "few different lines": ["\n".join(str(n * n % mod) for n in range(80_000)) for mod in (7, 11)],
        "lines many times": ["\n".join(str(n * n % mod) for n in range(80_000)) for mod in (2_503, 2_477)],
        "lines turned round": [
            "\n".join(map(str, range(80_000))),
            "\n".join(map(str, reversed(range(80_000)))),
        ],
        "empty lines": ["\n" * 400_000, "a" + "\n" * 400_000 + "b"],
    }
    found = []
    for number, (name, (before, after)) in enumerate(texts.items()):
        agent = f"agent-{number}"
        at = f"/publishers/{publisher.id}/agents/{agent}"
        factories.agent(publisher, agent, "1.0.0", {"systemPrompt": before, "stepPrompt": after})
        factories.agent_version(publisher, agent, "2.0.0", {"systemPrompt": after, "stepPrompt": before})
        found.append(Attack(f"a comparison of {name}", "GET", f"{at}/diff/1.0.0/2.0.0"))
        found.append(Attack(f"the page of {name}", "GET", f"{at}/2.0.0"))
        found.append(Attack(f"the file of {name}", "GET", f"{at}/2.0.0/definition.json"))
    readmes = {
        "lists": "- a\n" * 12_500,
        "emphasis": "**a " * 1_200,
        "backslashes": "\\" * 50_000,
        "table": "a|b\n-|-\n" + "a|b\n" * 1_650,
    }
    for number, (name, text) in enumerate(readmes.items()):
        agent = f"readme-{number}"
        factories.agent(publisher, agent, "1.0.0", readme=text)
        found.append(Attack(f"a README of {name}", "GET", f"/publishers/{publisher.id}/agents/{agent}/1.0.0"))
    searches = ("a+" * 2_000, "(" * 3_000, "a|" * 2_000, "'" * 3_000)
    found += [Attack("a search", "GET", f"/store?q={words}", expected=(200, 400, 414)) for words in searches]
    return found
