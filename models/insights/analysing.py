"""Analyses the files of workspaces without a model: after each move of a head, and on demand."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from models.core import jobs
from models.core.db import db, now
from models.core.errors import Conflict
from models.core.job_queue import Context
from models.insights.analysed_tree import MAX_TREE_FILES, AnalysedTree, read_analysed_tree
from models.insights.citation_findings import dead_citations
from models.insights.cycle_findings import import_cycles
from models.insights.item_finding import FoundItem, by_fingerprint
from models.insights.item_storing import (
    MAX_STORED,
    lock_items,
    open_fingerprints,
    resolve_twins,
    store_found,
)
from models.insights.lizard_findings import lizard_findings
from models.insights.ruff_findings import ruff_findings
from models.insights.secret_findings import secret_findings
from models.insights.test_findings import missing_tests
from models.insights.tool_runner import AnalyserFailed
from models.insights.tool_sandbox import open_tools
from models.insights.workspace_analysis import WorkspaceAnalysis
from models.projects import Project, Workspace, WorkspaceOperation
from models.projects.snapshots.manifest_store import manifest_row, tree_entries
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.snapshot_making import parents_of, snapshot_in
from models.projects.workspaces.head_moves import head_moved

RULES = 1
"""The version of the rules: raised, so that files that did not change are analysed anew."""
DEBOUNCE = timedelta(seconds=20)
LOST_AFTER = timedelta(hours=1)
"""A job that waits longer was lost."""
ANALYSERS: dict[str, Callable[[AnalysedTree], Iterable[FoundItem]]] = {
    "ruff": ruff_findings,
    "lizard": lizard_findings,
    "secrets": secret_findings,
    "tests": missing_tests,
    "citations": dead_citations,
    "cycles": import_cycles,
}


COMPARED = ("tests", "citations", "cycles")
"""Analysers whose findings say whether they are new since the last snapshot. The others would have to run twice."""


class AskedAnalysis(NamedTuple):
    """`queued` is false if the files are analysed already."""

    queued: bool
    manifest_hash: str


@dataclass
class AnalysisResult:
    """What an analysis found, by analyser, and sentences about what was left out. `partial`: analysers that did not come to an end."""

    manifest_hash: str
    files: int = 0
    milliseconds: int = 0
    found: dict[str, list[FoundItem]] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    sandboxed: bool = False


class _Base(NamedTuple):
    """The last snapshot before the files that are analysed. `known`: what an analysis of its files found, by analyser; None if there was none."""

    snapshot_id: str
    entries: Sequence[Entry]
    known: Mapping[str, Collection[str]] | None


class _Source(NamedTuple):
    account_id: str
    manifest_hash: str
    entries: Sequence[Entry]
    base: _Base | None = None


def ask_analysis(project: Project, workspace: Workspace, *, at_once: bool = False) -> AskedAnalysis:
    """Let a job analyse the files of a workspace: in `DEBOUNCE`, so that moves that follow each other are one, or at once. Idempotent.
    Flushes. Raises Conflict (409) for a workspace without files that the server can read."""
    hash = files_hash(project, workspace)
    row = manifest_row(project.account_id, hash) if hash else None
    if hash is None or row is None or row.tree_hash is None:
        raise Conflict("The workspace has no files that the server can read. Push a snapshot first.")
    known = db.session.get(WorkspaceAnalysis, workspace.id)
    if known is not None and (known.manifest_hash, known.rules) == (hash, RULES):
        return AskedAnalysis(False, hash)
    _enqueue(workspace, at_once=at_once)
    return AskedAnalysis(True, hash)


@head_moved.connect
def _follow_head(operation: WorkspaceOperation) -> None:
    before, after = operation.before_manifest_hash, operation.after_manifest_hash
    workspace = db.session.get(Workspace, operation.workspace_id)
    if workspace is not None and after is not None and after != before:
        _enqueue(workspace)


def _enqueue(workspace: Workspace, *, at_once: bool = False) -> None:
    """Enqueue a job, unless one waits; at once also then: the later one finds nothing left to do."""
    moment = now()
    row = insert(WorkspaceAnalysis).values(
        workspace_id=workspace.id, project_id=workspace.project_id, queued_at=moment
    )
    asked = row.on_conflict_do_update(
        index_elements=["workspace_id"],
        set_={"queued_at": moment},
        where=WorkspaceAnalysis.queued_at.is_(None) | (WorkspaceAnalysis.queued_at < moment - LOST_AFTER),
    ).returning(WorkspaceAnalysis.workspace_id)
    new = db.session.scalars(asked).one_or_none() is not None
    if new or at_once:
        jobs.enqueue(
            jobs.analyse_workspace,
            at=None if at_once else moment + DEBOUNCE,
            lock=f"insights.analyse {workspace.id}",
            workspace_id=workspace.id,
        )


def analyse_workspace(context: Context, workspace_id: str) -> AnalysisResult | None:
    """Analyse the files that a workspace has now, and store what is found; None if they are analysed already, or gone. Idempotent: each
    transaction is short, and no connection is held while programs run. Raises FilesUnavailable (503)."""
    with context():
        source = _source(workspace_id)
    if source is None:
        return None
    result = analysis_of(context, source)
    with context():
        store_analysis(workspace_id, result)
    return result


def analysis_of(context: Context, source: _Source) -> AnalysisResult:
    """What all analysers find in a tree."""
    started = time.monotonic()
    result = AnalysisResult(source.manifest_hash)
    with open_tools() as tools:
        tree = read_analysed_tree(context, source.account_id, source.entries, tools)
        result.sandboxed = tools.sandboxed
        result.files = len(tree.texts)
        if tree.left_out:
            result.problems.append(
                f"{tree.left_out:,} files were left out: an analysis reads {MAX_TREE_FILES:,} of them, and 128 MB."
            )
            result.partial |= ANALYSERS.keys()
        for analyser, find in ANALYSERS.items():
            result.found[analyser] = list(_found(analyser, find(tree), result))
    if source.base is not None:
        mark_new(context, source.account_id, source.base, result)
    result.milliseconds = int((time.monotonic() - started) * 1_000)
    return result


def mark_new(context: Context, account_id: str, base: _Base, result: AnalysisResult) -> None:
    """Say of the findings that can be compared which of them the last snapshot did not have."""
    known: Mapping[str, Collection[str]] = base.known or {}
    if base.known is None and any(result.found[each] for each in COMPARED):
        before = read_analysed_tree(context, account_id, base.entries)
        known = {
            each: by_fingerprint(ANALYSERS[each](before)).keys() for each in COMPARED if result.found[each]
        }
    for analyser in COMPARED:
        result.found[analyser] = [
            each if mark in known.get(analyser, ()) else each.since(base.snapshot_id)
            for mark, each in by_fingerprint(result.found[analyser]).items()
        ]


def store_analysis(workspace_id: str, result: AnalysisResult) -> None:
    """Store what an analysis found. What the main workspace has too is left to it. Locks the items of the workspace. Flushes."""
    workspace = db.session.get(Workspace, workspace_id)
    if workspace is None:
        return
    main_id = db.session.get_one(Project, workspace.project_id).main_workspace_id
    lock_items(workspace.id)
    for analyser, found in result.found.items():
        elsewhere = open_fingerprints(main_id, analyser) if main_id and main_id != workspace.id else set()
        store_found(workspace, analyser, found, elsewhere=elsewhere, complete=analyser not in result.partial)
    if main_id == workspace.id:
        resolve_twins(workspace)
    row = db.session.get_one(WorkspaceAnalysis, workspace_id)
    row.manifest_hash, row.rules, row.analysed_at = result.manifest_hash, RULES, now()
    row.files, row.milliseconds, row.problems = result.files, result.milliseconds, result.problems
    row.sandboxed = result.sandboxed
    db.session.flush()


def files_hash(project: Project, workspace: Workspace) -> str | None:
    """The manifest of the files that a workspace has now."""
    if workspace.current_manifest_hash:
        return workspace.current_manifest_hash
    head = snapshot_in(project.id, workspace.current_snapshot_id) if workspace.current_snapshot_id else None
    return head.manifest_hash if head else None


def analyses_of(project_id: str) -> dict[str, WorkspaceAnalysis]:
    """The analyses of a project's workspaces, by workspace."""
    rows = db.session.scalars(select(WorkspaceAnalysis).where(WorkspaceAnalysis.project_id == project_id))
    return {row.workspace_id: row for row in rows}


def _source(workspace_id: str) -> _Source | None:
    """What is to be analysed; None if there is nothing to do. The job does not wait any more."""
    query = select(WorkspaceAnalysis).where(WorkspaceAnalysis.workspace_id == workspace_id)
    row = db.session.scalars(query.with_for_update()).one_or_none()
    if row is None:
        return None
    row.queued_at = None
    db.session.flush()
    workspace = db.session.get_one(Workspace, workspace_id)
    project = db.session.get_one(Project, workspace.project_id)
    hash = files_hash(project, workspace)
    if (
        workspace.deleted_at
        or project.deleted_at
        or hash is None
        or (row.manifest_hash, row.rules) == (hash, RULES)
    ):
        return None
    manifest = manifest_row(project.account_id, hash)
    if manifest is None or manifest.tree_hash is None:
        return None
    base = _base(project, workspace, hash, row)
    return _Source(project.account_id, hash, tree_entries(project.account_id, manifest.tree_hash), base)


def _base(project: Project, workspace: Workspace, hash: str, last: WorkspaceAnalysis) -> _Base | None:
    """The snapshot that the files are compared with: the parent of the workspace's head, or the head itself if the files have moved on."""
    head = snapshot_in(project.id, workspace.current_snapshot_id) if workspace.current_snapshot_id else None
    if head is not None and head.manifest_hash == hash:
        above = parents_of(project.id, [head.id])[head.id]
        head = snapshot_in(project.id, above[0]) if above else None
    manifest = manifest_row(project.account_id, head.manifest_hash) if head is not None else None
    if head is None or manifest is None or manifest.tree_hash is None:
        return None
    if (last.manifest_hash, last.rules) == (head.manifest_hash, RULES) and not last.problems:
        known = {each: open_fingerprints(workspace.id, each) for each in COMPARED}
        if workspace.id == project.main_workspace_id and all(
            len(each) < MAX_STORED for each in known.values()
        ):
            return _Base(head.id, (), known)
    return _Base(head.id, tree_entries(project.account_id, manifest.tree_hash), None)


def _found(analyser: str, found: Iterable[FoundItem], result: AnalysisResult) -> Iterator[FoundItem]:
    """What an analyser finds until it fails: the others go on."""
    try:
        yield from found
    except AnalyserFailed:
        result.partial.add(analyser)
        result.problems.append(f"{analyser} did not come to an end, so what it found may not be all.")
