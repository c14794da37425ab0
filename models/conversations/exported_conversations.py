"""What an export of a user's data holds of their conversations, and what is deleted with a project."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, select

from models.conversations.conversation import ConversationQuestion, ProjectConversation, TimelineItem
from models.core.db import db
from models.core.personal_export import add_csv, add_json_lines, batches
from models.projects.project_purge import projects_forgetting
from models.threads import Thread
from models.threads.purging import purge_threads
from models.turns import Turn
from models.turns.turn_stops import stop_turns


@projects_forgetting.connect
def _forget(ids: Sequence[str]) -> None:
    """The messages of conversations are in threads, which name no project."""
    threads = select(ProjectConversation.thread_id).where(ProjectConversation.project_id.in_(ids))
    stop_turns(Turn.subject_id.in_(threads))
    purge_threads(db.session.scalars(select(Thread).where(Thread.id.in_(threads))).all())


def _own(user_id: str) -> Select[Any]:
    return (
        select(ProjectConversation.id)
        .join(Thread, Thread.id == ProjectConversation.thread_id)
        .where(Thread.user_id == user_id)
    )


def _conversations(user_id: str) -> Iterator[Mapping[str, Any]]:
    row = ProjectConversation
    query = select(
        *(row.id, row.thread_id, row.project_id, row.workspace_id, row.title, row.engine, row.level),
        *(row.agent, row.model, row.created_at, row.updated_at),
    ).where(row.id.in_(_own(user_id)))
    return batches(query, row.id)


def _timeline(user_id: str) -> Iterator[Mapping[str, Any]]:
    row = TimelineItem
    query = select(
        *(row.id, row.conversation_id, row.workspace_id, row.snapshot_id, row.files_count, row.summary),
        *(row.state, row.credits, row.created_at),
    ).where(row.conversation_id.in_(_own(user_id)))
    return batches(query, row.id)


def _questions(user_id: str) -> Iterator[Mapping[str, Any]]:
    row = ConversationQuestion
    query = select(
        *(row.id, row.conversation_id, row.kind, row.questions, row.answers, row.state),
        *(row.created_at, row.answered_at),
    ).where(row.conversation_id.in_(_own(user_id)))
    return batches(query, row.id)


add_csv(
    "conversations.csv",
    "Conversations with agents that you began. What was said is in thread_messages.jsonl.",
    {
        "id": "its id",
        "thread_id": "the thread of its messages, as thread in thread_messages.jsonl",
        "project_id": "the project",
        "workspace_id": "the workspace whose files it works on",
        "title": "its title",
        "engine": "what answers",
        "level": "where it works",
        "agent": "the agent that answers",
        "model": "the model of its turns",
        "created_at": "when it was begun",
        "updated_at": "when it changed last",
    },
    _conversations,
)
add_csv(
    "conversation_timeline.csv",
    "What the turns of your conversations changed.",
    {
        "id": "its id",
        "conversation_id": "the conversation",
        "workspace_id": "the workspace that has the change",
        "snapshot_id": "the snapshot, as in snapshots.csv",
        "files_count": "how many files changed",
        "summary": "what changed, in words",
        "state": "how the turn ended",
        "credits": "what the snapshot counts of the turn's cost",
        "created_at": "when it ended",
    },
    _timeline,
)
add_json_lines(
    "conversation_questions.jsonl",
    "What agents asked in your conversations, and the answers.",
    {
        "id": "its id",
        "conversation_id": "the conversation",
        "kind": "who asked: the agent, its program, or the server",
        "questions": "what was asked",
        "answers": "what was answered",
        "state": "open, answered, rejected or expired",
        "created_at": "when it was asked",
        "answered_at": "when it was answered",
    },
    _questions,
)
