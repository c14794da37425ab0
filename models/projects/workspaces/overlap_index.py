"""Keeps the index of changed paths up to date with every move, and tells of each new overlap once."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Text, and_, delete, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from models.core.cooperative import in_slices
from models.core.db import db, lock_name
from models.projects.activity_log import add_event
from models.projects.project import Project
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.manifest_store import tree_changes_each
from models.projects.snapshots.merge_base import merge_bases
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.snapshots.stored_objects import Manifest, among, among_hashes, rows_of_json
from models.projects.workspaces.overlap_tables import ChangeIndex, WorkspaceChange
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation
from models.projects.workspaces.workspace_files import content_of

MAX_INDEXED = 2_000
"""Changed paths of a workspace that are indexed; the first by name."""
TOLD_PATHS, TOLD_NAMES, TOLD_CHARACTERS = 3, 5, 200
"""How much of an overlap an event names."""
BEHIND: ColumnElement[bool] = and_(
    WorkspaceChange.main.is_distinct_from(WorkspaceChange.base),
    WorkspaceChange.main.is_distinct_from(WorkspaceChange.own),
)
"""The main workspace changed the file too, and not in the same way."""


_UNREADABLE = "unreadable"
"""Instead of the hash of a tree."""
_State = tuple[str | None, str | None]
"""The head of a workspace and the manifest of its files."""


class _Unreadable(Exception):
    """The server does not have the manifest, or cannot read it."""


class _Place(NamedTuple):
    """A project whose index is locked, and its main workspace."""

    project_id: str
    account_id: str
    main: Workspace


class _Change(NamedTuple):
    base: str | None
    own: str | None
    main: str | None


class _NewOverlap(NamedTuple):
    """A path that a workspace and others now have in different versions; `behind`: the main one is one of these."""

    workspace_id: str
    path_key: str
    path: str
    behind: bool


def path_key(path: str) -> str:
    """What the index knows a path by."""
    return hashlib.sha256(path.encode()).hexdigest()[:32]


def follow_move(workspace: Workspace, operation: WorkspaceOperation | None) -> None:
    """Index what the workspace has changed after a move, or after it was made (None), and write the event `workspace.overlap` if it now
    overlaps with others. Locks the index of the project until the transaction ends; flushes."""
    place = _lock(workspace.project_id)
    if place is None:
        return
    if workspace.id == place.main.id:
        new = _follow_main(place, operation) if operation is not None else []
    else:
        new = _index(place, workspace, _base(place, workspace, operation))
    if new and operation is not None:
        _tell(place, workspace, operation, new)


def follow_main_choice(project_id: str) -> None:
    """Index all workspaces against a new main one. Locks the index of the project; flushes."""
    place = _lock(project_id)
    if place is None:
        return
    _forget(place.main.id)
    query = select(Workspace).where(
        Workspace.project_id == project_id, Workspace.deleted_at.is_(None), Workspace.id != place.main.id
    )
    _index_all(place, db.session.scalars(query.execution_options(populate_existing=True)).all())


def forget_changes(workspace: Workspace) -> None:
    """Take a deleted workspace out of the index. Locks the index of the project; flushes."""
    _lock(workspace.project_id)
    _forget(workspace.id)


def _lock(project_id: str) -> _Place | None:
    """None without a main workspace."""
    lock_name(f"project overlaps {project_id}")
    query = (
        select(Project.account_id, Workspace)
        .join(Workspace, Workspace.id == Project.main_workspace_id)
        .where(Project.id == project_id)
        .execution_options(populate_existing=True)
    )
    row = db.session.execute(query).one_or_none()
    return _Place(project_id, row[0], row[1]) if row is not None else None


def _base(place: _Place, workspace: Workspace, operation: WorkspaceOperation | None) -> str | None:
    """The snapshot where a workspace left the main one. Reads the history only if the last move can have changed that."""
    head, main = workspace.current_snapshot_id, place.main.current_snapshot_id
    if head is None or main is None:
        return None
    query = select(ChangeIndex).where(ChangeIndex.workspace_id == workspace.id)
    known = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if known is not None and known.main_snapshot_id == main:
        same = known.head_snapshot_id == head
        if same or (known.head_snapshot_id is not None and _is_next(operation, known.head_snapshot_id)):
            return known.base_snapshot_id
    return merge_bases(place.project_id, main, [head]).get(head)


def _is_next(operation: WorkspaceOperation | None, head: str) -> bool:
    """Whether a move was to a new snapshot with this parent alone: a new one has no children, so no base changes."""
    if operation is None or operation.kind != "snapshot" or operation.before_snapshot_id != head:
        return False
    query = select(SnapshotParent.parent_id).where(
        SnapshotParent.project_id == operation.project_id,
        SnapshotParent.child_id == operation.after_snapshot_id,
    )
    return list(db.session.scalars(query)) == [head]


# --- one workspace ------------------------------------------------------------------------------------------------------


def _index_all(place: _Place, workspaces: Sequence[Workspace]) -> list[_NewOverlap]:
    main = place.main.current_snapshot_id
    heads = {each.current_snapshot_id for each in workspaces if each.current_snapshot_id is not None}
    bases = merge_bases(place.project_id, main, heads) if main is not None else {}
    return [
        new
        for each in in_slices(workspaces)
        for new in _index(place, each, bases.get(each.current_snapshot_id or ""))
    ]


def _index(place: _Place, workspace: Workspace, base_id: str | None) -> list[_NewOverlap]:
    """Write what a workspace changed since its base; returns the overlaps that are not told yet, and marks them as told."""
    changes: Mapping[str, _Change] = {}
    try:
        changes = _changes(place, workspace, base_id)
        state = "complete" if len(changes) <= MAX_INDEXED else "cut"
    except (_Unreadable, BlobDamaged):
        state = "unreadable"
    known = {
        "base_snapshot_id": base_id,
        "head_snapshot_id": workspace.current_snapshot_id,
        "main_snapshot_id": place.main.current_snapshot_id,
        "state": state,
        "changed": len(changes),
    }
    row = insert(ChangeIndex).values(workspace_id=workspace.id, project_id=place.project_id, **known)
    db.session.execute(row.on_conflict_do_update(index_elements=["workspace_id"], set_=known))
    gone = delete(WorkspaceChange).where(WorkspaceChange.workspace_id == workspace.id)
    told_of = gone.returning(WorkspaceChange.path_key, WorkspaceChange.told)
    rows = db.session.execute(told_of.execution_options(synchronize_session=False))
    told = {key for key, was_told in rows if was_told}
    if not changes:
        return []
    _insert(place, workspace, changes)
    return _mark_told(place, workspace, told)


def _changes(place: _Place, workspace: Workspace, base_id: str | None) -> dict[str, _Change]:
    """What a workspace changed since its base, by path. Without a base each of its files that the main workspace does not have so is
    new. Raises _Unreadable, BlobDamaged."""
    own, base, main = _trees(place, _state(workspace), (base_id, None), _state(place.main))
    if base_id is None and own is None:
        return {}
    if base_id is None:
        (compared,) = _contents(place, (main, own))
        return {
            path: _Change(None, here, there) for path, (there, here) in compared.items() if here is not None
        }
    mine, moved = _contents(place, (base, own), (base, base if main == _UNREADABLE else main))
    return {
        path: _Change(before, after, moved.get(path, (before, before))[1])
        for path, (before, after) in mine.items()
    }


def _contents(
    place: _Place, *pairs: tuple[str | None, str | None]
) -> list[dict[str, tuple[str | None, str | None]]]:
    """What differs in the contents of pairs of trees, by path. Raises _Unreadable, BlobDamaged."""
    if any(_UNREADABLE in pair for pair in pairs):
        raise _Unreadable
    found: list[dict[str, tuple[str | None, str | None]]] = [{} for _ in pairs]
    for contents, changes in zip(found, tree_changes_each(place.account_id, pairs), strict=True):
        for path, (old, new) in in_slices(changes.items()):
            both = content_of(old), content_of(new)
            if both[0] != both[1]:
                contents[path] = both
    return found


def _state(workspace: Workspace) -> _State:
    return workspace.current_snapshot_id, workspace.current_manifest_hash


def _trees(place: _Place, *states: _State) -> list[str | None]:
    """The trees of states of workspaces; None for no files, `_UNREADABLE` for those that the server cannot read."""
    query = select(Snapshot.id, Snapshot.manifest_hash).where(
        Snapshot.project_id == place.project_id,
        among(Snapshot.id, {id for id, hash in states if id is not None and hash is None}),
    )
    of_heads: dict[str | None, str] = {row.id: row.manifest_hash for row in db.session.execute(query)}
    hashes = [hash or of_heads.get(id) for id, hash in states]
    stored = select(Manifest.hash, Manifest.tree_hash).where(
        Manifest.account_id == place.account_id, among(Manifest.hash, {hash for hash in hashes if hash})
    )
    trees = {row.hash: row.tree_hash for row in db.session.execute(stored)}
    return [None if hash is None else trees.get(hash) or _UNREADABLE for hash in hashes]


def _insert(place: _Place, workspace: Workspace, changes: Mapping[str, _Change]) -> None:
    rows = [
        {"path_key": path_key(path), "path": path, **changes[path]._asdict()}
        for path in sorted(changes)[:MAX_INDEXED]
    ]
    names = ["path_key", "path", "base", "own", "main"]
    sent = rows_of_json(rows, {name: Text() for name in names})
    listed = select(
        literal(workspace.id, Text), literal(place.project_id, Text), *(sent.c[name] for name in names)
    )
    db.session.execute(insert(WorkspaceChange).from_select(["workspace_id", "project_id", *names], listed))


def _mark_told(place: _Place, workspace: Workspace, told: Collection[str]) -> list[_NewOverlap]:
    """Mark the workspace's overlaps as told, and those of the others at paths where it is new; returns the new ones."""
    mine, other = WorkspaceChange.workspace_id == workspace.id, aliased(WorkspaceChange)
    contested = select(other.path_key).where(
        other.project_id == place.project_id,
        other.path_key == WorkspaceChange.path_key,
        other.workspace_id != WorkspaceChange.workspace_id,
        other.own.is_distinct_from(WorkspaceChange.own),
    )
    query = select(WorkspaceChange.path_key, WorkspaceChange.path, BEHIND.label("behind"))
    query = query.where(mine, or_(contested.exists(), BEHIND)).order_by(WorkspaceChange.path)
    rows = db.session.execute(query).all()
    if rows:
        theirs = contested.where(other.workspace_id == workspace.id).exists()
        mark = update(WorkspaceChange).where(
            WorkspaceChange.project_id == place.project_id,
            among_hashes(WorkspaceChange.path_key, [row.path_key for row in rows]),
            ~WorkspaceChange.told,
            or_(mine, theirs),
        )
        db.session.execute(mark.values(told=True).execution_options(synchronize_session=False))
    return [_NewOverlap(workspace.id, *row) for row in rows if row.path_key not in told]


def _forget(workspace_id: str) -> None:
    for table in (WorkspaceChange, ChangeIndex):
        gone = delete(table).where(table.workspace_id == workspace_id)
        db.session.execute(gone.execution_options(synchronize_session=False))


# --- the main workspace -------------------------------------------------------------------------------------------------


def _follow_main(place: _Place, operation: WorkspaceOperation) -> list[_NewOverlap]:
    """Write what main has now at the paths that others changed, and index those anew whose base is another one now."""
    query = select(ChangeIndex).where(ChangeIndex.project_id == place.project_id)
    known = db.session.scalars(query.execution_options(populate_existing=True)).all()
    if not known:
        return []
    bases = _bases(place, operation, known)
    stale = {
        each.workspace_id
        for each in known
        if each.base_snapshot_id is None or each.base_snapshot_id != bases[each.workspace_id]
    }
    moved = _moved(place, operation) if len(stale) < len(known) else {}
    if moved is None:
        stale = {each.workspace_id for each in known}
    new = _move_main(place, moved, stale) if moved else []
    followed = update(ChangeIndex).where(
        ChangeIndex.project_id == place.project_id, ~among(ChangeIndex.workspace_id, stale)
    )
    followed = followed.values(main_snapshot_id=place.main.current_snapshot_id)
    db.session.execute(followed.execution_options(synchronize_session=False))
    again = select(Workspace).where(among(Workspace.id, stale)).execution_options(populate_existing=True)
    for workspace in in_slices(db.session.scalars(again).all() if stale else []):
        new += _index(place, workspace, bases[workspace.id])
    return new


def _moved(place: _Place, operation: WorkspaceOperation) -> dict[str, str | None] | None:
    """What a move of main brought to which paths; None if that cannot be read."""
    try:
        before, after = _trees(
            place,
            (operation.before_snapshot_id, operation.before_manifest_hash),
            (operation.after_snapshot_id, operation.after_manifest_hash),
        )
        (moved,) = _contents(place, (before, after))
        return {path: new for path, (_, new) in moved.items()}
    except (_Unreadable, BlobDamaged):
        return None


def _bases(
    place: _Place, operation: WorkspaceOperation, known: Iterable[ChangeIndex]
) -> dict[str, str | None]:
    """The bases of workspaces after a move of main."""
    before, after = operation.before_snapshot_id, operation.after_snapshot_id
    if after is None:
        return {each.workspace_id: None for each in known}
    if before == after or (before is not None and _is_next(operation, before)):
        return {each.workspace_id: each.base_snapshot_id for each in known}
    heads = {each.head_snapshot_id for each in known if each.head_snapshot_id is not None}
    found = merge_bases(place.project_id, after, heads)
    return {each.workspace_id: found.get(each.head_snapshot_id or "") for each in known}


def _move_main(place: _Place, moved: Mapping[str, str | None], stale: Collection[str]) -> list[_NewOverlap]:
    """Write what is in main now, except for workspaces that are indexed anew; returns where they overlap with main only now, and marks
    that as told."""
    keys = {path_key(path): content for path, content in in_slices(moved.items())}
    here = WorkspaceChange.project_id == place.project_id, ~among(WorkspaceChange.workspace_id, stale)
    columns = (WorkspaceChange.workspace_id, WorkspaceChange.path_key, WorkspaceChange.path)
    query = select(*columns, WorkspaceChange.base, WorkspaceChange.own, BEHIND.label("behind"))
    rows = db.session.execute(query.where(*here, among_hashes(WorkspaceChange.path_key, keys))).all()
    if not rows:
        return []
    changed = {row.path_key for row in rows}
    new = [
        _NewOverlap(row.workspace_id, row.path_key, row.path, True)
        for row in sorted(rows, key=lambda row: (row.path, row.workspace_id))
        if not row.behind and keys[row.path_key] not in (row.base, row.own)
    ]
    sent = rows_of_json(
        [{"path_key": key, "main": keys[key]} for key in sorted(changed)],
        {"path_key": Text(), "main": Text()},
    )
    written = update(WorkspaceChange).where(*here, WorkspaceChange.path_key == sent.c.path_key)
    overlaps = and_(
        sent.c.main.is_distinct_from(WorkspaceChange.base), sent.c.main.is_distinct_from(WorkspaceChange.own)
    )
    written = written.values(main=sent.c.main, told=or_(WorkspaceChange.told, overlaps))
    db.session.execute(written.execution_options(synchronize_session=False))
    return new


# --- events -------------------------------------------------------------------------------------------------------------


def _tell(
    place: _Place, workspace: Workspace, operation: WorkspaceOperation, new: Sequence[_NewOverlap]
) -> None:
    paths = list(dict.fromkeys(each.path[:TOLD_CHARACTERS] for each in new))
    add_event(
        place.project_id,
        "workspace.overlap",
        operation.actor,
        operation.user_id,
        workspace_id=workspace.id,
        snapshot_id=operation.after_snapshot_id,
        message=f"Also changed in {_listed(_names(place, workspace, new), TOLD_NAMES)}: {_listed(paths, TOLD_PATHS)}",
    )
    db.session.flush()


def _names(place: _Place, workspace: Workspace, new: Sequence[_NewOverlap]) -> list[str]:
    """The names of the other workspaces of these overlaps, main first."""
    keys = among_hashes(WorkspaceChange.path_key, {each.path_key for each in new})
    changing = select(WorkspaceChange.workspace_id).where(
        WorkspaceChange.project_id == place.project_id, keys
    )
    is_main = workspace.id == place.main.id
    among_them = (
        among(Workspace.id, {each.workspace_id for each in new}) if is_main else Workspace.id.in_(changing)
    )
    named = select(Workspace.name).where(among_them, Workspace.id != workspace.id).order_by(Workspace.name)
    main = [place.main.name] if not is_main and any(each.behind for each in new) else []
    return main + list(db.session.scalars(named))


def _listed(items: Sequence[str], most: int) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more:,} more" if more > 0 else "")
