"""The table of deployments that run as processes of this server, and which of them should run now."""

from datetime import datetime
from pathlib import Path

from sqlalchemy import CheckConstraint, ForeignKey, and_, func, or_, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.core.db import NOW, Base, db, extension, now
from models.core.settings import Settings
from models.deployments.deployment import FIRST_SECONDS, SHOWN, UNDER_WAY, DeployedSite, Deployment
from models.projects.project import Project, one_of
from models.projects.workspaces.workspace import Workspace

REPLACES = ("stopped", "rolled_back")
RELEASING = ("releasing", "checking")
MARK = "processes.wanted"
"""The file of the data directory that tells the server to start the program that runs processes."""
KEPT = 3
"""Former deployments of a workspace whose archive is kept, to be released again."""


class DeployedProcess(Base):
    """A deployment that runs, or should: `socket` is where it is reached, None while it is not; `failures` how often in a row it ended or did not answer,
    and `reason` why the last time. `replaces` is what the deployment becomes that was live when this one is."""

    __tablename__ = "deployed_process"
    __table_args__ = (
        CheckConstraint("(failures >= 0)", name="failures_not_negative"),
        CheckConstraint(one_of("replaces", REPLACES), name="replaces_known"),
    )

    deployment_id: Mapped[str] = mapped_column(
        ForeignKey("deployment.id", ondelete="CASCADE"), primary_key=True
    )
    socket: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    reason: Mapped[str | None]
    replaces: Mapped[str]
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


def begin_release(deployment: Deployment, replaces: str) -> None:
    """Let the program that runs processes start this deployment, which was built, and release it once it is healthy. What is live stays live until then.
    Flushes."""
    if deployment.released_at is not None and deployment.duration is not None:
        deployment.detail = {**deployment.detail, FIRST_SECONDS: deployment.duration.total_seconds()}
    deployment.state, deployment.completed_at, deployment.error = "releasing", None, None
    row = process_of(deployment) or DeployedProcess(deployment_id=deployment.id)
    row.socket, row.failures, row.reason, row.replaces, row.updated_at = None, 0, None, replaces, now()
    db.session.add(row)
    db.session.flush()
    call_host(extension("settings"))


def process_of(deployment: Deployment) -> DeployedProcess | None:
    """How the process of a deployment does; None for one that was never started."""
    return db.session.get(DeployedProcess, deployment.id)


def wanted_processes() -> dict[str, bool]:
    """The deployments whose processes should run now, the oldest first, and whether nobody began to release it yet: those that are being released, and
    those that a site shows, unless their project or workspace is deleted or their owner suspended."""
    releasing = Deployment.state.in_(RELEASING)
    shown = and_(Deployment.state.in_(SHOWN), DeployedSite.deployment_id == Deployment.id)
    query = (
        select(Deployment.id, Deployment.state)
        .join(DeployedProcess, DeployedProcess.deployment_id == Deployment.id)
        .join(Project, Project.id == Deployment.project_id)
        .join(Workspace, Workspace.id == Deployment.workspace_id)
        .outerjoin(DeployedSite, DeployedSite.workspace_id == Deployment.workspace_id)
        .outerjoin(User, User.id == Project.account_id)
        .where(Deployment.adapter == "process", or_(releasing, shown))
        .where(Project.deleted_at.is_(None), Workspace.deleted_at.is_(None), User.banned.is_not(True))
    )
    rows = db.session.execute(query.order_by(Deployment.started_at))
    return {id: state == "releasing" for id, state in rows}


def running_elsewhere(account_id: str, workspace_id: str) -> int:
    """How many processes of an account run, or are about to, apart from this workspace's."""
    query = (
        select(func.count(Deployment.workspace_id.distinct()))
        .join(Project, Project.id == Deployment.project_id)
        .where(Project.account_id == account_id, Deployment.workspace_id != workspace_id)
        .where(Deployment.adapter == "process", Deployment.state.in_((*SHOWN, *UNDER_WAY)))
    )
    return db.session.scalar(query) or 0


def forget_archives(workspace_id: str) -> None:
    """Forget the archives of the workspace's older deployments, which cannot be released again then. Flushes."""
    query = select(Deployment).where(
        Deployment.workspace_id == workspace_id,
        Deployment.adapter == "process",
        Deployment.built_manifest.is_not(None),
        Deployment.state.not_in((*SHOWN, *UNDER_WAY)),
    )
    newest = func.coalesce(Deployment.released_at, Deployment.started_at).desc()
    for old in db.session.scalars(query.order_by(newest, Deployment.id.desc()).offset(KEPT)):
        old.built_manifest = None
    db.session.flush()


def call_host(settings: Settings) -> None:
    """Have the program that runs processes started on this machine, if it is not. Idempotent."""
    path = settings.data_dir / MARK
    if not path.exists():
        path.touch()


def process_folder(settings: Settings, deployment_id: str) -> Path:
    """Where the output of a process is kept."""
    return settings.data_dir / "processes" / deployment_id
