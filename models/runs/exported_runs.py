"""What an export of a user's data holds of their calls and runs: facts, kept prompts and answers, steps, tags and scores."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, select

from models.core.db import db
from models.core.personal_export import add_csv, add_json_lines, batches, keyset
from models.gateway import CallBody, GatewayCall
from models.ledger.message import Message
from models.runs.call_search import CallFilter, exported_calls
from models.runs.run import AgentRun, AgentStep
from models.runs.run_share import RunShare

RUNS = 100
FEW_BODIES, MOST_BODIES = 10, 200
BODY_BYTES = 4 << 20
"""About how much text a batch of prompts and answers should have."""


def _calls(user_id: str) -> Iterator[Mapping[str, Any]]:
    for call in exported_calls(user_id, CallFilter()):
        yield {
            "call": call.request_id,
            "message": call.message_id,
            "started_at": call.started_at,
            "finished_at": call.finished_at,
            "state": call.state,
            "status": call.http_status,
            "error": call.error,
            "model": call.model_name,
            "provider": call.provider,
            "door": call.door,
            "key": call.key_name,
            "agent": call.agent_id,
            "run": call.run_id,
            "repository": call.repo_url,
            "uncached_input_tokens": call.uncached_input_tokens,
            "cache_write_tokens": call.cache_write_tokens,
            "cache_read_tokens": call.cache_read_tokens,
            "output_tokens": call.output_tokens,
            "reasoning_tokens": call.reasoning_tokens,
            "cost_usd": call.cost,
            "credits": call.exact_credits,
            "own_provider_key": call.byok,
            "latency_ms": call.latency_ms,
            "first_token_ms": call.ttft_ms,
        }


def _bodies(user_id: str) -> Iterator[Mapping[str, Any]]:
    """What is kept of each call. How many are read at a time follows from the size of those before."""
    query: Select[*tuple[Any, ...]] = (
        select(
            GatewayCall.request_id,
            GatewayCall.finished_at,
            GatewayCall.parameters,
            Message.request,
            Message.response,
            Message.reasoning_text,
            CallBody.request.label("failed_request"),
            CallBody.response.label("partial_response"),
            CallBody.error_message,
        )
        .outerjoin(Message, Message.id == GatewayCall.message_id)
        .outerjoin(CallBody, CallBody.request_id == GatewayCall.request_id)
        .where(GatewayCall.account_id == user_id)
    )
    read = [FEW_BODIES, 0]  # rows and characters of the batch

    def size(_: int) -> int:
        rows, length = read
        read[1] = 0
        fitting = rows if not length else rows * BODY_BYTES // length
        read[0] = max(1, min(fitting, 2 * rows, MOST_BODIES))
        return read[0]

    for row in keyset(query, (GatewayCall.finished_at, GatewayCall.request_id), size):
        kept = {
            "call": row["request_id"],
            "finished_at": row["finished_at"],
            "parameters": row["parameters"],
            "request": row["failed_request"] if row["request"] is None else row["request"],
            "response": row["partial_response"] if row["response"] is None else row["response"],
            "reasoning": row["reasoning_text"],
            "error": row["error_message"],
        }
        texts = [kept[name] for name in ("request", "response", "reasoning", "error")]
        if all(text is None for text in texts):
            read[1] += 1_000
            continue
        read[1] += 1_000 + sum(len(json.dumps(text)) for text in texts if text is not None)
        yield kept


def _runs(user_id: str) -> Iterator[Mapping[str, Any]]:
    """Runs with their steps, read for some runs at a time."""
    query = select(*AgentRun.__table__.columns).where(AgentRun.account_id == user_id)
    pending: list[Mapping[str, Any]] = []
    for row in batches(query, AgentRun.created_at, AgentRun.id, size=RUNS):
        pending.append(row)
        if len(pending) == RUNS:
            yield from _with_steps(pending)
            pending = []
    yield from _with_steps(pending)


def _with_steps(runs: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    steps: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in runs}
    query: Select[*tuple[Any, ...]] = select(
        AgentStep.agent_run_id,
        AgentStep.step_number.label("number"),
        AgentStep.status,
        AgentStep.error_message.label("error"),
        AgentStep.credits,
        AgentStep.message_id.label("message"),
        AgentStep.child_run_ids.label("spawned"),
        AgentStep.created_at.label("started_at"),
        AgentStep.completed_at,
    ).where(AgentStep.agent_run_id.in_(steps))
    if runs:
        with db.engine.connect() as connection:
            for step in connection.execute(query.order_by(AgentStep.agent_run_id, AgentStep.step_number)):
                fields = dict(step._mapping)
                steps[fields.pop("agent_run_id")].append(fields)
    for row in runs:
        yield {**row, "steps": steps[row["id"]]}


def _shares(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        RunShare.id,
        RunShare.run_id,
        RunShare.with_messages,
        RunShare.created_at,
        RunShare.expires_at,
        RunShare.revoked_at,
    ).where(RunShare.created_by == user_id)
    return batches(query, RunShare.id)


add_csv(
    "calls.csv",
    "Every model call of your own account, failed and refused ones included, newest first.",
    {
        "call": "id of the call",
        "message": "id of its bill, as message_id in statement.csv; empty: not billed",
        "started_at": "start",
        "finished_at": "end",
        "state": "settled or failed",
        "status": "HTTP status of the answer",
        "error": "code of the error",
        "model": "model",
        "provider": "provider",
        "door": "API",
        "key": "name of the key, or its last characters",
        "agent": "agent",
        "run": "id of the run, as in runs.jsonl",
        "repository": "repository",
        "uncached_input_tokens": "input tokens that were not cached",
        "cache_write_tokens": "input tokens written to the cache",
        "cache_read_tokens": "input tokens read from the cache",
        "output_tokens": "output tokens, reasoning included",
        "reasoning_tokens": "output tokens of reasoning",
        "cost_usd": "dollars at the provider",
        "credits": "exact credits: fractions add up on the account until they make a credit",
        "own_provider_key": "whether a provider key paid instead of credits",
        "latency_ms": "milliseconds until the end",
        "first_token_ms": "milliseconds until the first token",
    },
    _calls,
)
add_json_lines(
    "prompts.jsonl",
    "Prompts and answers that are still kept, oldest first. Old ones are deleted after the server's retention.",
    {
        "call": "id of the call, as in calls.csv",
        "finished_at": "end",
        "parameters": "parameters of the request",
        "request": "messages sent",
        "response": "answer; of a failed call what had arrived",
        "reasoning": "text of reasoning",
        "error": "message of the error",
    },
    _bodies,
)
add_json_lines(
    "runs.jsonl",
    "Agent runs of your own account with their steps, tags and scores, oldest first.",
    {
        "id": "id of the run",
        "agent_id": "agent",
        "ancestor_run_ids": "runs that spawned it",
        "status": "what became of it",
        "error_message": "why it failed",
        "tags": "your tags",
        "score": "your score: 1 good, -1 bad",
        "created_at": "start",
        "completed_at": "end",
        "total_steps": "steps, as the client reported",
        "direct_credits": "credits, as the client reported",
        "total_credits": "credits with those of spawned runs, as the client reported",
        "repo_url": "repository",
        "steps": "number, status, error, credits as reported, message, spawned runs, started_at, completed_at",
    },
    _runs,
)
add_csv(
    "run_links.csv",
    "Links to runs that you shared.",
    {
        "id": "id of the link",
        "run_id": "id of the run",
        "with_messages": "whether it shows prompts and answers",
        "created_at": "when",
        "expires_at": "expiry; empty: never",
        "revoked_at": "when you revoked it",
    },
    _shares,
)
