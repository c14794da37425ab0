"""Charges a call whose worker was killed during its answer, when what it produced so far is known: the text of a turn's events."""

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from models.gateway import tokens
from models.gateway.chat_format import Usage
from models.gateway.dialects.dialect import newest_messages
from models.gateway.relay import Gateway
from models.ledger import holds
from models.ledger.holds import Admission, Settlement

log = logging.getLogger("stoa.gateway")

_HOLD = """
SELECT h.account_id, h.user_id, h.run_id, h.model, h.door, h.worker, h.funding, h.key_id, h.team_id, h.agent_id, h.created_at,
    r.paid_by, r.repo_url
FROM credit_hold h LEFT JOIN agent_run r ON r.id = h.run_id WHERE h.request_id = $1
"""
_ENDED = "SELECT message_id, credits FROM gateway_call WHERE request_id = $1"
ERROR = "worker_died"
FLAG = "output_counted_after_crash"


class KilledCall(NamedTuple):
    """What a killed call was charged; nothing is known of one that another process still settles."""

    message_id: str | None
    credits: int | None


def settle_killed(
    gateway: Gateway, request_id: str, body: Mapping[str, Any], *, text: str, thinking: str = ""
) -> KilledCall:
    """Charge the call, if it has not ended: the input of `body` and the output that is known, both counted, flagged for review. Left alone
    if its worker lives and will settle it itself, or if its usage waits in the spool. Idempotent by request id. Raises LedgerUnavailable, and the
    DomainError of a model that has gone."""
    row = next(iter(holds.read(gateway.pool, _HOLD, (request_id,))), None)
    if row is None:
        ended = next(iter(holds.read(gateway.pool, _ENDED, (request_id,))), None)
        return KilledCall(*ended) if ended else KilledCall(None, 0)
    (
        account_id,
        user_id,
        run_id,
        model,
        door,
        worker,
        funding,
        key_id,
        team_id,
        agent_id,
        created_at,
        paid_by,
        repo,
    ) = row
    if _lives(worker) or request_id in {call.request_id for call in gateway.spool.calls()}:
        return KilledCall(None, None)
    admission = Admission(
        outcome="admitted",
        request_id=request_id,
        key_id=key_id or "",
        user_id=user_id,
        org_id=None if account_id == user_id else account_id,
        run_id=run_id,
        agent_id=agent_id,
        door=door,
        model=model,
        funding=funding,
        team_id=team_id,
        paid_by=paid_by,
        repo_url=repo,
    )
    settlement = _settlement(gateway, body, text, thinking, created_at, byok=funding == "byok")
    settled = holds.settle(
        gateway.pool, admission, settlement, on_failure=partial(gateway.spool.add, "settle")
    )
    gateway.spool.mark_settled(request_id)
    log.warning("call %s was settled after its worker died: %d credits", request_id, settled.credits)
    return KilledCall(settled.message_id, settled.credits)


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
        error_message="The server was killed during the answer.",
    )


def _lives(worker: str) -> bool:
    """Whether the worker that made the call is a process of this machine that lives. Of another machine nobody knows: its lease has ended."""
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    with suppress(ProcessLookupError):
        os.kill(int(pid), 0)
        return True
    return False
