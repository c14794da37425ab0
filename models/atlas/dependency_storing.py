"""Stores what depends on what, and how important that makes each part: of the whole map, or of what a change touches."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import select

from models.atlas.affected_files import affected_files, resolver_of
from models.atlas.atlas_storing import StoredEdges, store_edges, store_importance
from models.atlas.atlas_tables import AtlasConcept, AtlasEdge
from models.atlas.dependency_edges import FoundEdge, file_edges, module_edges
from models.atlas.import_resolution import ImportResolver
from models.atlas.importance import importances
from models.atlas.tree_concepts import code_id, module_of
from models.atlas.tree_delta import FilesDelta
from models.atlas.tree_imports import TreeImports
from models.core.cooperative import in_slices
from models.core.db import db
from models.projects.snapshots.stored_objects import among


class StoredDependencies(NamedTuple):
    """How many rows were written, and whether parts got another importance."""

    written: int
    ranked: bool


def store_dependencies(project_id: str, account_id: str, delta: FilesDelta | None) -> StoredDependencies:
    """Make the dependencies and the importance of all parts those that follow from the files; `delta` is what differs from when they did
    last, None if that is unknown. The concepts and the facts of files are stored already. Flushes."""
    tree = TreeImports(project_id, account_id)
    affected = affected_files(account_id, tree, delta) if delta is not None else None
    if delta is None or affected is None:
        resolver = ImportResolver(tree.files, tree.paths, lambda paths: tree.all_names)
        files = file_edges(resolver, tree.files)
        stored = [store_edges(project_id, [*files, *module_edges(files)], ("depends_on",))]
        layers = ["code", "module"] if delta is None or delta.moved or stored[0].weighed else []
    else:
        stored, layers = _store_parts(project_id, tree, delta, affected)
    ranks: dict[str, int] = {}
    for layer in layers:
        ranks |= _ranks(project_id, layer)
    written = store_importance(project_id, ranks) if ranks else 0
    return StoredDependencies(sum(each.written for each in stored) + written, written > 0)


def _store_parts(
    project_id: str, tree: TreeImports, delta: FilesDelta, affected: set[str]
) -> tuple[list[StoredEdges], list[str]]:
    """Store the dependencies of these files, and of their modules."""
    resolver = resolver_of(tree, affected)
    known = resolver.files.keys() & affected
    starts = [code_id(path) for path in affected]
    files = store_edges(project_id, file_edges(resolver, known), ("depends_on",), starts=starts)
    if not (files.written or delta.moved):
        return [files], []
    modules = {f"module:{module_of(path)}" for path in affected | delta.went}
    edges = module_edges(_edges_of_files_in(project_id, modules))
    between = store_edges(project_id, edges, ("depends_on",), starts=modules)
    layers = [layer for layer, each in (("code", files), ("module", between)) if each.weighed or delta.moved]
    return [files, between], layers


def _edges_of_files_in(project_id: str, modules: Collection[str]) -> list[FoundEdge]:
    """The dependencies of all files of these modules, as they are stored."""
    mine = AtlasEdge.project_id == project_id
    inside = select(AtlasEdge.to_concept_id).where(
        mine, AtlasEdge.type == "contains", among(AtlasEdge.from_concept_id, modules)
    )
    files = db.session.scalars(inside).all()  # as one query with the next, the planner compares all with all
    columns = ("id", "from_concept_id", "to_concept_id", "type", "weight", "evidence")
    query = select(*(getattr(AtlasEdge, name) for name in columns)).where(
        mine, AtlasEdge.type == "depends_on", among(AtlasEdge.from_concept_id, files)
    )
    return [FoundEdge(*row) for row in in_slices(db.session.execute(query))]


def _ranks(project_id: str, layer: str) -> dict[str, int]:
    """The importance of files among files, or of modules among modules; a system's is that of its greatest module."""
    nodes = select(AtlasConcept.id).where(AtlasConcept.project_id == project_id, AtlasConcept.layer == layer)
    query = select(AtlasEdge.from_concept_id, AtlasEdge.to_concept_id, AtlasEdge.weight).where(
        AtlasEdge.project_id == project_id,
        AtlasEdge.type == "depends_on",
        AtlasEdge.from_concept_id.startswith(f"{layer}:"),
    )
    targets: dict[str, dict[str, int]] = {}
    for start, end, weight in in_slices(db.session.execute(query)):
        targets.setdefault(start, {})[end] = weight or 1
    ranks = importances(db.session.scalars(nodes), targets)
    if layer == "module":
        systems: dict[str, int] = {}
        for id, rank in ranks.items():
            system = f"system:{id.removeprefix('module:').partition('/')[0]}"
            systems[system] = max(systems.get(system, 0), rank)
        ranks |= systems
    return ranks
