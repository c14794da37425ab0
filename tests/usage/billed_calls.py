"""Inserts billed calls directly into the tables, as a settlement would, for tests of usage queries."""

import bisect
import uuid
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.accounts import User
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import CreditAccount
from models.ledger.latency import BUCKETS, EDGES_MS
from models.orgs import Org
from models.usage import Message, UsageRollup
from tests.factories import org_of


@dataclass(frozen=True)
class Call:
    """A billed call. Token counts are disjoint; output includes reasoning."""

    at: datetime
    model: str = "north/large-4"
    agent: str = ""
    credits: int = 5
    cost: Decimal = Decimal("0.05")
    uncached: int = 1000
    cache_write: int = 0
    cache_read: int = 0
    output: int = 200
    reasoning: int = 0
    latency_ms: int = 1200
    ttft_ms: int | None = 300
    run_id: str | None = None
    key_id: str | None = None
    error: str = ""
    """Of a failed call, which used nothing."""


def person(session: Session, email: str, **columns: Any) -> str:
    """Create a user with a credit account and return the user id."""
    user = User(id=str(uuid.uuid4()), email=email, **columns)
    session.add(user)
    session.flush()
    session.add(CreditAccount(id=user.id, user_id=user.id))
    session.flush()
    return user.id


def set_zone(org: Org, zone: str) -> None:
    """Change the organisation's time zone, its account locked before it, and commit."""
    db.session.execute(select(func.credit_account_lock(None, org.id)))
    org.time_zone = zone
    db.session.commit()


def insert_calls(session: Session, user_id: str, calls: Iterable[Call]) -> None:
    """Insert messages, gateway calls and rollups for the calls, and the account if it is missing. Flushes."""
    org_id = org_of(user_id)
    account_id = org_id or user_id
    if session.get(CreditAccount, account_id) is None:
        session.add(CreditAccount(id=account_id, user_id=None if org_id else user_id, org_id=org_id))
        session.flush()
    cells: dict[tuple[str, datetime, str, str, str], list[Call]] = defaultdict(list)
    messages: list[Message] = []
    gateway: list[GatewayCall] = []
    for call in calls:
        if call.error:  # a trigger counts it
            gateway.append(_failed_call(account_id, user_id, call))
            continue
        key = call.key_id or ""
        hour = call.at.replace(minute=0, second=0, microsecond=0)
        cells["hour", hour, call.model, call.agent, key].append(call)
        day = hour.replace(hour=0)
        cells["day", day, call.model, call.agent, key].append(call)
        cells["week", day - timedelta(days=day.weekday()), call.model, call.agent, key].append(call)
        message = Message(
            id=f"gen-{uuid.uuid4().hex}",
            finished_at=call.at,
            model=call.model,
            agent_id=call.agent or None,
            client_request_id=call.run_id,
            response="text",
            input_tokens=call.uncached + call.cache_write + call.cache_read,
            cache_creation_input_tokens=call.cache_write or None,
            cache_read_input_tokens=call.cache_read,
            reasoning_tokens=call.reasoning or None,
            output_tokens=call.output,
            cost=call.cost,
            credits=call.credits,
            latency_ms=call.latency_ms,
            user_id=user_id,
            org_id=org_id,
            key_id=call.key_id,
        )
        messages.append(message)
        gateway.append(_gateway_call(account_id, user_id, message.id, call))
    session.add_all(messages)
    session.flush()
    session.add_all(gateway)
    session.add_all(_rollup(account_id, user_id, key, part) for key, part in cells.items())
    session.flush()


def _gateway_call(account_id: str, user_id: str, message_id: str, call: Call) -> GatewayCall:
    return GatewayCall(
        request_id=uuid.uuid4().hex,
        message_id=message_id,
        account_id=account_id,
        user_id=user_id,
        run_id=call.run_id,
        key_id=call.key_id,
        door="openai",
        provider="demo",
        requested_model=call.model,
        model=call.model,
        state="settled",
        usage_source="provider",
        stream=call.ttft_ms is not None,
        ttft_ms=call.ttft_ms,
        latency_ms=call.latency_ms,
        uncached_input_tokens=call.uncached,
        cache_write_tokens=call.cache_write,
        cache_read_tokens=call.cache_read,
        output_tokens=call.output,
        reasoning_tokens=call.reasoning,
        cost=call.cost,
        micro_credits=call.credits * 1_000_000,
        credits=call.credits,
        started_at=call.at - timedelta(milliseconds=call.latency_ms),
        finished_at=call.at,
    )


def _failed_call(account_id: str, user_id: str, call: Call) -> GatewayCall:
    return GatewayCall(
        request_id=uuid.uuid4().hex,
        account_id=account_id,
        user_id=user_id,
        run_id=call.run_id,
        key_id=call.key_id,
        door="openai",
        provider="demo",
        requested_model=call.model,
        model=call.model,
        state="failed",
        error=call.error,
        http_status=502,
        latency_ms=call.latency_ms,
        started_at=call.at - timedelta(milliseconds=call.latency_ms),
        finished_at=call.at,
    )


def _rollup(
    account_id: str, user_id: str, cell: tuple[str, datetime, str, str, str], calls: list[Call]
) -> UsageRollup:
    grain, bucket, model, agent, key_id = cell
    histogram = [0] * BUCKETS
    for call in calls:
        histogram[bisect.bisect_right(EDGES_MS, call.latency_ms)] += 1
    return UsageRollup(
        account_id=account_id,
        grain=grain,
        bucket=bucket,
        user_id=user_id,
        model=model,
        agent_id=agent,
        key_id=key_id,
        calls=len(calls),
        input_tokens=sum(call.uncached for call in calls),
        cache_write_tokens=sum(call.cache_write for call in calls),
        cache_read_tokens=sum(call.cache_read for call in calls),
        output_tokens=sum(call.output for call in calls),
        reasoning_tokens=sum(call.reasoning for call in calls),
        cost=sum((call.cost for call in calls), Decimal(0)),
        credits=sum(call.credits for call in calls),
        latency_ms=sum(call.latency_ms for call in calls),
        ttft_ms=sum(call.ttft_ms or 0 for call in calls),
        ttft_calls=sum(call.ttft_ms is not None for call in calls),
        latency_hist=histogram,
        latency_max=max(call.latency_ms for call in calls),
    )
