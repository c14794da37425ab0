"""Searches the map of a project: chunks by words and vectors (`models/index`), then rules about what a reader of code looks for.

The rules are those that gained most in published comparisons: the definition of a symbol that is named comes first, then files and folders
whose names have the words; tests, examples and generated files come later; each file is shown once, with its best chunk."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from sqlalchemy import func, or_, select

from models.atlas.atlas_correction import held_corrections
from models.atlas.atlas_tables import AtlasChunk, AtlasConcept, AtlasIndex
from models.atlas.tree_concepts import FoundConcept, is_test, tree_concepts
from models.core.db import db
from models.index.chunk_ranking import NEAR_COSINE, Key, SearchedSources, ranked_by_words
from models.index.document_sources import WITHOUT_TERMS, Chunk, DocumentSource
from models.index.embedders import embedder
from models.index.query_forms import terms_in
from models.index.terms import query_terms, words
from models.index.vectors import near_chunks
from models.projects.project import Project
from models.projects.project_states import state_of
from models.projects.snapshots.manifest_store import tree_entries
from models.projects.snapshots.stored_objects import among

MAX_QUERY = 500
"""Characters of a query that are read."""
LOOKED_AT = 120
"""Chunks that the rules rank."""
NEAREST = 60
VECTOR_SHARE = 0.35
"""What the best vector adds, as a share of the best score by words."""
SYMBOL, SYMBOL_WORDS, NAME_WORDS, FOLDER_WORDS = 1.0, 0.5, 0.35, 0.15
"""Added to the factor of a chunk: it defines what the query names; its symbol, file or folders have all words, less for some of them."""
ASIDE = 0.6
"""The factor of tests, examples, generated and old files, unless the query asks for them."""
MORE_OF_FILE = 0.15
"""What the second best chunk of a file adds, as a share of its score."""
EXCERPT = 12
"""Lines of a hit that are shown."""
_ASIDE = re.compile(
    r"(^|[/_.-])(examples?|samples?|fixtures?|mocks?|vendor|legacy|compat|generated|min|snapshots?|deprecated)([/_.-]|$)"
)
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*")


@dataclass(frozen=True)
class AtlasHit:
    """A concept that fits a query. Of a file: the lines `first` to `last` of its best chunk, what they define, and how they begin."""

    id: str
    name: str
    description: str
    layer: str
    score: float
    path: str | None = None
    symbol: str | None = None
    first: int = 0
    last: int = 0
    excerpt: str = ""


class _Asked(NamedTuple):
    """A query: its words, and the names in it as they are written, without case."""

    words: frozenset[str]
    names: frozenset[str]


class _ChunkRow(NamedTuple):
    """What a chunk is about; rows of the class would take three times as long."""

    seq: int
    concept_id: str
    kind: str
    file_path: str | None
    symbol: str | None


class _Candidate(NamedTuple):
    key: Key
    score: float
    row: _ChunkRow


def search_atlas(project: Project, query: str, limit: int = 8) -> list[AtlasHit]:
    """The parts of a project that fit a query best, at most `limit`; by names alone if the project is not indexed. Whoever calls it checks
    access."""
    query = query[:MAX_QUERY].replace("\0", " ")
    wanted = query_terms(query)
    if not wanted:
        return []
    asked = _Asked(frozenset(wanted), frozenset(each.casefold() for each in _IDENTIFIER.findall(query)))
    index = db.session.get(AtlasIndex, project.id)
    if index is None:
        return _by_names(_derived(project), asked, limit)
    source = db.session.get(DocumentSource, index.source_id)
    candidates = (
        _candidates(project, source, query, wanted, asked) if source is not None and source.chunks else []
    )
    hits = _hits(project, candidates, limit)
    places = _named_places(project.id, asked)
    return sorted([*hits, *places], key=lambda hit: (-hit.score, hit.id))[:limit]


def _candidates(
    project: Project, source: DocumentSource, query: str, wanted: Sequence[str], asked: _Asked
) -> list[_Candidate]:
    """The chunks that the rules rank, best first."""
    terms = terms_in([source.id], source.chunks, wanted)
    mean = source.term_count / source.chunks
    searched = SearchedSources([source.id], source.chunks, mean or 1.0, [project.account_id])
    ranking = ranked_by_words(searched, terms, lambda key: 1.0)
    weights = {term.word: term.weight for term in terms}
    vector = embedder().query(query, lambda word: weights.get(word, 0.5))
    near = near_chunks([source.id], source.chunks, vector, NEAREST)
    if ranking.says_nothing(near):
        return []
    top = max(ranking.scores.values(), default=1.0)
    scores = {
        key: score / top
        for key, score in islice(((key, ranking.scores[key]) for key in ranking.order), LOOKED_AT)
    }
    for each in near:
        if each.cosine >= NEAR_COSINE:
            key = each.source_id, each.seq
            scores[key] = scores.get(key, 0.0) + VECTOR_SHARE * each.cosine
    seqs = [seq for _, seq in scores]
    columns = (getattr(AtlasChunk, name) for name in _ChunkRow._fields)
    about = select(*columns).where(AtlasChunk.project_id == project.id, AtlasChunk.seq.in_(seqs))
    rows = [_ChunkRow(*row) for row in db.session.execute(about)]
    found = [
        _Candidate(key, scores[key] * _factor(row, asked), row)
        for row in rows
        if (key := (source.id, row.seq)) in scores
    ]
    return sorted(found, key=lambda each: (-each.score, each.key))


def _factor(row: _ChunkRow, asked: _Asked) -> float:
    """What the rules make of a chunk."""
    if row.file_path is None:
        return 1.0
    factor = 1.0
    symbol = (row.symbol or "").casefold()
    if symbol and row.kind == "code":
        if symbol in asked.names or symbol.rpartition(".")[2] in asked.names:
            factor += SYMBOL
        factor += SYMBOL_WORDS * _share(row.symbol or "", asked)
    folder, _, name = row.file_path.rpartition("/")
    factor += NAME_WORDS * _share(name, asked) + FOLDER_WORDS * _share(folder, asked)
    aside = is_test(row.file_path) or _ASIDE.search(row.file_path.lower()) is not None
    if aside and not asked.words & {"test", "tests", "example", "examples", "fixture", "spec"}:
        factor *= ASIDE
    return factor


def _share(text: str, asked: _Asked) -> float:
    """The share of the query's words that a name has."""
    return len(asked.words & _words_of(text)) / len(asked.words) if text else 0.0


@lru_cache(maxsize=20_000)
def _words_of(text: str) -> frozenset[str]:
    return frozenset(words(text))


def _hits(project: Project, candidates: Sequence[_Candidate], limit: int) -> list[AtlasHit]:
    """One hit for each concept, with its best chunk."""
    best: dict[str, _Candidate] = {}
    more: dict[str, float] = {}
    for each in candidates:
        id = each.row.concept_id
        if id in best:
            more.setdefault(id, each.score)
        else:
            best[id] = each
    ranked = sorted(
        best.values(), key=lambda each: -(each.score + MORE_OF_FILE * more.get(each.row.concept_id, 0.0))
    )
    chosen = ranked[:limit]
    query = select(AtlasConcept).where(
        AtlasConcept.project_id == project.id,
        among(AtlasConcept.id, [each.row.concept_id for each in chosen]),
    )
    held = held_corrections(project.id)
    concepts = {row.id: row for row in held.shown(db.session.scalars(query))}
    texts = _texts([each.key for each in chosen])
    return [
        _hit(
            concepts[each.row.concept_id],
            each,
            texts[each.key],
            each.score + MORE_OF_FILE * more.get(each.row.concept_id, 0.0),
        )
        for each in chosen
        if each.key in texts and each.row.concept_id in concepts
    ]


def _hit(concept: AtlasConcept, found: _Candidate, chunk: Chunk, score: float) -> AtlasHit:
    return AtlasHit(
        id=concept.id,
        name=concept.name,
        description=concept.description or "",
        layer=concept.layer,
        score=round(score, 4),
        path=found.row.file_path,
        symbol=found.row.symbol,
        first=chunk.first,
        last=chunk.last,
        excerpt="\n".join(chunk.text.strip("\n").split("\n")[:EXCERPT]),
    )


def _texts(keys: Collection[Key]) -> dict[Key, Chunk]:
    if not keys:
        return {}
    source_id = next(iter(keys))[0]
    rows = db.session.scalars(
        select(Chunk)
        .options(WITHOUT_TERMS)
        .where(Chunk.source_id == source_id, Chunk.seq.in_([seq for _, seq in keys]))
    )
    return {(row.source_id, row.seq): row for row in rows}


def _named_places(project_id: str, asked: _Asked) -> list[AtlasHit]:
    """Systems and modules all of whose words the query has, of their name or of that which people gave them."""
    lowered, held = func.lower(AtlasConcept.name), held_corrections(project_id)
    renamed = [key for key, field in held.fields if field == "name"]
    query = select(AtlasConcept).where(
        AtlasConcept.project_id == project_id,
        AtlasConcept.layer.in_(("system", "module")),
        or_(
            among(AtlasConcept.id, renamed),
            *(lowered.contains(word, autoescape=True) for word in sorted(asked.words)),
        ),
    )
    found = []
    ordered = query.order_by(AtlasConcept.importance.desc(), AtlasConcept.id).limit(50)
    for row in held.shown(db.session.scalars(ordered)):
        named = _words_of(row.name.rpartition("/")[2])
        if named and named <= asked.words:
            score = 1.0 + len(named) / len(asked.words)
            found.append(AtlasHit(row.id, row.name, row.description or "", row.layer, round(score, 4)))
    return found[:2]


def _derived(project: Project) -> Mapping[str, FoundConcept]:
    tree = state_of(project).tree
    return tree_concepts(tree_entries(project.account_id, tree)).concepts if tree else {}


def _by_names(concepts: Mapping[str, FoundConcept], asked: _Asked, limit: int) -> list[AtlasHit]:
    """By the number of the query's words that name and description contain."""
    scored = []
    for each in concepts.values():
        text = f"{each.name} {each.description}".casefold()
        count = sum(word in text for word in asked.words)
        if count:
            path = each.id.removeprefix("code:") if each.layer == "code" else None
            scored.append(
                AtlasHit(each.id, each.name, each.description, each.layer, float(count), path, first=1)
            )
    return sorted(scored, key=lambda hit: (-hit.score, len(hit.id), hit.id))[:limit]
