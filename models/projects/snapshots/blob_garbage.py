"""Garbage collection: removes bytes that no snapshot, workspace, operation, open preview or table of a later room names any more, a day after their last use."""

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, case, delete, func, select, union, update

from models.core.cooperative import in_slices
from models.core.db import db, lock_name, now
from models.core.files import Files
from models.projects.project import Project
from models.projects.snapshots.blob_packs import FOLDER, PACK_BYTES, add_to_storage, pack_path
from models.projects.snapshots.directory_tree import children
from models.projects.snapshots.manifest_store import bytes_lock_name, load_listings
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.stored_objects import (
    Blob,
    Manifest,
    Pack,
    PartUpload,
    ProjectStorage,
    Tree,
    among_hashes,
)
from models.projects.sync.sync_preview import SyncPreview
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

Transaction = Callable[[], AbstractContextManager[None]]
GRACE = timedelta(hours=24)
"""How long what nothing names stays after its last use: its snapshot may not be pushed yet."""
SMALL = PACK_BYTES // 4
"""Bytes below which a pack is joined with others."""
FEW = 8
"""Small packs that an account may have."""
BATCH = 10_000
_NAMING: list[tuple[Any, Any]] = [
    (Snapshot, Snapshot.manifest_hash),
    (Workspace, Workspace.current_manifest_hash),
    (WorkspaceOperation, WorkspaceOperation.before_manifest_hash),
    (WorkspaceOperation, WorkspaceOperation.after_manifest_hash),
]
"""Tables of projects, and their columns that name manifests."""
_stored_bytes = case((Blob.codec == "chunks", 0), else_=Blob.size)
"""Bytes that a blob counts for: a large file nothing, its chunks all."""


@dataclass(frozen=True, slots=True)
class LiveObjects:
    """The hashes of what an account's snapshots, workspaces, operations and open previews reach, and what was used within the grace."""

    manifests: set[str] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection found, or removed: blobs it looked at, those that nothing names and their bytes, and the packs whose files may
    be removed after the commit."""

    scanned: int
    orphaned: int
    freed: int
    packs: Sequence[str]


def name_manifests(table: Any, column: Any) -> None:
    """Keep the manifests that a column of a later room's table names; the table has a `project_id`. Once, when its module is imported."""
    _NAMING.append((table, column))


def collect(account_id: str, *, dry_run: bool, most: int = 10**9) -> Collected:
    """Remove at most `most` blobs of an account that nothing names, and such trees and manifests. `dry_run` removes nothing.

    One collection of an account at a time. Once it has looked at what there was, it holds back new manifests of the account until the
    commit. Afterwards give `packs` to `remove_packs`. Raises BlobDamaged, and removes nothing, if a directory is missing."""
    before = now() - GRACE
    lock_name(f"project garbage {account_id}")
    live = mark(account_id, before)
    lock_name(bytes_lock_name(account_id))
    mark(account_id, before, live)
    query = select(Blob.sha256, _stored_bytes, Blob.used_at < before).where(Blob.account_id == account_id)
    blobs = db.session.execute(query.order_by(Blob.sha256)).all()
    orphans = {sha256: size for sha256, size, old in blobs if old and sha256 not in live.blobs}
    large = set(db.session.scalars(_large(account_id, Blob.sha256))) & orphans.keys()
    large = set(sorted(large)[:most])
    forgotten = large if dry_run else set(_delete_blobs(account_id, large, before))
    if not dry_run:
        _forget_uploads(account_id, before)
    # what a file still consists of that was used meanwhile stays, whatever its chunks' own last use was
    parts = _parts_of_files(account_id, forgotten)
    rest = {sha256: size for sha256, size in orphans.items() if sha256 not in large and sha256 not in parts}
    rest = dict(list(rest.items())[: most - len(large)])
    if dry_run:
        return Collected(len(blobs), len(large) + len(rest), sum(rest.values()), ())
    freed = _delete_blobs(account_id, rest, before)
    _delete_manifests(account_id, live)
    removed = len(forgotten) + len(freed)
    return Collected(len(blobs), removed, sum(freed.values()), delete_empty_packs(account_id))


def mark(account_id: str, before: datetime | None = None, live: LiveObjects | None = None) -> LiveObjects:
    """What the account's projects reach, deleted projects too until they are purged; with `before` also manifests used since then, and
    what those reach. Adds it to `live`, whose directories are not read again. Raises BlobDamaged."""
    live = live or LiveObjects()
    mine = Project.account_id == account_id
    named = union(
        *(
            select(column).join(Project, Project.id == table.project_id).where(mine, column.is_not(None))
            for table, column in _NAMING
        )
    )
    hashes = set(db.session.scalars(named))
    made = select(func.unnest(SyncPreview.made_files)).join(Project, Project.id == SyncPreview.project_id)
    open_now = SyncPreview.state == "open", SyncPreview.expires_at > now()
    live.blobs.update(db.session.scalars(made.where(mine, *open_now)))
    query = select(Manifest).where(Manifest.account_id == account_id)
    roots: set[str] = set()
    for row in db.session.scalars(query.execution_options(populate_existing=True)):
        if row.hash in hashes or (before is not None and row.used_at >= before):
            live.manifests.add(row.hash)
            roots |= {row.tree_hash} if row.tree_hash else set()
            live.blobs.update({row.hash} if row.dialect == "raw" else ())
    level = roots - live.trees
    while level:
        live.trees.update(level)
        below: set[str] = set()
        for listing in in_slices(load_listings(account_id, level).values()):
            directories, files = children(listing)
            below |= directories
            live.blobs.update(files)
        level = below - live.trees
    for sha256, chunks in db.session.execute(_large(account_id, Blob.sha256, Blob.chunks)):
        live.blobs.update(chunks if sha256 in live.blobs else ())
    return live


def _large(account_id: str, *columns: Any) -> Select[Any]:
    return select(*columns).where(Blob.account_id == account_id, Blob.codec == "chunks")


def _parts_of_files(account_id: str, without: Collection[str]) -> set[str]:
    """The chunks of all large files but these, and of those that clients are sending."""
    parts: set[str] = set()
    for sha256, chunks in db.session.execute(_large(account_id, Blob.sha256, Blob.chunks)):
        parts.update(() if sha256 in without else chunks)
    for chunks in db.session.scalars(select(PartUpload.chunks).where(PartUpload.account_id == account_id)):
        parts.update(chunks)
    return parts


def _forget_uploads(account_id: str, before: datetime) -> None:
    """Delete what no client has gone on sending."""
    left = delete(PartUpload).where(PartUpload.account_id == account_id, PartUpload.updated_at < before)
    db.session.execute(left.execution_options(synchronize_session=False))


def delete_empty_packs(account_id: str) -> list[str]:
    """Delete the rows of the account's packs without blobs; returns their ids. Flushes."""
    used = select(Blob.pack_id).where(Blob.pack_id == Pack.id).exists()
    empty = delete(Pack).where(
        Pack.account_id == account_id, ~used, Pack.created_at < now() - timedelta(hours=1)
    )
    return list(db.session.scalars(empty.returning(Pack.id).execution_options(synchronize_session=False)))


def remove_packs(files: Files, account_id: str, pack_ids: Iterable[str]) -> None:
    """Remove the files of packs whose rows are gone. Raises FilesUnavailable."""
    for pack_id in pack_ids:
        files.remove(pack_path(account_id, pack_id))


def collect_all(transaction: Transaction, files: Files, moment: datetime) -> None:
    """Collect the garbage of every account, join small packs, and remove files that no pack has. Idempotent; each account in its own
    transactions. Raises FilesUnavailable."""
    with transaction():
        accounts = set(db.session.scalars(select(ProjectStorage.account_id)))
        accounts |= set(db.session.scalars(select(Pack.account_id).distinct()))
    for account_id in sorted(accounts):
        with transaction():
            packs = collect(account_id, dry_run=False).packs
        remove_packs(files, account_id, packs)
        while joined := _repack(transaction, files, account_id):
            remove_packs(files, account_id, joined)
    _remove_strays(transaction, files, moment)


def _repack(transaction: Transaction, files: Files, account_id: str) -> list[str]:
    """Join the account's small packs, as many as fill one; returns the ids of those whose files may be removed."""
    with transaction():
        query = select(Pack.id).where(Pack.account_id == account_id, Pack.bytes < SMALL)
        small = list(db.session.scalars(query.order_by(Pack.created_at).limit(2_000)))
        if len(small) <= FEW:
            return []
        rows = db.session.scalars(
            select(Blob).where(among_hashes(Blob.pack_id, small)).order_by(Blob.pack_id, Blob.start)
        ).all()
        places = [(row.pack_id or "", row.sha256, row.start, row.length) for row in rows]
    parts: list[bytes] = []
    moved: list[tuple[str, str, int]] = []
    contents: dict[str, bytes] = {}
    size = 0
    for pack_id, sha256, start, length in places:
        if pack_id not in contents:
            if size >= PACK_BYTES:
                break
            contents = {pack_id: files.read(pack_path(account_id, pack_id)) or b""}
        part = contents[pack_id][start : start + length]
        if len(part) == length:  # a lost one stays where `prove` finds it
            moved.append((pack_id, sha256, size))
            parts.append(part)
            size += length
    if len({pack_id for pack_id, _, _ in moved}) < 2:
        return []
    return _move(transaction, files, account_id, moved, parts)


def _move(
    transaction: Transaction,
    files: Files,
    account_id: str,
    moved: Sequence[tuple[str, str, int]],
    parts: Sequence[bytes],
) -> list[str]:
    joined = uuid.uuid4().hex
    files.write_durably(pack_path(account_id, joined), b"".join(parts))
    with transaction():
        db.session.add(Pack(id=joined, account_id=account_id, bytes=sum(map(len, parts))))
        db.session.flush()
        for pack_id, sha256, start in sorted(moved, key=lambda each: each[1]):
            place = Blob.account_id == account_id, Blob.sha256 == sha256, Blob.pack_id == pack_id
            db.session.execute(
                update(Blob)
                .where(*place)
                .values(pack_id=joined, start=start)
                .execution_options(synchronize_session=False)
            )
        emptied = {pack_id for pack_id, _, _ in moved}
        used = select(Blob.pack_id).where(Blob.pack_id == Pack.id).exists()
        gone = delete(Pack).where(Pack.id.in_(emptied), ~used).returning(Pack.id)
        return list(db.session.scalars(gone.execution_options(synchronize_session=False)))


def _remove_strays(transaction: Transaction, files: Files, moment: datetime) -> None:
    """Remove files of requests that were not committed, and of accounts that were erased."""
    old = [name for name, since in files.names(FOLDER).items() if since < moment - GRACE]
    for start in range(0, len(old), BATCH):
        names = {name.rpartition("/")[2]: name for name in old[start : start + BATCH]}
        with transaction():
            known = set(db.session.scalars(select(Pack.id).where(among_hashes(Pack.id, names))))
        for pack_id in names.keys() - known:
            files.remove(f"{FOLDER}/{names[pack_id]}")


def _delete_blobs(account_id: str, orphans: Collection[str], before: datetime) -> dict[str, int]:
    """Delete these blobs unless they were used meanwhile; returns their hashes and stored bytes."""
    listed = sorted(orphans)
    freed: dict[str, int] = {}
    for start in range(0, len(listed), BATCH):
        mine = Blob.account_id == account_id, among_hashes(Blob.sha256, listed[start : start + BATCH])
        # in the order in which requests lock them
        old = select(Blob.sha256).where(*mine, Blob.used_at < before).order_by(Blob.sha256)
        locked = old.with_for_update().cte("locked")
        gone = delete(Blob).where(
            Blob.account_id == account_id, Blob.sha256.in_(select(locked.c.sha256)), Blob.used_at < before
        )
        returned = gone.returning(Blob.sha256, _stored_bytes)
        rows = db.session.execute(returned.execution_options(synchronize_session=False))
        freed |= {row.sha256: row[1] for row in rows}
    if freed:
        add_to_storage(account_id, blobs=-len(freed), blob_bytes=-sum(freed.values()))
    return freed


def _delete_manifests(account_id: str, live: LiveObjects) -> None:
    """Delete the manifests and trees that nothing reaches."""
    for table, key, kept in ((Tree, Tree.hash, live.trees), (Manifest, Manifest.hash, live.manifests)):
        dead = sorted(set(db.session.scalars(select(key).where(table.account_id == account_id))) - kept)
        for start in range(0, len(dead), BATCH):
            gone = delete(table).where(
                table.account_id == account_id, among_hashes(key, dead[start : start + BATCH])
            )
            if table is Tree:
                db.session.execute(gone.execution_options(synchronize_session=False))
                continue
            sizes = db.session.scalars(
                gone.returning(Manifest.bytes).execution_options(synchronize_session=False)
            ).all()
            add_to_storage(account_id, manifests=-len(sizes), manifest_bytes=-sum(sizes))
