"""A run as one JSON document: it and the runs it spawned with their steps, calls and kept messages. Costs are exact."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select, tuple_

from models.core.db import db
from models.gateway import GatewayCall
from models.runs.run import AgentRun, AgentStep
from models.runs.run_totals import RunCost, add_up, relatives_of
from models.usage import Message

MAX_RUNS = 1_000
BATCH = 20
STEP_BATCH = 500

Transaction = Callable[[], AbstractContextManager[Any]]


def export_run(
    account_id: str, run: AgentRun, *, reader: str | None
) -> Callable[[Transaction], Iterator[str]]:
    """Prepare the export of a run of the account; the returned function yields the document in pieces and reads each batch of 20
    calls in a `Transaction` of its own. With `reader`, messages only of this user's calls. At most 1,000 runs: `truncated`."""
    relatives = relatives_of(account_id, [run.id])
    ids = [run.id, *(member.id for member in relatives if member.id != run.id)]
    totals = add_up(account_id, relatives, [run.id])[run.id]
    head = {"run": run_row(run), "totals": cost_row(totals.all), "spawnedRuns": totals.spawned}
    head["truncated"] = len(ids) > MAX_RUNS

    def pieces(transaction: Transaction) -> Iterator[str]:
        yield _dumps(head)[:-1] + ',"runs":['
        for index, run_id in enumerate(ids[:MAX_RUNS]):
            yield from _run(account_id, run_id, reader, transaction, "," if index else "")
        yield "]}\n"

    return pieces


def run_row(run: AgentRun) -> dict[str, Any]:
    """The columns of a run."""
    return {
        "id": run.id,
        "agentId": run.agent_id,
        "ancestorRunIds": run.ancestor_run_ids or [],
        "status": run.status,
        "error": run.error_message,
        "tags": run.tags or [],
        "score": run.score,
        "startedAt": _time(run.created_at),
        "completedAt": _time(run.completed_at),
        "reported": {
            "steps": run.total_steps,
            "directCredits": _number(run.direct_credits),
            "totalCredits": _number(run.total_credits),
        },
    }


def cost_row(cost: RunCost) -> dict[str, Any]:
    """Totals of calls; `costUsd` is exact."""
    return {
        "calls": cost.calls,
        "failedCalls": cost.failed,
        "credits": cost.credits,
        "costUsd": _number(cost.cost),
        "inputTokens": cost.tokens - cost.output_tokens,
        "outputTokens": cost.output_tokens,
    }


def _run(
    account_id: str, run_id: str, reader: str | None, transaction: Transaction, comma: str
) -> Iterator[str]:
    with transaction():
        query = select(AgentRun).where(AgentRun.id == run_id, AgentRun.account_id == account_id)
        run = db.session.scalar(query)
        row = None if run is None else run_row(run)
    if row is None:  # deleted meanwhile
        return
    yield comma + _dumps(row)[:-1] + ',"steps":['
    yield from _listed(_steps(run_id, transaction))
    yield '],"calls":['
    yield from _listed(_calls(account_id, run_id, reader, transaction))
    yield "]}"


def _listed(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        yield ("," if index else "") + _dumps(row)


def _steps(run_id: str, transaction: Transaction) -> Iterator[dict[str, Any]]:
    last = -1
    while True:
        with transaction():
            query = select(AgentStep).where(AgentStep.agent_run_id == run_id, AgentStep.step_number > last)
            steps = db.session.scalars(query.order_by(AgentStep.step_number).limit(STEP_BATCH)).all()
            rows = [_step_row(step) for step in steps]
        yield from rows
        if len(rows) < STEP_BATCH:
            return
        last = rows[-1]["number"]


def _calls(
    account_id: str, run_id: str, reader: str | None, transaction: Transaction
) -> Iterator[dict[str, Any]]:
    position: tuple[datetime, str] = (datetime(1, 1, 1, tzinfo=UTC), "")
    order = (GatewayCall.started_at, GatewayCall.request_id)
    while True:
        with transaction():
            query = (
                select(GatewayCall, Message)
                .outerjoin(Message, Message.id == GatewayCall.message_id)
                .where(GatewayCall.account_id == account_id, GatewayCall.run_id == run_id)
                .where(tuple_(*order) > tuple_(*position))
            )
            found = db.session.execute(query.order_by(*order).limit(BATCH)).all()
            rows = [
                _call_row(call, message, readable=reader in (None, call.user_id)) for call, message in found
            ]
            position = (found[-1][0].started_at, found[-1][0].request_id) if found else position
        yield from rows
        if len(rows) < BATCH:
            return


def _step_row(step: AgentStep) -> dict[str, Any]:
    return {
        "id": step.id,
        "number": step.step_number,
        "status": step.status,
        "error": step.error_message,
        "messageId": step.message_id,
        "childRunIds": step.child_run_ids or [],
        "reportedCredits": _number(step.credits),
        "startedAt": _time(step.created_at),
        "completedAt": _time(step.completed_at),
    }


def _call_row(call: GatewayCall, message: Message | None, *, readable: bool) -> dict[str, Any]:
    row = {
        "requestId": call.request_id,
        "messageId": call.message_id,
        "provider": call.provider,
        "requestedModel": call.requested_model,
        "model": call.model,
        "state": call.state,
        "httpStatus": call.http_status,
        "error": call.error,
        "startedAt": _time(call.started_at),
        "finishedAt": _time(call.finished_at),
        "latencyMs": call.latency_ms,
        "firstTokenMs": call.ttft_ms,
        "tokens": {
            "input": call.uncached_input_tokens,
            "cacheWrite": call.cache_write_tokens,
            "cacheRead": call.cache_read_tokens,
            "output": call.output_tokens,
            "reasoning": call.reasoning_tokens,
        },
        "costUsd": _number(call.cost),
        "microCredits": call.micro_credits,
        "credits": 0 if message is not None and message.byok else call.credits,
        "price": call.price,
    }
    if message is not None and readable:
        row |= {
            "request": message.request,
            "response": message.response,
            "reasoning": message.reasoning_text,
        }
    return row


def _number(value: Decimal | None) -> str | None:
    """A decimal as a string: exact, without a float's rounding."""
    return None if value is None else f"{value.normalize():f}"


def _time(value: datetime | None) -> str | None:
    return (
        None
        if value is None
        else value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
