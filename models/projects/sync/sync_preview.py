"""Table of previews of syncs: what a merge of the main workspace into another one would do (fastest contract 3.10)."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Text, delete, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db, now
from models.projects.project import Project, one_of
from models.projects.project_ids import fits, new_id
from models.projects.sync.sync_refusals import PreviewGone, SyncRefused
from models.projects.workspaces.workspace import Workspace

LIFETIME = timedelta(minutes=30)
KEPT = timedelta(days=1)
"""How long a preview stays after it expired, executed or not."""
MAX_OPEN = 10
"""Open previews that a person has of one workspace; the oldest give way."""
STATES = ("open", "executed")


class SyncPreview(Base):
    """A sync that a person prepared: the two heads and the common base that it was made from, and its plan (`sync_plan.py`).

    `workspace_manifest_hash` are the files of the workspace, in a snapshot or not. `made_files` are the hashes of files that the merge
    made; they are kept while the preview is open. `decisions` are the answers with which it was executed."""

    __tablename__ = "sync_preview"
    __table_args__ = (
        CheckConstraint(one_of("state", STATES), name="state_known"),
        CheckConstraint("((state = 'executed'::text) = (decisions IS NOT NULL))", name="executed_decided"),
        CheckConstraint("(expires_at > created_at)", name="expires_later"),
        CheckConstraint("(files_unchanged >= 0)", name="files_not_negative"),
        CheckConstraint("(workspace_id <> main_workspace_id)", name="two_workspaces"),
        *(
            ForeignKeyConstraint(
                ["project_id", column],
                ["workspace.project_id", "workspace.id"],
                name=f"sync_preview_{which}_fk",
                ondelete="CASCADE",
            )
            for which, column in (("workspace", "workspace_id"), ("main_workspace", "main_workspace_id"))
        ),
        *(
            ForeignKeyConstraint(
                ["project_id", f"{which}_snapshot_id"],
                ["snapshot.project_id", "snapshot.id"],
                name=f"sync_preview_{which}_snapshot_fk",
                ondelete="NO ACTION",
            )
            for which in ("workspace", "main", "base")
        ),
        Index("idx_sync_preview_workspace", "workspace_id", "created_at"),
        Index("idx_sync_preview_project", "project_id"),
        Index("idx_sync_preview_user", "user_id"),
        Index("idx_sync_preview_expires", "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str]
    main_workspace_id: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    workspace_version: Mapped[int]
    workspace_snapshot_id: Mapped[str]
    workspace_manifest_hash: Mapped[str]
    main_version: Mapped[int]
    main_snapshot_id: Mapped[str]
    main_manifest_hash: Mapped[str]
    base_snapshot_id: Mapped[str | None]
    files_unchanged: Mapped[int]
    plan: Mapped[dict[str, Any]] = mapped_column(JSONB)
    made_files: Mapped[list[str]] = mapped_column(ARRAY(Text))
    decisions: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    state: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]


def own_preview(user_id: str, project: Project, workspace: Workspace, id: str) -> SyncPreview:
    """The person's open preview of a sync of this workspace, as the database has it now. Raises PreviewGone (404), SyncRefused (403 for
    another member's, 400 for one of another workspace)."""
    found = db.session.get(SyncPreview, id, populate_existing=True) if fits(id) else None
    if found is None or (found.user_id != user_id and found.project_id != project.id):
        raise PreviewGone
    if found.state != "open" or found.expires_at <= now():
        raise PreviewGone
    if found.user_id != user_id:
        raise SyncRefused(
            "Another member prepared this sync. Prepare one yourself.", code="forbidden", status=403
        )
    if found.workspace_id != workspace.id:
        raise SyncRefused("The preview is of another workspace.", code="workspace_mismatch")
    return found


def moved_heads(workspace: Workspace, main: Workspace | None, preview: SyncPreview) -> list[str]:
    """Which heads moved since the preview was made: `workspace`, `main`, which also moves when another workspace becomes the main one."""
    moved = ["workspace"] if workspace.version != preview.workspace_version else []
    place = (main.id, main.current_snapshot_id) if main else None
    return moved + (["main"] if place != (preview.main_workspace_id, preview.main_snapshot_id) else [])


def keep_preview(preview: SyncPreview) -> None:
    """Store a preview; the oldest open ones of the same person and workspace give way. Flushes."""
    db.session.add(preview)
    db.session.flush()
    mine = (
        SyncPreview.workspace_id == preview.workspace_id,
        SyncPreview.user_id == preview.user_id,
        SyncPreview.state == "open",
    )
    newest = (
        select(SyncPreview.id).where(*mine).order_by(SyncPreview.created_at.desc(), SyncPreview.id.desc())
    )
    db.session.execute(
        delete(SyncPreview)
        .where(*mine, SyncPreview.id.not_in(newest.limit(MAX_OPEN)))
        .execution_options(synchronize_session=False)
    )


def forget_previews(moment: datetime) -> None:
    """Delete the previews that expired a day before. Flushes."""
    old = delete(SyncPreview).where(SyncPreview.expires_at < moment - KEPT)
    db.session.execute(old.execution_options(synchronize_session=False))
