"""What a person reviews of a preview of a sync: what changes in each file, line by line, and both sides of its decisions. Bounded work.

Reads only. A preview of any state can be reviewed until it is deleted, a day after it expired."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import NotFound
from models.projects.merge.text_shape import TextShape, plain, shape_of, shaped
from models.projects.project import Project
from models.projects.project_ids import fits
from models.projects.snapshots.manifest_store import manifest_row, tree_changes
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.snapshots.tree_reading import entries_at
from models.projects.sync.sync_preview import SyncPreview, moved_heads
from models.projects.sync.sync_reading import FileVersion, PreviewedFile, StoredSync, previewed_files
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation
from models.store.catalogue.version_diff import DiffBudget, FieldChange, lines

MAX_COMPARED = 40
"""Decisions that are compared line by line at once; others one by one."""
MAX_OWN, MAX_ALL_OWN = 64 << 10, 400 << 10
"""Bytes of a text to begin one's own from, and of all that a page has: what a form may send, in its longest encoding."""
LACKS = {
    "binary": "This is no text, so it is not compared.",
    "long": "The text is too long to compare.",
    "absent": "No client has sent the bytes of this file.",
}

PreviewState = Literal["open", "stale", "expired", "executed"]


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
    without one None. `own` is a text to begin one's own from; None if none can be written in a page."""

    path: str
    apart: ComparedSides
    by_main: ComparedSides | None
    by_workspace: ComparedSides | None
    own: str | None


class ReviewedSides(NamedTuple):
    """How many files each side changed since the common base; None without one."""

    main: int | None
    workspace: int | None


def reviewed_sync(project: Project, workspace: Workspace, id: str) -> StoredSync:
    """The preview of a sync of this workspace, of any member and in any state. Raises NotFound."""
    found = db.session.get(SyncPreview, id) if fits(id) else None
    if found is None or (found.project_id, found.workspace_id) != (project.id, workspace.id):
        raise NotFound("There is no such preview.")
    main = db.session.get(Workspace, project.main_workspace_id) if project.main_workspace_id else None
    if main is not None and main.deleted_at is not None:
        main = None
    return StoredSync(project, workspace, found, moved_heads(workspace, main, found))


def preview_state(stored: StoredSync) -> PreviewState:
    """Whether the preview can be executed, and why not."""
    if stored.preview.state == "executed":
        return "executed"
    if stored.preview.expires_at <= now():
        return "expired"
    return "stale" if stored.moved else "open"


def operation_of(preview: SyncPreview) -> WorkspaceOperation | None:
    """The operation of an executed preview."""
    query = select(WorkspaceOperation).where(
        WorkspaceOperation.workspace_id == preview.workspace_id,
        WorkspaceOperation.version == preview.workspace_version + 1,
        WorkspaceOperation.kind == "sync",
    )
    return db.session.scalars(query).one_or_none() if preview.state == "executed" else None


def reviewed_sides(stored: StoredSync) -> ReviewedSides:
    """How many files each side changed. Raises BlobDamaged."""
    preview, account_id = stored.preview, stored.project.account_id
    base = snapshot_in(stored.project.id, preview.base_snapshot_id) if preview.base_snapshot_id else None
    root = _tree(stored, base.manifest_hash) if base is not None else None
    if root is None:
        return ReviewedSides(None, None)
    sides = (preview.main_manifest_hash, preview.workspace_manifest_hash)
    counts = [len(tree_changes(account_id, root, _tree(stored, hash))) for hash in sides]
    return ReviewedSides(*counts)


def planned_changes(stored: StoredSync, limit: int) -> list[PlannedChange]:
    """The first files that change without a decision, by path. Raises BlobDamaged."""
    rows = stored.preview.plan["changes"][:limit]
    tree = _tree(stored, stored.preview.workspace_manifest_hash)
    there = entries_at(stored.project.account_id, tree, {row[0] for row in rows}) if tree else {}
    return [
        PlannedChange(
            path, label, "removed" if entry is None else "changed" if path in there else "added", source
        )
        for path, label, _, entry, source in rows
    ]


def reviewed_change(stored: StoredSync, path: str) -> ComparedSides:
    """What changes in one file of the workspace without a decision. Raises NotFound, FilesUnavailable (503), BlobDamaged."""
    found = previewed_files(stored, [path])[0]
    return _compared(path, found.workspace, found.result, DiffBudget())


def reviewed_decisions(stored: StoredSync, paths: Sequence[str]) -> dict[str, ReviewedDecision]:
    """The decisions about these paths, as many as the plan has of them, at most `MAX_COMPARED`. Raises FilesUnavailable (503), BlobDamaged."""
    known = {each["path"]: each for each in stored.preview.plan["decisions"]}
    wanted = [path for path in paths if path in known][:MAX_COMPARED]
    takes_text = {path for path in wanted if known[path]["custom_mode"] is not None}
    return reviewed_files(previewed_files(stored, wanted), takes_text)


def reviewed_files(files: Iterable[PreviewedFile], takes_text: Container[str]) -> dict[str, ReviewedDecision]:
    """By path what differs in files that a person decides about; `takes_text` are the paths that may get an own text."""
    budget, left = DiffBudget(), MAX_ALL_OWN
    found = {}
    for each in files:
        own = _own_text(each, left) if each.path in takes_text else None
        left -= len(own.encode()) if own is not None else 0
        found[each.path] = _reviewed(each, budget, own)
    return found


def own_texts(stored: StoredSync, entered: Mapping[str, str]) -> dict[str, str]:
    """Texts that were written in a page, in which each line ends in a newline, in the shape that the file had: its line ends and byte order
    mark. Raises FilesUnavailable (503), BlobDamaged."""
    known = {each["path"] for each in stored.preview.plan["decisions"]}
    files = previewed_files(stored, [path for path in entered if path in known])
    return {each.path: own_text(each, entered[each.path]) for each in files}


def own_text(file: PreviewedFile, entered: str) -> str:
    """A text that was written in a page, in the shape that the file had."""
    source = _own_source(file)
    shape = shape_of(source.encode()) if source else TextShape(False, False, True)
    return shaped(entered.encode(errors="replace"), shape._replace(final=True)).decode()


def _tree(stored: StoredSync, manifest_hash: str) -> str | None:
    row = manifest_row(stored.project.account_id, manifest_hash)
    return row.tree_hash if row else None


def _compared(
    path: str, before: FileVersion | None, after: FileVersion | None, budget: DiffBudget
) -> ComparedSides:
    note = _note([each for each in (before, after) if each is not None])
    if note:
        return ComparedSides(None, note)
    old, new = before.text if before else None, after.text if after else None
    diff = lines(old or "", new or "", budget)
    shown = list(islice(diff, budget.lines))
    budget.lines -= len(shown)
    return ComparedSides(FieldChange(path, old, new, lines=shown, cut=next(diff, None) is not None))


def _note(there: Sequence[FileVersion]) -> str:
    """Why the lines of these versions are not compared; empty if they are."""
    if not there:
        return "Neither side has the file."
    entry = there[-1].entry
    if any(each.entry.kind == "symlink" for each in there):
        return f"A link to {entry.target}" if entry.kind == "symlink" else "It was a link."
    if any(each.entry.kind == "dir" for each in there):
        return "A folder."
    if len(there) == 2 and there[0].entry.hash == entry.hash:
        return "Moved as it is." if there[0].entry == entry else "Only its permissions differ."
    return next((LACKS[each.lack] for each in there if each.lack is not None), "")


def _reviewed(file: PreviewedFile, budget: DiffBudget, own: str | None) -> ReviewedDecision:
    apart = _compared(file.path, file.workspace, file.main, budget)
    both = file.workspace is not None and file.main is not None
    if file.base is None or file.base.text is None or (apart.change is None and both):
        return ReviewedDecision(file.path, apart, None, None, own)
    by_main = _compared(file.path, file.base, file.main, budget)
    by_workspace = _compared(file.path, file.base, file.workspace, budget)
    return ReviewedDecision(file.path, apart, by_main, by_workspace, own)


def _own_source(file: PreviewedFile) -> str | None:
    """The text that one's own begins from: the draft with conflict markers, else what a side has."""
    sides = (each.text for each in (file.workspace, file.main) if each is not None)
    return file.draft if file.draft is not None else next((text for text in sides if text is not None), None)


def _own_text(file: PreviewedFile, left: int) -> str | None:
    """The text to begin one's own from, if a text field keeps it as it is."""
    source = _own_source(file)
    if source is None:
        return None
    data = source.encode()
    shape = shape_of(data)
    if len(data) > min(left, MAX_OWN) or shape.crlf is None:
        return None
    return plain(data, shape._replace(final=True)).decode()
