"""The socket of a turn: an HTTP server that offers the model doors to the programs of one turn, and nothing else. Who calls is the turn, whatever the peer sends."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socket import socket as Socket

from models.gateway.stream import AnswerStream
from models.runners.process_workplace import sandbox_home
from models.runners.turn_calls import MAX_BODY, CallAnswer, TurnCalls, refusal
from models.runners.unix_listener import UnixListener
from models.runners.work_calls import CallsAs, has_calls_elsewhere, spent_elsewhere
from models.turns.engine import TurnHandle

MAX_CONNECTIONS = 32
IDLE_SECONDS = 300.0
"""How long a connection may send nothing."""
SETTLE_SECONDS = 5.0
"""How long the end of a turn waits for the bills of calls that it ended."""


class TurnSocket:
    """See the module. `path` is where it listens; `spent` what its calls have cost. `close` it at the end of the turn."""

    def __init__(
        self,
        handle: TurnHandle,
        *,
        org_id: str | None = None,
        models: Sequence[str] = (),
        on_refused: Callable[[Exception], bool] = lambda error: False,
        on_admitted: Callable[[], None] = lambda: None,
    ) -> None:
        self.handle = handle
        self.calls_as = CallsAs(handle.id, handle.owner, org_id, tuple(models))
        self.calls = TurnCalls(
            handle.gateway,
            handle.key,
            run_id=lambda: handle.run_id,
            alive=lambda: not (self._closed or handle.stopped) and handle.has_lease(),
            org_id=org_id,
            models=models,
            on_refused=on_refused,
            on_admitted=on_admitted,
        )
        self._works: list[str] = []
        self._closed = False
        folder = sandbox_home(handle.gateway.settings).base / "sockets"
        self._listener = UnixListener(folder, self._serve, most=MAX_CONNECTIONS)

    @property
    def path(self) -> Path:
        """Where it listens."""
        return self._listener.path

    @property
    def spent(self) -> int:
        """Credits of the calls that have ended, also those of programs on machines of users."""
        spent = self.calls.spent
        if self._works and self.handle.run_id:
            with self.handle.context():
                spent += spent_elsewhere(self.handle.run_id, self._works)
        return spent

    def serve_work(self, work_id: str) -> None:
        """Count the calls of a work of a runner as this turn's too."""
        self._works.append(work_id)

    def stop(self) -> None:
        """End the calls in flight, from any thread; new ones are refused. Their answers so far are charged."""
        self._closed = True
        self.calls.stop()

    def close(self) -> None:
        """Stop, and wait for the bills, so that `spent` is exact. Works that are served have ended before. Idempotent."""
        self.stop()
        end = time.monotonic() + SETTLE_SECONDS
        while self._has_calls() and time.monotonic() < end:
            time.sleep(0.02)
        self._listener.close()

    def _has_calls(self) -> bool:
        if self.calls.open:
            return True
        if not self._works or not self.handle.run_id:
            return False
        with self.handle.context():
            return has_calls_elsewhere(self.handle.run_id, self._works)

    def _serve(self, peer: Socket) -> None:
        _Requests(peer, self.calls)


def open_turn_socket(
    handle: TurnHandle,
    *,
    org_id: str | None = None,
    models: Sequence[str] = (),
    on_refused: Callable[[Exception], bool] = lambda error: False,
    on_admitted: Callable[[], None] = lambda: None,
) -> TurnSocket:
    """A socket to the model doors for the programs of a turn: its calls are the turn's, in its run and its budget, paid by the organisation `org_id` if its key may. With
    `models` a request for another one is made with the first. `on_refused` and `on_admitted`: see `TurnCalls`. Pass it to `open_workplace`, which closes it. Raises
    OSError."""
    return TurnSocket(handle, org_id=org_id, models=models, on_refused=on_refused, on_admitted=on_admitted)


class _Requests(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "Stoa"
    sys_version = ""
    timeout = IDLE_SECONDS

    def __init__(self, peer: Socket, calls: TurnCalls) -> None:
        self._calls = calls
        super().__init__(peer, ("", 0), None)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The models."""
        self._send(self._calls.get(self.path.partition("?")[0]))

    def do_POST(self) -> None:
        """A model call, or a count of tokens."""
        raw = self._body()
        if raw is not None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(self._calls.post(self.path.partition("?")[0], raw, headers))

    # -- HTTP ----------------------------------------------------------------------------------------------

    def _body(self) -> bytes | None:
        """The request's body; None if it was refused."""
        length = self.headers.get("Content-Length", "")
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._chunks()
        elif length.isdigit() and len(length) < 12:
            body = self.rfile.read(int(length)) if int(length) <= MAX_BODY else None
        else:
            self._refuse(411, "Send Content-Length.", "length_required")
            return None
        if body is None:
            said = f"The body is larger than {MAX_BODY >> 20} MB, or malformed."
            self._refuse(413, said, "payload_too_large")
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

    def _send(self, answer: CallAnswer) -> None:
        if isinstance(answer.body, AnswerStream):
            return self._stream(answer.body, answer.headers)
        self.send_response(answer.status)
        sent = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body))}
        for name, value in {**answer.headers, **sent}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        return None

    def _stream(self, answer: AnswerStream, headers: Mapping[str, str]) -> None:
        try:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for block in answer:
                if block:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            # the peer has left, or the answer broke off: either way it is not all
            self.close_connection = True
        finally:
            answer.close()

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Refuse a request whose end is not known."""
        self.close_connection = True
        self._send(refusal(status, message, code))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the server class itself refuses, such as other methods."""
        with suppress(OSError):
            self._refuse(code, message or "The request is not understood.", "bad_request")

    def log_message(self, format: str, *args: object) -> None:
        """Calls are in the records of the gateway."""
