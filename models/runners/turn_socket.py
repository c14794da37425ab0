"""The socket of a turn: an HTTP server that offers the model doors to the programs of one turn, and nothing else.

Who calls, in which run, paid by whom, within which budget and with which models is settled when the socket is made: what the peer sends about that is
not read.
"""

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import socket as Socket
from typing import Any

import orjson

from models.gateway.call_errors import RelayFailed
from models.gateway.chat_format import Call
from models.gateway.dialects import CHAT, CODEBUFF, EMBEDDINGS, MESSAGES, RESPONSES
from models.gateway.dialects.dialect import CallRequest, Dialect, ErrorContext, IncomingRequest, Reply
from models.gateway.formats.messages_parsing import parse_messages
from models.gateway.in_flight import InFlightCall
from models.gateway.stream import AnswerStream
from models.gateway.streamed_answer import AnswerStopped
from models.gateway.token_counts import count_input
from models.ledger.payers import PayerHint
from models.runners.process_workplace import sandbox_home
from models.runners.unix_listener import UnixListener
from models.turns.engine import TurnHandle
from models.turns.turn_call import FAILURES

log = logging.getLogger("stoa.runners")

MAX_BODY = 20 << 20
MAX_CONNECTIONS = 32
IDLE_SECONDS = 300.0
"""How long a connection may send nothing."""
SETTLE_SECONDS = 5.0
"""How long the end of a turn waits for the bills of calls that it ended."""
DOORS: Mapping[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/api/v1/chat/completions": CODEBUFF,
}
COUNT = "/v1/messages/count_tokens"
PASSED_HEADERS = ("anthropic-version", "anthropic-beta")
"""What a request may say about its format."""
IDENTITY = ("thread_id", "agent_id", "codebuff_metadata", "store", "background", "models")
"""Keys of a body that are replaced or left out: they name what is not the turn's."""
REFUSED = ("previous_response_id", "conversation", "prompt")
"""Keys that read what the account has stored."""


class TurnSocket:
    """See the module. `path` is where it listens; `spent` what its calls have cost. `close` it at the end of the turn."""

    def __init__(self, handle: TurnHandle, *, org_id: str | None = None, models: Sequence[str] = ()) -> None:
        self.handle = handle
        self.models = tuple(models)
        self._payer = PayerHint(org_id) if org_id else PayerHint()
        self._calls: list[InFlightCall] = []
        self._settled = 0
        self._closed = False
        folder = sandbox_home(handle.gateway.settings).base / "sockets"
        self._listener = UnixListener(folder, self._serve, most=MAX_CONNECTIONS)

    @property
    def path(self) -> Path:
        """Where it listens."""
        return self._listener.path

    @property
    def spent(self) -> int:
        """Credits of the calls that have ended."""
        for call in [each for each in self._calls if each.ended]:
            self._calls.remove(call)
            self._settled += call.settled.credits if call.settled else 0
        return self._settled

    def stop(self) -> None:
        """End the calls in flight, from any thread; new ones are refused. Their answers so far are charged."""
        self._closed = True
        for call in [*self._calls]:
            call.stop(AnswerStopped("The turn ended."))

    def close(self) -> None:
        """Stop, and wait for the bills, so that `spent` is exact. Idempotent."""
        self.stop()
        end = time.monotonic() + SETTLE_SECONDS
        while any(not call.ended for call in [*self._calls]) and time.monotonic() < end:
            time.sleep(0.02)
        self._listener.close()

    def call(self, dialect: Dialect, body: Any, headers: Mapping[str, str], request_id: str) -> Any:
        """Make a call in the turn's name: `body` as a client of the dialect sends it. Returns the gateway's answer. Raises as `Gateway.open`."""
        handle = self.handle
        if isinstance(body, dict):
            body = self._own(dialect, body)
        own = {name: headers[name] for name in PASSED_HEADERS if headers.get(name)}
        if handle.run_id:
            own["x-stoa-run-id"] = handle.run_id
        received = IncomingRequest(
            request_id,
            handle.key.id,
            own,
            body,
            orjson.dumps(body),
            acts_for=handle.key,
            admitted=self._admitted,
        )
        request: CallRequest = replace(dialect.read(received), payer=self._payer, free=False)
        return handle.gateway.open(request)

    def listed(self) -> list[str]:
        """The models that the turn may use."""
        return [*self.models] or [route.requested for route in self.handle.gateway.routes.all_models()]

    def _own(self, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
        """The body without what is not the peer's to say."""
        metadata = body.get("codebuff_metadata")
        found = {key: value for key, value in body.items() if key not in IDENTITY}
        if self.models and found.get("model") not in self.models:
            found["model"] = self.models[0]
        if dialect is RESPONSES:
            found["store"] = False
        if dialect is CODEBUFF:
            several = metadata.get("n") if isinstance(metadata, dict) else None
            found["codebuff_metadata"] = {"run_id": self.handle.run_id, **({"n": several} if several else {})}
        return found

    def _admitted(self, call: InFlightCall) -> None:
        self._calls.append(call)
        if self._closed or self.handle.stopped or not self.handle.has_lease():
            call.stop(AnswerStopped("The turn ended."))

    def _serve(self, peer: Socket) -> None:
        _Requests(peer, self)


def open_turn_socket(
    handle: TurnHandle, *, org_id: str | None = None, models: Sequence[str] = ()
) -> TurnSocket:
    """A socket to the model doors for the programs of a turn: its calls are the turn's, in its run and its budget, paid by the organisation `org_id` if its key may. With
    `models` a request for another one is made with the first. Pass it to `open_workplace`, which closes it. Raises OSError."""
    return TurnSocket(handle, org_id=org_id, models=models)


class _Requests(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "Stoa"
    sys_version = ""
    timeout = IDLE_SECONDS

    def __init__(self, peer: Socket, turn: TurnSocket) -> None:
        self._turn = turn
        self._id = ""
        super().__init__(peer, ("", 0), None)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The models."""
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/v1/models":
            return self._json(200, {"object": "list", "data": [_model(name) for name in self._turn.listed()]})
        name = path.removeprefix("/v1/models/")
        if name != path and name in self._turn.listed():
            return self._json(200, _model(name))
        return self._missing()

    def do_POST(self) -> None:
        """A model call, or a count of tokens."""
        path = self.path.partition("?")[0].rstrip("/")
        dialect = MESSAGES if path == COUNT else DOORS.get(path)
        self._id = uuid.uuid4().hex
        raw = self._body()
        if raw is None:
            return None
        if dialect is None:
            return self._missing()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return self._refuse(400, "The request body is not valid JSON.", "invalid_json")
        if isinstance(body, dict) and (found := next((key for key in REFUSED if body.get(key)), None)):
            said = f"'{found}' is not served in a turn: send the whole input."
            return self._refuse(400, said, "invalid_request_error")
        return self._answer(dialect, body, count=path == COUNT)

    def _answer(self, dialect: Dialect, body: Any, *, count: bool) -> None:
        turn, headers = self._turn, {name.lower(): value for name, value in self.headers.items()}
        try:
            if count:
                found = turn._own(dialect, body) if isinstance(body, dict) else body
                call: Call = parse_messages(found, len(orjson.dumps(found)), limit_required=False)
                return self._json(
                    200, {"input_tokens": count_input(turn.handle.gateway.routes, dialect, call)}
                )
            answer = turn.call(dialect, body, headers, self._id)
        except Exception as error:
            if not isinstance(error, FAILURES):
                log.exception("call %s of turn %s failed", self._id, turn.handle.id)
                error = RelayFailed("The call failed on our side.")
            settings = turn.handle.gateway.settings
            refused = dialect.error(error, ErrorContext(self._id, headers, settings))
            return self._json(refused.status, refused.body, refused.headers)
        if isinstance(answer, AnswerStream):
            return self._stream(answer)
        assert isinstance(answer, Reply)
        return self._send(200, answer.content_type, answer.body)

    # -- HTTP ----------------------------------------------------------------------------------------------

    def _body(self) -> bytes | None:
        """The request's body; None if it was refused."""
        length = self.headers.get("Content-Length", "")
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._chunks()
        elif length.isdigit() and len(length) < 12:
            body = self.rfile.read(int(length)) if int(length) <= MAX_BODY else None
        else:
            self._refuse(411, "Send Content-Length.", "length_required", last=True)
            return None
        if body is None:
            self._refuse(
                413,
                f"The body is larger than {MAX_BODY >> 20} MB, or malformed.",
                "payload_too_large",
                last=True,
            )
        return body

    def _chunks(self) -> bytes | None:
        body = bytearray()
        while True:
            line = self.rfile.readline(32)
            try:
                size = int(line.partition(b";")[0].strip(), 16)
            except ValueError:
                return None
            if size < 0 or len(body) + size > MAX_BODY or not line.endswith(b"\n"):
                return None
            body += self.rfile.read(size)
            self.rfile.readline(3)
            if size == 0:
                return bytes(body)

    def _stream(self, answer: AnswerStream) -> None:
        self.send_response(200)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for block in _whole(answer):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            # the peer has left, or the answer broke off: either way it is not all
            self.close_connection = True
        finally:
            answer.close()

    def _json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, "application/json", orjson.dumps(body), headers)

    def _send(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            **(headers or {}),
            "Content-Type": kind,
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, message: str, code: str, *, last: bool = False) -> None:
        self.close_connection = self.close_connection or last
        self._json(status, {"error": {"message": message, "type": "invalid_request_error", "code": code}})

    def _missing(self) -> None:
        self._refuse(404, "This socket serves model calls only.", "not_found")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the server class itself refuses, such as other methods."""
        with suppress(OSError):
            self._refuse(code, message or "The request is not understood.", "bad_request", last=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Calls are in the records of the gateway."""


def _whole(blocks: Iterable[bytes]) -> Iterable[bytes]:
    return (block for block in blocks if block)


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": 0,
        "owned_by": "stoa",
        "display_name": name,
    }
