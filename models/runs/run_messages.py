"""What a run was asked and what it answered, read from the kept messages of its calls; each query reads a bounded number of them.

A call's `last_message` is the last one of its request, so the calls of a run have each prompt, tool result and answer about once.
Who may read messages is the caller's affair.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, any_, case, cast, func, literal, null, or_, select, true
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.orm import aliased

from models.core.db import db
from models.core.errors import Invalid
from models.gateway import CallBody, GatewayCall
from models.runs.run import AgentRun
from models.runs.run_totals import text_array
from models.runs.transcript import ConversationTurn, transcript
from models.usage import Message

PROMPT_CHARS = 300
MAX_BYTES = 500_000
"""Stored bytes of a message that is read whole."""
MAX_SEARCHED = 1_000
MAX_HITS = 50
MAX_QUERY = 200
SNIPPET_CHARS = 120
_OWN_TEXT = (
    '$.content[*].text ? (!(@ starts with "<system-reminder" || @ starts with "<environment_context"))'
)
"""Texts of a message but those that Claude Code and Codex put beside the user's."""


def first_prompts(account_id: str, run_ids: Collection[str]) -> dict[str, str]:
    """Return the beginning of each run's prompt, the last message of its first call, in one query. Runs without a kept one are
    left out."""
    if not run_ids:
        return {}
    run, call, body = aliased(AgentRun), aliased(GatewayCall), aliased(CallBody)
    first = (
        select(call.request_id, call.message_id, call.account_id)
        .outerjoin(body, body.request_id == call.request_id)
        .where(call.run_id == run.id, or_(call.message_id.is_not(None), body.request.is_not(None)))
        .order_by(call.started_at, call.request_id)
        .limit(1)
        .lateral()
    )
    prompt = func.coalesce(_text_of(Message.last_message), _text_of(CallBody.request[-1]))
    query = (
        select(run.id, func.left(prompt, PROMPT_CHARS).label("text"))
        .select_from(run)
        .join(first, true())
        .outerjoin(Message, Message.id == first.c.message_id)
        .outerjoin(CallBody, CallBody.request_id == first.c.request_id)
        .where(run.account_id == account_id, first.c.account_id == account_id)
        .where(run.id == any_(text_array(run_ids)))
    )
    return {row.id: row.text for row in db.session.execute(query) if (row.text or "").strip()}


def _text_of(message: Any) -> ColumnElement[str]:
    """The text of a chat message, or of the first part that has one and was not added by a client; null of a large one."""
    own, first = (
        func.jsonb_path_query_first(message, cast(path, JSONPATH)).op("#>>")(text_array([]))
        for path in (_OWN_TEXT, "$.content[*].text")
    )
    first_part = func.coalesce(own, first)
    content = message["content"]
    return case(
        (func.pg_column_size(message) > MAX_BYTES, null()),
        (func.jsonb_typeof(content) == "string", content.astext),
        else_=first_part,
    )


@dataclass(frozen=True)
class RunDialogue:
    """The prompt and the answer of a run, and the request ids of their calls; None if not kept or not there."""

    prompt: ConversationTurn | None = None
    answer: ConversationTurn | None = None
    prompt_call: str | None = None
    answer_call: str | None = None


def dialogue_of(account_id: str, run: AgentRun) -> RunDialogue:
    """Return the prompt of the run's first call and the answer of its last, in one query."""
    calls = (
        select(GatewayCall.request_id, GatewayCall.message_id, CallBody.request[-1].label("prompt"))
        .outerjoin(CallBody, CallBody.request_id == GatewayCall.request_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.run_id == run.id)
        .limit(1)
    )
    order = (GatewayCall.started_at, GatewayCall.request_id)
    kept = or_(GatewayCall.message_id.is_not(None), CallBody.request.is_not(None))
    first = calls.where(kept).order_by(*order).subquery("first_call")
    answers = calls.where(GatewayCall.message_id.is_not(None))
    last = answers.order_by(*(each.desc() for each in order)).subquery("last_call")
    asked, answered = aliased(Message), aliased(Message)
    query = (
        select(
            first.c.request_id.label("prompt_call"),
            last.c.request_id.label("answer_call"),
            func.coalesce(_unless_large(asked.last_message), _unless_large(first.c.prompt)).label("prompt"),
            _unless_large(answered.response).label("answer"),
        )
        .select_from(first)
        .outerjoin(last, true())
        .outerjoin(asked, asked.id == first.c.message_id)
        .outerjoin(answered, answered.id == last.c.message_id)
    )
    row = db.session.execute(query).one_or_none()
    if row is None:
        return RunDialogue()
    request = None if row.prompt is None else [row.prompt]
    parsed = transcript(request, 1, row.answer, None)
    return RunDialogue(
        parsed.request[0] if parsed.request else None,
        parsed.response[0] if parsed.response else None,
        row.prompt_call,
        row.answer_call,
    )


def _unless_large(body: Any) -> ColumnElement[Any]:
    return case((func.pg_column_size(body) > MAX_BYTES, null()), else_=body)


@dataclass(frozen=True)
class SearchHit:
    """A call whose prompt, tool result or answer has the text. `where` is `request` or `response`."""

    request_id: str
    model: str
    started_at: datetime
    where: str
    before: str
    match: str
    after: str


@dataclass(frozen=True)
class RunSearch:
    """The first 50 hits in the messages of a run. `searched` calls were read; `complete`: those are all with messages."""

    query: str
    hits: Sequence[SearchHit]
    searched: int
    complete: bool


def search_run(account_id: str, run: AgentRun, text: str) -> RunSearch:
    """Search the messages of the run's first 1,000 calls for a text, ignoring case. Raises Invalid for one that is too long."""
    text = text.strip()
    if len(text) > MAX_QUERY or "\x00" in text:
        raise Invalid(f"Search for at most {MAX_QUERY} characters.", status=422)
    calls = (
        select(GatewayCall.request_id, GatewayCall.model, GatewayCall.started_at, GatewayCall.message_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.run_id == run.id)
        .where(GatewayCall.message_id.is_not(None))
        .order_by(GatewayCall.started_at, GatewayCall.request_id)
        .limit(MAX_SEARCHED)
        .cte("calls")
        .prefix_with("MATERIALIZED")
    )
    # JSON as PostgreSQL prints it: letters as they are, quotes and controls escaped
    needle = func.lower(literal(json.dumps(text, ensure_ascii=False)[1:-1], Text))
    bodies = {
        "request": cast(_unless_large(Message.last_message["content"]), Text),
        "response": cast(_unless_large(Message.response), Text),
    }
    found = {name: func.strpos(func.lower(body), needle) for name, body in bodies.items()}
    cuts = [
        func.substr(body, func.greatest(1, found[name] - SNIPPET_CHARS), 3 * SNIPPET_CHARS).label(name)
        for name, body in bodies.items()
    ]
    query = (
        select(calls, *cuts, *(found[name].label(f"{name}_at") for name in bodies))
        .join(Message, Message.id == calls.c.message_id)
        .where(or_(*(at > 0 for at in found.values())))
        .order_by(calls.c.started_at, calls.c.request_id)
        .limit(MAX_HITS)
    )
    searched = db.session.scalar(select(func.count()).select_from(calls)) or 0
    rows = db.session.execute(query).mappings().all()
    hits = [_hit(row, name, text) for row in rows for name in bodies if row[f"{name}_at"]]
    return RunSearch(text, hits[:MAX_HITS], searched, searched < MAX_SEARCHED)


def _hit(row: Any, where: str, text: str) -> SearchHit:
    snippet = _plain(row[where].strip('"'))
    at = snippet.lower().find(text.lower())
    at, end = (at, at + len(text)) if at >= 0 else (0, 0)
    return SearchHit(
        row["request_id"],
        row["model"] or "",
        row["started_at"],
        where,
        snippet[max(0, at - SNIPPET_CHARS) : at],
        snippet[at:end],
        snippet[end : end + SNIPPET_CHARS],
    )


def _plain(escaped: str) -> str:
    """Undo the commonest escapes of JSON in a cut of it, which may begin within one."""
    for escape, character in (("\\n", "\n"), ("\\t", " "), ('\\"', '"'), ("\\\\", "\\")):
        escaped = escaped.replace(escape, character)
    return escaped
