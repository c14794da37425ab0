"""Makes the map of a project follow its files: concepts, edges and chunks of what changed, and nothing else.

One transaction, unless more files are new than are read at once: then the parts of the map come first, chunks batch by batch, and edges
last. Stopped anywhere, it goes on from there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select, text

from models.atlas.atlas_storing import store_chunks, store_concepts, store_edges
from models.atlas.atlas_tables import AtlasChunk, AtlasConcept, AtlasEdge, AtlasIndex
from models.atlas.decision_concepts import decisions_changed, store_decisions
from models.atlas.dependency_edges import contains_edges, depends_edges, newest_snapshot, related_edges
from models.atlas.fact_cache import (
    FactKey,
    KnownFile,
    ReadBatch,
    Transaction,
    WantedFile,
    known_files,
    read_batches,
    store_facts,
)
from models.atlas.fact_reading import MAX_TEXT_BYTES, PARSER_VERSION, language_of
from models.atlas.importance import importances
from models.atlas.tree_concepts import FoundConcept, TreeConcepts, code_id, tree_concepts
from models.core import jobs
from models.core.db import db, lock_name, now
from models.core.errors import NotFound
from models.index.document_sources import DocumentSource
from models.index.live_sources import live_source
from models.index.vectors import chunks_without_vectors, vector_count, write_chunk_vectors
from models.projects.project import Project
from models.projects.project_states import ProjectState, state_of
from models.projects.snapshots.manifest_store import tree_entries
from models.projects.workspaces.head_moves import head_moved, main_chosen
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

EMBEDDED_AT_ONCE = 500
AT_REST = timedelta(seconds=3)
"""How long the job waits after a move of main: several moves are indexed once."""


class NoFiles(NotFound):
    """The project has no files that the server can read."""

    def __init__(self) -> None:
        super().__init__("The project has no files yet. Push a snapshot, then index it.")


class AtlasCounts(NamedTuple):
    """What the map holds (contract 3.14): `embeddings` are chunks with a vector, `unread` files that a job reads next, `written` rows that
    this call wrote."""

    concepts: int
    edges: int
    chunks: int
    embeddings: int
    unread: int
    written: int = 0


@dataclass
class _Plan:
    """What is to be done for one tree of a project."""

    project_id: str
    account_id: str
    state: ProjectState
    tree: str
    found: TreeConcepts
    languages: Mapping[str, str]
    known: dict[FactKey, KnownFile]
    wanted: Sequence[WantedFile]
    later: int
    written: int = 0


def index_project(transaction: Transaction, project_id: str, most: int | None = None) -> AtlasCounts:
    """Bring the map of a project up to its files: those of its main workspace, else of the newest snapshot. Idempotent. Reads at most
    `most` files that are new. Locks the map; commits by `transaction`. Raises NoFiles (404), FilesUnavailable (503), BlobDamaged."""
    with transaction():
        if _is_current(project_id):
            return atlas_counts(project_id)
        plan = _plan(project_id, most)
    batches = read_batches(transaction, plan.account_id, plan.wanted)
    first, second = next(batches, None), next(batches, None)
    with transaction():
        index, source = _begin(plan)
        _store_batch(plan, index, source, first)
        if second is None:
            _finish(plan, index, source)
    if second is not None:
        _store_rest(transaction, plan, second, batches)
    with transaction():
        if _tree_now(project_id) != plan.tree:
            request_index(project_id, soon=True)  # main moved while its files were read
        return atlas_counts(project_id, plan.written)


def follow_files(transaction: Transaction, project_id: str) -> None:
    """Index a project and make the vectors of its chunks; nothing for one that has no files, or is deleted. Raises FilesUnavailable,
    BlobDamaged."""
    with suppress(NoFiles):
        index_project(transaction, project_id)
        embed_chunks(transaction, project_id)


def request_index(project_id: str, *, soon: bool = False) -> bool:
    """Enqueue the job that brings the map up to the files, `soon` or once they are at rest, unless it waits already; returns whether it
    is new. Flushes."""
    at = None if soon else now() + AT_REST
    key = f"atlas {project_id}"
    return jobs.enqueue_once(jobs.index_atlas, key, at=at, lock=key, project_id=project_id)


def index_pending(project_id: str) -> bool:
    """Whether the job waits or runs."""
    query = text(
        "SELECT true FROM procrastinate_jobs WHERE lock = :lock AND status IN ('todo', 'doing') LIMIT 1"
    )
    return bool(db.session.scalar(query, {"lock": f"atlas {project_id}"}))


@head_moved.connect
def _follow_main(operation: WorkspaceOperation, **_: Any) -> None:
    """The map is that of the main workspace."""
    project = db.session.get(Project, operation.project_id)
    if project is not None and project.main_workspace_id == operation.workspace_id:
        request_index(project.id)


@main_chosen.connect
def _follow_choice(workspace: Workspace, **_: Any) -> None:
    request_index(workspace.project_id)


def embed_chunks(transaction: Transaction, project_id: str) -> int:
    """Make the vectors that chunks of a project lack, some at a time; returns how many. Idempotent."""
    made = 0
    while True:
        with transaction():
            index = db.session.get(AtlasIndex, project_id)
            if index is None:
                return made
            lock_name(_lock_of(project_id))
            texts = chunks_without_vectors(index.source_id, EMBEDDED_AT_ONCE)
            write_chunk_vectors(index.source_id, texts)
        made += len(texts)
        if not texts:
            return made


def atlas_counts(project_id: str, written: int = 0) -> AtlasCounts:
    """How much the map holds."""
    counts = [
        db.session.scalar(select(func.count()).select_from(table).where(table.project_id == project_id)) or 0
        for table in (AtlasConcept, AtlasEdge, AtlasChunk)
    ]
    index = db.session.get(AtlasIndex, project_id)
    embedded = vector_count(index.source_id) if index else 0
    concepts, edges, chunks = counts
    return AtlasCounts(concepts, edges, chunks, embedded, index.unread if index else 0, written)


# --- steps --------------------------------------------------------------------------------------------------------------


def _plan(project_id: str, most: int | None) -> _Plan:
    """What is to be read. Raises NoFiles."""
    project = db.session.get(Project, project_id)
    state = state_of(project) if project is not None and project.deleted_at is None else None
    if project is None or state is None or state.tree is None:
        raise NoFiles
    found = tree_concepts(tree_entries(project.account_id, state.tree))
    languages = {path: language for path in found.files if (language := language_of(path))}
    known = known_files(project.account_id, {entry.hash or "" for entry in found.files.values()})
    unread = list(_unread(project_id, found, languages, known))
    wanted = unread if most is None else unread[:most]
    later = len(unread) - len(wanted)
    return _Plan(project_id, project.account_id, state, state.tree, found, languages, known, wanted, later)


def _is_current(project_id: str) -> bool:
    """Whether the map is that of the files, the history and the decisions as they are."""
    index = db.session.get(AtlasIndex, project_id, populate_existing=True)
    return (
        index is not None
        and index.unread == 0
        and index.version == PARSER_VERSION
        and index.tree_hash == _tree_now(project_id)
        and index.history == newest_snapshot(project_id)
        and not decisions_changed(project_id)
    )


def _tree_now(project_id: str) -> str | None:
    project = db.session.get(Project, project_id, populate_existing=True)
    return state_of(project).tree if project is not None else None


def _unread(
    project_id: str, found: TreeConcepts, languages: Mapping[str, str], known: Mapping[FactKey, KnownFile]
) -> Iterator[WantedFile]:
    """Files that were never read, or whose chunks are those of other bytes."""
    query = select(AtlasChunk.concept_id, AtlasChunk.source_hash).where(
        AtlasChunk.project_id == project_id, AtlasChunk.kind == "code"
    )
    chunked = dict(db.session.execute(query.distinct()).all())
    for path, language in languages.items():
        entry = found.files[path]
        file = known.get((entry.hash or "", language))
        if entry.size > MAX_TEXT_BYTES or (file is not None and not file.lines):
            continue
        if file is None or chunked.get(code_id(path)) != entry.hash:
            yield WantedFile(path, entry.hash or "", language, entry.size)


def _begin(plan: _Plan) -> tuple[AtlasIndex, DocumentSource]:
    """Lock the map, and write the parts that follow from paths alone."""
    index, source = _locked(plan)
    plan.written += store_concepts(index, source, _with_facts(plan), None)
    plan.written += store_edges(plan.project_id, contains_edges(plan.found), ("contains",))
    return index, source


def _locked(plan: _Plan) -> tuple[AtlasIndex, DocumentSource]:
    lock_name(_lock_of(plan.project_id))
    source = live_source(plan.account_id, f"atlas {plan.project_id}")
    db.session.refresh(source)
    index = db.session.get(AtlasIndex, plan.project_id, populate_existing=True)
    if index is None:
        index = AtlasIndex(
            project_id=plan.project_id, source_id=source.id, files=0, unread=0, left_out=0, next_seq=0, version=0,
            manifest_hash="", tree_hash="", indexed_at=now(),
        )  # fmt: skip
        db.session.add(index)
        db.session.flush()
    return index, source


def _store_batch(plan: _Plan, index: AtlasIndex, source: DocumentSource, batch: ReadBatch | None) -> None:
    if batch is None:
        return
    store_facts(plan.account_id, batch)
    for key in batch.new:
        facts = batch.facts[key]
        plan.known[key] = KnownFile(facts["lines"], facts["parsed"], facts.get("failed", False))
    plan.written += len(batch.new) + store_chunks(index, source, batch)


def _store_rest(
    transaction: Transaction, plan: _Plan, second: ReadBatch, batches: Iterator[ReadBatch]
) -> None:
    batch: ReadBatch | None = second
    while batch is not None:
        with transaction():
            index, source = _locked(plan)
            _store_batch(plan, index, source, batch)
        batch = next(batches, None)
    with transaction():
        index, source = _locked(plan)
        _finish(plan, index, source)


def _finish(plan: _Plan, index: AtlasIndex, source: DocumentSource) -> None:
    """Edges, importance and decisions, of everything that is known now; then say which files these are."""
    found = _with_facts(plan)
    edges = depends_edges(plan.account_id, plan.found, plan.languages)
    written = store_edges(plan.project_id, edges, ("depends_on",))
    targets: dict[str, dict[str, int]] = {}
    for edge in edges:
        targets.setdefault(edge.start, {})[edge.end] = edge.weight or 1
    ranks = _ranks(found, targets)
    newest = newest_snapshot(plan.project_id)
    if index.history != newest:
        related = related_edges(plan.account_id, plan.project_id, plan.found.files.keys())
        written += store_edges(plan.project_id, related, ("relates",))
    written += store_concepts(index, source, found, ranks)
    written += store_decisions(index, source, found, ranks)
    state = plan.state
    facts = {
        "workspace_id": state.workspace.id if state.workspace else None,
        "snapshot_id": state.snapshot.id
        if state.snapshot
        else state.workspace and state.workspace.current_snapshot_id,
        "manifest_hash": state.manifest.hash if state.manifest else "",
        "tree_hash": plan.tree,
        "version": PARSER_VERSION,
        "history": newest,
        "files": len(plan.found.files),
        "unread": plan.later + sum((each.sha256, each.language) not in plan.known for each in plan.wanted),
        "left_out": plan.found.left_out,
    }
    if written or plan.written or any(getattr(index, name) != value for name, value in facts.items()):
        for name, value in facts.items():
            setattr(index, name, value)
        index.indexed_at = now()
    plan.written += written
    db.session.flush()


def _with_facts(plan: _Plan) -> dict[str, FoundConcept]:
    """The concepts, with what is known of files: language, lines, and whether it could be read."""
    found = dict(plan.found.concepts)
    for path, language in plan.languages.items():
        entry = plan.found.files[path]
        file = plan.known.get((entry.hash or "", language))
        concept = found[code_id(path)]
        details = {**(concept.details or {}), "language": language}
        if file is not None:
            details |= {"lines": file.lines} | ({"failed": True} if file.failed else {})
        found[code_id(path)] = replace(concept, details=details)
    return found


def _ranks(found: Mapping[str, FoundConcept], targets: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The importance of files among files, and of modules among modules; a system's is that of its greatest module."""
    ranks: dict[str, int] = {}
    for layer in ("code", "module"):
        nodes = [id for id, each in found.items() if each.layer == layer]
        ranks |= importances(nodes, {id: targets[id] for id in nodes if id in targets})
    for id, each in found.items():
        if each.layer == "module":
            system = f"system:{id.removeprefix('module:').partition('/')[0]}"
            ranks[system] = max(ranks.get(system, 0), ranks[id])
    return ranks


def _lock_of(project_id: str) -> str:
    return f"atlas {project_id}"
