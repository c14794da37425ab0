"""The decisions of a project as concepts, and which parts of the code they name (fastest contract 4.7)."""

import hashlib
from collections.abc import Sequence

from sqlalchemy import select

from models.atlas.atlas_storing import DERIVED, add_pieces, forget_chunks, store_concepts, store_links
from models.atlas.atlas_tables import AtlasChunk, AtlasConcept, AtlasIndex
from models.atlas.tree_concepts import ROOT, FoundConcept
from models.core.cooperative import TimeSlices
from models.core.db import db
from models.index.document_sources import DocumentSource
from models.insights.project_decision import ProjectDecision

MAX_DECISIONS = 500
"""The newest of a project."""
SHORTEST = 3
"""Letters of a concept's name that a decision may be about."""
CONFIDENCE = 70
MAX_LINKS = 20
"""Concepts of a decision: those that most depends on."""


def store_decisions(index: AtlasIndex, source: DocumentSource) -> int:
    """Make the narrative concepts, their chunks and their links those of the decisions that hold or wait for a review; returns how many
    rows were written. Flushes."""
    decisions = _decisions(index.project_id)
    concepts = {
        _concept_id(each): FoundConcept(
            _concept_id(each), each.decision, "narrative", each.rationale or "", f"decision:{each.state}"
        )
        for each in decisions
    }
    written = store_concepts(index, source, concepts, ("narrative",))
    written += _store_texts(index, source, decisions)
    return written + store_links(index.project_id, _links(index.project_id, decisions))


def decisions_changed(project_id: str) -> bool:
    """Whether the narrative concepts are others than those of the decisions."""
    query = select(AtlasConcept.id, AtlasConcept.name, AtlasConcept.type, AtlasConcept.description).where(
        AtlasConcept.project_id == project_id, AtlasConcept.layer == "narrative"
    )
    stored = {tuple(row) for row in db.session.execute(query)}
    return stored != {
        (_concept_id(each), each.decision, f"decision:{each.state}", each.rationale or "")
        for each in _decisions(project_id)
    }


def _decisions(project_id: str) -> list[ProjectDecision]:
    """Those that hold or wait for a review, the newest first."""
    query = select(ProjectDecision).where(
        ProjectDecision.project_id == project_id, ProjectDecision.state.in_(("accepted", "proposed"))
    )
    newest = query.order_by(ProjectDecision.decided_at.desc(), ProjectDecision.id.desc())
    return list(db.session.scalars(newest.limit(MAX_DECISIONS)))


def _store_texts(index: AtlasIndex, source: DocumentSource, decisions: Sequence[ProjectDecision]) -> int:
    query = select(AtlasChunk.concept_id, AtlasChunk.source_hash).where(
        AtlasChunk.project_id == index.project_id, AtlasChunk.kind == "decision"
    )
    stored = dict(db.session.execute(query).all())
    texts = {_concept_id(each): f"{each.decision}\n{each.rationale or ''}".strip() for each in decisions}
    hashes = {id: hashlib.sha256(text.encode()).hexdigest() for id, text in texts.items()}
    changed = [id for id in texts if stored.get(id) != hashes[id]]
    if changed:
        forget_chunks(index, source, changed)
        add_pieces(
            index,
            source,
            [
                {
                    "concept_id": id,
                    "kind": "decision",
                    "file_path": None,
                    "symbol": None,
                    "source_hash": hashes[id],
                }
                | {"first": 1, "last": texts[id].count("\n") + 1, "text": texts[id], "named": "decision"}
                for id in changed
            ],
        )
    return len(changed)


def _links(project_id: str, decisions: Sequence[ProjectDecision]) -> dict[tuple[str, str], int]:
    """The concepts whose names a decision contains, by the ids of both."""
    if not decisions:
        return {}
    named = _named(project_id)
    links: dict[tuple[str, str], int] = {}
    slices = TimeSlices()
    for decision in decisions:
        said = f"{decision.decision} {decision.rationale or ''}".casefold()
        beginnings = {said[at : at + SHORTEST] for at in range(len(said) - SHORTEST + 1)}
        hits = [
            (-importance, id)
            for beginning in beginnings & named.keys()
            for name, id, importance in named[beginning]
            if name in said
        ]
        links |= {(decision.id, id): CONFIDENCE for _, id in sorted(hits)[:MAX_LINKS]}
        slices.pause()
    return links


def _named(project_id: str) -> dict[str, list[tuple[str, str, int]]]:
    """Names, ids and importance of concepts by how their names begin: a decision is compared with few of thousands."""
    query = select(AtlasConcept.id, AtlasConcept.name, AtlasConcept.importance).where(
        AtlasConcept.project_id == project_id, AtlasConcept.layer.in_(DERIVED)
    )
    found: dict[str, list[tuple[str, str, int]]] = {}
    for id, name, importance in db.session.execute(query):
        folded = name.casefold()
        if len(name) >= SHORTEST and folded != ROOT:
            found.setdefault(folded[:SHORTEST], []).append((folded, id, importance))
    return found


def _concept_id(decision: ProjectDecision) -> str:
    return f"narrative:decision:{decision.id}"
