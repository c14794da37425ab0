"""Turns of threads beside plain calls: time to the first token in both, and a thread of 10,000 messages by page and API."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import orjson

from bench import stoa
from bench.load import quantile
from bench.stoa import Stoa

TURNS, TURNS_EACH = 200, 5
MESSAGES = 10_000
OPENINGS = 60
FIRST_BUDGET, OPEN_BUDGET = 15, 150
"""Milliseconds: what a turn adds to the first token of a call, and how long a long thread takes to open."""

Line = tuple[str, str, str, str, bool]


@dataclass(slots=True)
class ConversationResult:
    """What was measured, in seconds."""

    plain: list[float] = field(default_factory=list)
    turn: list[float] = field(default_factory=list)
    opened: dict[str, list[float]] = field(default_factory=dict)


def measure(folder: Path, upstream_port: int, *, turns: int = TURNS) -> ConversationResult:
    """Start a server, and call it with and without a thread in turns."""
    result = ConversationResult()
    with stoa.running(folder / "conversations", upstream_port, {"STOA_WORKERS": "1"}) as server:
        (key,) = stoa.open_accounts(server, 1, "talk")
        with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            body = orjson.dumps({"name": "Bench", "model": stoa.MODEL})
            for number in range(turns + 20):
                if number % TURNS_EACH == 0:
                    thread = _post(connection, "/api/v1/threads", body, headers)["id"]
                plain, turn = (
                    _first(connection, headers, {}),
                    _first(connection, headers, {"thread_id": thread}),
                )
                if number >= 20:
                    result.plain.append(plain)
                    result.turn.append(turn)
            long = _post(connection, "/api/v1/threads", body, headers)["id"]
            _fill(server, long)
            paths = {
                "the newest 50 by API": f"/api/v1/threads/{long}/messages?limit=50",
                "the thread by API": f"/api/v1/threads/{long}",
            }
            for name, path in paths.items():
                result.opened[name] = [_get(connection, path, headers) for _ in range(OPENINGS + 5)][5:]
        result.opened["its page"] = _pages(server, long)
    return result


def _first(connection: HTTPConnection, headers: dict[str, str], more: dict[str, str]) -> float:
    """Seconds until the first text of a streamed answer; reads it to the end."""
    asked = {"model": stoa.MODEL, "stream": True, "messages": [{"role": "user", "content": "How are you?"}]}
    body = orjson.dumps(asked | more)
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    first = 0.0
    while line := answer.readline():
        if (
            not first
            and b'"content":"' in (said := line.replace(b'": "', b'":"'))
            and b'"content":""' not in said
        ):
            first = time.perf_counter() - began
    if answer.status != 200 or not first:
        raise RuntimeError(f"the call answered {answer.status} without a text")
    return first


def _post(connection: HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    found: dict[str, str] = orjson.loads(answer.read())
    if answer.status not in (200, 201):
        raise RuntimeError(f"{path} answered {answer.status}: {found}")
    return found


def _get(connection: HTTPConnection, path: str, headers: dict[str, str]) -> float:
    began = time.perf_counter()
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    size = len(answer.read())
    if answer.status != 200 or not size:
        raise RuntimeError(f"{path} answered {answer.status}")
    return time.perf_counter() - began


def _fill(server: Stoa, thread_id: str) -> None:
    """Questions and answers on one branch, as turns leave them."""
    with server.sql() as connection:
        connection.execute(
            """
            INSERT INTO thread_message (id, thread_id, user_id, seq, parent_id, branch_id, role, state, content, text, completed_at)
            SELECT %(prefix)s || n, t.id, t.user_id, n, CASE WHEN n > 1 THEN %(prefix)s || n - 1 END, %(prefix)s || 1,
                CASE n %% 2 WHEN 1 THEN 'user' ELSE 'assistant' END, 'completed',
                jsonb_build_array(jsonb_build_object('type', 'text', 'text', s.said)), s.said, now()
            FROM thread t, generate_series(1, %(last)s) n,
                LATERAL (SELECT repeat('Some words of message ' || n || '. ', 12) AS said) s
            WHERE t.id = %(thread)s
            """,
            {"prefix": f"msg_{thread_id}_", "last": MESSAGES, "thread": thread_id},
        )
        connection.execute(
            "UPDATE thread SET last_seq = %(last)s, head_id = %(head)s WHERE id = %(thread)s",
            {"last": MESSAGES, "head": f"msg_{thread_id}_{MESSAGES}", "thread": thread_id},
        )
        connection.execute("VACUUM ANALYZE thread, thread_message")


def _pages(server: Stoa, thread_id: str) -> list[float]:
    """Seconds of the page of the thread for its owner's browser."""
    token = "bench-conversation-browser"
    with server.sql() as connection:
        connection.execute(
            'INSERT INTO session ("sessionToken", "userId", type, token_hint, expires)'
            " SELECT %s, user_id, %s, 'bench', now() + interval '1 day'"
            " FROM thread WHERE id = %s",
            (hashlib.sha256(token.encode()).hexdigest(), "web", thread_id),
        )
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        headers = {"Cookie": f"next-auth.session-token={token}"}
        return [_get(connection, f"/threads/{thread_id}", headers) for _ in range(OPENINGS + 5)][5:]


def lines(result: ConversationResult) -> Iterator[Line]:
    """Rows of the table. The ratio is to plain calls."""
    plain, turn = quantile(result.plain, 0.5) * 1000, quantile(result.turn, 0.5) * 1000
    added = turn - plain
    measured = f"p50 {added:+.1f} ms, p95 {(quantile(result.turn, 0.95) - quantile(result.plain, 0.95)) * 1000:+.1f} (plain {plain:.1f})"
    target = f"under {FIRST_BUDGET} ms"
    yield (
        "first token of a turn over a plain call",
        measured,
        f"{turn / plain:.2f}x",
        target,
        added < FIRST_BUDGET,
    )
    for name, times in result.opened.items():
        p95 = quantile(times, 0.95) * 1000
        measured = f"p95 {p95:.1f} ms, p50 {quantile(times, 0.5) * 1000:.1f}"
        yield (
            f"a thread of {MESSAGES:,} messages: {name}",
            measured,
            "",
            f"under {OPEN_BUDGET} ms",
            p95 < OPEN_BUDGET,
        )
