"""What no client should send: garbage at the two chat doors, and every route of the OpenAPI document tried by
schemathesis."""

import http.client
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from models.accounts import User
from tests import factories
from tests.proof.load import CODEBUFF, OPENAI
from tests.proof.stage import Person, Result, Stage

MODEL = "stoa/demo"

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 1e308, float("nan"), float("inf"), -0.0]),
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "\x00", "\ud800", "\udfff\ud800", "٣", "a" * 10_000, "'; DROP TABLE message; --", "../../etc"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
KEYS = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "tools",
    "functions",
    "tool_choice",
    "temperature",
    "stop",
    "usage",
    "reasoning",
    "codebuff_metadata",
    "response_format",
    "provider",
    "metadata",
    "transforms",
    "seed",
    "user",
    "logprobs",
]
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(
            ["role", "content", "tool_calls", "name", "tool_call_id", "cache_control", "reasoning"]
        ),
        st.one_of(VALUES, st.sampled_from(["user", "assistant", "system", "tool"])),
        max_size=5,
    ),
    max_size=4,
)
PARTS = st.lists(
    st.dictionaries(
        st.sampled_from(["type", "text", "image_url", "input_audio", "file"]),
        st.one_of(VALUES, st.sampled_from(["text", "image_url"])),
        max_size=4,
    ),
    max_size=3,
)
CHANGES = st.one_of(
    st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4),
    st.fixed_dictionaries({"messages": MESSAGES}),
    st.fixed_dictionaries({"messages": PARTS.map(lambda parts: [{"role": "user", "content": parts}])}),
    st.fixed_dictionaries(
        {"codebuff_metadata": st.dictionaries(st.sampled_from(["run_id", "client_id", "n"]), VALUES)}
    ),
)
DEPTHS = st.integers(1, 5000).flatmap(
    lambda depth: st.sampled_from(
        [b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth]
    )
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Content-Type",
            "Accept",
            "x-stoa-run-id",
            "x-request-id",
            "anthropic-version",
            "Accept-Encoding",
            "Origin",
        ]
    ),
    st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60), st.just("a" * 4000)),
    max_size=3,
)


def garbage(stage: Stage, *, fuzzed: int = 300, examples: int = 1, seconds: int = 0) -> Result:
    """No request, however wrong, is answered with a 5xx; whatever is not answered 200 costs nothing."""
    (person,) = stage.people(1, 10_000_000)
    statuses = fuzz(stage, person, fuzzed)
    _only_answers_cost(stage, person, statuses[200])
    (tester,) = stage.people(1, 10_000_000)
    tried = schemathesis(stage, tester, examples, seconds)
    with_200 = stage.number(
        "SELECT count(*) FROM gateway_call WHERE user_id = :id AND state = 'settled' AND http_status <> 200",
        id=tester.id,
    )
    assert not with_200, "schemathesis was charged for what was not answered 200"
    stage.prove()
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    return Result(
        "client garbage",
        f"{fuzzed} fuzzed requests at the two chat doors; schemathesis: {tried}",
        f"no 5xx ({told}); nothing but the {statuses[200]} answers was charged",
    )


def fuzz(stage: Stage, person: Person, count: int) -> Counter[int]:
    """Hypothesis at the two doors. Returns how often each status was answered."""
    statuses: Counter[int] = Counter()
    with stage.session() as session:
        user = session.get(User, person.id)
        assert user is not None
        run = factories.run(user).id
    line = Line(stage.address)

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(
        st.sampled_from([CODEBUFF, OPENAI]),
        st.one_of(
            CHANGES.map(lambda changes: body(run, changes)),
            CHANGES.map(lambda changes: body(run, changes)),
            st.tuples(CHANGES, st.integers(0, 400)).map(lambda cut: body(run, cut[0])[: cut[1]]),
            VALUES.map(encoded),
            st.binary(max_size=200),
            DEPTHS,
        ),
        HEADERS,
    )
    def send(door: str, raw: bytes, headers: dict[str, str]) -> None:
        status, answer = line.post(door, raw, {**headers, "Authorization": f"Bearer {person.key}"})
        statuses[status] += 1
        assert status < 500, f"{status} {answer[:300]!r} for {door} {headers} {raw[:2000]!r}"

    try:
        send()
    finally:
        line.close()
    return statuses


def body(run: str, changes: dict[str, Any]) -> bytes:
    """An ordinary body with some of it replaced."""
    whole = {
        "model": MODEL,
        "messages": [{"role": "user", "content": 'Say "x".'}],
        "codebuff_metadata": {"run_id": run, "client_id": "garbage"},
    }
    return encoded({**whole, **changes})


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


class Line:
    """A connection that is kept, and opened again when the server closed it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def post(self, path: str, raw: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        for attempt in (1, 2):
            try:
                self.connection.request("POST", path, body=raw, headers=headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                self.connection.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def close(self) -> None:
        self.connection.close()


def schemathesis(stage: Stage, person: Person, examples: int, seconds: int) -> str:
    """Every operation of the document, with right and wrong data. What ends the caller's own session is left out, and
    three routes where the contract wants a 500: the steps of a run, for a number used twice, and making a publisher
    and checking definitions, for what is no JSON. Returns what was done, in its words."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{stage.address}/api/openapi.json",
        "--header",
        f"Authorization: Bearer {person.key}",
        "--header",
        f"Cookie: next-auth.session-token={person.cookie}",
        "--checks",
        "not_a_server_error",
        "--exclude-path-regex",
        "logout|sessions|/steps|/api/publishers$|/api/agents/validate$",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(examples),
        "--request-timeout",
        "30",
        "--generation-database",
        "none",
        "--no-color",
    ]
    if seconds:
        command += ["--max-time", str(seconds)]
    # it leaves a folder with what it found where it runs
    with tempfile.TemporaryDirectory(prefix="stoa-proof-") as folder:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=seconds * 2 + 110, check=False
        )
    words = done.stdout + done.stderr
    assert done.returncode == 0, words[-6000:]
    found = re.search(r"Test cases:\s*\n\s*(.*)", words)
    return found[1].strip() if found else f"{examples} examples of each route"


def _only_answers_cost(stage: Stage, person: Person, answered: int) -> None:
    stage.quiet()
    settled, credits = stage.rows(
        "SELECT count(*), coalesce(sum(credits), 0) FROM gateway_call WHERE user_id = :id AND state = 'settled'",
        id=person.id,
    )[0]
    debits = stage.number(
        "SELECT -sum(amount) FROM credit_entry WHERE kind = 'debit' AND account_id = :id", id=person.id
    )
    assert (settled, debits) == (answered, credits), (
        f"{settled} settled and {debits} debited for {answered} answers"
    )
