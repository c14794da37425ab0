"""Makes the map of a project follow its files: concepts, edges and chunks of what changed, and nothing else.

One transaction, unless more files are new than are read at once: then the parts of the map come first, chunks batch by batch, and edges
last. Stopped anywhere, it goes on from there."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select, text

from models.atlas.atlas_storing import forget_chunks, store_chunks, store_concepts, store_edges
from models.atlas.atlas_tables import AtlasChunk, AtlasConcept, AtlasEdge, AtlasIndex
from models.atlas.decision_concepts import decisions_changed, store_decisions
from models.atlas.dependency_edges import contains_edges
from models.atlas.dependency_storing import store_dependencies
from models.atlas.fact_cache import KnownFile, ReadBatch, Transaction, read_batches, store_facts
from models.atlas.fact_reading import PARSER_VERSION
from models.atlas.history_edges import newest_snapshot, related_edges
from models.atlas.index_planning import IndexPlan, NoFiles, plan_index
from models.core import jobs
from models.core.db import db, lock_name, now
from models.index.document_sources import DocumentSource
from models.index.live_sources import live_source
from models.index.vectors import chunks_without_vectors, vector_count, write_chunk_vectors
from models.projects.project import Project
from models.projects.project_states import state_of
from models.projects.workspaces.head_moves import head_moved, main_chosen
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

EMBEDDED_AT_ONCE = 500
AT_REST = timedelta(seconds=3)
"""How long the job waits after a move of main: several moves are indexed once."""


class AtlasCounts(NamedTuple):
    """What the map holds (contract 3.14): `embeddings` are chunks with a vector, `unread` files that a job reads next, `written` rows that
    this call wrote."""

    concepts: int
    edges: int
    chunks: int
    embeddings: int
    unread: int
    written: int = 0


def index_project(transaction: Transaction, project_id: str, most: int | None = None) -> AtlasCounts:
    """Bring the map of a project up to its files: those of its main workspace, else of the newest snapshot. Idempotent. Reads at most
    `most` files that are new. Locks the map; commits by `transaction`. Raises NoFiles (404), FilesUnavailable (503), BlobDamaged."""
    with transaction():
        if _is_current(project_id):
            return atlas_counts(project_id)
        plan = plan_index(project_id, most)
    done = _carry_out(transaction, plan)
    if not done and plan.delta is not None:
        with transaction():
            plan = plan_index(project_id, most, whole=True)
        done = _carry_out(transaction, plan)
    with transaction():
        if not done or _tree_now(project_id) != plan.tree:
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


def index_failed(project_id: str, since: datetime | None) -> bool:
    """Whether the job gave up after `since`, the time of the map that there is."""
    query = text(
        "SELECT true FROM procrastinate_jobs j JOIN job_failure f ON f.job_id = j.id WHERE j.lock = :lock AND j.status = 'failed'"
        " AND (CAST(:since AS timestamptz) IS NULL OR f.at > :since) LIMIT 1"
    )
    return bool(db.session.scalar(query, {"lock": f"atlas {project_id}", "since": since}))


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
            lock_map(project_id)
            texts = chunks_without_vectors(index.source_id, EMBEDDED_AT_ONCE)
            write_chunk_vectors(index.source_id, texts)
        made += len(texts)
        if not texts:
            return made


def lock_map(project_id: str) -> None:
    """Wait until nobody else writes the map of a project, and keep others from it until the transaction ends."""
    lock_name(f"atlas {project_id}")


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


def _carry_out(transaction: Transaction, plan: IndexPlan) -> bool:
    """Do what a plan says; False if another index of the project changed the map meanwhile, so that it is to be planned again."""
    batches = read_batches(transaction, plan.account_id, plan.wanted)
    first, second = next(batches, None), next(batches, None)
    with transaction():
        index, source = _locked(plan)
        if plan.delta is not None and not plan.delta.starts_from(index):
            return False
        _begin(plan, index, source)
        _store_batch(plan, index, source, first)
        if second is None:
            _finish(plan, index, source)
            return True
        index.tree_hash = ""  # the map is of no tree until it is finished
    return _store_rest(transaction, plan, second, batches)


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


def _begin(plan: IndexPlan, index: AtlasIndex, source: DocumentSource) -> None:
    """Write the parts that follow from paths alone."""
    plan.written += store_concepts(index, source, plan.concepts(), ids=plan.ids)
    contains = contains_edges(plan.found)
    plan.written += store_edges(plan.project_id, contains, ("contains",), ends=plan.ids).written
    forget_chunks(index, source, plan.stale)
    plan.written += len(plan.stale)


def _locked(plan: IndexPlan) -> tuple[AtlasIndex, DocumentSource]:
    lock_map(plan.project_id)
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


def _store_batch(plan: IndexPlan, index: AtlasIndex, source: DocumentSource, batch: ReadBatch | None) -> None:
    if batch is None:
        return
    store_facts(plan.account_id, batch)
    for key in batch.new:
        facts = batch.facts[key]
        plan.known[key] = KnownFile(facts["lines"], facts["parsed"], facts.get("failed", False))
    plan.written += len(batch.new) + store_chunks(index, source, batch)


def _store_rest(
    transaction: Transaction, plan: IndexPlan, second: ReadBatch, batches: Iterator[ReadBatch]
) -> bool:
    """Store the other batches, then finish; False if another index finished before."""
    batch: ReadBatch | None = second
    while batch is not None:
        with transaction():
            index, source = _locked(plan)
            if index.tree_hash:
                return False
            _store_batch(plan, index, source, batch)
        batch = next(batches, None)
    with transaction():
        index, source = _locked(plan)
        if index.tree_hash:
            return False
        _finish(plan, index, source)
    return True


def _finish(plan: IndexPlan, index: AtlasIndex, source: DocumentSource) -> None:
    """Edges, importance and decisions, of everything that is known now; then say which files these are."""
    plan.written += store_concepts(index, source, plan.concepts(), ids=plan.ids)
    dependencies = store_dependencies(plan.project_id, plan.account_id, plan.delta)
    plan.written += dependencies.written
    newest = newest_snapshot(plan.project_id)
    moved = plan.delta is None or plan.delta.moved
    if moved or index.history != newest:
        related = related_edges(plan.account_id, plan.project_id)
        plan.written += store_edges(plan.project_id, related, ("relates",)).written
    if moved or dependencies.ranked or decisions_changed(plan.project_id):
        plan.written += store_decisions(index, source)
    _describe(plan, index, newest)


def _describe(plan: IndexPlan, index: AtlasIndex, newest: str | None) -> None:
    """Say which files the map is of."""
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
        "files": _file_count(plan, index),
        "unread": plan.later + sum((each.sha256, each.language) not in plan.known for each in plan.wanted),
        "left_out": plan.found.left_out,
    }
    if plan.written or any(getattr(index, name) != value for name, value in facts.items()):
        for name, value in facts.items():
            setattr(index, name, value)
        index.indexed_at = now()
    db.session.flush()


def _file_count(plan: IndexPlan, index: AtlasIndex) -> int:
    if plan.delta is None:
        return len(plan.found.files)
    return index.files + len(plan.delta.came) - len(plan.delta.went)
