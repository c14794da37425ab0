"""What happens to decisions: conversations propose them, people write, accept, reject and replace them (fastest contract 3.13)."""

from collections.abc import Iterable, Sequence

from sqlalchemy import func, select

from models.conversations.conversation_access import FoundConversation, conversations_of, own_conversation
from models.conversations.conversation_preamble import register_preamble
from models.core.db import db, lock_name, now
from models.core.errors import Invalid, NotFound
from models.insights.decision_rules import decisions_said
from models.insights.decision_signal import decisions_moved
from models.insights.decision_words import SaidMessage, SourcedDecision
from models.insights.project_decision import (
    DECISION_CATEGORIES,
    DECISION_STATES,
    MAX_DECISION,
    MAX_RATIONALE,
    ProjectDecision,
)
from models.projects import Project, ProjectCaller
from models.projects.project_access import own_project
from models.projects.project_ids import fits
from models.threads import ThreadMessage
from models.threads.tree import path

MAX_DECISIONS = 2_000
"""Decisions of a project, with those that were rejected."""
IN_PREAMBLE = 40
"""Accepted decisions that agents are told, the newest."""
MAX_ROWS = 40
"""Messages of a thread that are looked at to find a few of people and answers."""


def decisions_in(
    project: Project, state: str | None = None, limit: int = MAX_DECISIONS
) -> Sequence[ProjectDecision]:
    """The decisions of a project, of one state or all, the newest first. Raises Invalid (422) for an unknown state."""
    if state is not None and state not in DECISION_STATES:
        raise Invalid(f"'state' must be one of {', '.join(DECISION_STATES)}.")
    query = select(ProjectDecision).where(ProjectDecision.project_id == project.id)
    if state is not None:
        query = query.where(ProjectDecision.state == state)
    newest = query.order_by(ProjectDecision.decided_at.desc(), ProjectDecision.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def conversations_to_read(
    caller: ProjectCaller, project: Project, conversation_id: str | None, most: int
) -> Sequence[FoundConversation]:
    """The conversation, or those of the project that changed last. Raises NotFound, Forbidden."""
    if conversation_id is None:
        return conversations_of(caller, limit=most, project_id=project.id)
    found = own_conversation(caller, conversation_id)
    if found.project.id != project.id:
        raise NotFound("There is no such conversation.")
    return [found]


def last_messages(found: FoundConversation, most: int) -> list[SaidMessage]:
    """The last messages with text of people and answers, the oldest first."""
    rows = [
        SaidMessage(row.id, row.role, row.text, row.created_at)
        for row in path(found.thread, limit=MAX_ROWS)
        if row.role in ("user", "assistant") and row.text
    ]
    return rows[:most][::-1]


def said_in(messages: Iterable[SaidMessage]) -> list[SourcedDecision]:
    """The decisions that messages say in so many words."""
    return [SourcedDecision(read, each) for each in messages for read in decisions_said(each.text)]


def propose_decisions(
    project_id: str, conversation_id: str, read: Iterable[SourcedDecision], model: str | None
) -> list[ProjectDecision]:
    """Store the decisions that the project does not have as proposals; the new ones. What was rejected is not proposed again, and what a
    message said that is gone is left out. Locks the decisions of the project. Flushes."""
    read = list(read)
    if not read:
        return []
    lock_name(f"decisions {project_id}")
    keys = select(ProjectDecision.decision_key).where(ProjectDecision.project_id == project_id)
    known, there, made = set(db.session.scalars(keys)), _still_there(read), []
    for each, message in read:
        key = each.decision.casefold()
        if key in known or message.id not in there or len(known) >= MAX_DECISIONS:
            continue
        known.add(key)
        made.append(
            ProjectDecision(
                project_id=project_id,
                conversation_id=conversation_id,
                message_id=message.id,
                decision=each.decision,
                decision_key=key,
                rationale=each.rationale or None,
                category=each.category,
                quote=each.quote,
                state="proposed",
                found_by="model" if model else "rules",
                model=model,
                decided_at=message.said_at,
                created_at=now(),
            )
        )
    db.session.add_all(made)
    db.session.flush()
    if made:
        decisions_moved.send(project_id)
    return made


def _still_there(read: Iterable[SourcedDecision]) -> set[str]:
    """The messages that exist, which stay until the transaction ends."""
    ids = {message.id for _, message in read}
    rows = (
        select(ThreadMessage.id).where(ThreadMessage.id.in_(ids)).with_for_update(key_share=True, read=True)
    )
    return set(db.session.scalars(rows))


def write_decision(
    caller: ProjectCaller, project_id: str, decision: str, rationale: str = "", category: str | None = None
) -> ProjectDecision:
    """Write a decision that a person made: it is accepted. Flushes. Raises NotFound, Forbidden, Invalid (422)."""
    project = own_project(caller, project_id, "edit_projects")
    text, why = " ".join(decision.split()), rationale.strip()
    if not 0 < len(text) <= MAX_DECISION:
        message = f"Write a decision of 1 to {MAX_DECISION} characters."
        raise Invalid(message, fields={"decision": message})
    if len(why) > MAX_RATIONALE:
        message = f"Write at most {MAX_RATIONALE:,} characters."
        raise Invalid(f"'rationale': {message}", fields={"rationale": message})
    if category is not None and category not in DECISION_CATEGORIES:
        raise Invalid(
            f"'category' must be one of {', '.join(DECISION_CATEGORIES)}.", fields={"category": "Choose one."}
        )
    lock_name(f"decisions {project.id}")
    same = select(ProjectDecision.id).where(
        ProjectDecision.project_id == project.id, ProjectDecision.decision_key == text.casefold()
    )
    if db.session.scalars(same).one_or_none() is not None:
        message = "The project has this decision already."
        raise Invalid(message, fields={"decision": message})
    count = select(func.count()).where(ProjectDecision.project_id == project.id)
    if (db.session.scalar(count) or 0) >= MAX_DECISIONS:
        raise Invalid(f"A project has at most {MAX_DECISIONS:,} decisions.")
    moment = now()
    made = ProjectDecision(
        project_id=project.id,
        decision=text,
        decision_key=text.casefold(),
        rationale=why or None,
        category=category,
        state="accepted",
        found_by="person",
        reviewed_by=caller.user_id,
        reviewed_at=moment,
        decided_at=moment,
        created_at=moment,
    )
    db.session.add(made)
    db.session.flush()
    decisions_moved.send(project.id)
    return made


def review_decision(
    caller: ProjectCaller, project_id: str, id: str, state: str, superseded_by: str | None = None
) -> ProjectDecision:
    """Accept, reject or replace a decision; one that is superseded names the accepted one that took its place. Locks the decisions of the
    project. Flushes. Raises NotFound, Forbidden, Invalid (422)."""
    project = own_project(caller, project_id, "edit_projects")
    if state not in DECISION_STATES:
        raise Invalid(f"'state' must be one of {', '.join(DECISION_STATES)}.")
    if (state == "superseded") != (superseded_by is not None):
        raise Invalid(
            "'superseded_by' names the decision that took the place of one that is superseded, and of no other."
        )
    lock_name(f"decisions {project.id}")
    found = decision_in(project, id)
    if superseded_by is not None:
        later = decision_in(project, superseded_by)
        if later.id == found.id or later.state != "accepted":
            raise Invalid("'superseded_by' must be another decision of the project, which is accepted.")
    found.state, found.superseded_by_id = state, superseded_by
    reviewed = state != "proposed"
    found.reviewed_by, found.reviewed_at = (caller.user_id, now()) if reviewed else (None, None)
    db.session.flush()
    decisions_moved.send(project.id)
    return found


def decision_in(project: Project, id: str) -> ProjectDecision:
    """A decision of the project. Raises NotFound."""
    query = select(ProjectDecision).where(ProjectDecision.id == id, ProjectDecision.project_id == project.id)
    found = (
        db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
        if fits(id)
        else None
    )
    if found is None:
        raise NotFound("The project has no such decision.")
    return found


def adr_text(project: Project, decisions: Sequence[ProjectDecision]) -> str:
    """The accepted and superseded decisions as a Markdown file of architecture decision records, the oldest first."""
    told = [each for each in decisions if each.state in ("accepted", "superseded")][::-1]
    numbers = {each.id: number for number, each in enumerate(told, start=1)}
    parts = [f"# Decisions of {_line(project.name)}"]
    for each in told:
        by = numbers.get(each.superseded_by_id or "")
        status = "Accepted" if each.state == "accepted" else f"Superseded by {by}" if by else "Superseded"
        parts.append(f"## {numbers[each.id]}. {_line(each.decision)}")
        parts.append(f"Date: {each.decided_at:%Y-%m-%d}\n\nStatus: {status}")
        if each.category:
            parts.append(f"Category: {each.category.replace('_', ' ')}")
        if each.rationale:
            parts.append(f"### Why\n\n{_line(each.rationale)}")
        if each.quote:
            parts.append(f"### Said as\n\n> {_line(each.quote)}")
    return "\n\n".join(parts) + "\n"


def accepted_decisions(found: FoundConversation) -> str | None:
    """What agents are told of the decisions of a project."""
    listed = decisions_in(found.project, "accepted", IN_PREAMBLE)
    lines = [
        f"- {_line(each.decision)}{f' (because {_line(each.rationale)})' if each.rationale else ''}"
        for each in listed
    ]
    return "\n".join(lines) or None


def _line(text: str) -> str:
    return " ".join(text.split())


register_preamble("Decisions of the project", accepted_decisions)
