"""Writes what differs between the map as it is stored and as it follows from the files; an unchanged part is not touched."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, SmallInteger, Text, delete, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.types import TypeEngine

from models.atlas.atlas_tables import AtlasChunk, AtlasConcept, AtlasDecisionLink, AtlasEdge, AtlasIndex
from models.atlas.dependency_edges import FoundEdge
from models.atlas.fact_cache import ReadBatch
from models.atlas.tree_concepts import FoundConcept, code_id
from models.core.db import db
from models.index.document_sources import DocumentSource
from models.index.live_sources import LiveChunk, add_chunks, remove_chunks
from models.index.terms import term_counts
from models.projects.snapshots.stored_objects import among, rows_of_json

DERIVED = ("system", "module", "code")
"""The layers that follow from the files."""
_CONCEPT: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("project_id", "id", "name", "layer", "type", "description", "sha256"), Text()),
    "importance": SmallInteger(),
    "metadata": JSONB(),
}
_EDGE: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("project_id", "id", "from_concept_id", "to_concept_id", "type"), Text()),
    "weight": Integer(),
    "evidence": JSONB(),
}
_CHUNK: dict[str, TypeEngine[Any]] = {
    **dict.fromkeys(("project_id", "concept_id", "kind", "file_path", "symbol", "source_hash"), Text()),
    "seq": Integer(),
}


class StoredEdges(NamedTuple):
    """How many edges were written, and whether one came, went or has another weight, not only other places."""

    written: int
    weighed: bool


def store_concepts(
    index: AtlasIndex,
    source: DocumentSource,
    found: Mapping[str, FoundConcept],
    layers: Collection[str] = DERIVED,
    ids: Collection[str] | None = None,
) -> int:
    """Make the concepts of these layers, or those of them with these `ids`, those that were found; returns how many rows were written. Leaves
    their importance. Removes the chunks of those that are gone. Flushes."""
    query = select(
        *(AtlasConcept.id, AtlasConcept.name, AtlasConcept.type, AtlasConcept.description),
        *(AtlasConcept.sha256, AtlasConcept.details),
    ).where(AtlasConcept.project_id == index.project_id, AtlasConcept.layer.in_(layers))
    if ids is not None:
        query = query.where(among(AtlasConcept.id, ids))
    stored = {id: rest for id, *rest in db.session.execute(query)}
    changed = [
        _concept_row(index.project_id, each)
        for id, each in found.items()
        if stored.get(id) != [each.name, each.type, each.description, each.sha256, each.details]
    ]
    gone = stored.keys() - found.keys()
    if gone:
        forget_chunks(index, source, gone)
        db.session.execute(
            delete(AtlasConcept).where(
                AtlasConcept.project_id == index.project_id, among(AtlasConcept.id, gone)
            )
        )
    if changed:
        _write_concepts(changed)
    return len(changed) + len(gone)


def store_importance(project_id: str, ranks: Mapping[str, int]) -> int:
    """Give concepts their importance; returns how many have another one than before. Flushes."""
    query = select(AtlasConcept.id, AtlasConcept.importance).where(
        AtlasConcept.project_id == project_id, AtlasConcept.layer.in_(DERIVED)
    )
    changed = [
        {"id": id, "importance": ranks[id]}
        for id, rank in db.session.execute(query)
        if id in ranks and ranks[id] != rank
    ]
    if changed:
        sent = rows_of_json(changed, {name: _CONCEPT[name] for name in ("id", "importance")})
        db.session.execute(
            update(AtlasConcept)
            .where(AtlasConcept.project_id == project_id, AtlasConcept.id == sent.c.id)
            .values(importance=sent.c.importance, updated_at=func.now())
            .execution_options(synchronize_session=False)
        )
    return len(changed)


def store_edges(
    project_id: str,
    found: Iterable[FoundEdge],
    types: Collection[str],
    *,
    starts: Collection[str] | None = None,
    ends: Collection[str] | None = None,
) -> StoredEdges:
    """Make the edges of these types those that were found; of those alone that begin at one of `starts`, or end at one of `ends`, if they are
    given. Flushes."""
    query = select(AtlasEdge.id, AtlasEdge.weight, AtlasEdge.evidence)
    query = query.where(AtlasEdge.project_id == project_id, AtlasEdge.type.in_(types))
    if starts is not None:
        query = query.where(among(AtlasEdge.from_concept_id, starts))
    if ends is not None:
        query = query.where(among(AtlasEdge.to_concept_id, ends))
    stored = {id: (weight, evidence) for id, weight, evidence in db.session.execute(query)}
    wanted = {edge.id: edge for edge in found}
    changed = [edge for id, edge in wanted.items() if stored.get(id, "") != (edge.weight, edge.evidence)]
    gone = stored.keys() - wanted.keys()
    weighed = bool(gone) or any(
        edge.id not in stored or stored[edge.id][0] != edge.weight for edge in changed
    )
    if gone:
        db.session.execute(
            delete(AtlasEdge).where(AtlasEdge.project_id == project_id, among(AtlasEdge.id, gone))
        )
    if changed:
        sent = rows_of_json([_edge_row(project_id, edge) for edge in changed], _EDGE)
        added = insert(AtlasEdge).from_select(list(_EDGE), select(*(sent.c[name] for name in _EDGE)))
        new = {name: added.excluded[name] for name in ("weight", "evidence")}
        db.session.execute(added.on_conflict_do_update(index_elements=["project_id", "id"], set_=new))
    return StoredEdges(len(changed) + len(gone), weighed)


def store_links(project_id: str, found: Mapping[tuple[str, str], int]) -> int:
    """Make the links between decisions and concepts these, with their confidence; returns how many rows were written. Flushes."""
    query = select(AtlasDecisionLink).where(AtlasDecisionLink.project_id == project_id)
    stored = {(row.decision_id, row.concept_id): row for row in db.session.scalars(query)}
    for pair in stored.keys() - found.keys():
        db.session.delete(stored[pair])
    for pair in found.keys() - stored.keys():
        db.session.add(
            AtlasDecisionLink(
                project_id=project_id,
                id=f"{pair[0]}:{pair[1]}"[:1_200],
                decision_id=pair[0],
                concept_id=pair[1],
                confidence=found[pair],
            )
        )
    db.session.flush()
    return len(stored.keys() ^ found.keys())


def store_chunks(index: AtlasIndex, source: DocumentSource, batch: ReadBatch) -> int:
    """Exchange the chunks of these files, if they are still those of the tree; returns how many are new. Flushes."""
    ids = {code_id(each.path): each for each in batch.files}
    query = select(AtlasConcept.id, AtlasConcept.sha256)
    query = query.where(AtlasConcept.project_id == index.project_id, among(AtlasConcept.id, ids))
    still = [(id, ids[id]) for id, sha256 in db.session.execute(query) if ids[id].sha256 == sha256]
    forget_chunks(index, source, [id for id, _ in still])
    pieces = [
        (id, each, span)
        for id, each in still
        if each.sha256 in batch.data
        for span in _pieces(batch, each.sha256, each.language)
    ]
    add_pieces(
        index,
        source,
        [
            {
                "concept_id": id,
                "kind": "code",
                "file_path": each.path,
                "symbol": symbol,
                "source_hash": each.sha256,
            }
            | {"first": first, "last": last, "text": content, "named": f"{each.path} {symbol or ''}"}
            for id, each, (first, last, symbol, content) in pieces
        ],
    )
    return len(pieces)


def add_pieces(index: AtlasIndex, source: DocumentSource, pieces: Sequence[Mapping[str, Any]]) -> None:
    """Add chunks: columns of `AtlasChunk`, and `first` and `last` line, `text`, and `named`, other words that find it. Flushes."""
    if not pieces:
        return
    chunks, rows = [], []
    for seq, piece in enumerate(pieces, index.next_seq):
        counts = term_counts(piece["text"])
        counts.update(term_counts(piece["named"]).keys())
        chunks.append(LiveChunk(seq, piece["first"], piece["last"], piece["text"], counts))
        rows.append(
            {"project_id": index.project_id, "seq": seq}
            | {name: piece[name] for name in _CHUNK if name in piece}
        )
    index.next_seq += len(pieces)
    add_chunks(source, chunks)
    sent = rows_of_json(rows, _CHUNK)
    db.session.execute(
        insert(AtlasChunk).from_select(list(_CHUNK), select(*(sent.c[name] for name in _CHUNK)))
    )


def forget_chunks(index: AtlasIndex, source: DocumentSource, concept_ids: Collection[str]) -> None:
    """Remove the chunks of these concepts. Flushes."""
    if not concept_ids:
        return
    statement = delete(AtlasChunk).where(
        AtlasChunk.project_id == index.project_id, among(AtlasChunk.concept_id, concept_ids)
    )
    remove_chunks(source, list(db.session.scalars(statement.returning(AtlasChunk.seq))))


def _pieces(batch: ReadBatch, sha256: str, language: str) -> list[tuple[int, int, str | None, str]]:
    """First and last line, symbol and text of each chunk of a file."""
    spans = batch.facts.get((sha256, language), {}).get("spans") or ()
    if not spans:
        return []
    lines = batch.data[sha256].decode(errors="replace").replace("\0", "\ufffd").split("\n")
    return [
        (first, last, symbol, "\n".join(lines[first - 1 : last])[:8_000]) for first, last, symbol in spans
    ]


def _write_concepts(rows: Sequence[Mapping[str, Any]]) -> None:
    """Add concepts, or change those that are there but for their importance."""
    sent = rows_of_json(rows, _CONCEPT)
    added = insert(AtlasConcept.__table__).from_select(  # type: ignore[arg-type]
        list(_CONCEPT), select(*(sent.c[name] for name in _CONCEPT))
    )
    new = {name: added.excluded[name] for name in _CONCEPT if name not in ("project_id", "id", "importance")}
    keys = ["project_id", "id"]
    db.session.execute(
        added.on_conflict_do_update(index_elements=keys, set_={**new, "updated_at": func.now()})
    )


def _concept_row(project_id: str, each: FoundConcept) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": each.id,
        "name": each.name,
        "layer": each.layer,
        "type": each.type,
        "description": each.description,
        "sha256": each.sha256,
        "importance": 0,
        "metadata": each.details,
    }


def _edge_row(project_id: str, edge: FoundEdge) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "id": edge.id,
        "from_concept_id": edge.start,
        "to_concept_id": edge.end,
        "type": edge.type,
        "weight": edge.weight,
        "evidence": edge.evidence,
    }
