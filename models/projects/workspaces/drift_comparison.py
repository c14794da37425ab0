"""Drift: how the files of a workspace differ from those of another, by default the main one (fastest contract 3.9, 4.3)."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import splitext
from typing import NamedTuple

from models.core.cooperative import in_slices
from models.core.db import now
from models.core.errors import Invalid, NotFound
from models.projects.activity_log import add_event
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, locked_workspace, own_workspace
from models.projects.snapshots.manifest_store import manifest_row, tree_changes, tree_entries
from models.projects.snapshots.stored_objects import Manifest
from models.projects.workspaces.drift_report import DriftReport, keep_report, latest_with
from models.projects.workspaces.head_moves import Mover
from models.projects.workspaces.workspace import Workspace
from models.projects.workspaces.workspace_files import WorkspaceFiles, as_file, compared_files

LARGE_FILE = 200_000
"""Bytes from which a changed file is told apart."""
MAX_SAME = 10_000
"""Entries of a manifest up to which the files that do not differ are listed."""
MAX_LISTED, MAX_LISTED_CHARACTERS = 10_000, 1_000_000
"""Paths of a list of a comparison, and characters of them together."""
MAX_KEPT, MAX_KEPT_CHARACTERS = 500, 50_000
"""The same of a report that is stored."""
MAX_EXTENSIONS = 50
CHANGED = ("source_only", "workspace_only", "both_different")
LISTS = (*CHANGED, "both_same")
MAX_SUMMARY = 10_000


class Incomparable(NamedTuple):
    """Why there is no comparison. `is_main`: the workspace is the main one, which is compared with itself by default."""

    message: str
    is_main: bool = False


@dataclass(frozen=True, slots=True)
class DriftComparison:
    """The files that only one of two workspaces has, and that both have, by name. `both_same` is None if there are too many to list.
    `large`: one of those that differ is a large file. `stored`: the report that says the same."""

    workspace: Workspace
    source: Workspace
    own: WorkspaceFiles
    other: WorkspaceFiles
    source_only: Sequence[str]
    workspace_only: Sequence[str]
    both_different: Sequence[str]
    both_same: Sequence[str] | None
    large: bool
    stored: DriftReport | None

    @property
    def counts_by_ext(self) -> dict[str, dict[str, int]]:
        """How many files of each ending are in the lists of differences: the commonest endings."""
        return {name: _endings(getattr(self, name)) for name in CHANGED}

    def listed(
        self, most: int = MAX_LISTED, characters: int = MAX_LISTED_CHARACTERS
    ) -> tuple[Mapping[str, list[str]], list[str]]:
        """The lists by name, cut, and the names of those that were cut."""
        lists = {name: getattr(self, name) for name in LISTS}
        cut = {name: _cut(paths or (), most, characters) for name, paths in lists.items()}
        return cut, [name for name, paths in lists.items() if paths is None or len(cut[name]) < len(paths)]


class DriftAnalysis(NamedTuple):
    """What a comparison means, in words and as a risk."""

    source_changes: str
    workspace_changes: str
    risk_level: str
    risk_explanation: str
    can_auto_sync: bool
    recommendation: str


def compare(
    caller: ProjectCaller,
    workspace_id: str,
    source_id: str | None = None,
    *,
    include_dirty: bool = True,
) -> DriftComparison | Incomparable:
    """Compare a workspace with another of its project, by default the main one; stores nothing. `include_dirty`: also files that are in
    no snapshot yet. Raises NotFound, Forbidden, Invalid (400 `invalid_operation`) for a workspace of another project."""
    project, workspace = own_workspace(caller, workspace_id)
    source = _source(caller, project, workspace, source_id or None)
    if isinstance(source, Incomparable):
        return source
    sides: list[tuple[WorkspaceFiles, Manifest]] = []
    for each in (workspace, source):
        side = _side(project, each, include_dirty)
        if isinstance(side, Incomparable):
            return side
        sides.append(side)
    (own, mine), (other, theirs) = sides
    lists, large = _differences(project.account_id, theirs.tree_hash, mine.tree_hash)
    same = _same(mine, lists.values()) if max(mine.entries, theirs.entries) <= MAX_SAME else None
    stored = latest_with(workspace.id, source.id)
    return DriftComparison(
        workspace,
        source,
        own,
        other,
        source_only=lists["source_only"],
        workspace_only=lists["workspace_only"],
        both_different=lists["both_different"],
        both_same=same,
        large=large,
        stored=stored if stored and _says(stored, own, other) else None,
    )


def store_comparison(found: DriftComparison) -> tuple[DriftReport, bool]:
    """Store a comparison as a report, unless the last one with this source says the same; whether it is new. Locks the workspace, flushes."""
    locked_workspace(found.workspace.id)
    last = latest_with(found.workspace.id, found.source.id)
    if last is not None and _says(last, found.own, found.other):
        return last, False
    lists, truncated = found.listed(MAX_KEPT, MAX_KEPT_CHARACTERS)
    report = DriftReport(
        project_id=found.workspace.project_id,
        workspace_id=found.workspace.id,
        source_workspace_id=found.source.id,
        workspace_snapshot_id=found.own.snapshot_id,
        source_snapshot_id=found.other.snapshot_id,
        workspace_manifest_hash=found.own.manifest_hash,
        source_manifest_hash=found.other.manifest_hash,
        **lists,
        truncated=truncated,
        counts_by_ext=found.counts_by_ext,
        files_added=len(found.source_only),
        files_modified=len(found.both_different),
        files_deleted=0,
        workspace_only_count=len(found.workspace_only),
        bytes_changed=0,
        reported_at=now(),
    )
    keep_report(report)
    return report, True


def report_counters(
    caller: ProjectCaller,
    workspace_id: str,
    mover: Mover,
    *,
    added: int,
    modified: int,
    deleted: int,
    bytes_changed: int,
    summary: str | None,
) -> DriftReport:
    """Store the counters that an old client found itself, and write the event `drift.reported` unless all are 0. Locks the workspace,
    flushes. Raises NotFound, Forbidden, Invalid (422)."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects", lock=True)
    if len(summary or "") > MAX_SUMMARY:
        raise Invalid(f"'summary' has more than {MAX_SUMMARY:,} characters.")
    report = DriftReport(
        project_id=project.id,
        workspace_id=workspace.id,
        source_only=[],
        workspace_only=[],
        both_same=[],
        both_different=[],
        truncated=[],
        files_added=added,
        files_modified=modified,
        files_deleted=deleted,
        workspace_only_count=0,
        bytes_changed=bytes_changed,
        summary=summary,
        reported_at=now(),
    )
    workspace.last_seen_at = report.reported_at
    if added or modified or deleted:
        message = f"Drift: +{added} ~{modified} -{deleted}"
        add_event(
            project.id,
            "drift.reported",
            mover.actor,
            mover.user_id,
            workspace_id=workspace.id,
            message=message,
        )
    keep_report(report)
    return report


def analyse(found: DriftComparison) -> DriftAnalysis:
    """What a comparison means, by rules alone: the more files differ, the greater the risk."""
    source, own, differ = len(found.source_only), len(found.workspace_only), len(found.both_different)
    risk = "high" if differ > 5 else "medium" if differ else "low"
    name = found.source.name
    if differ:
        explanation = (
            f"{_files(differ)} in both with different content, such as {found.both_different[0][:200]}."
        )
        advice = f"Prepare a sync with '{name}', and decide about the files that both changed."
    elif source:
        explanation = "No file is in both with different content."
        advice = f"Sync with '{name}': it only adds files."
    else:
        explanation = f"The workspace has every file of '{name}'."
        advice = "There is nothing to do."
    return DriftAnalysis(
        f"{_files(source)} only in '{name}'.",
        f"{_files(own)} only in '{found.workspace.name}'.",
        risk,
        explanation,
        not differ,
        advice,
    )


def _source(
    caller: ProjectCaller, project: Project, workspace: Workspace, source_id: str | None
) -> Workspace | Incomparable:
    wanted = source_id or project.main_workspace_id
    if wanted is None:
        return Incomparable("The project has no main workspace.")
    if wanted == workspace.id:
        if source_id is None:
            return Incomparable("This is the main workspace, which others are compared with.", True)
        return Incomparable("A workspace does not differ from itself. Choose another one.")
    try:
        other, source = own_workspace(caller, wanted)
    except NotFound:
        return Incomparable("There is no such workspace to compare with.")
    if other.id != project.id:
        raise Invalid("The workspaces belong to different projects.", code="invalid_operation", status=400)
    return source


def _side(
    project: Project, workspace: Workspace, include_dirty: bool
) -> tuple[WorkspaceFiles, Manifest] | Incomparable:
    files = compared_files(workspace, include_dirty=include_dirty)
    if files is None:
        return Incomparable(f"The workspace '{workspace.name}' has no snapshot yet. Push one first.")
    row = manifest_row(project.account_id, files.manifest_hash)
    if row is None:
        return Incomparable(f"The manifest of the workspace '{workspace.name}' is not stored. Send it first.")
    if row.tree_hash is None:
        return Incomparable(
            f"The manifest of the workspace '{workspace.name}' is not in a format that the server reads."
        )
    return files, row


def _differences(account_id: str, source: str | None, own: str | None) -> tuple[dict[str, list[str]], bool]:
    """The paths that differ, in three lists, and whether one of the files is large. Only files count, and only their content."""
    found: dict[str, list[str]] = {name: [] for name in CHANGED}
    large = False
    for path, entries in in_slices(tree_changes(account_id, source, own).items()):
        there, here = (as_file(each) for each in entries)
        if there is None and here is None:
            continue
        if there is not None and here is not None and there.hash == here.hash:
            continue
        name = "workspace_only" if there is None else "source_only" if here is None else "both_different"
        found[name].append(path)
        large = large or any(each is not None and each.size >= LARGE_FILE for each in (there, here))
    return {name: sorted(paths) for name, paths in found.items()}, large


def _same(mine: Manifest, differences: Iterable[Collection[str]]) -> list[str]:
    """The files that are not among the differences."""
    known = {path for paths in differences for path in paths}
    entries = tree_entries(mine.account_id, mine.tree_hash or "")
    return sorted(each.path for each in entries if each.kind == "file" and each.path not in known)


def _says(report: DriftReport, own: WorkspaceFiles, other: WorkspaceFiles) -> bool:
    return (report.workspace_manifest_hash, report.workspace_snapshot_id) == own and (
        report.source_manifest_hash,
        report.source_snapshot_id,
    ) == other


def _cut(paths: Collection[str], most: int, characters: int) -> list[str]:
    kept: list[str] = []
    for path in paths:
        characters -= len(path)
        if len(kept) == most or characters < 0:
            break
        kept.append(path)
    return kept


def _endings(paths: Collection[str]) -> dict[str, int]:
    found = Counter(splitext(path.rpartition("/")[2])[1].lower()[:100] or "none" for path in in_slices(paths))
    return dict(sorted(found.most_common(MAX_EXTENSIONS)))


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
