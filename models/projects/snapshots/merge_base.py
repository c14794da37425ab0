"""The merge base of two snapshots: the common ancestor that is nearest to both (fastest contract 4.5)."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select

from models.core.cooperative import TimeSlices
from models.core.db import db
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.snapshots.stored_objects import among

Parents = Mapping[str, Sequence[str]]


def merge_base(project_id: str, one: str, other: str) -> Snapshot | None:
    """The common ancestor with the least sum of distances over all parents; of several the later, then the one with the greater id. None
    without a common ancestor. A snapshot is its own ancestor."""
    id = merge_bases(project_id, one, [other]).get(other)
    return db.session.get(Snapshot, (project_id, id)) if id is not None else None


def merge_bases(project_id: str, one: str, others: Collection[str]) -> dict[str, str]:
    """The ids of the merge bases of a snapshot with each of others, by these; without those that have none. Reads the history once."""
    parents = _parents(project_id, one, *others)
    nearest = {other: nearest_common(parents, one, other) for other in others}
    wanted = {id for ids in nearest.values() for id in ids}
    query = select(Snapshot).where(Snapshot.project_id == project_id, among(Snapshot.id, wanted))
    found = {each.id: each for each in db.session.scalars(query)}
    return {
        other: max((found[id] for id in ids if id in found), key=_by_time).id
        for other, ids in nearest.items()
        if not found.keys().isdisjoint(ids)
    }


def ancestors_of(project_id: str, snapshot_id: str) -> set[str]:
    """The ids of a snapshot and of all its ancestors."""
    return set(distances(_parents(project_id, snapshot_id), snapshot_id))


def nearest_common(parents: Parents, one: str, other: str) -> list[str]:
    """The common ancestors with the least sum of distances."""
    left, right = distances(parents, one), distances(parents, other)
    common = left.keys() & right.keys()
    least = min((left[id] + right[id] for id in common), default=0)
    return sorted(id for id in common if left[id] + right[id] == least)


def distances(parents: Parents, start: str) -> dict[str, int]:
    """The least number of steps from a snapshot to each of its ancestors, itself included."""
    found, level, slices = {start: 0}, [start], TimeSlices()
    while level:
        below: list[str] = []
        for child in level:
            for parent in parents.get(child, ()):
                if parent not in found:
                    found[parent] = found[child] + 1
                    below.append(parent)
            slices.pause()
        level = below
    return found


def _by_time(snapshot: Snapshot) -> tuple[object, str]:
    return snapshot.client_created_at or snapshot.created_at, snapshot.id


def _parents(project_id: str, *heads: str) -> dict[str, list[str]]:
    """The edges above these snapshots, by child: one recursive query, which visits each ancestor once."""
    mine = SnapshotParent.project_id == project_id
    above = select(SnapshotParent.child_id, SnapshotParent.parent_id).where(
        mine, among(SnapshotParent.child_id, heads)
    )
    ancestors = above.cte("ancestors", recursive=True)
    further = select(SnapshotParent.child_id, SnapshotParent.parent_id).join(
        ancestors, SnapshotParent.child_id == ancestors.c.parent_id
    )
    ancestors = ancestors.union(further.where(mine))
    found: dict[str, list[str]] = {}
    for child, parent in db.session.execute(select(ancestors.c.child_id, ancestors.c.parent_id)):
        found.setdefault(child, []).append(parent)
    return found
