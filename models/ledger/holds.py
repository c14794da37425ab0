"""Ledger operations of the gateway: admit, extend and grow holds, settle or fail a call. One round trip each.

The functions take a pool, not a session: each borrows a connection for one statement, so none is held while the
upstream responds. All are idempotent by request id and are retried after a deadlock, a lost connection or a
PostgreSQL restart. Other errors, such as a full disk or a lock timeout, are raised at once.
"""

import logging
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
import psycopg

from models.core.db import now as utc_now
from models.core.pool import Parameter, Pool
from models.ledger.call_records import (
    Admission,
    AdmissionRequest,
    BudgetRefusal,
    CallFailure,
    CallRefusal,
    LedgerUnavailable,
    LiveHold,
    LostHold,
    Outcome,
    Settled,
    Settlement,
)
from models.ledger.credits import credits_of, exact_cost
from models.ledger.idempotent_calls import Claim, ClaimRequest, read_claim
from models.ledger.latency import EDGES_MS
from models.ledger.sanitizing import clamped_int, clean_text, clipped_id, json_text

__all__ = [
    "Admission",
    "AdmissionRequest",
    "BudgetRefusal",
    "CallFailure",
    "CallRefusal",
    "LedgerUnavailable",
    "LiveHold",
    "LostHold",
    "Outcome",
    "Settled",
    "Settlement",
    "admit",
    "admit_claimed",
    "admit_many",
    "extend_claims",
    "extend_holds",
    "fail",
    "fail_facts",
    "grow_hold",
    "is_data_error",
    "live_holds",
    "refuse_many",
    "settle",
    "settle_facts",
    "settle_many",
    "settlement_facts",
    "without_text",
]

log = logging.getLogger("stoa.billing")

_ADMITTED = """outcome, user_id, org_id, agent_id, balance, held, next_reset, hold_expires, funding, limit_label, limit_resets,
    team_id, paid_by, repo_url, refusal, budget, run_left, rules"""
_ADMIT = f"""
SELECT {_ADMITTED}
FROM gateway_admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
    $21)
"""  # noqa: S608 - constants only
_ADMIT_MANY = f"""
SELECT {_ADMITTED}
FROM gateway_admit_many(
    ARRAY(SELECT jsonb_populate_recordset(NULL::gateway_ask, $1::jsonb)), $2, $3, $4, $5
)
"""  # noqa: S608 - constants only
# unless the key is claimed, only the caller is checked
_ADMIT_CLAIMED = f"""
SELECT c.state, c.request_id, c.created_at, c.status, c.content_type, c.headers, c.answer,
    CASE WHEN c.state = 'claimed' AND a.outcome NOT IN ('admitted', 'checked') THEN idempotent_release($8)::text END,
    {", ".join("a." + name.strip() for name in _ADMITTED.split(","))}
FROM idempotent_claim($6, $7, $9, $8, $3, $5) c
CROSS JOIN LATERAL gateway_admit_many(
    ARRAY[jsonb_populate_record(NULL::gateway_ask, $1::jsonb || CASE WHEN c.state = 'claimed' THEN '{{}}'
        ELSE '{{"hold": null, "run_id": null, "require_run": false, "run_budget": null}}'::jsonb END)],
    $2, $3, $4, $5
) a
"""  # noqa: S608 - constants only
_SETTLE = "SELECT * FROM gateway_settle(jsonb_populate_record(NULL::gateway_facts, $1::jsonb), $2)"
_SETTLE_MANY = """
SELECT * FROM gateway_settle_many(ARRAY(SELECT jsonb_populate_recordset(NULL::gateway_facts, $1::jsonb)), $2)
"""
_SETTLE_CLAIMED = """
SELECT s.* FROM idempotent_settle($1::jsonb, $2) c CROSS JOIN LATERAL gateway_settle_many(c, $2) s
"""
_CLAIMED = '{"claim":'
"""How the facts of a call with an idempotency key begin."""
_REFUSE = "SELECT gateway_refuse(ARRAY(SELECT jsonb_populate_recordset(NULL::gateway_facts, $1::jsonb)), $2)"
_REFUSE_MORE = """
UPDATE gateway_call c SET more_refused = least(c.more_refused::bigint + m.value::bigint, 2147483647)
FROM jsonb_each_text($1::jsonb) m WHERE c.request_id = m.key AND c.state = 'failed'
"""
_FAIL = "SELECT gateway_fail(jsonb_populate_record(NULL::gateway_facts, $1::jsonb), $2)"
_FAIL_CLAIMED = """
SELECT gateway_fail(jsonb_populate_record(NULL::gateway_facts, $1::jsonb), $2)
FROM idempotent_release($1::jsonb ->> 'request_id') c
"""
_EXTEND_CLAIMS = """
UPDATE idempotent_call SET expires_at = $3::timestamptz + make_interval(secs => $2::int)
WHERE request_id = ANY ($1::text[]) AND settled_at IS NULL
"""
# the account's lock is held until the statement ends, so the budget that is named is the one that refused
_GROW = """
WITH grown AS MATERIALIZED (SELECT credit_hold_grow($1, $2, $3, $4) AS amount)
SELECT amount, CASE WHEN amount IS NULL THEN (
    SELECT budget_refusal(h, $2, $4) FROM credit_hold h WHERE h.request_id = $1
) END FROM grown
"""
_LIVE = """
SELECT request_id, model, amount, created_at, count(*) OVER () FROM credit_hold
WHERE account_id = $1 AND state = 'live' AND expires_at > $2 AND funding <> 'byok'
ORDER BY created_at, request_id LIMIT $3
"""
_EXTEND = "SELECT credit_hold_extend($1, $2, $3)"

MAX_HOLD = 10**12
MAX_NAME = 500
"""Characters of an organisation's name or a repository's URL."""
MAX_BODY = 32 * 1024 * 1024
"""Maximum size of a stored request or response, in bytes of JSON. Larger ones are billed but not stored."""

MAX_ERROR = 16_000
"""Maximum length of a stored error message, in characters."""
MAX_USAGE = 16 * 1024
"""Maximum size of a stored provider usage object, in bytes of JSON."""


def admit(
    pool: Pool,
    request: AdmissionRequest,
    *,
    worker: str = "",
    ttl_seconds: int = 60,
    free_credits: int = 0,
    now: datetime | None = None,
    timeout_seconds: float = 5.0,
) -> Admission:
    """Check a caller and hold `request.hold` credits, in one round trip (contract 5.2, rows 3 to 8, in order).

    `gateway_payer` (SQL) determines which account pays: an organisation by its key, by name or by repository, else the key's
    owner. A person's due quota cycle runs first (`free_credits` for users without an
    earlier free grant). A subscriber's plan pays within its windows; beyond them credits do, if the person chose so (A.3).
    Admits if at least `request.minimum` credits are available and either cover the hold or no other call holds any of
    them, and if every budget in force for the call covers the hold. Takes the account's lock; idempotent by request id. Raises LedgerUnavailable.
    """
    request = _clean(request)
    params = (
        request.token_hash,
        request.request_id,
        request.run_id,
        request.require_run,
        request.hold,
        request.door,
        request.model,
        worker,
        ttl_seconds,
        free_credits,
        now or utc_now(),
        request.minimum,
        request.route_model,
        request.org,
        request.repo_url,
        request.byok,
        request.run_budget,
        request.ip,
        request.secret,
        request.scope,
        list(request.drops) or None,
    )
    (row,) = _execute(pool, _ADMIT, params, timeout_seconds)
    return _admission(request, row)


def admit_many(
    pool: Pool,
    requests: Sequence[AdmissionRequest],
    *,
    worker: str = "",
    ttl_seconds: int = 60,
    free_credits: int = 0,
    now: datetime | None = None,
    timeout_seconds: float = 5.0,
) -> list[Admission]:
    """`admit` for several calls in one statement and one commit, all or none. Calls are admitted in the given order:
    each sees the holds of those before it."""
    if not requests:
        return []
    requests = [_clean(request) for request in requests]
    params = (orjson.dumps(requests).decode(), worker, ttl_seconds, free_credits, now or utc_now())
    rows = _execute(pool, _ADMIT_MANY, params, timeout_seconds)
    return [_admission(request, row) for request, row in zip(requests, rows, strict=True)]


def admit_claimed(
    pool: Pool,
    request: AdmissionRequest,
    claim: ClaimRequest,
    *,
    worker: str = "",
    ttl_seconds: int = 60,
    free_credits: int = 0,
    now: datetime | None = None,
    timeout_seconds: float = 5.0,
) -> tuple[Admission, Claim]:
    """`admit` of a call with an idempotency key, which is claimed in the same transaction. If the call is refused, so is the key
    free. If another call has the key, only the caller is checked: balance and run are not. Locks the claim before the account."""
    request = _clean(request)
    moment = now or utc_now()
    ask = orjson.dumps(request).decode()
    keys = (request.token_hash, claim.key_hash, request.request_id, claim.fingerprint)
    params = (ask, worker, ttl_seconds, free_credits, moment, *keys)
    (row,) = _execute(pool, _ADMIT_CLAIMED, params, timeout_seconds)
    found = read_claim(row[:7])
    admission = _admission(request, row[8:])
    if found.state == "claimed" and admission.outcome in ("admitted", "checked"):
        admission = replace(admission, claimed=True)
    return admission, found


def _clean(request: AdmissionRequest) -> AdmissionRequest:
    # `dataclasses.replace` is five times slower
    return AdmissionRequest(
        token_hash=clean_text(request.token_hash),
        request_id=request.request_id,
        hold=None if request.hold is None else min(max(request.hold, 0), MAX_HOLD),
        run_id=None if request.run_id is None else clean_text(request.run_id),
        require_run=request.require_run,
        door=request.door,
        model=clipped_id(request.model),
        route_model=clipped_id(request.route_model),
        minimum=min(max(request.minimum, 0), MAX_HOLD),
        org=None if request.org is None else clean_text(request.org)[:MAX_NAME],
        repo_url=None if request.repo_url is None else clean_text(request.repo_url)[:MAX_NAME],
        byok=request.byok,
        run_budget=None if request.run_budget is None else min(max(request.run_budget, 0), MAX_HOLD),
        ip=request.ip,
        secret=request.secret,
        scope=request.scope,
        drops=request.drops,
    )


def _admission(request: AdmissionRequest, row: tuple[Any, ...]) -> Admission:
    (
        outcome,
        user_id,
        org_id,
        agent_id,
        balance,
        held,
        next_reset,
        hold_expires,
        funding,
        label,
        resets,
        *more,
    ) = row
    team_id, paid_by, repo_url, refusal, budget, run_left, rules = more
    if outcome == "insufficient" and balance >= request.minimum:
        # without the other holds the call would be admitted
        outcome = "held"
    return Admission(
        outcome=outcome,
        request_id=request.request_id,
        key_id=request.token_hash,
        user_id=user_id,
        org_id=org_id,
        run_id=request.run_id,
        agent_id=agent_id,
        balance=balance or 0,
        held=held or 0,
        hold=request.hold or 0,
        minimum=request.minimum,
        next_quota_reset=next_reset,
        hold_expires_at=hold_expires,
        door=request.door,
        model=request.model,
        funding=funding or "any",
        limit_label=label or "",
        limit_resets_at=resets,
        team_id=team_id,
        paid_by=paid_by,
        repo_url=repo_url or None,
        refusal=refusal or {},
        budget=budget and BudgetRefusal(**budget),
        run_left=run_left,
        rules=rules,
    )


def extend_holds(
    pool: Pool, request_ids: Sequence[str], *, ttl_seconds: int = 60, now: datetime | None = None
) -> int:
    """Extend the holds of calls in flight to `ttl_seconds` from now, in one statement, and revive those that the
    sweep marked as lost. Returns the number of holds found. Raises LedgerUnavailable."""
    if not request_ids:
        return 0
    ((count,),) = _execute(pool, _EXTEND, (list(request_ids), ttl_seconds, now or utc_now()), 5.0)
    return int(count)


def extend_claims(
    pool: Pool, request_ids: Sequence[str], *, ttl_seconds: int = 60, now: datetime | None = None
) -> None:
    """Keep the idempotency keys of calls in flight for `ttl_seconds` from now. Raises LedgerUnavailable."""
    _execute(pool, _EXTEND_CLAIMS, (list(request_ids), ttl_seconds, now or utc_now()), 5.0)


def live_holds(
    pool: Pool, account_id: str, *, limit: int, now: datetime | None = None
) -> tuple[list[LiveHold], int]:
    """The account's oldest live holds, at most `limit`, and how many it has. Takes no lock. Raises LedgerUnavailable."""
    rows = _execute(pool, _LIVE, (account_id, now or utc_now(), limit), 1.0)
    return [LiveHold(*row[:4]) for row in rows], rows[0][4] if rows else 0


def read(
    pool: Pool, query: str, params: tuple[Parameter, ...], *, timeout_seconds: float = 1.0
) -> list[tuple[Any, ...]]:
    """Run another query of the gateway's on its pool. Raises LedgerUnavailable."""
    return _execute(pool, query, params, timeout_seconds)


def grow_hold(
    pool: Pool,
    request_id: str,
    *,
    needed: int,
    requested: int,
    now: datetime | None = None,
    timeout_seconds: float = 5.0,
) -> int | BudgetRefusal | None:
    """Grow a call's hold to `requested` credits, or to what other holds leave available of its funding and its budgets, and
    return the new amount. If that is less than `needed`, changes nothing and returns the budget that refuses, or None if the
    credits do not suffice or the call has no hold.

    Never shrinks a hold. Takes the account's lock; idempotent. Raises LedgerUnavailable.
    """
    params = (request_id, min(needed, MAX_HOLD), min(requested, MAX_HOLD), now or utc_now())
    ((amount, refusal),) = _execute(pool, _GROW, params, timeout_seconds)
    if amount is None:
        return BudgetRefusal(**refusal) if refusal else None
    return int(amount)


def settle(
    pool: Pool,
    admission: Admission,
    settlement: Settlement,
    *,
    now: datetime | None = None,
    timeout_seconds: float = 30.0,
    on_failure: Callable[[str], None] | None = None,
) -> Settled:
    """Replace the call's hold with its actual price in one round trip and one transaction: debit and entries,
    `message`, `gateway_call`, hourly and daily rollups (contract 5.5; 3.4 corrected).

    Never fails for lack of credits (the rest becomes debt) or because of the call's content: text that PostgreSQL
    rejects is not stored. Idempotent by request id, even after the hold was swept; a message id that the upstream
    reuses is stored as `<id>~<request id>`. Retries for `timeout_seconds` while PostgreSQL is unavailable, then
    raises LedgerUnavailable: the call may or may not be charged, retrying is safe, and the hold of an uncharged call
    is later listed as lost. `on_failure` is called at most once, with the facts for `settle_facts`, when the first
    retry fails or none is possible.
    """
    facts = settlement_facts(admission, settlement)
    query = _SETTLE_CLAIMED if admission.claimed else _SETTLE
    report = None if on_failure is None else lambda: on_failure(facts)
    moment = now or utc_now()
    try:
        rows = _execute(pool, query, (facts, moment), timeout_seconds, report)
    except LedgerUnavailable as error:
        if not is_data_error(error):
            raise
        rows = _execute(pool, query, (without_text(facts), moment), timeout_seconds)
    return _settled(rows[0]) if rows else _superseded(admission.request_id)


def settle_facts(pool: Pool, facts: str) -> Settled:
    """`settle` with facts stored by an earlier attempt, without retries. Raises LedgerUnavailable."""
    query = _SETTLE_CLAIMED if facts.startswith(_CLAIMED) else _SETTLE
    rows = _execute(pool, query, (facts, utc_now()), 0.0)
    return _settled(rows[0]) if rows else _superseded(orjson.loads(facts)["request_id"])


def without_text(facts: str) -> str:
    """A call's facts without its messages: request, response, reasoning and error."""
    dropped = ("request", "response", "reasoning_text", "error_message", "parameters", "definitions")
    return orjson.dumps(orjson.loads(facts) | dict.fromkeys(dropped)).decode()


def settle_many(
    pool: Pool,
    calls: Sequence[tuple[Admission, Settlement]],
    *,
    now: datetime | None = None,
    timeout_seconds: float = 30.0,
) -> list[Settled]:
    """`settle` for several calls in one statement and one commit, all or none, in the given order."""
    if not calls:
        return []
    facts = "[" + ",".join(settlement_facts(*call) for call in calls) + "]"
    return [_settled(row) for row in _execute(pool, _SETTLE_MANY, (facts, now or utc_now()), timeout_seconds)]


def fail(
    pool: Pool,
    admission: Admission,
    failure: CallFailure,
    *,
    now: datetime | None = None,
    timeout_seconds: float = 10.0,
    on_failure: Callable[[str], None] | None = None,
) -> None:
    """Record a call that ended without cost as failed and release its hold. Idempotent; a settled call stays
    settled. `on_failure` as for `settle`. Raises LedgerUnavailable."""
    facts = _identity(admission) | {
        "provider": _clip(failure.provider, 200),
        "requested_model": clipped_id(failure.requested_model),
        "model": None if failure.model is None else clipped_id(failure.model),
        "http_status": None if failure.http_status is None else clamped_int(failure.http_status),
        "error": _clip(failure.error, 2000),
        "stream": failure.stream,
        "client_gone": failure.client_gone,
        "ttft_ms": None if failure.ttft_ms is None else clamped_int(failure.ttft_ms),
        "latency_ms": clamped_int(failure.latency_ms),
        "started_at": failure.started_at.isoformat(),
        "error_message": _clip(failure.error_message, MAX_ERROR) or None,
        "parameters": _body(failure.parameters or None),
        "definitions": _body(failure.definitions),
        "routing": _body(failure.routing),
        "request": _body(failure.request),
        "response": _body(failure.response),
    }
    text = orjson.dumps(facts).decode()
    query = _FAIL_CLAIMED if admission.claimed else _FAIL
    report = None if on_failure is None else lambda: on_failure(text)
    moment = now or utc_now()
    try:
        _execute(pool, query, (text, moment), timeout_seconds, report)
    except LedgerUnavailable as error:
        if not is_data_error(error):
            raise
        _execute(pool, query, (without_text(text), moment), timeout_seconds)


def refuse_many(
    pool: Pool,
    refusals: Sequence[CallRefusal],
    more: Mapping[str, int],
    *,
    now: datetime | None = None,
    timeout_seconds: float = 10.0,
) -> None:
    """Record refused calls, and by request id how many more like it were refused and not recorded. Calls of unknown keys
    are left out. Touches no money; idempotent by request id but for `more`. Raises LedgerUnavailable."""
    if refusals:
        facts = orjson.dumps([_refusal(refusal) for refusal in refusals]).decode()
        _execute(pool, _REFUSE, (facts, now or utc_now()), timeout_seconds)
    if more:
        _execute(pool, _REFUSE_MORE, (orjson.dumps(dict(more)).decode(),), timeout_seconds)


def _refusal(refusal: CallRefusal) -> dict[str, Any]:
    return {
        "request_id": refusal.request_id,
        "key_id": refusal.key_id,
        "org_id": refusal.org_id,
        "run_id": None if refusal.run_id is None else clipped_id(refusal.run_id),
        "door": refusal.door,
        "requested_model": clipped_id(refusal.requested_model),
        "error": _clip(refusal.error, 2000),
        "http_status": clamped_int(refusal.http_status),
        "error_message": _clip(refusal.error_message, MAX_ERROR) or None,
        "stream": refusal.stream,
        "latency_ms": clamped_int(refusal.latency_ms),
        "started_at": refusal.started_at.isoformat(),
        "parameters": _body(refusal.parameters or None),
        "request": None if refusal.request is None else orjson.Fragment(refusal.request),
        "definitions": None if refusal.definitions is None else orjson.Fragment(refusal.definitions),
    }


def fail_facts(pool: Pool, facts: str) -> None:
    """`fail` with facts stored by an earlier attempt, without retries. Raises LedgerUnavailable."""
    query = _FAIL_CLAIMED if facts.startswith(_CLAIMED) else _FAIL
    _execute(pool, query, (facts, utc_now()), 0.0)


def _identity(admission: Admission) -> dict[str, Any]:
    if admission.user_id is None:
        raise ValueError("only an admitted call can be settled or failed")
    claim: dict[str, Any] = {"claim": {}} if admission.claimed else {}
    return claim | {
        "request_id": admission.request_id,
        "user_id": admission.user_id,
        "org_id": admission.org_id,
        "team_id": admission.team_id,
        "paid_by": admission.paid_by,
        "repo_url": admission.repo_url,
        "key_id": admission.key_id,
        "run_id": None if admission.run_id is None else clipped_id(admission.run_id),
        "agent_id": None if admission.agent_id is None else clipped_id(admission.agent_id),
        "door": admission.door,
    }


def settlement_facts(admission: Admission, call: Settlement) -> str:
    """The sanitized call as JSON, for `settle_facts`. Raises ValueError if the call was not admitted."""
    cost = exact_cost(call.cost)
    latency = clamped_int(call.latency_ms)
    facts = _identity(admission) | {
        "message_id": clipped_id(call.message_id or admission.request_id),
        "provider": _clip(call.provider, 200),
        "requested_model": clipped_id(call.requested_model),
        "model": clipped_id(call.model),
        "usage_source": call.usage_source,
        "uncached_input_tokens": clamped_int(call.uncached_input_tokens),
        "cache_write_tokens": clamped_int(call.cache_write_tokens),
        "cache_read_tokens": clamped_int(call.cache_read_tokens),
        "output_tokens": clamped_int(call.output_tokens),
        "reasoning_tokens": clamped_int(call.reasoning_tokens),
        "cost": str(cost),
        "micro_credits": credits_of(cost, call.margin)[0],
        "byok": call.byok,
        "reasoning_text": _clip(call.reasoning_text, MAX_BODY),
        "client_id": _clip(call.client_id, 1000),
        "client_request_id": _clip(call.client_request_id or admission.run_id or admission.request_id, 1000),
        "stream": call.stream,
        "client_gone": call.client_gone,
        "ttft_ms": None if call.ttft_ms is None else clamped_int(call.ttft_ms),
        "latency_ms": latency,
        "latency_bucket": bisect_right(EDGES_MS, latency),
        "http_status": None if call.http_status is None else clamped_int(call.http_status),
        "error": _clip(call.error, 2000),
        "error_message": _clip(call.error_message, MAX_ERROR) or None,
        "parameters": _body(call.parameters or None),
        "definitions": _body(call.definitions),
        "routing": _body(call.routing),
        "started_at": call.started_at.isoformat(),
        "price": _body(call.price),
        "parts": _body(call.parts or None),
        "raw_usage": _body(call.raw_usage, MAX_USAGE),
        "flags": [_clip(flag, 100) for flag in call.flags] or None,
        "request": _body(call.request),
        "response": _body(call.response),
    }
    if admission.claimed and call.answer is not None:
        facts["claim"] = call.answer.facts()
    return orjson.dumps(facts).decode()


def _body(value: Any, max_bytes: int = MAX_BODY) -> orjson.Fragment | None:
    if value is None:
        return None
    text = json_text(value)
    return orjson.Fragment(text) if len(text) <= max_bytes else None


def _clip(text: str | None, length: int) -> str | None:
    return None if text is None else clean_text(text)[:length]


def _superseded(request_id: str) -> Settled:
    """A call that is not charged, because a retry has taken its idempotency key."""
    return Settled(request_id, None, 0, 0, 0, 0, 0, 0, duplicate=False)


def _settled(row: tuple[Any, ...]) -> Settled:
    request_id, message_id, credits, carry, micro, balance, from_purchased, debt, duplicate, run_left = row
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
        run_left=run_left,
    )


_DATA_ERRORS = ("22", "23", "54", "P0")
"""SQLSTATE classes that a call's content may cause: data, constraint and limit errors, exceptions of triggers."""


def is_data_error(error: LedgerUnavailable) -> bool:
    """Whether the content of the call may be the cause."""
    return error.sqlstate is not None and error.sqlstate[:2] in _DATA_ERRORS


def _execute(
    pool: Pool,
    query: str,
    params: tuple[Parameter, ...],
    timeout: float,
    on_failure: Callable[[], None] | None = None,
) -> list[tuple[Any, ...]]:
    """Run an idempotent statement; retry after transient errors (deadlock, lost connection, server restart) for
    `timeout` seconds. `on_failure` is called once, when the first retry fails or none is possible. Raises
    LedgerUnavailable.
    """
    deadline = time.monotonic() + timeout
    pause = 0.01
    tries = 0
    while True:
        try:
            return pool.execute(query, params, timeout=deadline - time.monotonic())
        except psycopg.Error as raised:
            error = raised
        tries += 1
        stale = tries == 1 and error.sqlstate in _STALE
        give_up = not (stale or _is_transient(error)) or time.monotonic() + pause > deadline
        if on_failure is not None and (give_up or tries > 1):
            on_failure()
            on_failure = None
        if give_up:
            if error.sqlstate is not None:
                # without the error's message, which may quote user data
                log.error("ledger statement failed: SQLSTATE %s, %s", error.sqlstate, type(error).__name__)
            message = "The credit ledger is not reachable. Try again in a moment."
            raise LedgerUnavailable(message, sqlstate=error.sqlstate) from error
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        pause = min(pause * 2, 1.0)


_STALE = ("25006", "0A000", "XX000")
"""SQLSTATEs of a connection opened before a failover, migration or restore; a new connection may succeed."""


def _is_transient(error: psycopg.Error) -> bool:
    """Whether a retry of the same statement is likely to succeed."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = error.sqlstate
    return state is None or state[:2] in ("08", "40") or state in ("53300", "57P01", "57P02", "57P03")
