"""What becomes of deployments that were begun from a conversation, as events of its stream by the contract's names (fastest contract 3.12)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_prompts import tell_news
from models.conversations.conversation_wire import wire_time
from models.core.db import Base, BigInt, db, lock_name
from models.deployments import Deployment, DeploymentLogLine, deployment_finished
from models.deployments.deployment import UNDER_WAY
from models.deployments.deployment_listing import log_lines
from models.deployments.deployment_running import MAX_LINES, deployment_logged
from models.projects.project import one_of

STARTED, LOGGED, COMPLETED = NAMES = ("deployment_started", "deployment_log", "deployment_complete")
BATCH = 500
"""Events that are read at once."""


class DeployEvent(Base):
    """An event of the stream of a conversation; those of one conversation are committed in the order of their ids."""

    __tablename__ = "conversation_deploy_event"
    __table_args__ = (
        CheckConstraint(one_of("name", NAMES), name="name_known"),
        Index("idx_conversation_deploy_event_conversation", "conversation_id", "id"),
        Index("idx_conversation_deploy_event_deployment", "deployment_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"))
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployment.id", ondelete="CASCADE"))
    name: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)


class ToldEvent(NamedTuple):
    """An event to tell: its number, name and data."""

    id: int
    name: str
    data: Mapping[str, Any]


def follow_deployment(conversation: ProjectConversation, deployment: Deployment) -> None:
    """Tell the watchers of a conversation what has become of a deployment that was begun from it, and from now on what becomes of it. One that is
    followed already stays with its conversation. Flushes."""
    if deployment.trigger != "chat" or _follower(deployment.id) is not None:
        return
    _lock(conversation.id)
    begun = deployment_json(deployment) | {
        "status": "deploying",
        "url": None,
        "error": None,
        "completedAt": None,
    }
    _add(conversation.id, deployment.id, STARTED, [{"deployment": begun}])
    _tell_lines(conversation.id, deployment.id, log_lines(deployment, limit=MAX_LINES))
    if deployment.state not in UNDER_WAY:
        _add(conversation.id, deployment.id, COMPLETED, [{"deployment": deployment_json(deployment)}])
    tell_news(conversation.thread_id)


def deploy_events_after(conversation_id: str, after: int) -> Sequence[ToldEvent]:
    """The events after the one with this number, in order, at most `BATCH`."""
    row = DeployEvent
    query = select(row.id, row.name, row.data).where(row.conversation_id == conversation_id, row.id > after)
    return [ToldEvent(*each) for each in db.session.execute(query.order_by(row.id).limit(BATCH))]


def first_deploy_event(conversation_id: str) -> int:
    """The number after which a new watcher is told events: those of deployments that have not ended, else only new ones."""
    row = DeployEvent
    ended = select(row.deployment_id).where(row.conversation_id == conversation_id, row.name == COMPLETED)
    mine = row.conversation_id == conversation_id
    open = select(func.min(row.id)).where(mine, row.name == STARTED, row.deployment_id.not_in(ended))
    newest = select(func.coalesce(func.max(row.id), 0)).where(mine)
    first = db.session.scalar(open)
    return first - 1 if first is not None else db.session.scalar(newest) or 0


def deployment_json(row: Deployment) -> dict[str, Any]:
    """A deployment as conversations tell it."""
    return {
        "id": row.id,
        "workspaceId": row.workspace_id,
        "snapshotId": row.snapshot_id,
        **{name: getattr(row, name) for name in ("status", "trigger", "url", "error")},
        "startedAt": wire_time(row.started_at),
        "completedAt": wire_time(row.completed_at),
    }


@deployment_logged.connect
def _hear_lines(deployment: Deployment, *, lines: Sequence[DeploymentLogLine]) -> None:
    if deployment.trigger == "chat" and (follower := _follower(deployment.id, ended=False)) is not None:
        _lock(follower.id)
        _tell_lines(follower.id, deployment.id, lines)
        tell_news(follower.thread_id)


@deployment_finished.connect
def _hear_end(deployment: Deployment) -> None:
    if deployment.trigger == "chat" and (follower := _follower(deployment.id, ended=False)) is not None:
        _lock(follower.id)
        _add(follower.id, deployment.id, COMPLETED, [{"deployment": deployment_json(deployment)}])
        tell_news(follower.thread_id)


def _follower(deployment_id: str, *, ended: bool = True) -> ProjectConversation | None:
    """The conversation that follows a deployment; with `ended` false only if its end was not told yet."""
    events = select(DeployEvent.conversation_id).where(DeployEvent.deployment_id == deployment_id)
    query = select(ProjectConversation).where(
        ProjectConversation.id.in_(events.where(DeployEvent.name == STARTED))
    )
    if not ended:
        query = query.where(~events.where(DeployEvent.name == COMPLETED).exists())
    return db.session.scalars(query).one_or_none()


def _lock(conversation_id: str) -> None:
    """Let events of a conversation be numbered in the order of their commits: a watcher that has one misses none before it."""
    lock_name(f"deploy events {conversation_id}")


def _tell_lines(conversation_id: str, deployment_id: str, lines: Sequence[DeploymentLogLine]) -> None:
    told = [
        {
            "deploymentId": deployment_id,
            "entry": {
                "timestamp": wire_time(each.created_at),
                "step": each.step,
                "stream": each.stream,
                "content": each.content,
            },
        }
        for each in lines
    ]
    _add(conversation_id, deployment_id, LOGGED, told)


def _add(conversation_id: str, deployment_id: str, name: str, told: Sequence[Mapping[str, Any]]) -> None:
    for data in told:
        db.session.add(
            DeployEvent(
                conversation_id=conversation_id, deployment_id=deployment_id, name=name, data=dict(data)
            )
        )
        db.session.flush()  # one after another: their numbers are their order
