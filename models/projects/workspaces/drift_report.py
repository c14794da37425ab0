"""Reports of drift: their table, and the figures that follow from their counters (fastest contract 3.9, 4.3)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, delete, select
from sqlalchemy.dialects.postgresql import JSONB, distinct_on
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt, db
from models.projects.project_ids import new_id
from models.projects.snapshots.stored_objects import among

KEPT = 100
"""Reports of a workspace that are kept, the newest."""


class DriftReport(Base):
    """How the files of a workspace differed from those of another (`source`) once, or counters that an old client sent (without source).

    The lists hold the first paths by name; the counters count all. `counts_by_ext` and the hashes of both manifests are null for
    counters of a client.
    """

    __tablename__ = "drift_report"
    __table_args__ = (
        CheckConstraint(
            "((files_added >= 0) AND (files_modified >= 0) AND (files_deleted >= 0) AND (bytes_changed >= 0)"
            " AND (workspace_only_count >= 0))",
            name="counts_not_negative",
        ),
        *(
            ForeignKeyConstraint(
                ["project_id", column],
                ["workspace.project_id", "workspace.id"],
                name=f"drift_report_{which}_fk",
                ondelete=ondelete,
            )
            for which, column, ondelete in (
                ("workspace", "workspace_id", "CASCADE"),
                ("source_workspace", "source_workspace_id", "NO ACTION"),
            )
        ),
        *(
            ForeignKeyConstraint(
                ["project_id", f"{which}_snapshot_id"],
                ["snapshot.project_id", "snapshot.id"],
                name=f"drift_report_{which}_snapshot_fk",
                ondelete="NO ACTION",
            )
            for which in ("workspace", "source")
        ),
        Index("idx_drift_report_workspace", "workspace_id", "reported_at", "id"),
        Index("idx_drift_report_project", "project_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str]
    workspace_id: Mapped[str]
    source_workspace_id: Mapped[str | None]
    workspace_snapshot_id: Mapped[str | None]
    source_snapshot_id: Mapped[str | None]
    workspace_manifest_hash: Mapped[str | None]
    source_manifest_hash: Mapped[str | None]
    source_only: Mapped[list[str]] = mapped_column(JSONB)
    workspace_only: Mapped[list[str]] = mapped_column(JSONB)
    both_same: Mapped[list[str]] = mapped_column(JSONB)
    both_different: Mapped[list[str]] = mapped_column(JSONB)
    truncated: Mapped[list[str]] = mapped_column(JSONB)
    counts_by_ext: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    files_added: Mapped[int]
    files_modified: Mapped[int]
    files_deleted: Mapped[int]
    workspace_only_count: Mapped[int]
    bytes_changed: Mapped[int] = mapped_column(BigInt)
    summary: Mapped[str | None]
    reported_at: Mapped[datetime] = mapped_column(server_default=NOW)


class DriftMetrics(NamedTuple):
    """What follows from the counters. `overlap_ratio` is the share of files that differ, from 0 to 1."""

    total_drift_files: int
    has_overlaps: bool
    overlap_ratio: float
    risk_level: str


def drift_metrics(added: int, modified: int) -> DriftMetrics:
    """The figures of `added` files that only the source has and `modified` ones that differ."""
    total = added + modified
    ratio = modified / total if total else 0.0
    risk = "low" if not modified else "high" if modified >= 10 or ratio >= 0.6 else "medium"
    return DriftMetrics(total, modified > 0, ratio, risk)


def keep_report(report: DriftReport) -> None:
    """Store a report, and remove those of its workspace above `KEPT`. Flushes."""
    db.session.add(report)
    db.session.flush()
    newest = select(DriftReport.id).where(DriftReport.workspace_id == report.workspace_id)
    kept = newest.order_by(DriftReport.reported_at.desc(), DriftReport.id.desc()).limit(KEPT)
    old = delete(DriftReport).where(
        DriftReport.workspace_id == report.workspace_id, DriftReport.id.not_in(kept)
    )
    db.session.execute(old.execution_options(synchronize_session=False))


def reports_of(workspace_id: str, limit: int) -> Sequence[DriftReport]:
    """The newest reports of a workspace."""
    query = select(DriftReport).where(DriftReport.workspace_id == workspace_id)
    newest = query.order_by(DriftReport.reported_at.desc(), DriftReport.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def latest_with(workspace_id: str, source_id: str) -> DriftReport | None:
    """The newest report of a workspace against this source."""
    query = select(DriftReport).where(
        DriftReport.workspace_id == workspace_id, DriftReport.source_workspace_id == source_id
    )
    newest = query.order_by(DriftReport.reported_at.desc(), DriftReport.id.desc())
    return db.session.scalars(newest.limit(1)).one_or_none()


def latest_reports(workspace_ids: Sequence[str]) -> Mapping[str, DriftReport]:
    """The newest report of each of these workspaces that has one."""
    query = select(DriftReport).where(among(DriftReport.workspace_id, workspace_ids))
    newest = query.ext(distinct_on(DriftReport.workspace_id)).order_by(
        DriftReport.workspace_id, DriftReport.reported_at.desc(), DriftReport.id.desc()
    )
    return {each.workspace_id: each for each in db.session.scalars(newest)}
