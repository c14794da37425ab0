"""How the parts of a tree depend on each other: what contains what, and what imports what, with the lines that say so."""

from collections import defaultdict
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, NamedTuple

from models.atlas.import_resolution import ImportResolver
from models.atlas.tree_concepts import TreeConcepts, code_id, module_of
from models.core.cooperative import in_slices

MAX_EVIDENCE = 3
"""Places that are kept of an edge."""


class FoundEdge(NamedTuple):
    """An edge as it follows from the files."""

    id: str
    start: str
    end: str
    type: str
    weight: int | None = None
    evidence: list[list[Any]] | None = None


def found_edge(
    start: str, end: str, type: str, weight: int | None = None, evidence: list[list[Any]] | None = None
) -> FoundEdge:
    """An edge, with the id that its ends and its type make."""
    id = blake2b(f"{type}\0{start}\0{end}".encode(), digest_size=16).hexdigest()
    return FoundEdge(id, start, end, type, weight, evidence)


def contains_edges(found: TreeConcepts) -> list[FoundEdge]:
    """System to module, and module to file."""
    return [found_edge(start, end, "contains") for start, end in found.contains]


def file_edges(resolver: ImportResolver, paths: Iterable[str]) -> list[FoundEdge]:
    """What these files import; the weight is how often."""
    edges = []
    for path in in_slices(sorted(paths)):
        for target, lines in sorted(resolver.targets(path).items()):
            places = [[path, line] for line in sorted(set(lines))]
            edges.append(
                found_edge(code_id(path), code_id(target), "depends_on", len(lines), places[:MAX_EVIDENCE])
            )
    return edges


def module_edges(files: Iterable[FoundEdge]) -> list[FoundEdge]:
    """What the modules of these edges of files depend on: one edge for all between two, with the first places by path."""
    modules: defaultdict[tuple[str, str], list[FoundEdge]] = defaultdict(list)
    for edge in in_slices(sorted(files, key=lambda each: (each.start, each.end))):
        pair = module_of(edge.start.removeprefix("code:")), module_of(edge.end.removeprefix("code:"))
        if pair[0] != pair[1]:
            modules[pair].append(edge)
    return [
        found_edge(
            f"module:{start}",
            f"module:{end}",
            "depends_on",
            sum(each.weight or 0 for each in parts),
            [place for each in parts[:MAX_EVIDENCE] for place in (each.evidence or [])[:1]],
        )
        for (start, end), parts in modules.items()
    ]
