"""Responses that are turns: `POST /v1/responses` with `background`, `conversation` or `prompt`, and what is asked of them later."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from flask import Flask
from werkzeug import Response

from models.accounts import credentials
from models.accounts.api_keys import check_use
from models.accounts.key_format import present
from models.core.db import db, now
from models.core.errors import DomainError
from models.gateway import sse
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.chat_format import BadCall
from models.gateway.response_state.response_store import ResponseOwner
from models.ledger import Account
from models.threads.response_turn import ENDS, REFUSED
from models.threads.response_turn_start import (
    KEYS,
    ResponseCall,
    begin_response,
    delete_response_turn,
    input_of,
    queued_response,
    response_of,
    turn_of_response,
)
from models.turns import LoggedEvent, Turn, TurnEngine, is_over
from models.turns.turn_verbs import request_stop, take_to_end
from views.gateway.api.model_calls import StatefulCalls, gateway, json_answer, response_owner
from views.web.fast_path import FastResponse, RequestContext
from views.web.open_streams import stream_room

SENT_ON = ("x-stoa-org", "x-stoa-repo", "x-stoa-run-id", RUN_BUDGET, "traceparent")
"""Headers of the request that its call has, too."""
STREAM_HEADERS = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
ENDED_SECONDS = 5


class ResponseRefused(DomainError):
    """The call of a response was refused before it began."""

    def __init__(self, event: LoggedEvent) -> None:
        error = event.data["response"]["error"]
        super().__init__(error["message"], code=error["code"], status=event.data["http_status"])
        self.param = event.data.get("param")


def _answer(context: RequestContext, key: str, body: dict[str, Any]) -> Response:
    """Begin the turn; answer at once in the background, else when it has begun, or ended. Raises DomainError, CallRefused."""
    owner = response_owner(context)
    if context.request.headers.get("Idempotency-Key") is not None:
        raise BadCall(
            "'Idempotency-Key' is not served together with 'background', 'conversation' or 'prompt'. Leave it out."
        )
    if context.request.headers.get("x-openrouter-api-key"):
        raise BadCall(
            "A key in 'x-openrouter-api-key' is not kept, so it is not served together with 'background', 'conversation' or 'prompt'. Store "
            "it as a provider key."
        )
    engine = _engine(context.app)
    with context.app.app_context():
        turn = begin_response(_call(context, key, body, owner), engine.owner)
        db.session.commit()
        turn_id, queued = turn.id, queued_response(turn)
    if body.get("background") and not body.get("stream"):
        engine.run(turn_id)
        return json_answer(queued)
    watched = engine.log.watch_now(turn_id)
    engine.run(turn_id)
    events = _after(watched, -1)
    if body.get("background"):
        return _stream(_framed(events))
    first = next((event for event in events if event is not None), None)
    if first is not None and first.type == REFUSED:
        watched.close()  # type: ignore[attr-defined]
        raise ResponseRefused(first)
    if body.get("stream"):
        return _stream(_framed(_chained(first, events)))
    ended = [event for event in _chained(first, events) if event is not None and event.type in ENDS]
    if not ended:
        raise DomainError("The response failed on our side.", status=500, code="internal_error")
    return json_answer(ended[-1].data["response"])


STATEFUL = StatefulCalls(KEYS, _answer)


def _call(context: RequestContext, key: str, body: dict[str, Any], owner: ResponseOwner) -> ResponseCall:
    request = context.request
    found = credentials.find(key, now())
    if found is None:
        raise DomainError("This API key is unknown or expired.", status=401, code="invalid_api_key")
    if body.get("conversation"):
        check_use(found.key, "threads:write", request.remote_addr)
    if body.get("prompt"):
        check_use(found.key, "agents:read", request.remote_addr)
    theirs = owner.account_id == owner.user_id
    return ResponseCall(
        context.id,
        found.user.id,
        Account.of(found.session),
        Account(user_id=owner.user_id) if theirs else Account(org_id=owner.account_id),
        present(key),
        body,
        {name: value for name in SENT_ON if (value := request.headers.get(name))},
        request.remote_addr,
        gateway(context.app).responses.enabled,
    )


# -- later ---------------------------------------------------------------------------------------------------


def find_background(app: Flask, owner: ResponseOwner, id: str) -> dict[str, Any] | None:
    """A response in the background, as it is now."""
    with app.app_context():
        turn = turn_of_response(owner.user_id, owner.account_id, id)
        return None if turn is None else response_of(turn)


def stream_background(app: Flask, owner: ResponseOwner, id: str, after: int) -> Response | None:
    """The events of a response in the background, from the one behind number `after`, until it ends. None: there is none. Raises TooManyStreams."""
    with app.app_context():
        turn = turn_of_response(owner.user_id, owner.account_id, id)
        if turn is None:
            return None
        watched = _engine(app).log.watch(turn.id)
    return _stream(stream_room(owner.user_id).stream(_framed(_after(watched, after))))


def cancel_background(app: Flask, owner: ResponseOwner, id: str) -> dict[str, Any] | None:
    """Cancel a response in the background, and wait a moment until it has ended. One that has ended stays as it is. None: there is none."""
    engine = _engine(app)
    with app.app_context():
        turn = turn_of_response(owner.user_id, owner.account_id, id, lock=True)
        if turn is None:
            return None
        turn_id, over = turn.id, is_over(turn)
        taken = not over and not request_stop(turn) and take_to_end(turn, engine.owner)
        db.session.commit()
    if taken:
        engine.run(turn_id)
    if not over:
        end = now().timestamp() + ENDED_SECONDS
        for event in engine.log.watch(turn_id):
            if event is None or event.type in ENDS or now().timestamp() > end:
                break
    with app.app_context():
        found = db.session.get(Turn, turn_id)
        return None if found is None else response_of(found)


def delete_background(app: Flask, owner: ResponseOwner, id: str) -> bool:
    """Delete a response in the background; False if there is none. Raises Conflict while it is not over."""
    with app.app_context():
        turn = turn_of_response(owner.user_id, owner.account_id, id, lock=True)
        if turn is None:
            return False
        delete_response_turn(turn)
        db.session.commit()
        return True


def background_input(app: Flask, owner: ResponseOwner, id: str) -> list[dict[str, Any]] | None:
    """The input items of a response in the background that is not kept yet. None: there is none."""
    with app.app_context():
        turn = turn_of_response(owner.user_id, owner.account_id, id)
        return None if turn is None else input_of(turn)


# -- events --------------------------------------------------------------------------------------------------


def _engine(app: Flask) -> TurnEngine:
    engine: TurnEngine = app.extensions["turns"]
    return engine


def _after(watched: Iterator[LoggedEvent | None], number: int) -> Iterator[LoggedEvent | None]:
    """The events of the response with greater numbers."""
    for event in watched:
        if event is None:
            yield None
        elif event.type.startswith("response.") and event.data["sequence_number"] > number:
            yield event


def _chained(first: LoggedEvent | None, more: Iterator[LoggedEvent | None]) -> Iterator[LoggedEvent | None]:
    yield first
    yield from more


def _framed(events: Iterable[LoggedEvent | None]) -> Iterator[bytes]:
    for event in events:
        if event is None:
            yield sse.comment(b"waiting")
        elif event.type == REFUSED:
            kept = {key: event.data[key] for key in ("response", "sequence_number")}
            yield sse.frame(orjson.dumps({"type": "response.failed", **kept}), b"response.failed")
        else:
            yield sse.frame(orjson.dumps(event.data), event.type.encode())


def _stream(frames: Iterator[bytes]) -> Response:
    return FastResponse(
        frames, direct_passthrough=True, content_type="text/event-stream", headers=STREAM_HEADERS
    )
