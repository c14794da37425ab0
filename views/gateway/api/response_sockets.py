"""WebSockets on `/v1/responses`: the handshake, the limits of a connection, and how its responses are called."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from flask import Flask
from werkzeug import Response

from models.core.errors import DomainError
from models.gateway import metrics
from models.gateway.call_errors import CallRefused, ProviderError
from models.gateway.call_session import read_session
from models.gateway.chat_format import BadCall
from models.gateway.dialects import RESPONSES
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest, MissingApiKey
from models.gateway.formats.responses_answer import ResponseHead, ResponsesWriter
from models.gateway.lenient_json import write
from models.gateway.response_session.session import ResponseSession
from models.gateway.response_state.connection_memory import ConnectionMemory, RememberedResponses
from models.gateway.response_state.request_state import RequestState
from models.gateway.response_state.response_store import NO_CHAIN, ResponseRecord, owner_of
from models.gateway.stream import AnswerStream
from models.gateway.upstream import UpstreamError
from views.gateway.api.model_calls import gateway, normalize, refuse_in
from views.web import error_handlers, guards
from views.web.body import BadJson, BodyTooLarge, parse_message
from views.web.fast_path import MAX_BODY_BYTES, RequestContext
from views.web.web_socket import SocketClosed, SocketResponse, UpgradeRefused, WebSocket, accept, is_upgrade

MAX_SECONDS = 3600.0
"""How long a connection lives."""
IDLE_SECONDS = 900.0
"""How long it lives without a response."""
MAX_SOCKETS = 1_000
"""Connections of a process; the others are for requests."""
MAX_SOCKETS_PER_KEY = 500
GOING_AWAY = 1001
RESTARTING = 1012
NOT_SERVED = "Send POST /v1/responses, with 'stream' for events."


class TooManySockets(DomainError):
    """The process, or the key, has too many connections."""

    status = 429
    code = "websocket_limit_reached"
    retry_after = 30


class ResponseSockets:
    """The connections of a process."""

    def __init__(self) -> None:
        self.remembered = RememberedResponses()
        self._lock = threading.Lock()
        self._open: set[ResponseSocket] = set()
        self._per_key: Counter[str] = Counter()

    def close_idle(self) -> None:
        """Close the connections that generate no response, because the server stops."""
        for connection in list(self._open):
            connection.close_if_idle()

    @contextmanager
    def room(self, key: str) -> Iterator[None]:
        """Room for one connection of a key. Raises TooManySockets."""
        with self._lock:
            if self._per_key.total() >= MAX_SOCKETS or self._per_key[key] >= MAX_SOCKETS_PER_KEY:
                raise TooManySockets("Too many WebSockets are open. " + NOT_SERVED)
            self._per_key[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._per_key[key] -= 1
                if not self._per_key[key]:
                    del self._per_key[key]

    def serve(self, connection: "ResponseSocket") -> None:
        """Serve a connection until it is closed."""
        self._open.add(connection)
        metrics.SOCKETS.inc()
        try:
            connection.run()
        finally:
            self._open.discard(connection)
            metrics.SOCKETS.dec()


def init_app(app: Flask) -> None:
    """Create the register of this process's connections."""
    app.extensions["response_sockets"] = ResponseSockets()


def serve_socket(context: RequestContext) -> Response:
    """Upgrade the request and serve its connection to the end; the key is checked before. Answers an error if it cannot be upgraded."""
    environ = context.request.environ
    sockets = cast(ResponseSockets, context.app.extensions["response_sockets"])
    try:
        if not is_upgrade(environ):
            raise _not_served("This address is a WebSocket.")
        key = guards.single_api_key(environ)
        if not key:
            raise MissingApiKey
        gateway(context.app).admitter.authenticate(key, context.id, RESPONSES, context.request.remote_addr)
        with sockets.room(key):
            headers = {"x-request-id": context.id, "x-codex-websocket-max-message-bytes": str(MAX_BODY_BYTES)}
            socket = accept(environ, max_size=MAX_BODY_BYTES, headers=headers)
            if socket is None:
                raise _not_served("WebSockets are not served here.")
            sockets.serve(ResponseSocket(context, socket, key, sockets.remembered))
    except UpgradeRefused as error:
        return _closing(refuse_in(context, RESPONSES, BadCall(f"The WebSocket cannot be opened: {error}.")))
    except SocketClosed:
        pass
    except Exception as error:
        return _closing(refuse_in(context, RESPONSES, error))
    return SocketResponse()


def _not_served(why: str) -> DomainError:
    return DomainError(f"{why} {NOT_SERVED}", status=426, code="websocket_not_served")


def _closing(response: Response) -> Response:
    response.headers["Connection"] = "close"
    return response


class ResponseSocket:
    """One connection. Its responses are called with the headers of its handshake; see `ResponseCalls`."""

    def __init__(
        self, context: RequestContext, socket: WebSocket, key: str, remembered: RememberedResponses
    ) -> None:
        self._context = context
        self._gateway = gateway(context.app)
        self._socket = socket
        self._key = key
        self._session = ResponseSession(self)
        self._memory = ConnectionMemory(self._gateway.responses, remembered, self._session.ended)
        self._streams: set[AnswerStream] = set()
        self._opened = self._used = time.monotonic()

    def run(self) -> None:
        """Read frames until the connection is closed."""
        try:
            while True:
                message = self._socket.receive()
                self._check_age()
                if message is not None:
                    self._used = time.monotonic()
                    self._receive(message)
        except SocketClosed:
            pass
        finally:
            self._session.close()
            self._memory.close()
            for stream in list(self._streams):
                stream.close()
            self._socket.end()

    def close_if_idle(self) -> None:
        """Close the connection unless a response is generated."""
        if self._session.idle:
            self._socket.close(RESTARTING, "The server restarts.")

    def _check_age(self) -> None:
        """Close the connection at its age, or if it is not used. Responses that are generated end first."""
        now = time.monotonic()
        if not self._session.idle:
            self._used = now
        elif now - self._opened >= MAX_SECONDS:
            message = (
                "Responses websocket connection limit reached (60 minutes). "
                "Create a new websocket connection to continue."
            )
            self._refuse("websocket_connection_limit_reached", message)
            self._socket.close(GOING_AWAY, "60 minutes")
        elif now - self._used >= IDLE_SECONDS:
            self._socket.close(GOING_AWAY, "idle")

    def _receive(self, message: bytes) -> None:
        if time.monotonic() - self._opened >= MAX_SECONDS:
            return
        try:
            frame = parse_message(message)
        except BadJson as error:
            self._refuse("invalid_json", f"The frame is not valid JSON: {error}.")
        except BodyTooLarge as error:
            self._refuse("request_too_large", str(error.description), 413)
        else:
            self._session.receive(frame, len(message))

    def _refuse(self, code: str, message: str, status: int = 400) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
        self.send(write({"type": "error", "status": status, "error": error}))

    # -- calls -----------------------------------------------------------------------------------------------

    def stream(self, body: dict[str, Any], request_id: str) -> Iterable[bytes]:
        answer = self._gateway.open(self._request(body, request_id))
        assert isinstance(answer, AnswerStream)
        self._streams.add(answer)
        try:
            yield from answer
        finally:
            answer.close()
            self._streams.discard(answer)

    def prepare(self, body: dict[str, Any], request_id: str) -> Iterable[bytes]:
        """Nothing reaches a provider, so nothing is billed."""
        given = body.get("input") or []
        request = self._request({**body, "input": given or "-"}, request_id)
        admission = self._gateway.check(request)
        state = RequestState(request_id, body, request.size, self._memory)
        chain = state.resolve(owner_of(admission)).chain if state.refers else NO_CHAIN
        id = f"resp_{request_id}"
        facts = {"id": id, "store": False, "previous_response_id": state.previous_id}
        writer = ResponsesWriter(ResponseHead(id, request.model, body, facts))
        yield writer.start(request.model)
        record = ResponseRecord(request_id, id, given, b"", [], state.previous_id, chain, store=False)
        self._memory.remember(record, kept=False)
        yield writer.finish(None)

    def error(self, error: Exception, request_id: str) -> dict[str, Any]:
        found = normalize(error)
        if not isinstance(found, CallRefused | ProviderError | UpstreamError | DomainError):
            error_handlers.log.error(
                "request %s: a response of a WebSocket failed", request_id, exc_info=error
            )
        settings = self._context.settings
        answer = RESPONSES.error(found, ErrorContext(request_id, {}, settings))
        event = {"type": "error", "status": answer.status, "error": answer.body.get("error")}
        retry_after = getattr(found, "retry_after", None)
        return {**event, "headers": {"retry-after": str(retry_after)}} if retry_after else event

    def send(self, event: bytes) -> None:
        self._socket.send(event)

    def _request(self, body: dict[str, Any], request_id: str) -> CallRequest:
        request = self._context.request
        received = IncomingRequest(
            request_id, self._key, request.headers, body, write(body), request.remote_addr, self._memory
        )
        call = RESPONSES.read(received)
        session = read_session(request.environ, body) if call.run_id is None else None
        return call if session is None else replace(call, session=session)
