"""The four diagrams of a project: what each shows, from the map and from recorded runs. Where things stand is in `diagram_layout`."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import delete, or_, select

from models.atlas.atlas_correction import held_corrections
from models.atlas.atlas_tables import DIAGRAMS, AtlasConcept, AtlasDiagram, AtlasEdge
from models.atlas.call_flow import call_flow
from models.atlas.run_sequence import run_sequence
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.projects.project import Project
from models.projects.snapshots.stored_objects import among

MAX_NODES = 60
"""Nodes of a diagram; modules are folded into their systems if they are more, and then the least important left out."""
MAX_EDGES = 200
MAX_KEPT = 100
"""Diagrams of a project that are kept, the newest."""
TITLES = {
    "dependency": "What depends on what",
    "component": "Systems and their modules",
    "flow": "What happens from",
    "sequence": "What a run did",
}


class DiagramNode(NamedTuple):
    """A node. `group` is the system that it is in, `concept_id` what it stands for, `place` the path and line that it links to."""

    id: str
    label: str
    kind: str = "component"
    group: str | None = None
    concept_id: str | None = None
    place: tuple[str, int] | None = None


class DiagramEdge(NamedTuple):
    """An edge; `label` says how often or how long, `kind` what it is."""

    start: str
    end: str
    label: str = ""
    kind: str = "depends_on"


@dataclass
class ProjectDiagram:
    """A diagram. `notes` say what it leaves out, or why it is empty; `run_id` is the run that a sequence is of."""

    type: str
    title: str
    nodes: list[DiagramNode] = field(default_factory=list)
    edges: list[DiagramEdge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    concept_id: str | None = None
    run_id: str | None = None


def diagram_of(project: Project, type: str, concept_id: str | None = None) -> ProjectDiagram:
    """A diagram of the project, or of one concept and what is around it. Whoever calls it checks access. Raises Invalid for another type,
    NotFound for an unknown concept."""
    if type not in DIAGRAMS:
        raise Invalid(f"'type' must be one of {', '.join(DIAGRAMS)}.")
    concept = shown_concept(project.id, concept_id) if concept_id else None
    match type:
        case "flow":
            found = _flow(project, concept)
        case "sequence":
            found = _sequence(project)
        case "component":
            found = _component(project, concept)
        case _:
            found = _dependency(project, concept)
    found.concept_id = concept.id if concept else None
    return found


def concept_of(project_id: str, id: str) -> AtlasConcept:
    """A concept of the project. Raises NotFound."""
    found = db.session.get(AtlasConcept, (project_id, id)) if "\0" not in id and len(id) <= 2_000 else None
    if found is None:
        raise NotFound("The map has no such concept. Index the project again if its files changed.")
    return found


def shown_concept(project_id: str, id: str) -> AtlasConcept:
    """A concept as people corrected it. Raises NotFound."""
    return held_corrections(project_id).shown([concept_of(project_id, id)])[0]


def keep_diagram(project: Project, found: ProjectDiagram) -> AtlasDiagram:
    """Store a diagram in the shape of the contract; the oldest beyond `MAX_KEPT` go. Flushes."""
    row = AtlasDiagram(
        project_id=project.id, concept_id=found.concept_id, type=found.type, data=diagram_data(found)
    )
    db.session.add(row)
    db.session.flush()
    newest = select(AtlasDiagram.id).where(AtlasDiagram.project_id == project.id)
    kept = newest.order_by(AtlasDiagram.created_at.desc(), AtlasDiagram.id.desc()).limit(MAX_KEPT)
    db.session.execute(
        delete(AtlasDiagram).where(AtlasDiagram.project_id == project.id, AtlasDiagram.id.not_in(kept))
    )
    return row


def diagram_data(found: ProjectDiagram) -> dict[str, Any]:
    """The diagram as the contract writes it (3.14), with the group of each node and the notes."""
    return {
        "id": f"diag-{time.time_ns() // 1_000_000}",
        "type": found.type,
        "title": found.title,
        "nodes": [
            {"id": each.id, "label": each.label, "type": each.kind, "group": each.group}
            for each in found.nodes
        ],
        "edges": [
            {"from": each.start, "to": each.end, "label": each.label, "type": each.kind}
            for each in found.edges
        ],
        "notes": found.notes,
    }


def diagrams_of(project: Project, concept_id: str | None) -> list[AtlasDiagram]:
    """The diagrams that were asked for, newest first: of a concept, or the newest 20."""
    query = select(AtlasDiagram).where(AtlasDiagram.project_id == project.id)
    query = query.order_by(AtlasDiagram.created_at.desc(), AtlasDiagram.id.desc())
    if concept_id is None:
        return list(db.session.scalars(query.limit(20)))
    return list(db.session.scalars(query.where(AtlasDiagram.concept_id == concept_id.replace("\0", ""))))


# --- what each shows ----------------------------------------------------------------------------------------------------


def _dependency(project: Project, concept: AtlasConcept | None) -> ProjectDiagram:
    if concept is None:
        found = ProjectDiagram("dependency", f"{TITLES['dependency']} in {project.name}")
        _add_modules(found, _concepts(project.id, "module"), fold=True, project_id=project.id)
        return found
    found = ProjectDiagram("dependency", f"{TITLES['dependency']} around {concept.name}")
    if concept.layer == "system":
        inside = _inside(project.id, concept)
        _add_modules(found, inside, fold=False, project_id=project.id)
        return found
    query = select(AtlasEdge).where(
        AtlasEdge.project_id == project.id,
        or_(AtlasEdge.from_concept_id == concept.id, AtlasEdge.to_concept_id == concept.id),
        AtlasEdge.type == "depends_on",
    )
    strongest = query.order_by(AtlasEdge.weight.desc(), AtlasEdge.id).limit(MAX_NODES - 1)
    edges = held_corrections(project.id).related(db.session.scalars(strongest))
    ids = {concept.id, *(edge.from_concept_id for edge in edges), *(edge.to_concept_id for edge in edges)}
    _fill(found, _by_id(project.id, ids), project.id)
    if len(found.nodes) == 1:
        found.notes.append("Nothing in the project imports it, and it imports nothing of the project.")
    return found


def _component(project: Project, concept: AtlasConcept | None) -> ProjectDiagram:
    """Modules in the boxes of their systems; around one concept, those that its module relates to."""
    found = ProjectDiagram("component", f"{TITLES['component']} in {project.name}")
    modules = _concepts(project.id, "module")
    if concept is not None:
        system = _system_of(concept)
        near = _neighbour_systems(project.id, system)
        modules = [each for each in modules if _system_of(each) in near | {system}]
        found.title = f"{TITLES['component']} around {concept.name}"
    if len(modules) > MAX_NODES:
        found.notes.append(f"The {MAX_NODES} most important of {len(modules):,} modules.")
    _fill(found, modules[:MAX_NODES], project.id)
    found.nodes.sort(key=lambda each: (each.group or "", each.label))
    return found


def _flow(project: Project, concept: AtlasConcept | None) -> ProjectDiagram:
    flow = call_flow(project, concept, MAX_NODES)
    found = ProjectDiagram("flow", f"{TITLES['flow']} {flow.start}" if flow.start else "No entry point")
    found.nodes = [
        DiagramNode(
            each.id,
            each.label,
            "entry" if each.steps == 0 else "component",
            each.path,
            f"code:{each.path}",
            (each.path, each.line),
        )
        for each in flow.nodes
    ]
    found.edges = [DiagramEdge(start, end, f"line {line}", "calls") for start, end, line in flow.edges]
    found.notes = flow.notes
    return found


def _sequence(project: Project) -> ProjectDiagram:
    recorded = run_sequence(project)
    found = ProjectDiagram(
        "sequence", f"{TITLES['sequence']}: {recorded.title}" if recorded.title else "No recorded run"
    )
    found.nodes = [DiagramNode(each.id, each.label, each.kind) for each in recorded.participants]
    found.edges = [DiagramEdge(*each, kind="call") for each in recorded.messages]
    found.notes, found.run_id = recorded.notes, recorded.run_id
    return found


# --- parts of the map ---------------------------------------------------------------------------------------------------


def _add_modules(
    found: ProjectDiagram, modules: Sequence[AtlasConcept], *, fold: bool, project_id: str
) -> None:
    if len(modules) > MAX_NODES and fold:
        _fold(found, modules, project_id)
        return
    if len(modules) > MAX_NODES:
        found.notes.append(f"The {MAX_NODES} most important of {len(modules):,} modules.")
    _fill(found, modules[:MAX_NODES], project_id)


def _fold(found: ProjectDiagram, modules: Sequence[AtlasConcept], project_id: str) -> None:
    """Systems instead of their modules."""
    counts: Counter[tuple[str, str]] = Counter()
    for edge in _edges(project_id, [each.id for each in modules]):
        pair = _system_key(edge.from_concept_id), _system_key(edge.to_concept_id)
        if pair[0] != pair[1]:
            counts[pair] += edge.weight or 0
    inside = Counter(_system_of(each) for each in modules)
    every = _concepts(project_id, "system")
    systems = every[:MAX_NODES]
    found.notes.append(f"{len(modules):,} modules, folded into their systems. Choose one to see its modules.")
    if len(every) > MAX_NODES:
        found.notes.append(f"The {MAX_NODES} most important of {len(every):,} systems are shown.")
    found.nodes = [
        DiagramNode(each.id, f"{each.name} ({inside[each.id]:,})", "system", None, each.id)
        for each in systems
    ]
    shown = {each.id for each in systems}
    if len(counts) > MAX_EDGES:
        found.notes.append(f"The {MAX_EDGES} strongest of {len(counts):,} dependencies are shown.")
    for (start, end), count in counts.most_common(MAX_EDGES):
        if f"system:{start}" in shown and f"system:{end}" in shown:
            found.edges.append(DiagramEdge(f"system:{start}", f"system:{end}", str(count)))


def _fill(found: ProjectDiagram, concepts: Iterable[AtlasConcept], project_id: str) -> None:
    """The concepts, and the edges between them."""
    rows = list(concepts)
    found.nodes = [
        DiagramNode(
            each.id,
            each.name if each.layer != "code" else each.id.removeprefix("code:"),
            "test" if each.type == "test" else "component",
            _system_key(each.id),
            each.id,
        )
        for each in rows
    ]
    edges = _edges(project_id, [each.id for each in rows])
    found.edges = [
        DiagramEdge(each.from_concept_id, each.to_concept_id, str(each.weight or ""))
        for each in edges[:MAX_EDGES]
    ]
    if len(edges) > MAX_EDGES:
        found.notes.append(f"The {MAX_EDGES} strongest of {len(edges):,} dependencies.")


def _concepts(project_id: str, layer: str) -> list[AtlasConcept]:
    query = select(AtlasConcept).where(AtlasConcept.project_id == project_id, AtlasConcept.layer == layer)
    ordered = query.order_by(AtlasConcept.importance.desc(), AtlasConcept.id).limit(5_000)
    return held_corrections(project_id).shown(db.session.scalars(ordered))


def _by_id(project_id: str, ids: Collection[str]) -> list[AtlasConcept]:
    query = select(AtlasConcept).where(AtlasConcept.project_id == project_id, among(AtlasConcept.id, ids))
    ordered = query.order_by(AtlasConcept.importance.desc(), AtlasConcept.id)
    return held_corrections(project_id).shown(db.session.scalars(ordered))


def _edges(project_id: str, ids: Collection[str]) -> list[AtlasEdge]:
    """The dependencies between these concepts, the strongest first."""
    query = select(AtlasEdge).where(
        AtlasEdge.project_id == project_id,
        AtlasEdge.type == "depends_on",
        among(AtlasEdge.from_concept_id, ids),
        among(AtlasEdge.to_concept_id, ids),
    )
    ordered = query.order_by(AtlasEdge.weight.desc(), AtlasEdge.id)
    return held_corrections(project_id).related(db.session.scalars(ordered))


def _inside(project_id: str, concept: AtlasConcept) -> list[AtlasConcept]:
    query = select(AtlasEdge.to_concept_id).where(
        AtlasEdge.project_id == project_id,
        AtlasEdge.type == "contains",
        AtlasEdge.from_concept_id == concept.id,
    )
    return _by_id(project_id, set(db.session.scalars(query)))


def _neighbour_systems(project_id: str, system: str) -> set[str]:
    modules = [each.id for each in _concepts(project_id, "module")]
    near: set[str] = set()
    for edge in _edges(project_id, modules):
        ends = {f"system:{_system_key(edge.from_concept_id)}", f"system:{_system_key(edge.to_concept_id)}"}
        if system in ends:
            near |= ends
    return near


def _system_of(concept: AtlasConcept) -> str:
    return concept.id if concept.layer == "system" else f"system:{_system_key(concept.id)}"


def _system_key(id: str) -> str:
    layer, _, rest = id.partition(":")
    first, slash, _ = rest.partition("/")
    return first if slash or layer != "code" else "root"
