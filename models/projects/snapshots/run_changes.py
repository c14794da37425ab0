"""What an agent's run changed in the projects of its account: its snapshots, in lines of history that follow each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import select

from models.core.db import db
from models.core.files import FilesUnavailable
from models.projects.project import Project
from models.projects.project_states import tree_of
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.snapshot_changes import Change, snapshot_changes
from models.projects.snapshots.snapshot_making import parents_of, snapshot_in
from models.projects.workspaces.workspace import Workspace
from models.runs import AgentRun

MAX_SNAPSHOTS = 200
"""Snapshots of a run that are read, the newest."""
MAX_LINES = 10
"""Lines of history that are listed."""
MAX_COMPARED = 3
"""Lines of history whose files are compared."""
MAX_FILES = 12
"""Files of a line of history that are named."""


class FileDelta(NamedTuple):
    """A file that a run changed. Lines that it added and removed; None if it was not compared, and `note` says why. `cut`: at least."""

    path: str
    change: Change
    added: int | None
    removed: int | None
    cut: bool
    note: str


@dataclass(frozen=True)
class TreeDelta:
    """How many files differ, and the first of them."""

    count: int
    files: Sequence[FileDelta]


@dataclass
class RunChange:
    """Snapshots of a run that follow each other, with nobody else's between: from `before` (None for no files) to `after`. `delta` is
    None if the files are not compared."""

    project: Project
    workspace: Workspace | None
    before: Snapshot | None
    after: Snapshot
    snapshots: int = 0
    credits: int = 0
    delta: TreeDelta | None = None


def changes_of_run(run: AgentRun) -> Sequence[RunChange]:
    """What a run changed, the newest first, in projects of the account that pays for it. Bounded work."""
    query = (
        select(Snapshot, Project, Workspace)
        .join(Project, Project.id == Snapshot.project_id)
        .outerjoin(Workspace, Workspace.id == Snapshot.workspace_id)
        .where(Snapshot.run_id == run.id, Project.account_id == (run.org_id or run.user_id))
        .where(Project.deleted_at.is_(None))
        .order_by(Snapshot.created_at.desc(), Snapshot.generation.desc(), Snapshot.id)
        .limit(MAX_SNAPSHOTS)
    )
    rows = [(row[0], row[1], row[2]) for row in db.session.execute(query)][::-1]
    parents = _first_parents(rows)
    lines: dict[tuple[str, str | None], RunChange] = {}
    for snapshot, project, workspace in rows:
        parent = parents.get((project.id, snapshot.id))
        line = lines.pop((project.id, parent), None) if parent else None
        if line is None:
            before = snapshot_in(project.id, parent) if parent else None
            line = RunChange(project, workspace, before, snapshot)
        line.after, line.snapshots = snapshot, line.snapshots + 1
        line.credits += snapshot.credits
        lines[project.id, snapshot.id] = line
    changes = list(reversed(lines.values()))[:MAX_LINES]
    for line in changes[:MAX_COMPARED]:
        line.delta = _delta(line)
    return changes


def _first_parents(
    rows: Sequence[tuple[Snapshot, Project, Workspace | None]],
) -> Mapping[tuple[str, str], str]:
    found = {}
    for project_id in {project.id for _, project, _ in rows}:
        ids = [snapshot.id for snapshot, project, _ in rows if project.id == project_id]
        parents = parents_of(project_id, ids)
        found.update({(project_id, id): parents[id][0] for id in ids if parents[id]})
    return found


def _delta(line: RunChange) -> TreeDelta | None:
    trees = tree_of(line.project, line.before), tree_of(line.project, line.after)
    if trees[1] is None or (line.before is not None and trees[0] is None):
        return None
    try:
        return _compared(line.project.account_id, *trees)
    except (BlobDamaged, FilesUnavailable):
        return None


@lru_cache(maxsize=256)
def _compared(account_id: str, before: str | None, after: str) -> TreeDelta:
    """The page of a live run asks every few seconds, and trees never change."""
    changes = snapshot_changes(account_id, before, after)
    compared = {each.name: each for each in changes.files}
    files = []
    for path, change, note in changes.paths[:MAX_FILES]:
        found = compared.get(path)
        if found is None:
            files.append(FileDelta(path, change, None, None, False, note))
            continue
        kinds = Counter(each.kind for each in found.lines)
        files.append(FileDelta(path, change, kinds["come"], kinds["gone"], found.cut, note))
    return TreeDelta(changes.count, files)
