"""Answers about drift and overlaps, in the shapes of the fastest contract (3.9)."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.core.db import now
from models.projects import DriftReport
from models.projects.workspaces.drift_comparison import CHANGED, LISTS, DriftAnalysis, DriftComparison
from models.projects.workspaces.drift_report import drift_metrics
from models.projects.workspaces.overlap_board import OverlapBoard, PathOverlap
from views.web.format import iso
from views.web.operation import ResponseModel

TOP = 20
COUNTERS = ("files_added", "files_modified", "files_deleted", "bytes_changed", "summary")
IDS = ("id", "workspace_id", "workspace_snapshot_id", "source_snapshot_id")
Risk = Literal["low", "medium", "high"]


class DriftSummary(ResponseModel):
    files_added: int = Field(description="Only in the source")
    files_modified: int = Field(description="In both with different content")
    files_deleted: int
    bytes_changed: int
    summary: str | None
    reported_at: datetime


class EndingCounts(ResponseModel):
    source_only: dict[str, int]
    workspace_only: dict[str, int]
    both_different: dict[str, int]


class DriftCounters(DriftSummary):
    id: str | None = Field(description="Null if no such report is stored")
    workspace_id: str
    source_workspace_id: str = Field(description="What it was compared with; empty for counters of a client")
    compared_at: datetime
    workspace_snapshot_id: str | None = Field(description="Null for files that are in no snapshot")
    source_snapshot_id: str | None
    source_only: list[str]
    workspace_only: list[str]
    both_same: list[str]
    both_different: list[str]
    truncated: list[str] = Field(description="The lists that do not hold all their paths; counters count all")


class DriftObject(DriftCounters):
    total_drift_files: int
    has_overlaps: bool
    overlap_ratio: float = Field(
        description="Share of files that differ, of those that are only in the source or differ"
    )
    risk_level: Risk
    staleness_hours: float
    top_overlap_files: list[str] = Field(description="The first 20 of `both_different`")
    counts_by_ext: EndingCounts = Field(description="Files by ending: the 50 commonest of each list")
    large_files_changed: bool | None = Field(
        description="A file of 200,000 bytes or more differs; null for stored reports"
    )


class ReportedCounters(ResponseModel):
    drift_report: DriftCounters


class DriftReports(ResponseModel):
    drift_reports: list[DriftObject] = Field(description="The newest first")
    latest: DriftObject | None


class ComparedWorkspace(ResponseModel):
    id: str
    name: str


class ComparisonAnswer(ResponseModel):
    drift: DriftObject
    is_main_workspace: bool
    source_workspace: ComparedWorkspace


class NoComparison(ResponseModel):
    drift: None
    is_main_workspace: bool
    message: str = Field(description="Why there is nothing to compare")


class AnalysisObject(ResponseModel):
    source_changes_summary: str
    workspace_changes_summary: str
    risk_level: Risk
    risk_explanation: str
    can_auto_sync: bool = Field(description="No file is in both with different content")
    recommendation: str
    analyzed_at: datetime
    written_by: str | None = Field(
        description="The model that wrote the texts; null for rules. The risk always follows from rules"
    )
    request_id: str | None = Field(description="The billed call of the model, as usage shows it")
    model_error: str | None = Field(description="Why the texts are not those of the model that was asked")


class AnalysisAnswer(ResponseModel):
    analysis: AnalysisObject


class NoAnalysis(ResponseModel):
    analysis: None
    error: str


class OverlappingChange(ResponseModel):
    workspace_id: str
    workspace_name: str
    change: Literal["added", "modified", "deleted"]
    content: str | None = Field(
        description="SHA-256 of the file now, or `-> ` and the target of a link; null if deleted"
    )


class OverlapObject(ResponseModel):
    path: str
    differs: bool = Field(description="Not all changed it in the same way")
    main_changed: bool = Field(
        description="The main workspace changed it too since one of these workspaces left it"
    )
    changes: list[OverlappingChange]


class ChangedWorkspace(ResponseModel):
    id: str
    name: str
    last_seen_at: datetime | None
    changed_files: int = Field(description="Files that it changed since it left the main workspace")
    state: Literal["complete", "cut", "unreadable"] = Field(
        description="`cut`: only its first 2,000 changed files are looked at; `unreadable`: its files are not stored"
    )


class OverlapList(ResponseModel):
    overlaps: list[OverlapObject] = Field(description="Those of the most workspaces first, or as asked")
    workspaces: list[ChangedWorkspace] = Field(description="All but the main one")
    more: bool = Field(description="There are other overlaps: ask for paths")


def drift_summary(row: DriftReport | None) -> dict[str, Any] | None:
    """A `DriftSummary`."""
    if row is None:
        return None
    return {**{name: getattr(row, name) for name in COUNTERS}, "reported_at": iso(row.reported_at)}


def counters_json(row: DriftReport) -> dict[str, Any]:
    """`DriftCounters`."""
    moment = iso(row.reported_at)
    return {
        **{name: getattr(row, name) for name in (*IDS, *COUNTERS, *LISTS, "truncated")},
        "source_workspace_id": row.source_workspace_id or "",
        "compared_at": moment,
        "reported_at": moment,
    }


def report_json(row: DriftReport) -> dict[str, Any]:
    """A `DriftObject` of a stored report."""
    hours = (now() - row.reported_at).total_seconds() / 3600
    return {
        **counters_json(row),
        **drift_metrics(row.files_added, row.files_modified)._asdict(),
        "staleness_hours": max(0.0, round(hours, 1)),
        "top_overlap_files": row.both_different[:TOP],
        "counts_by_ext": row.counts_by_ext or {name: {} for name in CHANGED},
        "large_files_changed": None,
    }


def comparison_json(found: DriftComparison, stored: DriftReport | None = None) -> dict[str, Any]:
    """A `ComparisonAnswer`; `stored` is the report that says the same."""
    stored = stored or found.stored
    added, modified = len(found.source_only), len(found.both_different)
    lists, truncated = found.listed()
    moment = now()
    drift = {
        "id": stored.id if stored else None,
        "workspace_id": found.workspace.id,
        "source_workspace_id": found.source.id,
        "workspace_snapshot_id": found.own.snapshot_id,
        "source_snapshot_id": found.other.snapshot_id,
        **lists,
        "truncated": truncated,
        "files_added": added,
        "files_modified": modified,
        "files_deleted": 0,
        "bytes_changed": 0,
        "summary": stored.summary if stored else None,
        "compared_at": iso(moment),
        "reported_at": iso(stored.reported_at if stored else moment),
        **drift_metrics(added, modified)._asdict(),
        "staleness_hours": 0.0,
        "top_overlap_files": list(found.both_different[:TOP]),
        "counts_by_ext": found.counts_by_ext,
        "large_files_changed": found.large,
    }
    source = {"id": found.source.id, "name": found.source.name}
    return {"drift": drift, "is_main_workspace": False, "source_workspace": source}


def analysis_json(
    found: DriftAnalysis,
    *,
    written_by: str | None = None,
    request_id: str | None = None,
    model_error: str | None = None,
) -> dict[str, Any]:
    """An `AnalysisObject`."""
    return {
        "source_changes_summary": found.source_changes,
        "workspace_changes_summary": found.workspace_changes,
        "risk_level": found.risk_level,
        "risk_explanation": found.risk_explanation,
        "can_auto_sync": found.can_auto_sync,
        "recommendation": found.recommendation,
        "analyzed_at": iso(now()),
        "written_by": written_by,
        "request_id": request_id,
        "model_error": model_error,
    }


def board_json(board: OverlapBoard) -> dict[str, Any]:
    """An `OverlapList`."""
    return {
        "overlaps": [_overlap_json(each) for each in board.paths],
        "workspaces": [
            {
                "id": each.workspace.id,
                "name": each.workspace.name,
                "last_seen_at": iso(each.workspace.last_seen_at),
                "changed_files": each.changed,
                "state": each.state,
            }
            for each in board.workspaces
        ],
        "more": board.more,
    }


def _overlap_json(overlap: PathOverlap) -> dict[str, Any]:
    changes = [
        {
            "workspace_id": each.workspace.id,
            "workspace_name": each.workspace.name,
            "change": each.change,
            "content": each.content,
        }
        for each in overlap.changes
    ]
    return {
        "path": overlap.path,
        "differs": overlap.differs,
        "main_changed": overlap.main_changed,
        "changes": changes,
    }
