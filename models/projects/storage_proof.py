"""The proof of projects: every hash of every live tree exists and matches, and heads, operations and versions agree."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from models.core.db import db
from models.core.errors import DomainError
from models.projects.project import Project
from models.projects.snapshots.blob_garbage import LiveObjects, mark
from models.projects.snapshots.blob_packs import BlobDamaged, blob_stream, read_blobs, storage_of
from models.projects.snapshots.manifest_store import load_listings, manifest_text
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.snapshots.stored_objects import Blob, Manifest, ProjectStorage, among_hashes
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

BATCH = 200


class ProofCounts(NamedTuple):
    """What was checked. `absent` files are named by trees, and no client ever sent them."""

    manifests: int
    trees: int
    blobs: int
    absent: int
    workspaces: int


def accounts_to_prove() -> Sequence[str]:
    """The accounts with projects or stored bytes."""
    stored = set(db.session.scalars(select(ProjectStorage.account_id)))
    return sorted(stored | set(db.session.scalars(select(Project.account_id).distinct())))


def prove_account(account_id: str) -> tuple[ProofCounts, list[str]]:
    """Check all that an account stores; what was counted, and the problems. Reads every live byte. Clients may move meanwhile: only what is
    wrong twice is a problem. Raises FilesUnavailable (503)."""
    counts, problems = _proved(account_id)
    if problems:
        db.session.expire_all()
        again = set(_proved(account_id)[1])
        problems = [each for each in problems if each in again]
    return counts, problems


def _proved(account_id: str) -> tuple[ProofCounts, list[str]]:
    problems: list[str] = []
    try:
        live = mark(account_id)
    except BlobDamaged as error:
        return ProofCounts(0, 0, 0, 0, 0), [str(error)]
    problems += _trees(account_id, live)
    problems += _manifests(account_id, live)
    stored = _stored(account_id, live)
    problems += _blobs(account_id, sorted(stored))
    problems += _large_files(account_id, stored)
    problems += _counters(account_id)
    workspaces = db.session.scalars(
        select(Workspace)
        .join(Project, Project.id == Workspace.project_id)
        .where(Project.account_id == account_id)
    ).all()
    for workspace in workspaces:
        problems += _operations(workspace)
    problems += _generations(account_id)
    counts = ProofCounts(
        len(live.manifests), len(live.trees), len(stored), len(live.blobs - stored), len(workspaces)
    )
    return counts, problems


def _trees(account_id: str, live: LiveObjects) -> Iterator[str]:
    for batch in _batches(sorted(live.trees)):
        for hash, listing in load_listings(account_id, batch).items():
            if hashlib.sha256(listing).hexdigest() != hash:
                yield f"tree {hash} of account {account_id}: its listing does not match its hash"


def _manifests(account_id: str, live: LiveObjects) -> Iterator[str]:
    for hash in sorted(live.manifests):
        try:
            if manifest_text(account_id, hash) is None:
                yield f"manifest {hash} of account {account_id}: its text is lost"
        except BlobDamaged as error:
            yield str(error)


def _stored(account_id: str, live: LiveObjects) -> set[str]:
    found: set[str] = set()
    for batch in _batches(sorted(live.blobs)):
        query = select(Blob.sha256).where(Blob.account_id == account_id, among_hashes(Blob.sha256, batch))
        found |= set(db.session.scalars(query))
    return found


def _blobs(account_id: str, hashes: Sequence[str]) -> Iterator[str]:
    for batch in _batches(hashes):
        if _blob_problem(account_id, batch) is not None:
            # again one by one: the first problem of a batch hides the others
            yield from filter(None, (_blob_problem(account_id, [sha256]) for sha256 in batch))


def _large_files(account_id: str, stored: set[str]) -> Iterator[str]:
    """Whether the chunks of each large file make its bytes; each chunk was checked already."""
    query = select(Blob.sha256, Blob.size).where(Blob.account_id == account_id, Blob.codec == "chunks")
    for sha256, size in db.session.execute(query.order_by(Blob.sha256)).all():
        found = blob_stream(account_id, sha256) if sha256 in stored else None
        if found is None:
            continue
        hashed, length = hashlib.sha256(), 0
        try:
            for piece in found[1]:
                hashed.update(piece)
                length += len(piece)
        except (BlobDamaged, DomainError) as error:
            yield str(error)
        else:
            if (hashed.hexdigest(), length) != (sha256, size):
                yield f"blob {sha256} of account {account_id}: its chunks make other bytes"


def _blob_problem(account_id: str, hashes: Sequence[str]) -> str | None:
    try:
        for _ in read_blobs(account_id, hashes):
            pass
    except BlobDamaged as error:
        return str(error)
    except DomainError as error:
        return f"blob {hashes[0]} of account {account_id}: {error.message}"
    return None


def _counters(account_id: str) -> Iterator[str]:
    counted = storage_of(account_id)
    in_packs = func.sum(Blob.size).filter(Blob.pack_id.is_not(None))
    blobs = select(func.count(), func.coalesce(in_packs, 0)).where(Blob.account_id == account_id)
    manifests = select(func.count(), func.coalesce(func.sum(Manifest.bytes), 0)).where(
        Manifest.account_id == account_id
    )
    actual = *map(int, db.session.execute(blobs).one()), *map(int, db.session.execute(manifests).one())
    if actual != (counted.blobs, counted.blob_bytes, counted.manifests, counted.manifest_bytes):
        yield f"account {account_id}: the counted storage differs from what is stored"


def _operations(workspace: Workspace) -> Iterator[str]:
    """Whether the operations of a workspace lead from its base to its head, one version after another."""
    query = select(WorkspaceOperation).where(
        WorkspaceOperation.workspace_id == workspace.id, WorkspaceOperation.version.is_not(None)
    )
    state: tuple[str | None, str | None] = (workspace.base_snapshot_id, None)
    version = 1
    for row in db.session.scalars(query.order_by(WorkspaceOperation.version)):
        version += 1
        if row.version != version or (row.before_snapshot_id, row.before_manifest_hash) != state:
            yield f"workspace {workspace.id}: operation {row.id} does not follow the one before it"
            return
        state = row.after_snapshot_id, row.after_manifest_hash
    head = workspace.current_snapshot_id, workspace.current_manifest_hash
    if workspace.version != version or head != state:
        yield f"workspace {workspace.id}: its head is not where its last operation moved it"


def _generations(account_id: str) -> Iterator[str]:
    """Whether each snapshot is of a later generation than its parents."""
    parent = select(Snapshot.id, Snapshot.project_id, Snapshot.generation).subquery("parent")
    query = (
        select(Snapshot.id)
        .join(Project, Project.id == Snapshot.project_id)
        .join(
            SnapshotParent,
            (SnapshotParent.project_id == Snapshot.project_id) & (SnapshotParent.child_id == Snapshot.id),
        )
        .join(
            parent,
            (parent.c.project_id == SnapshotParent.project_id) & (parent.c.id == SnapshotParent.parent_id),
        )
        .where(Project.account_id == account_id, parent.c.generation >= Snapshot.generation)
    )
    for id in db.session.scalars(query):
        yield f"snapshot {id}: its generation is not after that of its parents"


def _batches(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), BATCH):
        yield values[start : start + BATCH]
