"""Computed action items of drift: a workspace whose files differ from main (fastest contract 4.9, source 1)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import aliased

from models.core.db import db
from models.insights.item_listing import ListedItem, register_item_source
from models.projects import Project, Snapshot, Workspace, WorkspaceChange
from models.projects.snapshots.stored_objects import among
from models.projects.workspaces.drift_report import latest_reports
from models.projects.workspaces.overlap_index import BEHIND

MAX_WORKSPACES = 500
CRITICAL_FROM = 6
"""Files that differ on both sides."""


class _Drift(NamedTuple):
    main_only: int
    conflicts: int


def drift_items(projects: Sequence[Project]) -> Iterator[ListedItem]:
    """An item for each workspace that lacks files of main or has others. The counts are those of its latest report; without one, the files
    that both changed, which the index of changes knows. A workspace with the same files as main has none. Two statements."""
    with_main = {each.id: each for each in projects if each.main_workspace_id}
    rows = db.session.execute(_others(list(with_main))).all() if with_main else []
    reports = latest_reports([row.Workspace.id for row in rows]) if rows else {}
    for workspace, own, main, contested in rows:
        report = reports.get(workspace.id)
        drift = _Drift(report.files_added, report.files_modified) if report else _Drift(0, contested or 0)
        if sum(drift) and (own is None or own != main):
            since = report.reported_at if report else workspace.last_seen_at or workspace.created_at
            yield _item(with_main[workspace.project_id], workspace, drift, since)


def _others(project_ids: Sequence[str]) -> Select[Any]:
    """Workspaces beside the main ones, with the manifests of both, and how many files both changed."""
    main, head, main_head = aliased(Workspace), aliased(Snapshot), aliased(Snapshot)
    contested = (
        select(func.count())
        .where(WorkspaceChange.workspace_id == Workspace.id, BEHIND)
        .correlate(Workspace)
        .scalar_subquery()
    )
    return (
        select(
            Workspace,
            func.coalesce(Workspace.current_manifest_hash, head.manifest_hash),
            func.coalesce(main.current_manifest_hash, main_head.manifest_hash),
            contested,
        )
        .join(Project, Project.id == Workspace.project_id)
        .join(main, main.id == Project.main_workspace_id)
        .outerjoin(
            head, and_(head.project_id == Workspace.project_id, head.id == Workspace.current_snapshot_id)
        )
        .outerjoin(
            main_head, and_(main_head.project_id == main.project_id, main_head.id == main.current_snapshot_id)
        )
        .where(
            among(Workspace.project_id, project_ids),
            Workspace.deleted_at.is_(None),
            Workspace.id != Project.main_workspace_id,
        )
        .order_by(Workspace.last_seen_at.desc().nulls_last(), Workspace.id)
        .limit(MAX_WORKSPACES)
    )


def _item(project: Project, workspace: Workspace, drift: _Drift, since: datetime) -> ListedItem:
    count = sum(drift)
    severity = "critical" if drift.conflicts >= CRITICAL_FROM else "warning" if drift.conflicts else "info"
    parts = []
    if drift.main_only:
        parts.append(f"{_files(drift.main_only)} only in main")
    if drift.conflicts:
        parts.append(f"{_files(drift.conflicts)} with different content")
    return ListedItem(
        f"drift-{workspace.id}",
        "drift",
        severity,
        project,
        workspace,
        f"“{workspace.name[:80]}” drifts from main by {_files(count)}",
        f"{' and '.join(parts)}. A sync shows a preview first.",
        "sync",
        {
            "workspace_id": workspace.id,
            "drift_count": count,
            "main_only": drift.main_only,
            "conflicts": drift.conflicts,
        },
        since,
        weight=count,
    )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


register_item_source("drift", drift_items)
