"""The events of a conversation as they come: server-sent events, and the WebSocket of the contract (3.12)."""

import threading
from collections.abc import Callable, Iterator
from typing import cast

import orjson
from flask import Flask, Response, current_app, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.accounts.sessions import Session
from models.conversations import own_conversation
from models.conversations.conversation_stream import ConversationNews, ConversationStream, WireEvent
from models.core.db import db
from models.core.errors import DomainError
from models.gateway import sse
from models.ledger import Account
from models.projects import ProjectCaller
from views.conversations.api.conversations_api_blueprint import CONVERSATION_ID, DOOR, TAG, YOURS, bp
from views.projects.api.projects_api_blueprint import error_body, project_caller
from views.turns.api import EVENTS, TOO_MANY, turn_engine
from views.web.guards import api_key, key_credential
from views.web.open_streams import StreamRoom, stream_room
from views.web.operation import Operation, header, query
from views.web.web_socket import SocketClosed, SocketResponse, UpgradeRefused, WebSocket, accept, is_upgrade

MAX_MESSAGE = 64 << 10
"""Bytes of a message that a client may send on the WebSocket."""
AFTER = [
    header("Last-Event-ID", "Continue after this event"),
    query("after", "The same, for clients that cannot set the header"),
]


def init_app(app: Flask) -> None:
    """Create what wakes the watchers of this process."""
    app.extensions["conversation_news"] = ConversationNews(app.extensions["turns"])


@bp.get("/conversations/<conversation_id>/events")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID, *AFTER],
    answers={200: ("Server-sent events, until you leave", str), **YOURS, 429: TOO_MANY},
    door=DOOR,
)
def events(conversation_id: str) -> ResponseReturnValue:
    """Stream the events of a conversation, of one turn after the other.

    Without `Last-Event-ID` from the beginning of the turn in progress, and of deployments under way that were begun from it. Pieces of a text that is whole are no longer told: `message_complete` has it.
    """
    caller = project_caller()
    stream = conversation_stream(caller, conversation_id)
    room = stream_room(caller.user_id)
    frames = _frames(stream.events(last_event()))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(room.stream(frames), content_type=EVENTS, headers=headers)
    # the connection to PostgreSQL is free while the stream waits
    db.session.rollback()
    return response


@bp.get("/conversations/<conversation_id>/stream", websocket=True)
@bp.get("/conversations/<conversation_id>/stream")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID, query("token", "The key, for browsers that cannot set headers")],
    answers={
        101: ("The connection is a WebSocket: one event as a JSON object in each message", None),
        **YOURS,
        426: "This is no WebSocket (`UPGRADE_REQUIRED`): read `/events`",
        429: TOO_MANY,
    },
    door=DOOR,
)
def stream(conversation_id: str) -> ResponseReturnValue:
    """Stream the events of a conversation over a WebSocket.

    As `/events`, from the beginning of the turn in progress. What you send is ignored.
    """
    found = key_credential(api_key() or request.args.get("token"))
    if found is None:
        raise DomainError("Missing, unknown or revoked API key.", code="invalid_api_key", status=401)
    caller = ProjectCaller(found.user.id, Account.of(found.session), found.session)
    watched = conversation_stream(caller, conversation_id)
    if not is_upgrade(request.environ):
        return _upgrade_required("This address is a WebSocket. Read the events at …/events instead.")
    room = stream_room(caller.user_id)
    db.session.rollback()
    try:
        socket = accept(request.environ, max_size=MAX_MESSAGE, headers={})
    except UpgradeRefused as error:
        return _upgrade_required(f"The WebSocket cannot be opened: {error}.")
    except SocketClosed:
        return SocketResponse()
    if socket is None:
        return _upgrade_required("WebSockets are not served here. Read the events at …/events instead.")
    _serve(socket, room, watched.events(last_event()))
    return SocketResponse()


def _serve(socket: WebSocket, room: StreamRoom, events: Iterator[WireEvent | None]) -> None:
    """Send the events until one of the two sides closes the connection."""

    def send() -> None:
        try:
            for event in events:
                if event is not None:
                    socket.send(event_data(event))
                elif not socket.open:
                    return
            socket.close()
        except SocketClosed:
            pass

    sender = threading.Thread(target=send, name="stoa-conversation-socket", daemon=True)
    sender.start()
    try:
        while True:
            socket.receive()
    except SocketClosed:
        pass
    finally:
        room.close()
        socket.end()


def _upgrade_required(message: str) -> Response:
    response = error_body(426, "UPGRADE_REQUIRED", message)
    response.headers["Upgrade"] = "websocket"
    response.headers["Connection"] = "Upgrade, close"
    return response


def conversation_stream(caller: ProjectCaller, conversation_id: str) -> ConversationStream:
    """The events of the caller's conversation, as long as they may see it. Raises NotFound, Forbidden."""
    found = own_conversation(caller, conversation_id)
    news = cast(ConversationNews, current_app.extensions["conversation_news"])
    return ConversationStream(turn_engine(), news, found.conversation, still_allowed(caller, conversation_id))


def still_allowed(caller: ProjectCaller, conversation_id: str) -> Callable[[], bool]:
    """Whether the key or browser is still signed in, and may see the conversation."""
    session_token = caller.session.session_token

    def allowed() -> bool:
        session = db.session.get(Session, session_token)
        if session is None:
            return False
        try:
            own_conversation(ProjectCaller(caller.user_id, caller.account, session), conversation_id)
        except DomainError:
            return False
        return True

    return allowed


def last_event() -> str:
    """The id of the event after which the client goes on."""
    return (request.headers.get("Last-Event-ID") or request.args.get("after") or "")[:100]


def event_data(event: WireEvent) -> bytes:
    """The event as one JSON object, with its name as `type`."""
    return orjson.dumps({"type": event.name, **event.data})


def _frames(events: Iterator[WireEvent | None]) -> Iterator[bytes]:
    yield sse.comment(b"events")
    for event in events:
        if event is None:
            yield sse.comment(b"waiting")
            continue
        yield b"id: %s\n%s" % (event.id.encode(), sse.frame(event_data(event), event.name.encode()))
