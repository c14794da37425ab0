"""Where a symbol is defined and used, and what depends on a file, directly or through others. Answered by the map, not by a model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import and_, select

from models.atlas.atlas_correction import held_corrections
from models.atlas.atlas_tables import AtlasConcept, AtlasEdge, CodeFacts
from models.atlas.fact_reading import PARSER_VERSION, enclosing
from models.atlas.tree_concepts import code_id
from models.core.db import db
from models.index.document_sources import ACCOUNT_MARK
from models.projects.project import Project
from models.projects.snapshots.stored_objects import among

MAX_SYMBOL = 200
MAX_FILES = 200
"""Files that name a symbol: those that most depends on come first."""
MAX_REACHED, MAX_STEPS = 500, 6
"""Files that depend on one, and how many others are between them."""


class SymbolPlace(NamedTuple):
    """A line of a file. `inside` is the definition that it is in, `kind` what is defined there."""

    path: str
    line: int
    inside: str | None = None
    kind: str = ""


@dataclass
class UsingFile:
    """A file that names a symbol. `sure`: it defines or imports a file that defines it; else it may be another one of the same name."""

    path: str
    sure: bool
    places: list[SymbolPlace] = field(default_factory=list)


@dataclass
class SymbolUses:
    """Where a symbol is defined, and the files that use it, surest first; `more`: there are others."""

    name: str
    definitions: list[SymbolPlace] = field(default_factory=list)
    files: list[UsingFile] = field(default_factory=list)
    more: bool = False


class Dependent(NamedTuple):
    """A concept that depends on another one through `steps` edges."""

    concept: AtlasConcept
    steps: int
    through: str


def uses_of(project: Project, symbol: str) -> SymbolUses:
    """Who defines and uses a symbol, by name; `Class.method` asks for the method of that class. Whoever calls it checks access."""
    symbol = symbol.strip().replace("\0", "")[:MAX_SYMBOL].rstrip("()")
    name = symbol.replace("::", ".").replace("#", ".").rpartition(".")[2]
    found = SymbolUses(symbol)
    if not name:
        return found
    rows = _files_naming(project, name)
    found.more = len(rows) > MAX_FILES
    rows = rows[:MAX_FILES]
    defining: set[str] = set()
    for path, facts in rows:
        for kind, qualified, first, _ in facts["defs"]:
            if (
                qualified == symbol
                or qualified.endswith(f".{symbol}")
                or (symbol == name and qualified.rpartition(".")[2] == name)
            ):
                found.definitions.append(SymbolPlace(path, first, qualified, kind))
                defining.add(path)
    importing = _importing(project.id, defining)
    for path, facts in rows:
        lines = facts["refs"].get(name, ())
        places = [SymbolPlace(path, line, _name(enclosing(facts["defs"], line))) for line in lines]
        if places:
            found.files.append(UsingFile(path, path in defining or path in importing, places))
    found.files.sort(key=lambda each: not each.sure)
    return found


def dependents_of(project_id: str, concept_id: str) -> list[Dependent]:
    """What would be touched by a change of a file or module: all that depends on it, nearest first, at most `MAX_REACHED`."""
    reached: dict[str, tuple[int, str]] = {concept_id: (0, "")}
    level, held = [concept_id], held_corrections(project_id)
    for steps in range(1, MAX_STEPS + 1):
        if not level or len(reached) > MAX_REACHED:
            break
        query = select(AtlasEdge.from_concept_id, AtlasEdge.to_concept_id).where(
            AtlasEdge.project_id == project_id,
            AtlasEdge.type == "depends_on",
            among(AtlasEdge.to_concept_id, level),
        )
        new: dict[str, str] = {}
        for source, target in db.session.execute(query.order_by(AtlasEdge.from_concept_id)):
            if source not in reached and not held.denies(source, target):
                new.setdefault(source, target)
        reached |= {source: (steps, target) for source, target in new.items()}
        level = list(new)
    del reached[concept_id]
    concepts = select(AtlasConcept).where(
        AtlasConcept.project_id == project_id, among(AtlasConcept.id, reached)
    )
    found = [Dependent(row, *reached[row.id]) for row in held.shown(db.session.scalars(concepts))]
    found.sort(key=lambda each: (each.steps, -each.concept.importance, each.concept.id))
    return found[:MAX_REACHED]


def outline_of(project: Project, concept: AtlasConcept) -> list[SymbolPlace]:
    """What a file defines, in its order; nothing for other concepts."""
    if concept.sha256 is None:
        return []
    query = select(CodeFacts.facts).where(
        CodeFacts.account_id == project.account_id,
        CodeFacts.sha256 == concept.sha256,
        CodeFacts.language == (concept.details or {}).get("language", ""),
    )
    facts = db.session.scalar(query) or {}
    path = concept.id.removeprefix("code:")
    return [SymbolPlace(path, first, name, kind) for kind, name, first, _ in facts.get("defs", ())]


def _files_naming(project: Project, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Paths and facts of the files that have a name."""
    query = (
        select(AtlasConcept.id, CodeFacts.facts)
        .join(
            CodeFacts,
            and_(
                CodeFacts.sha256 == AtlasConcept.sha256,
                CodeFacts.language == AtlasConcept.details["language"].astext,
            ),
        )
        .where(
            AtlasConcept.project_id == project.id,
            CodeFacts.account_id == project.account_id,
            CodeFacts.version == PARSER_VERSION,
            CodeFacts.names.contains([ACCOUNT_MARK + project.account_id, name]),
        )
        .order_by(AtlasConcept.importance.desc(), AtlasConcept.id)
        .limit(MAX_FILES + 1)
    )
    return [(id.removeprefix("code:"), facts) for id, facts in db.session.execute(query)]


def _importing(project_id: str, paths: Collection[str]) -> set[str]:
    """The files that depend on these."""
    if not paths:
        return set()
    query = select(AtlasEdge.from_concept_id).where(
        AtlasEdge.project_id == project_id,
        AtlasEdge.type == "depends_on",
        among(AtlasEdge.to_concept_id, [code_id(path) for path in paths]),
    )
    return {id.removeprefix("code:") for id in db.session.scalars(query)}


def _name(definition: Sequence[Any] | None) -> str | None:
    return definition[1] if definition else None
