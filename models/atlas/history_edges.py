"""Which parts of a project change together, from its snapshots."""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations

from sqlalchemy import func, select

from models.atlas.atlas_tables import AtlasConcept
from models.atlas.dependency_edges import FoundEdge, found_edge
from models.atlas.tree_concepts import code_id, module_of
from models.core.cooperative import in_slices
from models.core.db import db
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.manifest_store import tree_changes_each
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.snapshots.stored_objects import Manifest, among, among_hashes

MAX_SNAPSHOTS = 200
"""Of the history: the newest that have one parent."""
MAX_TOGETHER = 30
"""Files that a snapshot changes; of one with more it says nothing that they changed together."""
MIN_TOGETHER = 2
MAX_PAIRS = 2_000


def related_edges(account_id: str, project_id: str) -> list[FoundEdge]:
    """Files of the map, and modules, that at least two snapshots changed together; the weight is how many."""
    together = list(_changed_together(account_id, project_id))
    query = select(AtlasConcept.id).where(
        AtlasConcept.project_id == project_id,
        among(AtlasConcept.id, {code_id(path) for each in together for path in each}),
    )
    paths = {id.removeprefix("code:") for id in db.session.scalars(query)}
    files: Counter[tuple[str, str]] = Counter()
    modules: Counter[tuple[str, str]] = Counter()
    for changed in in_slices(together):
        there = sorted(path for path in changed if path in paths)
        files.update(combinations(there, 2))
        modules.update(combinations(sorted({module_of(path) for path in there}), 2))
    return [
        found_edge(f"{layer}:{pair[0]}", f"{layer}:{pair[1]}", "relates", count)
        for layer, counts in (("code", files), ("module", modules))
        for pair, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MAX_PAIRS]
        if count >= MIN_TOGETHER
    ]


def newest_snapshot(project_id: str) -> str | None:
    """The snapshot up to which the history is counted."""
    query = select(Snapshot.id).where(Snapshot.project_id == project_id)
    return db.session.scalar(query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc()).limit(1))


def _changed_together(account_id: str, project_id: str) -> Iterable[set[str]]:
    """The files that each snapshot changed."""
    parent = select(SnapshotParent.child_id, func.min(SnapshotParent.parent_id).label("parent_id"))
    parent = parent.where(SnapshotParent.project_id == project_id).group_by(SnapshotParent.child_id)
    alone = parent.having(func.count() == 1).subquery()
    query = (
        select(Snapshot.id, alone.c.parent_id, Snapshot.manifest_hash)
        .join(alone, alone.c.child_id == Snapshot.id)
        .where(Snapshot.project_id == project_id)
        .order_by(Snapshot.created_at.desc(), Snapshot.id.desc())
        .limit(MAX_SNAPSHOTS)
    )
    rows = db.session.execute(query).all()
    before = select(Snapshot.id, Snapshot.manifest_hash).where(
        Snapshot.project_id == project_id, among(Snapshot.id, {row.parent_id for row in rows})
    )
    manifests = {row.id: row.manifest_hash for row in db.session.execute(before)}
    stored = select(Manifest.hash, Manifest.tree_hash).where(
        Manifest.account_id == account_id,
        among_hashes(Manifest.hash, {*manifests.values(), *(row.manifest_hash for row in rows)}),
    )
    trees = {row.hash: row.tree_hash for row in db.session.execute(stored)}
    pairs = [(trees.get(manifests.get(row.parent_id, "")), trees.get(row.manifest_hash)) for row in rows]
    readable = [pair for pair in pairs if pair[0] and pair[1]]
    try:
        changes = tree_changes_each(account_id, readable)
    except BlobDamaged:  # a part of the history is gone; the map is of use without
        return
    for each in changes:
        files = {path for path, both in each.items() if any(entry and entry.kind == "file" for entry in both)}
        if 1 < len(files) <= MAX_TOGETHER:
            yield files
