"""The frames of one WebSocket on `/v1/responses`: which responses they create, in which order, and what is sent back.

Requests with the same `stream_id` are a lane and run one after another, lanes run beside each other. Each response is a call of its
own: one hold, one settlement, one row.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from models.gateway.response_session.steering import (
    COMPLETED,
    INVALID,
    MAX_PENDING,
    NO_SUCCESSOR,
    NOT_ACTIVE,
    NOT_FOUND,
    TOO_MANY,
    SteerEvents,
    SteerFailure,
    SteerSubmission,
    is_steer,
    required_input,
)
from models.gateway.response_state.response_store import ResponseRecord

MAX_LANES = 32
"""Lanes of a connection with a name."""
MAX_IN_FLIGHT = 16
"""Responses of a connection that are generated at a time; others wait."""
MAX_QUEUED = 64
MAX_QUEUED_BYTES = 40 << 20
"""Requests of a connection that wait, and their bytes."""
MAX_ENDED = 256
"""Ended responses of a connection that steering knows of."""
MAX_STREAM_ID = 200
UNNAMED = ""


class ResponseCalls(Protocol):
    """How a session makes its calls. All may be called from several threads."""

    def stream(self, body: dict[str, Any], request_id: str) -> Iterable[bytes]:
        """The events of a response, each as an event of a stream; closes itself. Raises what the gateway raises."""

    def prepare(self, body: dict[str, Any], request_id: str) -> Iterable[bytes]:
        """The events of a response that is not generated (`generate` false). Raises what the gateway raises."""

    def error(self, error: Exception, request_id: str) -> dict[str, Any]:
        """An error as an event."""

    def send(self, event: bytes) -> None:
        """Send an event. Raises SocketClosed, a ConnectionError."""


@dataclass(slots=True)
class ResponseTurn:
    """A response of the session: waiting, generated, or ended. `successor`: it was made of steers, which are returned if it cannot be
    created."""

    lane: str
    body: dict[str, Any] = field(repr=False)
    size: int
    successor: list[SteerSubmission] = field(default_factory=list)
    request_id: str = field(default_factory=lambda: os.urandom(16).hex())
    steers: list[SteerSubmission] = field(default_factory=list)
    record: ResponseRecord | None = None
    over: bool = False

    @property
    def id(self) -> str:
        """The id of the response."""
        return f"resp_{self.request_id}"


class FrameRefused(Exception):
    """A frame that cannot be served."""

    def __init__(self, code: str, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.event = {
            "type": "error",
            "status": status,
            "error": {"type": "invalid_request_error", "code": code, "message": message, "param": param},
        }


class ResponseSession:
    """One connection. `receive` is called by its reader; `ended` by the memory, when a response was settled and kept."""

    def __init__(self, calls: ResponseCalls) -> None:
        self._calls = calls
        self._lock = threading.RLock()
        self._slots = threading.BoundedSemaphore(MAX_IN_FLIGHT)
        self._queues: dict[str, deque[ResponseTurn]] = {}
        self._running: set[str] = set()
        self._turns: dict[str, ResponseTurn] = {}
        self._ended: dict[str, None] = {}
        self._waiting: dict[str, tuple[str, list[SteerSubmission]]] = {}
        self._events = SteerEvents()
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether no response waits or is generated."""
        return not self._running

    def receive(self, frame: Any, size: int) -> None:
        """Take a frame of the client, as JSON of `size` bytes. Raises SocketClosed."""
        lane = frame.get("stream_id") if isinstance(frame, dict) else None
        try:
            if not isinstance(frame, dict):
                raise FrameRefused("invalid_event", "A frame must be a JSON object.")
            if frame.get("type") == "response.steer":
                self._steer(frame)
            elif frame.get("type") == "response.create":
                self._create(frame, size)
            else:
                message = "'type' must be 'response.create' or 'response.steer'."
                raise FrameRefused("invalid_event", message, param="type")
        except FrameRefused as refused:
            self._send(refused.event, lane if isinstance(lane, str) else None)

    def close(self) -> None:
        """The connection is closed: what waits is not started."""
        with self._lock:
            self._closed = True
            for queue in self._queues.values():
                queue.clear()

    def ended(self, record: ResponseRecord) -> None:
        """Note a response that was settled."""
        turn = self._turns.get(record.id)
        if turn is not None:
            turn.record = record

    # -- responses -------------------------------------------------------------------------------------------

    def _create(self, frame: dict[str, Any], size: int) -> None:
        lane = frame.get("stream_id")
        if lane is not None and not (isinstance(lane, str) and 0 < len(lane) <= MAX_STREAM_ID):
            message = f"'stream_id' must be a text of 1 to {MAX_STREAM_ID} characters."
            raise FrameRefused("invalid_stream_id", message, param="stream_id")
        for name, expected in (("background", False), ("stream", True)):
            if frame.get(name) not in (None, expected):
                raise FrameRefused(
                    "invalid_request", f"'{name}' is not for WebSockets: leave it out.", param=name
                )
        if frame.get("generate") not in (None, True, False):
            raise FrameRefused("invalid_request", "'generate' must be true or false.", param="generate")
        body = {key: value for key, value in frame.items() if key not in ("type", "stream_id", "background")}
        with self._lock:
            self._check_room(lane or UNNAMED, size)
            self._start(ResponseTurn(lane or UNNAMED, body, size))

    def _check_room(self, lane: str, size: int) -> None:
        if lane and lane not in self._queues and len([name for name in self._queues if name]) >= MAX_LANES:
            message = f"A connection has at most {MAX_LANES} streams. Use one of them, or another connection."
            raise FrameRefused("websocket_stream_limit_reached", message, param="stream_id")
        queued = [turn for queue in self._queues.values() for turn in queue]
        if len(queued) >= MAX_QUEUED or sum(turn.size for turn in queued) + size > MAX_QUEUED_BYTES:
            message = "Too many requests wait on this connection. Wait for their responses."
            raise FrameRefused("websocket_queue_full", message, status=429)

    def _start(self, turn: ResponseTurn, *, first: bool = False) -> None:
        queue = self._queues.setdefault(turn.lane, deque())
        if first:
            queue.appendleft(turn)
        else:
            queue.append(turn)
        if turn.lane not in self._running:
            self._running.add(turn.lane)
            threading.Thread(target=self._run, args=(turn.lane,), name="stoa-lane", daemon=True).start()

    def _run(self, lane: str) -> None:
        """Serve a lane until nothing waits in it."""
        while True:
            with self._lock:
                queue = self._queues[lane]
                if not queue:
                    self._running.discard(lane)
                    return
                turn = queue.popleft()
                self._turns[turn.id] = turn
            try:
                with self._slots:
                    self._generate(turn)
            except ConnectionError:
                self.close()
            finally:
                self._finish(turn)

    def _generate(self, turn: ResponseTurn) -> None:
        body = self._with_waiting(turn)
        call = self._calls.stream if body.pop("generate", True) is not False else self._calls.prepare
        try:
            for block in call({**body, "stream": True}, turn.request_id):
                for event in _events_of(block):
                    self._calls.send(_in_lane(event, turn.lane))
                turn.successor.clear()
        except ConnectionError:
            raise
        except Exception as error:
            self._return(turn.successor, NO_SUCCESSOR, turn.lane)
            self._send(self._calls.error(error, turn.request_id), turn.lane)

    def _finish(self, turn: ResponseTurn) -> None:
        """Take note that a response has ended, and continue it with the input that steers it."""
        with self._lock:
            turn.over = True
            self._turns.pop(turn.id, None)
            self._ended[turn.id] = None
            while len(self._ended) > MAX_ENDED:
                self._ended.pop(next(iter(self._ended)))
            steers = turn.steers
            if not steers or self._closed:
                return
            record = turn.record
            required = required_input(record.output) if record else []
            if record is not None and record.status == "completed" and not required:
                self._start(self._successor(turn), first=True)
                return
            if record is not None and record.status == "completed":
                self._waiting[turn.id] = turn.lane, steers
        try:
            if record is None or record.status != "completed":
                self._return(steers, NOT_ACTIVE, turn.lane)
            else:
                for steer in steers:
                    self._send(self._events.pending(steer, required), turn.lane)
        except ConnectionError:
            self.close()

    # -- steering --------------------------------------------------------------------------------------------

    def _steer(self, frame: dict[str, Any]) -> None:
        target, given = frame.get("previous_response_id"), frame.get("input")
        lane: str | None = None
        with self._lock:
            turn = self._turns.get(target) if isinstance(target, str) else None
            failure = self._steer_failure(frame, turn)
            if turn is not None:
                lane = turn.lane
            if failure is None and turn is not None:
                steer = SteerSubmission(turn.id, given)
                turn.steers.append(steer)
                event = self._events.accepted(steer)
            else:
                event = self._events.failed(target, given, failure or NOT_FOUND)
        self._send(event, lane)

    def _steer_failure(self, frame: Mapping[str, Any], turn: ResponseTurn | None) -> SteerFailure | None:
        if not is_steer(frame):
            return INVALID
        if turn is None:
            return COMPLETED if frame["previous_response_id"] in self._ended else NOT_FOUND
        return TOO_MANY if len(turn.steers) >= MAX_PENDING else None

    def _successor(self, turn: ResponseTurn) -> ResponseTurn:
        """The response that continues another one, with its settings and the input that steers it."""
        items = [item for steer in turn.steers for item in steer.items]
        body = {**turn.body, "previous_response_id": turn.id, "input": items}
        return ResponseTurn(turn.lane, body, turn.size, list(turn.steers))

    def _with_waiting(self, turn: ResponseTurn) -> dict[str, Any]:
        """The request with the input that waits for it."""
        previous = turn.body.get("previous_response_id")
        with self._lock:
            lane, steers = (
                self._waiting.get(previous, (None, [])) if isinstance(previous, str) else (None, [])
            )
            if lane != turn.lane or not isinstance(previous, str):
                return dict(turn.body)
            del self._waiting[previous]
        given = turn.body.get("input") or []
        own = [{"role": "user", "content": given}] if isinstance(given, str) else given
        turn.successor = list(steers)
        items = [item for steer in steers for item in steer.items]
        return {**turn.body, "input": [*items, *own] if isinstance(own, list) else own}

    def _return(self, steers: Iterable[SteerSubmission], failure: SteerFailure, lane: str) -> None:
        for steer in list(steers):
            self._send(self._events.failed(steer.target, steer.input, failure, steer.id), lane)

    def _send(self, event: Mapping[str, Any], lane: str | None) -> None:
        self._calls.send(orjson.dumps({**event, "stream_id": lane} if lane else event))


def _events_of(block: bytes) -> Iterable[bytes]:
    """The events in a part of a stream, without its comments."""
    for line in block.split(b"\n"):
        if line.startswith(b"data: "):
            yield line[6:].rstrip(b"\r")


def _in_lane(event: bytes, lane: str) -> bytes:
    """An event of a response, which names its lane."""
    if not lane:
        return event
    return event[: event.rindex(b"}")] + b',"stream_id":' + orjson.dumps(lane) + b"}"
