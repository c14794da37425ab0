"""Errors of a call: the ledger refused it, or its provider did; and how provider errors are shown to the client."""

import http
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from math import ceil
from types import MappingProxyType
from typing import Any

from models.core.db import now
from models.gateway import lenient_json
from models.gateway.chat_format import ProviderFailure, parse_failure
from models.gateway.route import Route
from models.gateway.upstream import ProviderResponse, UpstreamError
from models.ledger.holds import Admission, LiveHold

log = logging.getLogger("stoa.gateway")

MAX_ERROR_BODY = 256 << 10
"""Bytes read of an error body."""
RETRYABLE = (408, 429)
"""Statuses below 500 for which another provider may be tried."""
OWN_KEY = (401, 402, 403, 429)
"""Statuses with which a provider refuses the caller's own key, or its account there, rather than the request."""
CODES = {
    "unknown_key": "invalid_api_key",
    "banned": "account_suspended",
    "stopped": "account_stopped",
    "out_of_credits": "insufficient_credits",
    "insufficient": "insufficient_credits",
    "no_run": "run_not_found",
    "plan_limit": "rate_limit_exceeded",
    "plan_rate": "rate_limit_exceeded",
    "budget": "budget_exceeded",
    "held": "credits_held",
}
"""Error codes of refused calls by outcome; of other outcomes they are the same."""
KEY_PREFIX = 8
"""Characters that identify a key: providers quote keys with their middle masked."""


class CallRefused(Exception):
    """The ledger did not admit the call; `admission.outcome` says why. `limits`: headers that say what limits of the key leave."""

    limits: Mapping[str, str] = MappingProxyType({})
    retry_after: int | None = None
    """Seconds until a retry may succeed; None if retrying does not help."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission.outcome)
        self.admission = admission
        if admission.outcome in ("plan_limit", "plan_rate") and admission.limit_resets_at is not None:
            self.retry_after = max(ceil((admission.limit_resets_at - now()).total_seconds()), 1)
        elif admission.outcome in ("key_busy", "key_rate"):
            self.retry_after = admission.refusal.get("seconds", 1)

    @property
    def code(self) -> str:
        """The error code."""
        return CODES.get(self.admission.outcome, self.admission.outcome)


class CreditsHeld(CallRefused):
    """Calls in flight hold the credits, or the part of a budget, that this call needs. `holds` are the account's oldest live holds, out of `count`.
    `retry_after`: seconds until the first of them is likely to be settled."""

    def __init__(self, admission: Admission, holds: Sequence[LiveHold], count: int, retry_after: int) -> None:
        super().__init__(admission)
        self.holds = holds
        self.count = count
        self.retry_after = retry_after


def stop_message(stop: Mapping[str, Any], base_url: str) -> str:
    """Who stopped the account's calls, when, and how to resume: `stop` has `by`, `at`, and an organisation's `org` and `slug`."""
    at = str(stop.get("at", ""))[:16].replace("T", " ")
    if stop.get("slug"):
        where = f"{base_url}/orgs/{stop['slug']}/stop"
        return f"{stop['by']} stopped all agents of {stop['org']} at {at} UTC. An owner or admin can resume them at {where}"
    return f"{stop.get('by')} stopped all calls of this account at {at} UTC. Resume them at {base_url}/usage/stop"


class RelayFailed(Exception):
    """Unexpected error after the call was admitted. Nothing is charged."""


class ProviderError(Exception):
    """The provider answered with an error. Nothing is charged.

    `status` is the status sent to the client. It differs from the provider's when the operator's key or funds are the
    cause. `dropped` names the request keys left out for the provider; `retryable` is whether another provider may be tried.
    """

    dropped: tuple[str, ...] = ()
    retryable = False

    def __init__(self, status: int, failure: ProviderFailure, retry_after: str | None = None) -> None:
        super().__init__(failure.message)
        self.status = status
        self.failure = failure
        self.retry_after = retry_after

    @property
    def full_text(self) -> str:
        """The provider's message, what another provider behind it sent, and the rest of its error."""
        metadata = self.failure.metadata
        raw = metadata.get("raw") if isinstance(metadata, dict) else None
        parts = [
            each if isinstance(each, str) else lenient_json.write(each).decode()
            for each in (self.failure.message, raw, self.failure.details)
            if each is not None
        ]
        return "\n\n".join(parts)


def read_provider_error(response: ProviderResponse, route: Route, start: bytes = b"") -> ProviderError:
    """Read a provider's error response, or an error inside a 200, for the client. `start` is what was already read of the
    body."""
    raw = redact_keys(start + _read_start(response, MAX_ERROR_BODY - len(start)), route)
    status = response.status
    failure: ProviderFailure | None
    if 400 <= status <= 599:
        failure = parse_failure(raw) or ProviderFailure(_status_text(status), plain=True)
        if failure.plain and failure.code is None:
            failure = replace(failure, code=status)
    else:
        failure = parse_failure(raw, is_error=False)
        status = failure.status if failure and failure.status else 502
        if failure is None:
            text = f"{route.provider.title} sent a response in an unknown format."
            failure = ProviderFailure(text, code=status, plain=True)
    refused = client_error(failure, status, route, response.headers.get("Retry-After"))
    refused.retryable = response.status in RETRYABLE or 500 <= response.status <= 599
    return refused


def client_error(
    failure: ProviderFailure, status: int, route: Route, retry_after: str | None
) -> ProviderError:
    """The error as sent to the client. A 401, 402, 403 or 407 about the operator's key becomes a 502: it does not concern
    the client's key, and may quote the operator's."""
    flagged = isinstance(failure.metadata, dict) and "reasons" in failure.metadata
    if status in (401, 402, 403, 407) and route.byok is None and not flagged:
        log.error("%s refused this server's key or account with %d", route.provider.title, status)
        reason = "is out of funds" if status == 402 else "was refused"
        failure = ProviderFailure(
            f"This server's account at {route.provider.title} {reason}; your key is fine. Contact the operator.",
            code="upstream_account",
            type="upstream_error",
        )
        return ProviderError(502, failure)
    if status in OWN_KEY and route.byok_name:
        text = f"{route.provider.title} refused {route.byok_name}: {failure.message}"
        failure = replace(failure, message=text)
    return ProviderError(status, failure, retry_after)


def own_key_failed(error: Exception) -> bool:
    """Whether a provider refused the key of a call, or its account, rather than the request."""
    return isinstance(error, ProviderError) and error.status in OWN_KEY


def relative_time(target: datetime | None, current: datetime) -> str:
    """The time until `target` in its largest unit: `in 3 days`, `in 1 hour`; `soon` when unknown or past."""
    if target is None or target <= current:
        return "soon"
    minutes = int((target - current).total_seconds() // 60)
    for size, unit in ((1440, "day"), (60, "hour")):
        if minutes >= size:
            count = minutes // size
            return f"in {count} {unit}{'s' if count > 1 else ''}"
    count = max(minutes, 1)
    return f"in {count} minute{'s' if count > 1 else ''}"


def error_object(failure: ProviderFailure) -> dict[str, Any]:
    """A failure as OpenAI's error object."""
    error = {
        "message": failure.message,
        "type": failure.type or "upstream_error",
        "param": failure.param,
        "code": failure.code,
    }
    beside = {"metadata": failure.metadata, "details": failure.details}
    return error | {key: value for key, value in beside.items() if value is not None}


_HIDDEN = re.compile(rb"\A[\w.*\-\xe2\x80\xa6]*")
"""The rest of a quoted key, in clear or masked with stars or dots."""


def redact_keys(raw: bytes, route: Route) -> bytes:
    """Replace the key of the call by `[key]`, quoted in full or with its middle masked."""
    for key in (route.byok, route.provider.endpoint.key):
        if key and len(key) > KEY_PREFIX:
            raw = raw.replace(key.encode(), b"[key]")
            before, *behind = raw.split(key[:KEY_PREFIX].encode())
            raw = b"[key]".join([before, *(_HIDDEN.sub(b"", each, count=1) for each in behind)])
    return raw


def _read_start(response: ProviderResponse, limit: int) -> bytes:
    """Read up to about `limit` bytes of a body; fewer when the connection breaks."""
    chunks: list[bytes] = []
    size = 0
    try:
        for chunk in response.blocks():
            chunks.append(chunk)
            size += len(chunk)
            if size >= limit:
                break
    except UpstreamError:
        pass
    return b"".join(chunks)[: max(limit, 0)]


def _status_text(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return f"The provider answered {status}."
