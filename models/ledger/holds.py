"""The gateway's way into the ledger: admit and hold, extend, grow, settle or fail a call, one round trip each.

The verbs take a pool and not a session: each has a connection for one statement and gives it back, so nothing is held
while the upstream talks. All of them are idempotent by request id, which is why they may be, and are, tried again after
a deadlock, a lost connection or a restart of PostgreSQL. What else PostgreSQL answers, a full disk or a lock that is held
too long, is told at once: the same statement a moment later would hear the same.
"""

import logging
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson
import psycopg

from models.core.db import now as the_moment
from models.core.pool import Parameter, Pool
from models.ledger.call_records import (
    Admission,
    AdmissionRequest,
    CallFailure,
    LedgerUnavailable,
    LostHold,
    Outcome,
    Settled,
    Settlement,
)
from models.ledger.credits import credits_of, exact_cost
from models.ledger.latency import EDGES_MS
from models.ledger.sanitizing import clean_text, clipped_id, json_text, whole

__all__ = [
    "Admission",
    "AdmissionRequest",
    "CallFailure",
    "LedgerUnavailable",
    "LostHold",
    "Outcome",
    "Settled",
    "Settlement",
    "admit",
    "admit_many",
    "extend_holds",
    "fail",
    "fail_facts",
    "grow_hold",
    "settle",
    "settle_facts",
    "settle_many",
    "settlement_facts",
    "without_text",
]

log = logging.getLogger("stoa.billing")

_ADMIT = """
SELECT outcome, user_id, org_id, agent_id, balance, held, next_reset, hold_expires
FROM gateway_admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_ADMIT_MANY = """
SELECT outcome, user_id, org_id, agent_id, balance, held, next_reset, hold_expires
FROM gateway_admit_many(
    ARRAY(SELECT jsonb_populate_recordset(NULL::gateway_ask, $1::jsonb)), $2, $3, $4, $5
)
"""
_SETTLE = "SELECT * FROM gateway_settle(jsonb_populate_record(NULL::gateway_facts, $1::jsonb), $2)"
_SETTLE_MANY = """
SELECT * FROM gateway_settle_many(ARRAY(SELECT jsonb_populate_recordset(NULL::gateway_facts, $1::jsonb)), $2)
"""
_FAIL = "SELECT gateway_fail(jsonb_populate_record(NULL::gateway_facts, $1::jsonb), $2)"
_GROW = "SELECT credit_hold_grow($1, $2, $3, $4)"
_EXTEND = "SELECT credit_hold_extend($1, $2, $3)"

MAX_HOLD = 10**12
MAX_BODY = 32 * 1024 * 1024
"""The most of a request or an answer that is kept, in bytes of JSON. What is longer is billed and not kept."""

MAX_USAGE = 16 * 1024
"""The most of a provider's usage object that is kept, in bytes of JSON."""


def admit(
    pool: Pool,
    claim: AdmissionRequest,
    *,
    worker: str = "",
    ttl_seconds: int = 60,
    free_credits: int = 0,
    now: datetime | None = None,
    patience_seconds: float = 5.0,
) -> Admission:
    """Check a caller and hold `claim.hold` credits for a call, in one round trip (contract 5.2, rows 3 to 8, in order).

    The key says which account pays. A person's due quota cycle runs first (`free_credits` for who never had a free grant). Admitted when the available credit
    covers the hold, or when no other call of the account is in flight and at least `claim.minimum` is left. Under the account's lock;
    idempotent by request id. Raises LedgerUnavailable.
    """
    claim = _clean(claim)
    params = (
        claim.token_hash,
        claim.request_id,
        claim.run_id,
        claim.require_run,
        claim.hold,
        claim.door,
        claim.model,
        worker,
        ttl_seconds,
        free_credits,
        now or the_moment(),
        claim.minimum,
    )
    (row,) = _ask(pool, _ADMIT, params, patience_seconds)
    return _admission(claim, row)


def admit_many(
    pool: Pool,
    claims: Sequence[AdmissionRequest],
    *,
    worker: str = "",
    ttl_seconds: int = 60,
    free_credits: int = 0,
    now: datetime | None = None,
    patience_seconds: float = 5.0,
) -> list[Admission]:
    """`admit` for several calls in one statement and one commit, all or none, in the order given: a later one sees
    the holds of those before it."""
    if not claims:
        return []
    claims = [_clean(claim) for claim in claims]
    asks = orjson.dumps(claims).decode()
    params = (asks, worker, ttl_seconds, free_credits, now or the_moment())
    rows = _ask(pool, _ADMIT_MANY, params, patience_seconds)
    return [_admission(claim, row) for claim, row in zip(claims, rows, strict=True)]


def _clean(claim: AdmissionRequest) -> AdmissionRequest:
    # not `replace`, which takes five times as long
    return AdmissionRequest(
        token_hash=clean_text(claim.token_hash),
        request_id=claim.request_id,
        hold=None if claim.hold is None else min(max(claim.hold, 0), MAX_HOLD),
        run_id=None if claim.run_id is None else clean_text(claim.run_id),
        require_run=claim.require_run,
        door=claim.door,
        model=clipped_id(claim.model),
        minimum=min(max(claim.minimum, 0), MAX_HOLD),
    )


def _admission(claim: AdmissionRequest, row: tuple[Any, ...]) -> Admission:
    outcome, user_id, org_id, agent_id, balance, held, next_reset, hold_expires = row
    return Admission(
        outcome=outcome,
        request_id=claim.request_id,
        key_id=claim.token_hash,
        user_id=user_id,
        org_id=org_id,
        run_id=claim.run_id,
        agent_id=agent_id,
        balance=balance or 0,
        held=held or 0,
        hold=claim.hold or 0,
        minimum=claim.minimum,
        next_quota_reset=next_reset,
        hold_expires_at=hold_expires,
        door=claim.door,
    )


def extend_holds(
    pool: Pool, request_ids: Sequence[str], *, ttl_seconds: int = 60, now: datetime | None = None
) -> int:
    """Let the holds of calls in flight live `ttl_seconds` from now, in one statement; revives those the sweep took for
    lost. Returns how many there were. Raises LedgerUnavailable."""
    if not request_ids:
        return 0
    ((count,),) = _ask(pool, _EXTEND, (list(request_ids), ttl_seconds, now or the_moment()), 5.0)
    return int(count)


def grow_hold(
    pool: Pool,
    request_id: str,
    *,
    needed: int,
    wanted: int,
    now: datetime | None = None,
    patience_seconds: float = 5.0,
) -> int | None:
    """Let a call in flight hold `wanted` credits, or as many as are free beside the account's other holds. Returns what
    it holds then; None, and nothing is changed, when that would be less than `needed`, or it holds nothing any more.

    Never less than before. Under the account's lock; repeating it is safe. Raises LedgerUnavailable.
    """
    params = (request_id, min(needed, MAX_HOLD), min(wanted, MAX_HOLD), now or the_moment())
    ((amount,),) = _ask(pool, _GROW, params, patience_seconds)
    return None if amount is None else int(amount)


def settle(
    pool: Pool,
    admission: Admission,
    settlement: Settlement,
    *,
    now: datetime | None = None,
    patience_seconds: float = 30.0,
    on_trouble: Callable[[str], None] | None = None,
) -> Settled:
    """Replace the call's hold by its real price, in one round trip and one transaction: debit and entries,
    `message`, `gateway_call`, rollups of hour and day (contract 5.5; 3.4 corrected).

    Never fails for want of credit (the rest is debt) nor for what the call contains. Idempotent by request id,
    also after the hold was swept; a message id the upstream used twice is kept apart as `<id>~<request id>`.
    Keeps trying for `patience_seconds` while PostgreSQL is away, then raises LedgerUnavailable: whether it was
    charged is then unknown, repeating is safe, and an uncharged call's hold stays behind for the operator.
    What PostgreSQL refuses to store of the call's texts is left out. `on_trouble` is called at most once, with the facts
    for `settle_facts`, as soon as it does not go smoothly.
    """
    facts = settlement_facts(admission, settlement)
    told = None if on_trouble is None else lambda: on_trouble(facts)
    moment = now or the_moment()
    try:
        (row,) = _ask(pool, _SETTLE, (facts, moment), patience_seconds, told)
    except LedgerUnavailable as error:
        if error.sqlstate is None or error.sqlstate[:2] not in _CONTENTS:
            raise
        (row,) = _ask(pool, _SETTLE, (without_text(facts), moment), patience_seconds)
    return _settled(row)


def settle_facts(pool: Pool, facts: str) -> Settled:
    """`settle` with facts that were kept from an earlier try, once. Raises LedgerUnavailable."""
    (row,) = _ask(pool, _SETTLE, (facts, the_moment()), 0.0)
    return _settled(row)


def without_text(facts: str) -> str:
    """The facts of a call without what was said in it."""
    return orjson.dumps(
        orjson.loads(facts) | {"request": None, "response": None, "reasoning_text": None}
    ).decode()


def settle_many(
    pool: Pool,
    calls: Sequence[tuple[Admission, Settlement]],
    *,
    now: datetime | None = None,
    patience_seconds: float = 30.0,
) -> list[Settled]:
    """`settle` for several calls in one statement and one commit, all or none, in the order given."""
    if not calls:
        return []
    facts = "[" + ",".join(settlement_facts(*call) for call in calls) + "]"
    return [_settled(row) for row in _ask(pool, _SETTLE_MANY, (facts, now or the_moment()), patience_seconds)]


def fail(
    pool: Pool,
    admission: Admission,
    failure: CallFailure,
    *,
    now: datetime | None = None,
    patience_seconds: float = 10.0,
    on_trouble: Callable[[str], None] | None = None,
) -> None:
    """End a call that costs nothing: its row says failed, its hold is gone. Idempotent; never undoes a settled
    call. `on_trouble` as for `settle`. Raises LedgerUnavailable."""
    facts = _identity(admission) | {
        "provider": _clip(failure.provider, 200),
        "requested_model": clipped_id(failure.requested_model),
        "model": None if failure.model is None else clipped_id(failure.model),
        "http_status": None if failure.http_status is None else whole(failure.http_status),
        "error": _clip(failure.error, 2000),
        "stream": failure.stream,
        "client_gone": failure.client_gone,
        "ttft_ms": None if failure.ttft_ms is None else whole(failure.ttft_ms),
        "latency_ms": whole(failure.latency_ms),
        "started_at": failure.started_at.isoformat(),
    }
    kept = orjson.dumps(facts).decode()
    told = None if on_trouble is None else lambda: on_trouble(kept)
    _ask(pool, _FAIL, (kept, now or the_moment()), patience_seconds, told)


def fail_facts(pool: Pool, facts: str) -> None:
    """`fail` with facts that were kept from an earlier try, once. Raises LedgerUnavailable."""
    _ask(pool, _FAIL, (facts, the_moment()), 0.0)


def _identity(admission: Admission) -> dict[str, Any]:
    if admission.user_id is None:
        raise ValueError("only an admitted call can be settled or failed")
    return {
        "request_id": admission.request_id,
        "user_id": admission.user_id,
        "org_id": admission.org_id,
        "key_id": admission.key_id,
        "run_id": None if admission.run_id is None else clipped_id(admission.run_id),
        "agent_id": None if admission.agent_id is None else clipped_id(admission.agent_id),
        "door": admission.door,
    }


def settlement_facts(admission: Admission, call: Settlement) -> str:
    """What `settle_facts` takes, as JSON: the call cleaned and clamped. Raises ValueError for one not admitted."""
    cost = exact_cost(call.cost)
    latency = whole(call.latency_ms)
    facts = _identity(admission) | {
        "message_id": clipped_id(call.message_id or admission.request_id),
        "provider": _clip(call.provider, 200),
        "requested_model": clipped_id(call.requested_model),
        "model": clipped_id(call.model),
        "usage_source": call.usage_source,
        "uncached_input_tokens": whole(call.uncached_input_tokens),
        "cache_write_tokens": whole(call.cache_write_tokens),
        "cache_read_tokens": whole(call.cache_read_tokens),
        "output_tokens": whole(call.output_tokens),
        "reasoning_tokens": whole(call.reasoning_tokens),
        "cost": str(cost),
        "micro_credits": credits_of(cost, call.margin)[0],
        "byok": call.byok,
        "reasoning_text": _clip(call.reasoning_text, MAX_BODY),
        "client_id": _clip(call.client_id, 1000),
        "client_request_id": _clip(call.client_request_id or admission.run_id or admission.request_id, 1000),
        "repo_url": _clip(call.repo_url, 2000),
        "stream": call.stream,
        "client_gone": call.client_gone,
        "ttft_ms": None if call.ttft_ms is None else whole(call.ttft_ms),
        "latency_ms": latency,
        "latency_bucket": bisect_right(EDGES_MS, latency),
        "http_status": None if call.http_status is None else whole(call.http_status),
        "error": _clip(call.error, 2000),
        "started_at": call.started_at.isoformat(),
        "price": _body(call.price),
        "parts": _body(call.parts or None),
        "raw_usage": _body(call.raw_usage, MAX_USAGE),
        "flags": [_clip(flag, 100) for flag in call.flags] or None,
        "request": _body(call.request),
        "response": _body(call.response),
    }
    return orjson.dumps(facts).decode()


def _body(value: Any, most: int = MAX_BODY) -> orjson.Fragment | None:
    if value is None:
        return None
    text = json_text(value)
    return orjson.Fragment(text) if len(text) <= most else None


def _clip(text: str | None, length: int) -> str | None:
    return None if text is None else clean_text(text)[:length]


def _settled(row: tuple[Any, ...]) -> Settled:
    request_id, message_id, credits, carry, micro, balance, from_purchased, debt, duplicate = row
    return Settled(
        request_id=request_id,
        message_id=message_id,
        credits=credits or 0,
        carry_credits=carry or 0,
        micro_credits=micro or 0,
        balance=balance or 0,
        from_purchased=from_purchased or 0,
        debt=debt or 0,
        duplicate=bool(duplicate),
    )


_CONTENTS = ("22", "23", "54", "P0")
"""Classes of SQLSTATE that may be about what a call contains: wrong data, constraints, limits, words of a trigger."""


def _ask(
    pool: Pool,
    query: str,
    params: tuple[Parameter, ...],
    patience: float,
    on_trouble: Callable[[], None] | None = None,
) -> list[tuple[Any, ...]]:
    """Run one idempotent statement, again after whatever may pass: deadlock, a connection or server that went away.

    `on_trouble` is called once, when the first repetition did not help or none can. Raises LedgerUnavailable.
    """
    deadline = time.monotonic() + patience
    pause = 0.01
    tries = 0
    while True:
        try:
            return pool.execute(query, params, timeout=deadline - time.monotonic())
        except psycopg.Error as error:
            problem = error
        tries += 1
        stale = tries == 1 and problem.sqlstate in _STALE
        given_up = not (stale or _may_pass(problem)) or time.monotonic() + pause > deadline
        if on_trouble is not None and (given_up or tries > 1):
            on_trouble()
            on_trouble = None
        if given_up:
            if problem.sqlstate is not None:
                # its message may quote what a user wrote
                log.error("the ledger refused: SQLSTATE %s, %s", problem.sqlstate, type(problem).__name__)
            message = "The credit ledger is not reachable. Try again in a moment."
            raise LedgerUnavailable(message, sqlstate=problem.sqlstate) from problem
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        pause = min(pause * 2, 1.0)


_STALE = ("25006", "0A000", "XX000")
"""What a connection hears that knows the database from before a failover, a migration or a restore; a new one does not."""


def _may_pass(problem: psycopg.Error) -> bool:
    """Whether the same statement may well succeed in a second."""
    if not isinstance(problem, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = problem.sqlstate
    return state is None or state[:2] in ("08", "40") or state in ("53300", "57P01", "57P02", "57P03")
