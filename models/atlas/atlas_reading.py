"""Reads the map of a project: its concepts with their edges, one concept and what is around it, and how fresh the map is."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import or_, select

from models.atlas.atlas_correction import DECISION, HeldCorrections, held_corrections
from models.atlas.atlas_indexing import index_failed, index_pending
from models.atlas.atlas_tables import AtlasConcept, AtlasDecisionLink, AtlasEdge, AtlasIndex
from models.core.db import db
from models.insights.project_decision import ProjectDecision
from models.projects.project import Project
from models.projects.project_states import ProjectState, snapshot_with, state_of
from models.projects.snapshots.manifest_store import tree_changes
from models.projects.snapshots.stored_objects import Tree, among

MAX_CONCEPTS, MAX_EDGES = 5_000, 20_000
"""Of the whole map in one answer: those that most depends on, and the edges between them."""
MAX_AROUND = 100
"""Neighbours of a concept of each kind."""


@dataclass(frozen=True)
class AtlasFreshness:
    """Which files the map describes, None before the first time. `changed` files differ now, in `state`, None if it is not known how many;
    `pending`: the job is on its way; `failed`: it gave up since. `described_at` is the snapshot with exactly the files of the map, if there
    is one and they are others now."""

    index: AtlasIndex | None
    state: ProjectState
    changed: int | None
    pending: bool
    failed: bool
    described_at: str | None = None

    @property
    def has_files(self) -> bool:
        """Whether there is something to index."""
        return self.state.tree is not None


@dataclass(frozen=True)
class WholeMap:
    """The concepts and edges of a project; `truncated`: there are more. `corrections` are in the concepts and edges already."""

    index: AtlasIndex | None
    concepts: Sequence[AtlasConcept]
    edges: Sequence[AtlasEdge]
    links: Sequence[AtlasDecisionLink]
    truncated: bool
    corrections: HeldCorrections


class Neighbour(NamedTuple):
    """A concept at the other end of an edge, and the places that say so."""

    concept: AtlasConcept
    weight: int
    evidence: Sequence[tuple[str, int]]


@dataclass
class Surroundings:
    """What is around a concept: what contains it and what it contains, what it uses and what uses it, of which some are tests, what changes
    together with it, the decisions that name it, and the concepts that it names, if it is a decision."""

    within: list[Neighbour] = field(default_factory=list)
    contains: list[Neighbour] = field(default_factory=list)
    uses: list[Neighbour] = field(default_factory=list)
    used_by: list[Neighbour] = field(default_factory=list)
    tests: list[Neighbour] = field(default_factory=list)
    together: list[Neighbour] = field(default_factory=list)
    decisions: list[ProjectDecision] = field(default_factory=list)
    named: list[Neighbour] = field(default_factory=list)


def freshness(project: Project) -> AtlasFreshness:
    """How fresh the map is."""
    index, state = db.session.get(AtlasIndex, project.id), state_of(project)
    changed: int | None = 0
    if index is not None and state.tree is not None and index.tree_hash != state.tree:
        # a map that is being made is of no tree, and the files that it describes may be collected already
        known = bool(index.tree_hash) and _is_stored(project, index.tree_hash)
        changed = len(tree_changes(project.account_id, index.tree_hash, state.tree)) if known else None
    pending = index_pending(project.id)
    failed = not pending and index_failed(project.id, index.indexed_at if index else None)
    at = snapshot_with(project, index.snapshot_id, index.tree_hash) if index and changed != 0 else None
    return AtlasFreshness(index, state, changed, pending, failed, at)


def whole_map(project: Project) -> WholeMap:
    """All of the map, or its most important part, as people corrected it."""
    held = held_corrections(project.id)
    mine = AtlasConcept.project_id == project.id
    query = (
        select(AtlasConcept)
        .where(mine)
        .order_by((AtlasConcept.layer == "code"), AtlasConcept.importance.desc(), AtlasConcept.id)
    )
    concepts = list(db.session.scalars(query.limit(MAX_CONCEPTS + 1)))
    cut = len(concepts) > MAX_CONCEPTS
    concepts = concepts[:MAX_CONCEPTS]
    listed = select(AtlasEdge).where(AtlasEdge.project_id == project.id)
    if cut:
        ids = [each.id for each in concepts]
        listed = listed.where(among(AtlasEdge.from_concept_id, ids), among(AtlasEdge.to_concept_id, ids))
    edges = list(db.session.scalars(listed.order_by(AtlasEdge.type, AtlasEdge.id).limit(MAX_EDGES + 1)))
    links = db.session.scalars(select(AtlasDecisionLink).where(AtlasDecisionLink.project_id == project.id))
    index = db.session.get(AtlasIndex, project.id)
    cut = cut or len(edges) > MAX_EDGES
    return WholeMap(
        index, held.shown(concepts), held.related(edges[:MAX_EDGES]), held.related(links), cut, held
    )


def surroundings(concept: AtlasConcept) -> Surroundings:
    """What is around a concept, the strongest first, at most `MAX_AROUND` of each kind, as people corrected it."""
    found, held = Surroundings(), held_corrections(concept.project_id)
    outgoing = held.related(_edges(concept, outgoing=True))
    incoming = held.related(_edges(concept, outgoing=False))
    others = {each.to_concept_id for each in outgoing} | {each.from_concept_id for each in incoming}
    concepts = _by_id(concept.project_id, others, held)
    lists = {
        ("contains", True): found.contains,
        ("contains", False): found.within,
        ("depends_on", True): found.uses,
        ("depends_on", False): found.used_by,
        ("relates", True): found.together,
        ("relates", False): found.together,
    }
    for edges, out in ((outgoing, True), (incoming, False)):
        for edge in edges:
            other = concepts.get(edge.to_concept_id if out else edge.from_concept_id)
            if other is None:
                continue
            neighbour = Neighbour(
                other, edge.weight or 0, [(path, line) for path, line in edge.evidence or ()]
            )
            is_test = other.type == "test" or other.id.startswith(("module:test", "system:test"))
            wanted = (
                found.tests if edge.type == "depends_on" and not out and is_test else lists[edge.type, out]
            )
            wanted.append(neighbour)
    found.together.sort(key=lambda each: -each.weight)
    found.decisions = [
        each for each in _decisions(concept) if not held.denies(concept.id, f"{DECISION}{each.id}")
    ]
    found.named = _named(concept, held)
    return found


def _edges(concept: AtlasConcept, *, outgoing: bool) -> list[AtlasEdge]:
    end = AtlasEdge.from_concept_id if outgoing else AtlasEdge.to_concept_id
    found: list[AtlasEdge] = []
    for type in ("contains", "depends_on", "relates"):
        query = select(AtlasEdge).where(
            AtlasEdge.project_id == concept.project_id, end == concept.id, AtlasEdge.type == type
        )
        ordered = query.order_by(AtlasEdge.weight.desc().nulls_last(), AtlasEdge.id)
        found += db.session.scalars(ordered.limit(MAX_AROUND))
    return found


def _by_id(project_id: str, ids: Collection[str], held: HeldCorrections) -> dict[str, AtlasConcept]:
    query = select(AtlasConcept).where(AtlasConcept.project_id == project_id, among(AtlasConcept.id, ids))
    return {row.id: row for row in held.shown(db.session.scalars(query))}


def _decisions(concept: AtlasConcept) -> list[ProjectDecision]:
    links = select(AtlasDecisionLink.decision_id).where(
        AtlasDecisionLink.project_id == concept.project_id, AtlasDecisionLink.concept_id == concept.id
    )
    own = concept.id.removeprefix(DECISION) if concept.layer == "narrative" else ""
    query = select(ProjectDecision).where(
        ProjectDecision.project_id == concept.project_id,
        or_(ProjectDecision.id.in_(links), ProjectDecision.id == own),
    )
    return list(db.session.scalars(query.order_by(ProjectDecision.decided_at.desc()).limit(MAX_AROUND)))


def _named(concept: AtlasConcept, held: HeldCorrections) -> list[Neighbour]:
    """The concepts that a decision names, what most depends on first."""
    if concept.layer != "narrative":
        return []
    query = select(AtlasDecisionLink).where(
        AtlasDecisionLink.project_id == concept.project_id,
        AtlasDecisionLink.decision_id == concept.id.removeprefix(DECISION),
    )
    links = held.related(db.session.scalars(query.order_by(AtlasDecisionLink.id).limit(MAX_AROUND)))
    rows = _by_id(concept.project_id, {each.concept_id for each in links}, held).values()
    return [Neighbour(row, 0, ()) for row in sorted(rows, key=lambda row: (-row.importance, row.id))]


def _is_stored(project: Project, tree: str) -> bool:
    return db.session.get(Tree, (project.account_id, tree)) is not None
