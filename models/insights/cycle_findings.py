"""Finds cycles of imports between the modules of a tree, in Python and JavaScript."""

from collections.abc import Iterator, Mapping

from models.core.cooperative import in_slices
from models.insights.analysed_tree import AnalysedTree
from models.insights.item_finding import FoundItem, fingerprint, named_path
from models.projects.merge.import_cycles import module_imports

MAX_SHOWN = 8
"""Modules of a cycle that are named."""
MAX_CYCLES = 100


def import_cycles(tree: AnalysedTree) -> Iterator[FoundItem]:
    """A finding for each group of modules that import each other, directly or through others."""
    graph: dict[str, list[str]] = {}
    for path in in_slices(tree.code):
        targets = module_imports(path, tree.text(path), tree.texts.__contains__)
        graph[path] = sorted(each for each in targets if each != path)
    cycles = sorted(sorted(group) for group in _components(graph) if len(group) > 1)
    for group in cycles[:MAX_CYCLES]:
        named = ", ".join(named_path(each) for each in group[:MAX_SHOWN])
        more = f" and {len(group) - MAX_SHOWN} more" if len(group) > MAX_SHOWN else ""
        yield FoundItem(
            "imports:cycle",
            "refactoring",
            "info",
            f"{len(group)} modules import each other: {named}{more}",
            description="None of them can be understood, tested or loaded without the others. Move what they share into a module of its own.",
            files=group,
            prompt=f"The modules {named}{more} import each other in a cycle. Break it without changing what they do.",
            fingerprint=fingerprint("imports:cycle", "\0".join(group), "", ""),
        )


def _components(graph: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """The strongly connected groups of a graph (Tarjan), without recursion."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    waiting: set[str] = set()
    for root in in_slices(graph):
        if root in order:
            continue
        work: list[tuple[str, Iterator[str]]] = [(root, iter(graph[root]))]
        order[root] = low[root] = len(order)
        stack.append(root)
        waiting.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in order:
                    order[target] = low[target] = len(order)
                    stack.append(target)
                    waiting.add(target)
                    work.append((target, iter(graph.get(target, ()))))
                    break
                if target in waiting:
                    low[node] = min(low[node], order[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    at = stack.index(node)
                    group = stack[at:]
                    del stack[at:]
                    waiting -= set(group)
                    yield group
