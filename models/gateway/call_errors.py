"""Why a call has no answer: the ledger did not admit it, or its provider refused it, in words for the client."""

import http
import logging
import re
from dataclasses import replace
from typing import Any

from models.gateway.chat_format import ProviderFailure, parse_failure
from models.gateway.routing import Route
from models.gateway.upstream import ProviderResponse, UpstreamError
from models.ledger.holds import Admission

log = logging.getLogger("stoa.gateway")

ERROR_BODY = 256 << 10
"""Bytes that are read of an error."""
BUSY = (408, 429)
"""Statuses below 500 that say nothing against the request itself."""
KEY_START = 8
"""Characters of a key that give it away: providers quote keys with stars in their middle."""


class CallRefused(Exception):
    """The ledger did not admit the call; `admission.outcome` says why."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission.outcome)
        self.admission = admission


class RelayFailed(Exception):
    """Something unforeseen happened after the call was admitted. Nothing is charged."""


class ProviderError(Exception):
    """The provider answered with an error. Nothing is charged.

    `status` is what the client is told. It differs from the provider's own when the operator's key or funds
    are at fault, which no client could mend. `dropped` are the keys of the request that it was not sent; `busy` says
    that the provider cannot serve now what another one may.
    """

    dropped: tuple[str, ...] = ()
    busy = False

    def __init__(self, status: int, failure: ProviderFailure, retry_after: str | None = None) -> None:
        super().__init__(failure.message)
        self.status = status
        self.failure = failure
        self.retry_after = retry_after


def refusal(answer: ProviderResponse, route: Route, begun: bytes = b"") -> ProviderError:
    """What a provider's error says, for the client. An error inside a 200 counts as one. `begun` is what was read of
    the body before."""
    raw = without_keys(begun + _body(answer, ERROR_BODY - len(begun)), route)
    status = answer.status
    failure: ProviderFailure | None
    if 400 <= status <= 599:
        failure = parse_failure(raw) or ProviderFailure(_status_text(status), plain=True)
        if failure.plain and failure.code is None:
            failure = replace(failure, code=status)
    else:
        failure = parse_failure(raw, is_error=False)
        status = failure.status if failure and failure.status else 502
        if failure is None:
            text = f"{route.provider.title} answered in a form that cannot be passed on."
            failure = ProviderFailure(text, code=status, plain=True)
    refused = told(failure, status, route, answer.headers.get("Retry-After"))
    refused.busy = answer.status in BUSY or 500 <= answer.status <= 599
    return refused


def told(failure: ProviderFailure, status: int, route: Route, retry_after: str | None) -> ProviderError:
    """The refusal a client is told. With the operator's own key a 401, 402 or 403 says nothing about the client's,
    and may quote the key: it becomes a 502 in our words."""
    flagged = isinstance(failure.metadata, dict) and "reasons" in failure.metadata
    if status in (401, 402, 403, 407) and route.byok is None and not flagged:
        log.error("%s refused this server's key or account with %d", route.provider.title, status)
        words = "is out of funds" if status == 402 else "was refused"
        failure = ProviderFailure(
            f"This server's own account at {route.provider.title} {words}; your key is fine. Tell the operator.",
            code="upstream_account",
            type="upstream_error",
        )
        return ProviderError(502, failure)
    return ProviderError(status, failure, retry_after)


def error_object(failure: ProviderFailure) -> dict[str, Any]:
    """A failure as OpenAI's clients read it."""
    error = {
        "message": failure.message,
        "type": failure.type or "upstream_error",
        "param": failure.param,
        "code": failure.code,
    }
    beside = {"metadata": failure.metadata, "details": failure.details}
    return error | {key: value for key, value in beside.items() if value is not None}


_HIDDEN = re.compile(rb"\A[\w.*\-\xe2\x80\xa6]*")
"""The rest of a quoted key: as it is, or with stars or dots in its place."""


def without_keys(raw: bytes, route: Route) -> bytes:
    """What a provider said, without the key it was called with, should it quote it whole or with its middle hidden."""
    for key in (route.byok, route.provider.endpoint.key):
        if key and len(key) > KEY_START:
            raw = raw.replace(key.encode(), b"[key]")
            before, *behind = raw.split(key[:KEY_START].encode())
            raw = b"[key]".join([before, *(_HIDDEN.sub(b"", each, count=1) for each in behind)])
    return raw


def _body(answer: ProviderResponse, limit: int) -> bytes:
    """The beginning of a body; of one that breaks off what came until then."""
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in answer.blocks():
            pieces.append(piece)
            size += len(piece)
            if size >= limit:
                break
    except UpstreamError:
        pass
    return b"".join(pieces)[: max(limit, 0)]


def _status_text(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return f"The provider answered {status}."
