"""Relabels: answers of other models to the requests of a person's stored calls, for operators to compare (contract 2.12)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ForeignKey, Select, func, literal, or_, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.admin.client_traces import TracedMessage, answer_turns, user_prompt
from models.core.db import NOW, Base, db
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.runs.call_replay import replay_of
from models.runs.transcript import text_or_calls

CLIENT_ID = "stoa-relabel"
"""`client_id` of the calls that relabel, which are not relabelled themselves."""
SCANNED = 1_000
"""Latest calls of a person that are looked through for some whose messages were kept."""


class TraceRelabel(Base):
    """The answer of one model to the request of a call. `request_id` is the call that made it, `created_by` the operator. The
    trigger `trace_relabel_prune` removes it with the messages of the call."""

    __tablename__ = "trace_relabel"

    message_id: Mapped[str] = mapped_column(ForeignKey("message.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    output: Mapped[str]
    request_id: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


@dataclass(frozen=True, slots=True)
class RelabelledTrace:
    """A call: its time, the last prompt, and the answers to it by model, its own first."""

    message_id: str
    timestamp: datetime
    query: str
    outputs: dict[str, str]


@dataclass(frozen=True, slots=True)
class RelabelRequest:
    """The request of a call, to send to another model."""

    message_id: str
    body: dict[str, Any]

    def for_model(self, model: str) -> dict[str, Any]:
        """The request with this model, answered as a whole."""
        return self.body | {"model": model, "stream": False}


def relabelled_traces(
    user_id: str, limit: int, message_ids: Sequence[str] | None = None
) -> list[RelabelledTrace]:
    """The person's latest calls with kept messages, newest first, or of these only those given. Two statements."""
    rows = _kept_calls(user_id, limit)
    messages = [row.Message for row in rows if message_ids is None or row.Message.id in message_ids]
    outputs: dict[str, dict[str, str]] = {
        each.id: {each.model: text_or_calls(answer_turns(TracedMessage(each, None, each.response)))}
        for each in messages
    }
    query = select(TraceRelabel).where(TraceRelabel.message_id.in_(outputs)).order_by(TraceRelabel.model)
    for relabel in db.session.scalars(query):
        key = (
            relabel.model if relabel.model not in outputs[relabel.message_id] else f"{relabel.model} (again)"
        )
        outputs[relabel.message_id][key] = relabel.output
    return [
        RelabelledTrace(
            each.id,
            each.finished_at,
            user_prompt(TracedMessage(each, each.request, None)) or "",
            outputs[each.id],
        )
        for each in messages
    ]


def requests_to_relabel(user_id: str, limit: int) -> list[RelabelRequest]:
    """The requests of the person's latest calls, newest first. Those that cannot be sent again are left out."""
    found = []
    for row in _kept_calls(user_id, limit):
        replay = (
            replay_of(row.GatewayCall, row.Message.request, row.Message.definitions)
            if row.GatewayCall
            else None
        )
        if replay:
            found.append(RelabelRequest(row.Message.id, orjson.loads(replay.body)))
    return found


def store_relabel(message_id: str, model: str, output: str, *, request_id: str, by: str) -> None:
    """Keep an answer, instead of an earlier one of the model, unless the messages of the call were removed meanwhile."""
    kept = select(
        Message.id, literal(model), literal(output.replace("\0", "")), literal(request_id), literal(by)
    ).where(Message.id == message_id, Message.request.is_not(None))
    names = ["message_id", "model", "output", "request_id", "created_by"]
    new = insert(TraceRelabel).from_select(names, kept.with_for_update(key_share=True))
    db.session.execute(
        new.on_conflict_do_update(
            index_elements=[TraceRelabel.message_id, TraceRelabel.model],
            set_={name: new.excluded[name] for name in names[2:]} | {"created_at": NOW},
        )
    )


def _kept_calls(user_id: str, limit: int) -> Sequence[Any]:
    if "\0" in user_id:
        return ()
    newest = union_all(_newest_own(user_id), _newest_delegated(user_id)).subquery("newest")
    query = (
        select(Message, GatewayCall)
        .join(newest, newest.c.id == Message.id)
        .outerjoin(GatewayCall, GatewayCall.message_id == Message.id)
        .where(Message.request.is_not(None), or_(Message.client_id.is_(None), Message.client_id != CLIENT_ID))
        .order_by(Message.finished_at.desc(), Message.id.desc())
        .limit(limit)
    )
    return db.session.execute(query).all()


def _newest_own(user_id: str) -> Select[Any]:
    account = func.coalesce(Message.org_id, Message.user_id)
    query = select(Message.id).where(account == user_id).order_by(Message.finished_at.desc()).limit(SCANNED)
    return select(query.subquery().c.id)


def _newest_delegated(user_id: str) -> Select[Any]:
    """Of the calls that organisations paid for."""
    delegated = (GatewayCall.user_id == user_id, GatewayCall.user_id != GatewayCall.account_id)
    query = select(GatewayCall.message_id.label("id")).where(*delegated, GatewayCall.message_id.is_not(None))
    return select(query.order_by(GatewayCall.finished_at.desc()).limit(SCANNED).subquery().c.id)
