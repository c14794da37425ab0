"""An agent that speaks the Agent Client Protocol with nothing but Python, to run in a sandbox where no package is installed.

It does what the prompt says, a line each: `model WORDS` asks a model by the address in OPENAI_BASE_URL, `write PATH WORDS` through its client, `edit PATH
WORDS` in its own folder, `run WORDS` and `fail WORDS` as a command would, `keep NAME WORDS`, `show NAME` and `fill NAME MB` in its home, `ask WORDS`, `env NAME`, `wait`,
`crash`; other lines are told back. With the argument `resume` it opens the sessions again that its home knows.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOME = Path(os.environ.get("HOME", "/tmp"))
asked = 0


def send(**message: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def update(session: str, **what: Any) -> None:
    send(method="session/update", params={"sessionId": session, "update": what})


def say(session: str, text: str) -> None:
    update(session, sessionUpdate="agent_message_chunk", content={"type": "text", "text": f"{text}\n"})


def ask(method: str, **params: Any) -> Any:
    """Ask the client, and wait for its answer. None: it refused, or the turn was cancelled."""
    global asked
    asked += 1
    send(id=f"a{asked}", method=method, params=params)
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("id") == f"a{asked}":
            return message.get("result")
    return None


def call_model(words: str) -> str:
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": words}]}
    request = urllib.request.Request(
        f"{os.environ['OPENAI_BASE_URL']}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": "Bearer nobody"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        return f"refused: {error.code}"


def work(session: str, line: str) -> None:
    word, _, rest = line.strip().partition(" ")
    path, _, text = rest.partition(" ")
    if word == "model":
        say(session, call_model(rest))
    elif word == "write":
        ask("fs/write_text_file", sessionId=session, path=f"/work/{path}", content=f"{text}\n")
    elif word == "edit":
        call = {"toolCallId": f"edit-{path}", "title": f"Edit {path}"}
        update(session, sessionUpdate="tool_call", **call, kind="edit", status="in_progress")
        with open(path, "w") as file:
            file.write(f"{text}\n")
        update(session, sessionUpdate="tool_call_update", toolCallId=f"edit-{path}", status="completed")
    elif word in ("run", "fail"):
        call = {"toolCallId": f"run-{time.monotonic_ns()}"}
        update(
            session,
            sessionUpdate="tool_call",
            **call,
            title=rest,
            kind="execute",
            status="in_progress",
            rawInput={"command": rest},
        )
        status = "completed" if word == "run" else "failed"
        update(session, sessionUpdate="tool_call_update", **call, status=status, rawOutput=f"{word} {rest}")
    elif word == "keep":
        (HOME / path).write_text(text)
    elif word == "fill":
        (HOME / path).write_bytes(b"x" * (int(text) << 20))
    elif word == "show":
        there = (HOME / rest).exists()
        say(session, f"{rest}: {(HOME / rest).read_text() if there else 'nothing'}")
    elif word == "ask":
        options = [
            {"optionId": "y", "name": "Allow", "kind": "allow_once"},
            {"optionId": "n", "name": "Reject", "kind": "reject_once"},
        ]
        call = {"toolCallId": "ask", "title": rest}
        answer = ask("session/request_permission", sessionId=session, toolCall=call, options=options)
        say(session, f"answer: {answer['outcome'].get('optionId', 'cancelled')}")
    elif word == "env":
        say(session, f"{rest}={os.environ.get(rest)}")
    elif word == "wait":
        for received in sys.stdin:
            if json.loads(received).get("method") == "session/cancel":
                return
    elif word == "crash":
        os._exit(3)
    else:
        say(session, line)


def answer(message: Mapping[str, Any]) -> None:
    method, params = message.get("method"), message.get("params") or {}
    if method == "initialize":
        able = {"sessionCapabilities": {"resume": {}}} if "resume" in sys.argv else {}
        send(id=message["id"], result={"protocolVersion": 1, "agentCapabilities": able})
    elif method == "session/new":
        id = f"session-{time.time_ns()}"
        (HOME / id).touch()
        send(id=message["id"], result={"sessionId": id})
    elif method == "session/resume":
        if (HOME / params["sessionId"]).exists():
            send(id=message["id"], result={})
        else:
            send(id=message["id"], error={"code": -32602, "message": "There is no such session."})
    elif method == "session/prompt":
        said = params["prompt"][0]["text"].rpartition("\n---\n")[2]
        for line in filter(None, (each.strip() for each in said.splitlines())):
            work(params["sessionId"], line)
        send(id=message["id"], result={"stopReason": "end_turn"})


if __name__ == "__main__":
    for received in sys.stdin:
        answer(json.loads(received))
