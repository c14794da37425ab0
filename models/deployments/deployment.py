"""Tables of deployments: what was deployed from which snapshot, its log, and which deployment a site shows (fastest contract 3.15)."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base
from models.projects.project import one_of
from models.projects.project_ids import new_id

STATES = (
    *("queued", "building", "releasing", "checking"),
    *("live", "restarting", "failed", "rolled_back", "stopped"),
)
"""`restarting`: its process ended, or does not answer, and is started again; `stopped`: a newer one replaced it, or it was taken offline;
`rolled_back`: an earlier one was released again instead."""
UNDER_WAY = STATES[:4]
SHOWN = ("live", "restarting")
"""States of the deployment that a site shows."""
FIRST_SECONDS = "first_seconds"
"""In `detail`: how long it took until it was first live, of one that was released again."""
WIRE_WORDS = dict.fromkeys(UNDER_WAY, "deploying") | {
    "live": "success",
    "restarting": "deploying",
    "stopped": "success",
    "failed": "failed",
    "rolled_back": "failed",
}
"""The three words of the contract: one that was taken back is no success."""
TRIGGERS = ("manual", "chat", "auto")
ADAPTERS = ("static", "process", "cloudflare", "webhook", "railway")
STEPS = ("install", "build", "deploy")
STREAMS = ("stdout", "stderr")
NAME_PATTERN = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


def _of_workspace(table: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["project_id", "workspace_id"],
        ["workspace.project_id", "workspace.id"],
        name=f"{table}_workspace_fk",
        ondelete="CASCADE",
    )


class Deployment(Base):
    """One deployment of a snapshot, which it pins: deploying the same again gives the same bytes.

    `tree_hash` is the folder that is served (`static`), `built_manifest` what was built: those files, or the archive of a `process`; `external_id` what the provider
    calls it, `detail` what was planned: the folder, its files and bytes, the names of variables; `noted` what the provider calls its parts, by which it is continued and
    released again; `releases` the deployment that it releases again, and `former` what was noted of that. `released_at` is when it was last made live. `error` says why it failed or was taken
    back."""

    __tablename__ = "deployment"
    __table_args__ = (
        CheckConstraint(one_of("state", STATES), name="state_known"),
        CheckConstraint(one_of("trigger", TRIGGERS), name="trigger_known"),
        CheckConstraint(one_of("adapter", ADAPTERS), name="adapter_known"),
        CheckConstraint(
            f"(({one_of('state', UNDER_WAY)}) = (completed_at IS NULL))", name="completed_when_done"
        ),
        CheckConstraint("((state <> 'live'::text) OR (released_at IS NOT NULL))", name="live_released"),
        _of_workspace("deployment"),
        ForeignKeyConstraint(
            ["project_id", "snapshot_id"],
            ["snapshot.project_id", "snapshot.id"],
            name="deployment_snapshot_fk",
            ondelete="CASCADE",
        ),
        Index("idx_deployment_workspace", "workspace_id", "started_at", "id"),
        Index("idx_deployment_project", "project_id", "started_at", "id"),
        Index("idx_deployment_state", "state", "started_at"),
        Index("idx_deployment_user", "user_id"),
        Index(
            "idx_deployment_key",
            "project_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("(idempotency_key IS NOT NULL)"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str]
    snapshot_id: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    adapter: Mapped[str]
    trigger: Mapped[str]
    state: Mapped[str]
    tree_hash: Mapped[str | None]
    built_manifest: Mapped[str | None]
    external_id: Mapped[str | None]
    url: Mapped[str | None]
    error: Mapped[str | None]
    message: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    released_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]

    @property
    def duration(self) -> timedelta | None:
        """How long it took until it was first live or had failed; None before. Releasing it again later does not count."""
        if (first := self.detail.get(FIRST_SECONDS)) is not None:
            return timedelta(seconds=first)
        return self.completed_at - self.started_at if self.completed_at else None

    @property
    def status(self) -> str:
        """The word of the contract for its state."""
        return WIRE_WORDS[self.state]


class DeploymentLogLine(Base):
    """A line of the log of a deployment; `line` counts from 1."""

    __tablename__ = "deployment_log_line"
    __table_args__ = (
        CheckConstraint("(line > 0)", name="line_positive"),
        CheckConstraint(one_of("step", STEPS), name="step_known"),
        CheckConstraint(one_of("stream", STREAMS), name="stream_known"),
    )

    deployment_id: Mapped[str] = mapped_column(
        ForeignKey("deployment.id", ondelete="CASCADE"), primary_key=True
    )
    line: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[str]
    stream: Mapped[str]
    content: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class DeployedSite(Base):
    """The site of a workspace: its name, which is the first label of its host, and the deployment that it shows; none before the first,
    or while it is offline."""

    __tablename__ = "deployed_site"
    __table_args__ = (
        CheckConstraint(f"(name ~ '{NAME_PATTERN}'::text)", name="name_label"),
        _of_workspace("deployed_site"),
        Index("idx_deployed_site_name", "name", unique=True),
        Index("idx_deployed_site_project", "project_id"),
        Index("idx_deployed_site_deployment", "deployment_id"),
    )

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    name: Mapped[str]
    deployment_id: Mapped[str | None] = mapped_column(ForeignKey("deployment.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
