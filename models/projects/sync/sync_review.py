"""What a person reviews of a preview of a sync: what changes in each file, line by line, and both sides of its decisions. Bounded work.

Reads only. A preview of any state can be reviewed until it is deleted, a day after it expired."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import NotFound
from models.projects.merge.text_shape import TextShape, is_binary, plain, shape_of, shaped
from models.projects.project import Project
from models.projects.project_ids import fits
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.manifest_store import manifest_row, tree_changes
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.snapshot_changes import MAX_TEXT, compared_lines, not_compared
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.snapshots.tree_reading import read_path
from models.projects.sync.sync_preview import SyncPreview
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation
from models.store.catalogue.version_diff import DiffBudget, FieldChange

MAX_COMPARED = 20
"""Decisions that are compared line by line at once; others one by one."""
MAX_OWN, MAX_ALL_OWN = 64 << 10, 400 << 10
"""Bytes of a text to begin one's own from, and of all that a page has: what a form may send, in its longest encoding."""

PreviewState = Literal["open", "stale", "expired", "executed"]
Both = tuple[Entry | None, Entry | None]
Texts = Mapping[str, bytes]


class ComparedSides(NamedTuple):
    """Two versions of a file: their lines, or `note`, why these are not compared."""

    change: FieldChange | None
    note: str = ""


class PlannedChange(NamedTuple):
    """A file that a sync changes in the workspace. `change` is `added`, `removed` or `changed`."""

    path: str
    label: str
    change: Literal["added", "removed", "changed"]
    renamed_from: str | None


@dataclass(frozen=True, slots=True)
class ReviewedDecision:
    """What differs at the path of a decision: `apart` from the workspace to main, `by_main` and `by_workspace` from their common base,
    without one None; `shown` only if it was compared. `own` is a text to begin one's own from; None if none can be written in a page."""

    path: str
    shown: bool
    apart: ComparedSides
    by_main: ComparedSides | None
    by_workspace: ComparedSides | None
    own: str | None


class ReviewedSides(NamedTuple):
    """How many files each side changed since the common base; None without one."""

    main: int | None
    workspace: int | None


def preview_of(project: Project, workspace: Workspace, id: str) -> SyncPreview:
    """The preview of a sync of this workspace, of any member and in any state. Raises NotFound."""
    found = db.session.get(SyncPreview, id) if fits(id) else None
    if found is None or (found.project_id, found.workspace_id) != (project.id, workspace.id):
        raise NotFound("There is no such preview.")
    return found


def preview_state(project: Project, workspace: Workspace, preview: SyncPreview) -> PreviewState:
    """Whether the preview can be executed, and why not."""
    if preview.state == "executed":
        return "executed"
    if preview.expires_at <= now():
        return "expired"
    main = db.session.get(Workspace, project.main_workspace_id) if project.main_workspace_id else None
    heads = (main.id, main.current_snapshot_id, main.deleted_at) if main is not None else None
    prepared = (preview.main_workspace_id, preview.main_snapshot_id, None)
    return "open" if heads == prepared and workspace.version == preview.workspace_version else "stale"


def operation_of(preview: SyncPreview) -> WorkspaceOperation | None:
    """The operation of an executed preview."""
    query = select(WorkspaceOperation).where(
        WorkspaceOperation.workspace_id == preview.workspace_id,
        WorkspaceOperation.version == preview.workspace_version + 1,
        WorkspaceOperation.kind == "sync",
    )
    return db.session.scalars(query).one_or_none() if preview.state == "executed" else None


def reviewed_sides(project: Project, preview: SyncPreview) -> ReviewedSides:
    """How many files each side changed. Raises BlobDamaged."""
    base, workspace, main = _trees(project, preview)
    if base is None:
        return ReviewedSides(None, None)
    counts = (len(tree_changes(project.account_id, base, side)) for side in (main, workspace))
    return ReviewedSides(*counts)


def planned_changes(project: Project, preview: SyncPreview) -> list[PlannedChange]:
    """The files that change without a decision. Raises BlobDamaged."""
    _, workspace, main = _trees(project, preview)
    apart = tree_changes(project.account_id, workspace, main)
    found = []
    for path, label, _, row, source in preview.plan["changes"]:
        there = path not in apart or apart[path][0] is not None
        change: Any = "removed" if row is None else "changed" if there else "added"
        found.append(PlannedChange(path, label, change, source))
    return found


def reviewed_change(project: Project, preview: SyncPreview, path: str) -> ComparedSides:
    """What changes in one file of the workspace without a decision. Raises NotFound, FilesUnavailable (503), BlobDamaged."""
    row = next((each for each in preview.plan["changes"] if each[0] == path), None)
    if row is None:
        raise NotFound("The sync does not change this file.")
    _, workspace, _ = _trees(project, preview)
    both = _at(project, workspace, path), _entry(path, row[3])
    return _compared(path, both, _read(project, both), DiffBudget())


def reviewed_decisions(
    project: Project, preview: SyncPreview, paths: Sequence[str]
) -> dict[str, ReviewedDecision]:
    """The decisions about these paths, as many as the plan has of them; only `MAX_COMPARED` with lines. Raises FilesUnavailable (503),
    BlobDamaged."""
    wanted = set(paths)
    rows = [each for each in preview.plan["decisions"] if each["path"] in wanted]
    sides = {each["path"]: [_entry(each["path"], side) for side in each["sides"]] for each in rows}
    read = [entry for each in rows[:MAX_COMPARED] for entry in sides[each["path"]]]
    texts = _read(project, read + [_own_source(each) for each in rows])
    budget, left = DiffBudget(), MAX_ALL_OWN
    found = {}
    for number, each in enumerate(rows):
        own = _own_text(each, texts, left)
        left -= len(own.encode()) if own is not None else 0
        shown = texts if number < MAX_COMPARED else None
        found[each["path"]] = _reviewed(each["path"], sides[each["path"]], shown, budget, own)
    return found


def own_texts(project: Project, preview: SyncPreview, entered: Mapping[str, str]) -> dict[str, str]:
    """Texts that were written in a page, in which each line ends in a newline, in the shape that the file had: its line ends and byte order
    mark. Raises FilesUnavailable (503), BlobDamaged."""
    rows = {each["path"]: each for each in preview.plan["decisions"] if each["path"] in entered}
    texts = _read(project, map(_own_source, rows.values()))
    found = {}
    for path, text in entered.items():
        source = _own_source(rows[path]) if path in rows else None
        data = texts.get(source.hash or "") if source is not None else None
        shape = shape_of(data) if data else TextShape(False, False, True)
        found[path] = shaped(text.encode(errors="replace"), shape._replace(final=True)).decode()
    return found


def _trees(project: Project, preview: SyncPreview) -> tuple[str | None, str | None, str | None]:
    """The trees of base, workspace and main; None for those that cannot be read."""
    base = snapshot_in(project.id, preview.base_snapshot_id) if preview.base_snapshot_id else None
    hashes = (
        base.manifest_hash if base else None,
        preview.workspace_manifest_hash,
        preview.main_manifest_hash,
    )
    rows = [manifest_row(project.account_id, hash) if hash else None for hash in hashes]
    trees = [row.tree_hash if row else None for row in rows]
    return trees[0], trees[1], trees[2]


def _at(project: Project, tree: str | None, path: str) -> Entry | None:
    try:
        found = read_path(project.account_id, tree, path) if tree else None
    except NotFound:
        return None
    return found if isinstance(found, Entry) else None


def _entry(path: str, row: list[Any] | None) -> Entry | None:
    return None if row is None else Entry(path, *row)


def _read(project: Project, entries: Iterable[Entry | None]) -> dict[str, bytes]:
    """The bytes of these files by hash, without large ones."""
    hashes = {each.hash for each in entries if each is not None and each.hash and each.size <= MAX_TEXT}
    return dict(read_blobs(project.account_id, hashes)) if hashes else {}


def _compared(path: str, both: Both, texts: Texts, budget: DiffBudget) -> ComparedSides:
    if both == (None, None):
        return ComparedSides(None, "on neither side")
    note = not_compared(both, texts)
    return ComparedSides(None, note) if note else ComparedSides(compared_lines(path, both, texts, budget))


def _reviewed(
    path: str, sides: Sequence[Entry | None], texts: Texts | None, budget: DiffBudget, own: str | None
) -> ReviewedDecision:
    base, workspace, main = sides
    if texts is None:
        return ReviewedDecision(path, False, ComparedSides(None), None, None, own)
    apart = _compared(path, (workspace, main), texts, budget)
    if base is None or base.kind != "file" or (apart.change is None and workspace and main):
        return ReviewedDecision(path, True, apart, None, None, own)
    ours, theirs = (_compared(path, (base, side), texts, budget) for side in (workspace, main))
    return ReviewedDecision(path, True, apart, theirs, ours, own)


def _own_source(decision: Mapping[str, Any]) -> Entry | None:
    """The file that one's own text begins from: the draft with conflict markers, else what a side has; None if the decision takes none."""
    path = decision["path"]
    if decision["custom_mode"] is None:
        return None
    if decision["draft"]:
        return Entry(path, "file", None, decision["draft"], decision["draft_size"])
    _, workspace, main = (_entry(path, side) for side in decision["sides"])
    found = workspace or main
    return found if found is not None and found.kind == "file" else None


def _own_text(decision: Mapping[str, Any], texts: Texts, left: int) -> str | None:
    """The text to begin one's own from, if a text field keeps it as it is."""
    source = _own_source(decision)
    data = texts.get(source.hash or "") if source is not None else None
    if data is None or len(data) > min(left, MAX_OWN) or is_binary(data):
        return None
    shape = shape_of(data)
    if shape.crlf is None:
        return None
    try:
        return plain(data, shape._replace(final=True)).decode()
    except UnicodeDecodeError:
        return None
