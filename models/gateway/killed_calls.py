"""Charges a call whose worker was killed during its answer, when what it produced so far is known: the text of a turn's events."""

import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Literal, NamedTuple

import psutil

from models.core.errors import DomainError
from models.gateway import tokens
from models.gateway.chat_format import Usage
from models.gateway.dialects.dialect import newest_messages
from models.gateway.relay import Gateway
from models.ledger import holds
from models.ledger.call_records import Funding
from models.ledger.holds import Admission, CallFailure, Settlement

log = logging.getLogger("stoa.gateway")

_HOLD = """
SELECT h.account_id, h.user_id, h.run_id, h.model, h.door, h.worker, h.funding, h.key_id, h.team_id, h.agent_id, h.created_at,
    r.paid_by, r.repo_url, h.state <> 'live' OR h.expires_at <= clock_timestamp() AS expired
FROM credit_hold h LEFT JOIN agent_run r ON r.id = h.run_id WHERE h.request_id = $1
"""
_ENDED = """
SELECT c.state, c.message_id, c.credits, m.response FROM gateway_call c LEFT JOIN message m ON m.id = c.message_id
WHERE c.request_id = $1
"""
ERROR = "worker_died"
MESSAGE = "The server was killed during the answer."
FLAG = "output_counted_after_crash"
READ_SECONDS = 5.0
"""How long a read may take: a worker that takes over the turns of another is busy."""


class KilledCall(NamedTuple):
    """What a killed call was charged; nothing is known of one whose usage waits in the spool."""

    message_id: str | None
    credits: int | None


class CallState(NamedTuple):
    """How a call stands. `absent`: nothing is held or recorded of it; `open`: its worker lives, or may live, and settles it, or its usage waits in
    the spool; `lost`: its worker is dead, or let its hold expire. `response` is what is stored of a settled one's answer."""

    state: Literal["absent", "open", "lost", "failed", "settled"]
    message_id: str | None = None
    credits: int = 0
    response: Any = None


class _Hold(NamedTuple):
    account_id: str
    user_id: str
    run_id: str | None
    model: str
    door: str
    worker: str
    funding: Funding
    key_id: str | None
    team_id: str | None
    agent_id: str | None
    created_at: datetime
    paid_by: str | None
    repo_url: str | None
    expired: bool

    def admission(self, request_id: str) -> Admission:
        """The admission that took the hold."""
        return Admission(
            outcome="admitted",
            request_id=request_id,
            key_id=self.key_id or "",
            user_id=self.user_id,
            org_id=None if self.account_id == self.user_id else self.account_id,
            run_id=self.run_id,
            agent_id=self.agent_id,
            door=self.door,
            model=self.model,
            funding=self.funding,
            team_id=self.team_id,
            paid_by=self.paid_by,
            repo_url=self.repo_url,
        )


def state_of_call(gateway: Gateway, request_id: str) -> CallState:
    """How a call of any worker stands. Raises LedgerUnavailable."""
    # the hold first: it ends in the transaction that records the call
    hold = _hold(gateway, request_id)
    if hold is not None:
        gone = hold.expired or _is_dead(hold.worker)
        return CallState("lost" if gone and not _is_spooled(gateway, request_id) else "open")
    ended = next(iter(holds.read(gateway.pool, _ENDED, (request_id,), timeout_seconds=READ_SECONDS)), None)
    if ended is None:
        return CallState("open" if _is_spooled(gateway, request_id) else "absent")
    state, message_id, credits, response = ended
    return CallState(state, message_id, credits, response)


def release_killed(gateway: Gateway, request_id: str) -> None:
    """Record a call of which nothing had arrived when its worker died as failed, and release its hold. Idempotent; a settled call stays settled.
    Raises LedgerUnavailable."""
    hold = _hold(gateway, request_id)
    if hold is None:
        return
    provider = "unknown"
    with suppress(DomainError):
        provider = gateway.routes.find(hold.model).provider.name
    failure = CallFailure(
        requested_model=hold.model,
        provider=provider,
        model=hold.model,
        started_at=hold.created_at,
        latency_ms=0,
        error=ERROR,
        http_status=503,
        stream=True,
        error_message=MESSAGE,
    )
    holds.fail(gateway.pool, hold.admission(request_id), failure)
    log.warning("call %s was released after its worker died", request_id)


def settle_killed(
    gateway: Gateway,
    request_id: str,
    body: Mapping[str, Any],
    *,
    text: str,
    thinking: str = "",
) -> KilledCall:
    """Charge the call, if it has not ended: the input of `body` and the output that is known, both counted, flagged for review. Left alone
    if its usage waits in the spool. A worker that was only stalled, and settles the call later, charges nothing more. Idempotent by request id.
    Raises LedgerUnavailable, and the DomainError of a model that has gone."""
    hold = _hold(gateway, request_id)
    if hold is None:
        ended = state_of_call(gateway, request_id)
        return KilledCall(ended.message_id, None if ended.state == "open" else ended.credits)
    if _is_spooled(gateway, request_id):
        return KilledCall(None, None)
    settlement = _settlement(gateway, body, text, thinking, hold.created_at, byok=hold.funding == "byok")
    settled = holds.settle(
        gateway.pool,
        hold.admission(request_id),
        settlement,
        on_failure=partial(gateway.spool.add, "settle"),
    )
    gateway.spool.mark_settled(request_id)
    log.warning("call %s was settled after its worker died: %d credits", request_id, settled.credits)
    return KilledCall(settled.message_id, settled.credits)


def _hold(gateway: Gateway, request_id: str) -> _Hold | None:
    row = next(iter(holds.read(gateway.pool, _HOLD, (request_id,), timeout_seconds=READ_SECONDS)), None)
    return None if row is None else _Hold(*row)


def _is_spooled(gateway: Gateway, request_id: str) -> bool:
    return request_id in {call.request_id for call in gateway.spool.calls()}


def _settlement(
    gateway: Gateway, body: Mapping[str, Any], text: str, thinking: str, started: datetime, *, byok: bool
) -> Settlement:
    route = gateway.routes.find(body["model"])
    input, media = tokens.count_input(body["messages"], body.get("tools"))
    reasoning = tokens.count(thinking)
    usage = Usage(
        uncached_input=input,
        output=tokens.count(text) + reasoning,
        reasoning=reasoning,
        source="counted" if tokens.has_vocabulary(route.model) else "estimated",
        parts=media,
    )
    cost, price = gateway.routes.cost(route, usage, None)
    return Settlement(
        provider=route.provider.name,
        requested_model=body["model"],
        model=route.model,
        usage_source=usage.source,  # type: ignore[arg-type]
        uncached_input_tokens=usage.uncached_input,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        cost=cost,
        margin=gateway.margin,
        latency_ms=0,
        started_at=started,
        response=text,
        reasoning_text=thinking,
        price={name: amount for name, amount in price.items() if name != "flags"},
        parts=dict(media),
        flags=[*price.get("flags", "").split(), FLAG],
        byok=byok,
        request=newest_messages(list(body["messages"]), 0),
        stream=True,
        error=ERROR,
        error_message=MESSAGE,
    )


def _is_dead(worker: str) -> bool:
    """Whether the worker was a process of this machine, and has ended. Of another machine nobody knows."""
    host, _, pid = worker.rpartition(":")
    return host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid))
