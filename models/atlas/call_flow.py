"""What happens from an entry point: which functions it calls, and those call, as far as names and imports say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import select

from models.atlas.atlas_tables import AtlasConcept, AtlasEdge
from models.atlas.fact_cache import FactKey, facts_of
from models.core.db import db
from models.projects.project import Project
from models.projects.snapshots.stored_objects import among

MAX_STEPS = 4
"""Calls from the entry point to the last function."""
MAX_CALLS = 12
"""Calls of one function that are followed."""
ENTRIES = (
    "__main__.py", "main.py", "app.py", "manage.py", "cli.py", "server.py", "wsgi.py", "main.go", "main.rs", "Main.java", "App.java",
    "index.ts", "index.tsx", "index.js", "main.ts", "main.tsx", "main.js", "server.ts", "server.js", "app.ts", "app.js", "lib.rs",
)  # fmt: skip
"""Names of files that a program begins in, the surest first."""
STARTS = ("main", "Main.main", "App.main", "run", "cli", "create_app", "app", "App")
"""Functions that it begins with."""


class FlowNode(NamedTuple):
    """A function, or what a file does when it is loaded, `steps` calls from the entry point."""

    id: str
    label: str
    path: str
    line: int
    steps: int


@dataclass
class CallFlow:
    """The functions that are called from `start`, and the calls: caller, callee, and the line of the call."""

    start: str = ""
    nodes: list[FlowNode] = field(default_factory=list)
    edges: list[tuple[str, str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Function(NamedTuple):
    """A definition of a file; `last` 0 is the whole file without what it defines."""

    path: str
    name: str
    first: int
    last: int

    @property
    def id(self) -> str:
        return f"code:{self.path}#{self.name}" if self.name else f"code:{self.path}"


def call_flow(project: Project, concept: AtlasConcept | None, most: int) -> CallFlow:
    """From the file of a concept, or from the likeliest entry point of a module, a system or the project; at most `most` functions."""
    walk = _Walk(project)
    entry = _entry(project.id, concept)
    if entry is None:
        return CallFlow(notes=["No file with calls was found to begin at. Choose a file, and open its flow."])
    start = walk.start(entry.id.removeprefix("code:"))
    flow = CallFlow(start=f"{start.name or entry.name} in {start.path}")
    flow.nodes.append(FlowNode(start.id, start.name or entry.name, start.path, start.first, 0))
    seen, level = {start.id}, [start]
    for steps in range(1, MAX_STEPS + 1):
        below: list[_Function] = []
        for caller, callee, line in walk.calls(level):
            if callee.id not in seen:
                if len(flow.nodes) >= most:
                    flow.notes = [f"Only the first {most} functions are shown."]
                    continue
                seen.add(callee.id)
                below.append(callee)
                flow.nodes.append(FlowNode(callee.id, callee.name, callee.path, callee.first, steps))
            flow.edges.append((caller.id, callee.id, line))
        level = below
    if len(flow.nodes) == 1:
        flow.notes.append("It calls nothing that the project defines, as far as names and imports say.")
    elif level:
        flow.notes.append(f"Calls are followed {MAX_STEPS} steps deep.")
    return flow


class _Walk:
    """Reads facts of the files on the way, and of those that they import."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._facts: dict[str, Mapping[str, Any]] = {}
        self._imports: dict[str, list[str]] = {}

    def start(self, path: str) -> _Function:
        """Where a file begins: its main function, else what it does when it is loaded."""
        self._load([path])
        found = {each.name: each for each in self._functions(path)}
        return next((found[name] for name in STARTS if name in found), _Function(path, "", 1, 0))

    def calls(self, functions: Sequence[_Function]) -> list[tuple[_Function, _Function, int]]:
        """What these functions call, in the order of their lines."""
        self._follow([each.path for each in functions])
        found = []
        for caller in functions:
            seen: set[str] = set()
            for line, name in self._called(caller):
                callee = self._resolve(caller, name)
                if (
                    callee is not None
                    and callee.id != caller.id
                    and callee.id not in seen
                    and len(seen) < MAX_CALLS
                ):
                    seen.add(callee.id)
                    found.append((caller, callee, line))
        return found

    def _called(self, caller: _Function) -> list[tuple[int, str]]:
        calls = self._facts.get(caller.path, {}).get("calls", {})
        lines = [(line, name) for name, places in calls.items() for line in places]
        if caller.last:
            return sorted(each for each in lines if caller.first <= each[0] <= caller.last)
        inside = self._functions(caller.path)
        return sorted(each for each in lines if not any(one.first <= each[0] <= one.last for one in inside))

    def _resolve(self, caller: _Function, name: str) -> _Function | None:
        """What a called name stands for: in the same file, else in one that it imports."""
        for path in (caller.path, *self._imports.get(caller.path, ())):
            hits = [each for each in self._functions(path) if each.name.rpartition(".")[2] == name]
            if hits:
                return min(hits, key=lambda each: (each.name.count("."), each.first))
        return None

    def _functions(self, path: str) -> list[_Function]:
        defs = self._facts.get(path, {}).get("defs", ())
        return [
            _Function(path, name, first, last)
            for kind, name, first, last in defs
            if kind in ("function", "method", "class")
        ]

    def _follow(self, paths: Sequence[str]) -> None:
        """Load what these files import."""
        unknown = {f"code:{path}" for path in paths if path not in self._imports}
        query = select(AtlasEdge.from_concept_id, AtlasEdge.to_concept_id).where(
            AtlasEdge.project_id == self._project.id,
            AtlasEdge.type == "depends_on",
            among(AtlasEdge.from_concept_id, unknown),
        )
        for id in unknown:
            self._imports[id.removeprefix("code:")] = []
        for start, end in (
            db.session.execute(query.order_by(AtlasEdge.weight.desc(), AtlasEdge.id)) if unknown else ()
        ):
            self._imports[start.removeprefix("code:")].append(end.removeprefix("code:"))
        self._load([target for path in paths for target in self._imports[path]])

    def _load(self, paths: Sequence[str]) -> None:
        missing = [f"code:{path}" for path in paths if path not in self._facts]
        if not missing:
            return
        query = select(AtlasConcept.id, AtlasConcept.sha256, AtlasConcept.details["language"].astext)
        query = query.where(AtlasConcept.project_id == self._project.id, among(AtlasConcept.id, missing))
        keys: dict[str, FactKey] = {
            id.removeprefix("code:"): (sha256, language)
            for id, sha256, language in db.session.execute(query)
            if sha256 and language
        }
        facts = facts_of(self._project.account_id, set(keys.values()))
        for path, key in keys.items():
            self._facts[path] = facts.get(key, {})


def _entry(project_id: str, concept: AtlasConcept | None) -> AtlasConcept | None:
    """The file to begin at."""
    if concept is not None and concept.layer == "code":
        return concept
    query = select(AtlasConcept).where(
        AtlasConcept.project_id == project_id, AtlasConcept.layer == "code", AtlasConcept.type.is_(None)
    )
    if concept is not None and concept.layer in ("system", "module"):
        below = concept.id.partition(":")[2]
        if below != "root":
            query = query.where(AtlasConcept.id.startswith(f"code:{below}/", autoescape=True))
    named = list(db.session.scalars(query.where(AtlasConcept.name.in_(ENTRIES)).limit(200)))
    if named:
        return min(named, key=lambda each: (ENTRIES.index(each.name), each.id.count("/"), each.id))
    # else what imports most and is imported least
    starts = select(AtlasEdge.from_concept_id).where(
        AtlasEdge.project_id == project_id, AtlasEdge.type == "depends_on"
    )
    rest = query.where(AtlasConcept.id.in_(starts)).order_by(AtlasConcept.importance, AtlasConcept.id)
    return db.session.scalars(rest.limit(1)).one_or_none()
