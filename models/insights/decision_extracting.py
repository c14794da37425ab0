"""Looks for decisions by itself after every fifth turn of a conversation: by rules, and by a model where the project's settings name one
(fastest contract 4.8)."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from models.accounts.key_format import PresentedKey
from models.conversations import FoundConversation, ProjectConversation, conversation_turn_ended
from models.core import jobs
from models.core.db import db, lock_name, now
from models.core.errors import DomainError, Invalid
from models.core.job_queue import Context
from models.gateway import GatewayCall
from models.insights.decision_extraction import (
    DAILY_CREDITS,
    MAX_DAILY_CREDITS,
    MAX_MODEL_NAME,
    DecisionExtraction,
    DecisionSetting,
)
from models.insights.decision_verbs import last_messages, propose_decisions, said_in
from models.insights.decision_words import DECISIONS_CLIENT, SaidMessage, decisions_of, decisions_request
from models.insights.model_words import ModelFailed
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import own_project
from models.runs.internal_chat import chat_once, most_credits
from models.threads import Thread
from models.turns import Turn

EVERY = 5
"""Turns of a conversation between two looks."""
MESSAGES = 12
"""Messages of a look."""
MICRO = 1_000_000
LOST = "The server ended during the call, so its answer is lost. What it cost is in your usage."


@dataclass(frozen=True)
class _Asked:
    """A call to make: outside of any transaction."""

    project_id: str
    conversation_id: str
    key: PresentedKey
    org_id: str | None
    model: str
    request_id: str
    body: Mapping[str, Any]
    messages: Sequence[SaidMessage]


@dataclass(frozen=True)
class DayOfExtractions:
    """What looks of today (UTC) cost and may cost, in credits, and the last look."""

    spent: float
    last: DecisionExtraction | None


def setting_of(project_id: str) -> DecisionSetting | None:
    """What the project lets a model do; None: nothing."""
    return db.session.get(DecisionSetting, project_id)


def change_setting(
    caller: ProjectCaller, project_id: str, model: str | None, daily_credits: int = DAILY_CREDITS
) -> DecisionSetting:
    """Let a model read the project's conversations by itself, or none. Flushes. Raises NotFound, Forbidden, Invalid (422), and DomainError
    for a model that nobody serves."""
    project = own_project(caller, project_id, "manage_projects")
    if not 1 <= daily_credits <= MAX_DAILY_CREDITS:
        message = f"Enter a number of credits from 1 to {MAX_DAILY_CREDITS:,}."
        raise Invalid(message, fields={"daily_credits": message})
    if model is not None:
        _check_model(model)
    found = setting_of(project.id) or DecisionSetting(project_id=project.id)
    found.model, found.daily_credits = model, daily_credits
    found.changed_by, found.changed_at = caller.user_id, now()
    db.session.add(found)
    db.session.flush()
    return found


def extractions_today(project_id: str) -> DayOfExtractions:
    """What was looked at in a project today."""
    newest = select(DecisionExtraction).where(DecisionExtraction.project_id == project_id)
    last = db.session.scalars(newest.order_by(DecisionExtraction.queued_at.desc()).limit(1)).one_or_none()
    return DayOfExtractions(_spent(project_id, now()), last)


def extract_after_turn(context: Context, turn_id: str) -> None:
    """Look at the conversation of a turn, once: a repetition asks no model again. Each transaction is short, and none is open during the
    call, which is made with the key of the turn and paid as the turn was."""
    with context():
        asked = _begin(turn_id)
    if asked is None:
        return
    answer, problem = "", None
    try:
        answer = chat_once(
            asked.key,
            asked.body,
            client_id=DECISIONS_CLIENT,
            org_id=asked.org_id,
            request_id=asked.request_id,
        ).text
    except DomainError as error:
        problem = error.message
    with context():
        _finish(turn_id, asked, answer, problem)


@conversation_turn_ended.connect
def _after_turn(turn: Turn, conversation: ProjectConversation | None, **_: Any) -> None:
    if conversation is None or conversation.purpose != "chat" or turn.state != "completed":
        return
    done = select(func.count()).where(Turn.subject_id == turn.subject_id, Turn.state == "completed")
    if (db.session.scalar(done) or 0) % EVERY:
        return
    row = insert(DecisionExtraction).values(
        turn_id=turn.id, project_id=conversation.project_id, conversation_id=conversation.id
    )
    new = db.session.scalars(row.on_conflict_do_nothing().returning(DecisionExtraction.turn_id)).one_or_none()
    if new is not None:
        jobs.enqueue(jobs.extract_decisions, turn_id=turn.id)


def _begin(turn_id: str) -> _Asked | None:
    """Propose what the rules find, and note the call that is to be made; None if there is none."""
    row = _locked(turn_id)
    found = _conversation_of(row) if row is not None else None
    turn = db.session.get(Turn, turn_id)
    if row is None or found is None or turn is None or row.state == "done":
        return None
    if row.state == "asking":
        _close(row, LOST)
        return None
    messages = last_messages(found, MESSAGES)
    row.found += len(propose_decisions(row.project_id, row.conversation_id, said_in(messages), None))
    setting = setting_of(row.project_id)
    if setting is None or setting.model is None or not messages:
        _close(row, None)
        return None
    body = decisions_request(messages, setting.model)
    problem = _reserve(row, setting, body)
    if problem or row.request_id is None:
        _close(row, problem)
        return None
    return _Asked(
        row.project_id,
        row.conversation_id,
        PresentedKey(turn.key_id, turn.key_secret),
        turn.account_id if turn.account_id != turn.user_id else None,
        setting.model,
        row.request_id,
        body,
        messages,
    )


def _reserve(row: DecisionExtraction, setting: DecisionSetting, body: Mapping[str, Any]) -> str:
    """Note the call, if the day leaves what it may cost; else why not. Looks of one project wait for each other."""
    lock_name(f"decision extractions {row.project_id}")
    try:
        most, moment = most_credits(body), now()
    except DomainError as error:
        return error.message
    if _spent(row.project_id, moment) + most > setting.daily_credits:
        return f"The limit of {setting.daily_credits:,} credits a day leaves too little for a call of at most {most:,}."
    row.state, row.model, row.request_id = "asking", setting.model, uuid.uuid4().hex
    row.most, row.asked_at = most, moment
    db.session.flush()
    return ""


def _finish(turn_id: str, asked: _Asked, answer: str, problem: str | None) -> None:
    row = _locked(turn_id)
    if row is None or row.state != "asking":
        return
    if problem is None:
        try:
            read = list(decisions_of(answer, asked.messages))
        except ModelFailed as error:
            problem = error.message
        else:
            new = propose_decisions(asked.project_id, asked.conversation_id, read, asked.model)
            row.found += len(new)
    _close(row, problem)


def _close(row: DecisionExtraction, problem: str | None) -> None:
    call = db.session.get(GatewayCall, row.request_id) if row.request_id else None
    row.micro_credits = call.micro_credits if call is not None else 0
    row.state, row.problem, row.done_at = "done", problem[:500] if problem else None, now()
    db.session.flush()


def _spent(project_id: str, moment: datetime) -> float:
    """Credits of the calls of a day; of those that run, what they may cost."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    rows = select(DecisionExtraction.state, DecisionExtraction.most, DecisionExtraction.micro_credits).where(
        DecisionExtraction.project_id == project_id, DecisionExtraction.asked_at >= day
    )
    return sum(
        most if state == "asking" else micro / MICRO for state, most, micro in db.session.execute(rows)
    )


def _locked(turn_id: str) -> DecisionExtraction | None:
    query = select(DecisionExtraction).where(DecisionExtraction.turn_id == turn_id).with_for_update()
    return db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def _conversation_of(row: DecisionExtraction) -> FoundConversation | None:
    """The conversation, unless its project was deleted."""
    query = (
        select(ProjectConversation, Project, Workspace, Thread)
        .join(Project, Project.id == ProjectConversation.project_id)
        .join(Workspace, Workspace.id == ProjectConversation.workspace_id)
        .join(Thread, Thread.id == ProjectConversation.thread_id)
        .where(ProjectConversation.id == row.conversation_id, Project.deleted_at.is_(None))
    )
    found = db.session.execute(query).one_or_none()
    return FoundConversation(*found) if found is not None else None


def _check_model(model: str) -> None:
    if not 0 < len(model) <= MAX_MODEL_NAME or "\0" in model:
        message = f"Name a model, with at most {MAX_MODEL_NAME} characters."
        raise Invalid(message, fields={"model": message})
    try:
        most_credits(decisions_request([SaidMessage("", "user", "Any.", now())], model))
    except DomainError as error:
        raise Invalid(error.message, fields={"model": error.message}) from error
