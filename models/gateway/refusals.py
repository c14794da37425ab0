"""What a provider's refusal becomes on its way to the client."""

import http
import logging
from typing import Any

import orjson

from models.gateway.routing import Route
from models.gateway.upstream import Answer, UpstreamError
from models.gateway.wire import Failure, failure_of

log = logging.getLogger("stoa.gateway")

ERROR_BODY = 256 << 10
"""Bytes that are read of an error."""


class UpstreamRefused(Exception):
    """The provider answered with an error. Nothing is charged.

    `status` is what the client is told. It differs from the provider's own when the operator's key or funds
    are at fault, which no client could mend.
    """

    def __init__(self, status: int, failure: Failure, retry_after: str | None = None) -> None:
        super().__init__(failure.message)
        self.status = status
        self.failure = failure
        self.retry_after = retry_after


def refusal(answer: Answer, route: Route) -> UpstreamRefused:
    """What a provider's error says, for the client. An error inside a 200 counts as one."""
    try:
        raw = answer.read(ERROR_BODY)
    except UpstreamError:
        raw = b""
    failure = failure_of(read_json(raw))
    status = answer.status
    if 400 <= status <= 599:
        text = raw.decode("utf-8", "replace").strip()[:4000] or _status_text(status)
    else:
        status = failure.status if failure and failure.status else 502
        text = f"{route.provider.title} answered in a form that cannot be passed on."
    if failure is None:
        failure = Failure(text, code=status, plain=True)
    return told(failure, status, route, answer.headers.get("Retry-After"))


def told(failure: Failure, status: int, route: Route, retry_after: str | None) -> UpstreamRefused:
    """The refusal a client is told. With the operator's own key a 401, 402 or 403 says nothing about the client's,
    and may quote the key: it becomes a 502 in our words."""
    flagged = isinstance(failure.metadata, dict) and "reasons" in failure.metadata
    if status in (401, 402, 403, 407) and route.byok is None and not flagged:
        log.error("%s refused this server's key or account with %d", route.provider.title, status)
        words = "is out of funds" if status == 402 else "was refused"
        failure = Failure(
            f"This server's own account at {route.provider.title} {words}; your key is fine. Tell the operator.",
            code="upstream_account",
            type="upstream_error",
        )
        return UpstreamRefused(502, failure)
    return UpstreamRefused(status, failure, retry_after)


def _status_text(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return f"The provider answered {status}."


def read_json(raw: bytes) -> Any:
    """JSON, or None when it is none."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
