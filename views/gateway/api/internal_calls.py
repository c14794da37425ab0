"""Model calls that the server makes for one of its own routes. They are admitted, held and settled like those of clients."""

import uuid
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from flask import current_app

from models.core.errors import DomainError
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.dialects import CHAT
from models.gateway.dialects.dialect import CallRequest, ErrorContext, IncomingRequest, Reply
from models.gateway.upstream import UpstreamError
from models.runs.transcript import text_or_calls, transcript
from views.gateway.api.model_calls import gateway
from views.web.guards import settings


class InternalAnswer(NamedTuple):
    """The id of the call, and the text of its answer, or the tools that it calls."""

    request_id: str
    text: str


class CallNotPossible(DomainError):
    """The ledger refused the call, so that others with the same key would fail too. Status, code and message are those of
    `/v1/chat/completions`."""


class CallFailed(DomainError):
    """The provider failed, or refused this request."""

    status = 502


def complete_chat(key: str, body: dict[str, Any], *, client_id: str) -> InternalAnswer:
    """Send a chat with this API key, which pays; wait for the whole answer. Hold no transaction meanwhile. Raises CallNotPossible,
    CallFailed."""
    request_id = uuid.uuid4().hex
    received = IncomingRequest(request_id, key, {}, body, orjson.dumps(body))
    request: CallRequest = replace(CHAT.read(received), client_id=client_id)
    try:
        reply = gateway(current_app).open(request)
    except (CallRefused, ProviderError, UpstreamError, DomainError, RelayFailed) as error:
        answer = CHAT.error(error, ErrorContext(request_id, {}, settings()))
        said = answer.body.get("error", {})
        message = str(said.get("message", "The call failed."))
        if isinstance(error, CallRefused):
            raise CallNotPossible(message, status=answer.status, code=said.get("code")) from error
        raise CallFailed(message) from error
    if not isinstance(reply, Reply):
        raise CallFailed("The answer came as a stream.")
    turns = transcript(None, 0, orjson.loads(reply.body), None).response or ()
    return InternalAnswer(request_id, text_or_calls(turns))
