"""Talks with an agent by the Agent Client Protocol: handshake, sessions, what it tells and asks, stops and every way it can fail."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.conversations.engines import acp_driver
from models.conversations.engines.acp_talk import LOST, AcpTalk

AGENT = Path(__file__).parents[1] / "fakes" / "acp_agent.py"
Start = Callable[..., AcpTalk]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an agent, and the talk with it."""
    agents: list[subprocess.Popen[bytes]] = []

    def start(
        prompt: str,
        *like: str,
        fresh: str | None = None,
        session: str | None = None,
        command: tuple[str, ...] = (sys.executable, "-B", str(AGENT)),
    ) -> AcpTalk:
        agent = subprocess.Popen(
            [*command, *like], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        agents.append(agent)
        assert agent.stdout is not None
        assert agent.stdin is not None
        return AcpTalk(
            agent.stdout, agent.stdin, root="/", prompt=prompt, fresh=fresh or prompt, session=session
        )

    yield start
    for agent in agents:
        agent.kill()
        agent.wait()


def told(
    talk: AcpTalk, reply: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """All that is told; what is asked is answered by `reply`."""
    with talk:
        found = []
        for line in talk.lines():
            found.append(line)
            if "ask" in line and reply is not None:
                talk.reply(line["ask"], **reply(line))
    return found


def test_what_the_agent_tells_comes_in_order(start: Start) -> None:
    lines = told(start("think first\nplan later\nsay a\nrun the tests\nb c"))
    assert lines[0]["how"] == "new"
    assert lines[0]["session"].startswith("session-")
    assert lines[1:] == [
        {"thinking": "first"},
        {"plan": [{"content": "later", "status": "pending"}]},
        {"text": "a\n"},
        {
            "tool": {
                "id": "call-1",
                "title": "the tests",
                "kind": "execute",
                "status": "in_progress",
                "input": '{"do": "the tests"}',
                "output": None,
            }
        },
        {
            "tool": {
                "id": "call-1",
                "title": None,
                "kind": None,
                "status": "completed",
                "input": None,
                "output": "done",
            }
        },
        {"text": "b c\n"},
        {"end": "end_turn"},
    ]


def test_what_it_asks_is_answered_or_refused(start: Start) -> None:
    def reply(line: dict[str, Any]) -> dict[str, Any]:
        match line["kind"]:
            case "read" if line["path"] == "/a.txt":
                return {"content": "words"}
            case "write" if line["path"] == "/a.txt":
                return {}
            case "permission":
                return {"option": line["options"][0]["id"]} if line["tool"]["title"] == "now" else {}
        return {"error": "not in the tree"}

    lines = told(
        start("read /a.txt\nread /etc/passwd\nwrite /a.txt x\nwrite ../b y\nask now\nask later"), reply
    )
    assert "".join(line.get("text", "") for line in lines).splitlines() == [
        "read: words",
        "refused: {'details': 'not in the tree'}",
        "refused: {'details': 'not in the tree'}",
        "answer: yes",
        "answer: cancelled",
    ]
    assert lines[-1] == {"end": "end_turn"}


@pytest.mark.parametrize(
    ("like", "session", "how", "said"),
    [
        (["resume", "load"], "session-1", "resume", "short"),
        (["load"], "session-1", "load", "short"),
        (["resume", "load", "boastful"], "session-1", "load", "short"),
        (["resume", "boastful"], "session-1", "new", "long"),
        (["resume"], "gone", "new", "long"),
        (["load"], "gone", "new", "long"),
        ([], "session-1", "new", "long"),
        (["resume"], None, "new", "long"),
    ],
)
def test_a_session_goes_on_if_it_can(
    start: Start, like: list[str], session: str | None, how: str, said: str
) -> None:
    lines = told(start("short", *like, fresh="long", session=session))
    assert lines[0]["how"] == how
    assert lines[1:] == [{"text": f"{said}\n"}, {"end": "end_turn"}]


def test_a_stopped_agent_ends_and_nothing_it_asked_is_left_open(start: Start) -> None:
    with start("say a\nwait") as talk:
        lines = talk.lines()
        assert "session" in next(lines)
        assert next(lines) == {"text": "a\n"}
        talk.cancel()
        talk.cancel()
        assert list(lines) == [{"end": "cancelled"}]
    with start("ask now\nsay b") as talk:
        lines = talk.lines()
        assert "session" in next(lines)
        assert next(lines)["kind"] == "permission"
        talk.cancel()
        assert next(line.get("text") for line in lines) == "answer: cancelled\n"


@pytest.mark.parametrize(
    ("prompt", "like", "problem"),
    [
        ("crash", [], "The agent ended before it had answered."),
        ("x", ["newer"], "The agent speaks version 99"),
        ("x", ["locked"], "The agent wants to be signed in."),
    ],
)
def test_each_failure_ends_with_a_sentence(start: Start, prompt: str, like: list[str], problem: str) -> None:
    lines = told(start(prompt, *like))
    assert lines[-1]["failed"].startswith(problem)


def test_a_program_that_is_no_agent_ends_with_a_sentence(start: Start) -> None:
    lines = told(start("x", command=("/bin/sh", "-c", "echo hello; echo '{}'; exit 1")))
    assert lines == [{"failed": "The agent ended before it had answered."}]


def test_a_talk_whose_driver_is_gone_is_lost(start: Start) -> None:
    with start("wait") as talk:
        lines = talk.lines()
        next(lines)
        assert talk._process is not None
        talk._process.kill()
        assert list(lines) == [{"failed": LOST}]
        talk.send(cancel=True)
    talk.close()


def test_the_driver_bounds_what_it_tells_of_tools() -> None:
    assert len(acp_driver._short({"a": "x" * 100_000}) or "") == acp_driver.MAX_TEXT
