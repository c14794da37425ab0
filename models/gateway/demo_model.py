"""`stoa/demo`: a deterministic model in this process that works offline, streams, calls tools and reports usage.

It calls each offered tool that the prompt names, in that order, one per turn, with arguments generated from the tool's
schema and the prompt; then it answers with text.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from models.core.cooperative import heavy
from models.gateway.demo_embeddings import embeddings
from models.gateway.demo_turns import DemoTurn, next_turn
from models.gateway.tokens import count_messages
from models.gateway.upstream import MAX_BODY, BrokenConnection, ProviderRequest, ProviderResponse

CHUNKS_PER_PAUSE = 32
"""Stream chunks between two pauses when `delay` is 0."""
MAX_STOPS = 16


class DemoModel:
    """Answers requests like an upstream. `delay` is the pause between two stream chunks, in seconds."""

    def __init__(self, delay: float = 0.02) -> None:
        self.delay = delay

    def send(self, request: ProviderRequest) -> ProviderResponse:
        with heavy(len(request.body)):
            body = orjson.loads(request.body)
            if not request.url.endswith("/embeddings"):
                return DemoAnswer(body, self.delay)
        return DemoReply(embeddings(body))


class DemoReply:
    """A response that is not streamed."""

    status = 200
    headers: Mapping[str, str] = {"Content-Type": "application/json"}

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._raw = orjson.dumps(body)

    def read(self, limit: int = MAX_BODY) -> bytes:
        return self._raw

    def blocks(self) -> Iterator[bytes]:
        yield self._raw

    def abort(self) -> None:
        """Nothing to abort."""

    def close(self) -> None:
        """Nothing to close."""


class DemoAnswer:
    """One response, read whole or as a stream."""

    status = 200

    def __init__(self, body: Mapping[str, Any], delay: float) -> None:
        self._body = body
        self._delay = delay
        self._aborted = False
        self.headers: Mapping[str, str] = {
            "Content-Type": "text/event-stream" if body.get("stream") else "application/json"
        }
        digest = hashlib.sha256(orjson.dumps([body, time.time_ns()])).hexdigest()
        self.id = f"chatcmpl-demo-{digest[:24]}"
        self._n = int(body.get("n") or 1)
        self._turn = next_turn(body)
        self._chunks, self._reason = _split_turn(self._turn, body)

    def read(self, limit: int = MAX_BODY) -> bytes:
        choices = []
        for index in range(self._n):
            message: dict[str, Any] = {"role": "assistant", "content": "".join(self._chunks)}
            if self._turn.tool:
                message = {"role": "assistant", "content": None, "tool_calls": [self._call(index)]}
            choices.append({"index": index, "message": message, "finish_reason": self._reason})
        return orjson.dumps(self._envelope("chat.completion", choices) | {"usage": self._usage()})

    def blocks(self) -> Iterator[bytes]:
        for index in range(self._n):
            yield self._chunk_event(index, {"role": "assistant", "content": ""})
            if self._turn.tool:
                call = {"index": 0, **self._call(index)}
                head = {**call, "function": {"name": self._turn.tool, "arguments": ""}}
                yield self._chunk_event(index, {"tool_calls": [head]})
            for position, chunk in enumerate(self._chunks):
                if self._delay or position % CHUNKS_PER_PAUSE == 0:
                    time.sleep(self._delay)  # even a delay of 0 yields to other calls
                if self._aborted:
                    raise BrokenConnection("The stoa/demo stream was aborted.")
                delta: dict[str, Any] = {"content": chunk}
                if self._turn.tool:
                    delta = {"tool_calls": [{"index": 0, "function": {"arguments": chunk}}]}
                yield self._chunk_event(index, delta)
            yield self._chunk_event(index, {}, self._reason)
        yield _event(self._envelope("chat.completion.chunk", []) | {"usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        """Nothing to close."""

    def _chunk_event(self, index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        return _event(self._envelope("chat.completion.chunk", [choice]))

    def _envelope(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": "stoa/demo",
            "provider": "Stoa",
            "choices": choices,
        }

    def _call(self, index: int) -> dict[str, Any]:
        digest = hashlib.sha256(f"{self.id}{index}".encode()).hexdigest()[:16]
        function = {"name": self._turn.tool, "arguments": self._turn.arguments}
        return {"id": f"call_{digest}", "type": "function", "function": function}

    def _usage(self) -> dict[str, Any]:
        body = self._body
        prompt = count_messages(body.get("messages") or [], body.get("tools"))
        output = self._n * max(1, sum(1 for _ in self._chunks) + (6 if self._turn.tool else 0))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _split_turn(turn: DemoTurn, body: Mapping[str, Any]) -> tuple[list[str], str]:
    """The chunks of a turn (about one token each), and the finish reason."""
    if turn.tool:
        return _tokenize(turn.arguments), "tool_calls"
    text, reason = turn.text, "stop"
    stops = body.get("stop")
    for stop in [stops] if isinstance(stops, str) else stops[:MAX_STOPS] if isinstance(stops, list) else []:
        if isinstance(stop, str) and stop and stop in text:
            text = text[: text.index(stop)]
    chunks = _tokenize(text)
    limits = [body.get(key) for key in ("max_tokens", "max_completion_tokens")]
    limit = min((int(value) for value in limits if isinstance(value, int | float)), default=None)
    if limit is not None and len(chunks) > limit:
        chunks, reason = chunks[:limit], "length"
    return chunks, reason


def _tokenize(text: str) -> list[str]:
    return re.findall(r"\s*[^\s\w]|\s*\w{1,7}|\s+", text)
