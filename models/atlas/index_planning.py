"""What an index of a project has to do: which concepts follow from its files, and which of these are to be read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import select

from models.atlas.atlas_tables import AtlasChunk, AtlasIndex
from models.atlas.fact_cache import FactKey, KnownFile, WantedFile, known_files, reading_batches
from models.atlas.fact_reading import MAX_TEXT_BYTES, language_of
from models.atlas.tree_concepts import FoundConcept, TreeConcepts, code_id, tree_concepts
from models.atlas.tree_delta import FilesDelta, delta_concepts, tree_delta
from models.core.db import db
from models.core.errors import NotFound
from models.projects.project import Project
from models.projects.project_states import ProjectState, state_of
from models.projects.snapshots.manifest_store import tree_entries
from models.projects.snapshots.stored_objects import among


class NoFiles(NotFound):
    """The project has no files that the server can read."""

    def __init__(self) -> None:
        super().__init__("The project has no files yet. Push a snapshot, then index it.")


@dataclass
class IndexPlan:
    """What is to be done for one tree of a project. With a `delta`, `found` are only the concepts that it touches, and `ids` all of those
    that it may change. `wanted` files are read now and `later` ones not, `stale` concepts have chunks that their files have no more."""

    project_id: str
    account_id: str
    state: ProjectState
    tree: str
    found: TreeConcepts
    delta: FilesDelta | None = None
    ids: set[str] | None = None
    languages: Mapping[str, str] = field(default_factory=dict)
    known: dict[FactKey, KnownFile] = field(default_factory=dict)
    wanted: Sequence[WantedFile] = ()
    later: int = 0
    stale: Sequence[str] = ()
    written: int = 0

    def concepts(self) -> dict[str, FoundConcept]:
        """The concepts, with what is known of files: language, lines, and whether it could be read."""
        found = dict(self.found.concepts)
        for path, language in self.languages.items():
            file = self.known.get((self.found.files[path].hash or "", language))
            concept = found[code_id(path)]
            details = {**(concept.details or {}), "language": language}
            if file is not None:
                details |= {"lines": file.lines} | ({"failed": True} if file.failed else {})
            found[code_id(path)] = replace(concept, details=details)
        return found


def plan_index(project_id: str, most: int | None, *, whole: bool = False) -> IndexPlan:
    """What is to be done to make the map that of the project's files, reading at most `most` new ones: of what differs from the files that
    it describes, or if that is too much, or `whole`, of all. Raises NoFiles (404), BlobDamaged."""
    project = db.session.get(Project, project_id)
    state = state_of(project) if project is not None and project.deleted_at is None else None
    if project is None or state is None or state.tree is None:
        raise NoFiles
    plan = IndexPlan(project_id, project.account_id, state, state.tree, TreeConcepts())
    if not whole:
        index = db.session.get(AtlasIndex, project_id, populate_existing=True)
        plan.delta = tree_delta(project.account_id, index, state.tree)
    if plan.delta is not None:
        plan.found, plan.ids = delta_concepts(project_id, plan.delta)
    else:
        plan.found = tree_concepts(tree_entries(project.account_id, state.tree))
    _plan_reading(plan, most)
    if plan.delta is not None and len(list(reading_batches(plan.wanted))) > 1:
        return plan_index(project_id, most, whole=True)  # more than one transaction
    return plan


def _plan_reading(plan: IndexPlan, most: int | None) -> None:
    files = plan.found.files
    plan.languages = {path: language for path in files if (language := language_of(path))}
    plan.known = known_files(plan.account_id, {entry.hash or "" for entry in files.values()})
    chunked = _chunked(plan)
    unread = list(_unread(plan, chunked))
    plan.wanted = unread if most is None else unread[:most]
    plan.later = len(unread) - len(plan.wanted)
    reading = {each.path for each in unread}
    plan.stale = [
        code_id(path)
        for path, entry in files.items()
        if path not in reading and chunked.get(code_id(path), entry.hash) != entry.hash
    ]


def _chunked(plan: IndexPlan) -> dict[str, str]:
    """The hashes of the files that have chunks, by concept."""
    query = select(AtlasChunk.concept_id, AtlasChunk.source_hash).where(
        AtlasChunk.project_id == plan.project_id, AtlasChunk.kind == "code"
    )
    if plan.ids is not None:
        query = query.where(among(AtlasChunk.concept_id, plan.ids))
    return dict(db.session.execute(query.distinct()).all())


def _unread(plan: IndexPlan, chunked: Mapping[str, str]) -> Iterator[WantedFile]:
    """Files that were never read, or whose chunks are those of other bytes."""
    for path, language in plan.languages.items():
        entry = plan.found.files[path]
        file = plan.known.get((entry.hash or "", language))
        if entry.size > MAX_TEXT_BYTES or (file is not None and not file.lines):
            continue
        if file is None or chunked.get(code_id(path)) != entry.hash:
            yield WantedFile(path, entry.hash or "", language, entry.size)
