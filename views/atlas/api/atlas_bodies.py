"""Answers about maps of projects, in the shapes of the fastest contract (3.14)."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import orjson
from pydantic import Field

from models.atlas import AtlasConcept, AtlasDecisionLink, AtlasDiagram, AtlasEdge, AtlasHit, AtlasIndex
from models.atlas.atlas_correction import HeldCorrections
from models.atlas.symbol_uses import Dependent, SymbolPlace, SymbolUses
from views.web.format import iso
from views.web.operation import ResponseModel

Layer = Literal["narrative", "capability", "system", "module", "code"]


class ConceptObject(ResponseModel):
    id: str
    project_id: str
    name: str
    layer: Layer
    type: str | None
    description: str | None
    source_snapshot_id: str | None = Field(description="The snapshot that the map describes")
    source_manifest_hash: str | None
    importance: int = Field(description="From 0 to 100: how much depends on it, directly or through others")
    metadata: dict[str, Any] | None
    corrected: list[str] = Field(description="Fields whose value is that of a person, not of the files")
    created_at: datetime
    updated_at: datetime


class EdgeObject(ResponseModel):
    id: str
    project_id: str
    from_concept_id: str
    to_concept_id: str
    type: Literal["contains", "depends_on", "used_by", "relates"]
    weight: int | None = Field(description="Imports, or snapshots that changed both")
    evidence: list[list[str | int]] = Field(description="Paths and lines that say so, at most three")
    created_at: datetime


class LinkObject(ResponseModel):
    id: str
    project_id: str
    decision_id: str
    concept_id: str
    confidence: int | None
    created_at: datetime


class MapAnswer(ResponseModel):
    concepts: list[ConceptObject]
    edges: list[EdgeObject]
    decision_links: list[LinkObject]
    truncated: bool = Field(description="Only the 5,000 most important concepts are in the answer")
    unread: int = Field(description="Files that the server has yet to read")


class IndexAnswer(ResponseModel):
    concepts: int
    edges: int
    chunks: int
    embeddings: int = Field(description="Chunks with a vector; a job makes those that are missing")
    unread: int = Field(description="Files beyond `max_files`, which a job reads next")
    model_error: str | None = Field(
        description="Why the model that was asked for named no capabilities; the former ones stay"
    )


class FoundConceptObject(ResponseModel):
    id: str
    name: str
    description: str
    layer: Layer
    score: float
    path: str | None
    symbol: str | None
    first_line: int
    last_line: int
    excerpt: str


class FoundAnswer(ResponseModel):
    results: list[FoundConceptObject]


class DiagramObject(ResponseModel):
    id: str
    project_id: str
    concept_id: str | None
    type: Literal["flow", "dependency", "component", "sequence"]
    data: str = Field(
        description='JSON: `{"id", "type", "title", "nodes": [{"id", "label", "type", "group"}], "edges": [{"from", "to", "label", "type"}], "notes"}`'
    )
    created_at: datetime


class DiagramAnswer(ResponseModel):
    diagram: DiagramObject


class DiagramList(ResponseModel):
    diagrams: list[DiagramObject]


class PlaceObject(ResponseModel):
    path: str
    line: int
    symbol: str | None = Field(description="The definition that the line is in, or that it begins")
    kind: str


class UsingFileObject(ResponseModel):
    path: str
    sure: bool = Field(
        description="It defines or imports a file that defines the symbol; else another symbol may have the name"
    )
    places: list[PlaceObject]


class SymbolAnswer(ResponseModel):
    symbol: str
    definitions: list[PlaceObject]
    files: list[UsingFileObject]
    more: bool = Field(description="Others name it too: only the 200 most important files are looked at")


class DependentObject(ResponseModel):
    concept_id: str
    name: str
    is_test: bool
    steps: int = Field(description="1: it imports the concept itself")
    through: str = Field(description="The concept that it imports on the way")


class DependentList(ResponseModel):
    dependents: list[DependentObject]


class OutlineAnswer(ResponseModel):
    definitions: list[PlaceObject]


def concept_json(row: AtlasConcept, index: AtlasIndex | None, held: HeldCorrections) -> dict[str, Any]:
    """A `ConceptObject`, of a row with the corrections that hold."""
    return {
        **{name: getattr(row, name) for name in ("id", "project_id", "name", "layer", "type", "description")},
        "source_snapshot_id": index.snapshot_id if index else None,
        "source_manifest_hash": index.manifest_hash if index else None,
        "importance": row.importance,
        "metadata": row.details,
        "corrected": list(held.of(row.id)),
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def edges_json(rows: Iterable[AtlasEdge]) -> list[dict[str, Any]]:
    """`EdgeObject`s: `depends_on` is answered from both ends."""
    found = []
    for row in rows:
        known = {
            "project_id": row.project_id,
            "weight": row.weight,
            "evidence": row.evidence or [],
            "created_at": iso(row.created_at),
        }
        ends = {"from_concept_id": row.from_concept_id, "to_concept_id": row.to_concept_id}
        found.append({"id": row.id, "type": row.type, **ends, **known})
        if row.type == "depends_on":
            turned = {"from_concept_id": row.to_concept_id, "to_concept_id": row.from_concept_id}
            found.append({"id": f"{row.id}-used", "type": "used_by", **turned, **known})
    return found


def link_json(row: AtlasDecisionLink) -> dict[str, Any]:
    """A `LinkObject`."""
    names = ("id", "project_id", "decision_id", "concept_id", "confidence")
    return {**{name: getattr(row, name) for name in names}, "created_at": iso(row.created_at)}


def hit_json(hit: AtlasHit) -> dict[str, Any]:
    """A `FoundConceptObject`."""
    names = ("id", "name", "description", "layer", "score", "path", "symbol", "excerpt")
    return {**{name: getattr(hit, name) for name in names}, "first_line": hit.first, "last_line": hit.last}


def diagram_json(row: AtlasDiagram) -> dict[str, Any]:
    """A `DiagramObject`."""
    return {
        **{name: getattr(row, name) for name in ("id", "project_id", "concept_id", "type")},
        "data": orjson.dumps(row.data, option=orjson.OPT_SORT_KEYS).decode(),
        "created_at": iso(row.created_at),
    }


def place_json(place: SymbolPlace) -> dict[str, Any]:
    """A `PlaceObject`."""
    return {"path": place.path, "line": place.line, "symbol": place.inside, "kind": place.kind}


def symbol_json(found: SymbolUses) -> dict[str, Any]:
    """A `SymbolAnswer`."""
    return {
        "symbol": found.name,
        "definitions": [place_json(each) for each in found.definitions],
        "files": [
            {"path": each.path, "sure": each.sure, "places": [place_json(place) for place in each.places]}
            for each in found.files
        ],
        "more": found.more,
    }


def dependent_json(found: Dependent) -> dict[str, Any]:
    """A `DependentObject`."""
    return {
        "concept_id": found.concept.id,
        "name": found.concept.name,
        "is_test": found.concept.type == "test",
        "steps": found.steps,
        "through": found.through,
    }
