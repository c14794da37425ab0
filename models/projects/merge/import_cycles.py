"""Finds cycles of imports that a merge closes: each side added an edge, and neither had the cycle. Python and JavaScript modules."""

import re
from collections.abc import Callable, Iterator, Mapping
from posixpath import dirname, join, normpath

from models.projects.merge.code_grammars import JAVASCRIPT, PYTHON, TSX, TYPESCRIPT, code_grammar
from models.projects.merge.merge_model import (
    BlobReader,
    FlatTree,
    MergeEntry,
    MergeWarning,
    Side,
    TreeMerge,
    WarningKind,
)

MAX_FILES = 200
"""Files that are read in search of cycles."""
MAX_EDGES = 50
"""New imports of each side that are followed."""
MAX_MODULE_BYTES = 1 << 20
MAX_IMPORTS = 1_000
"""Names of a module that are resolved."""
_SCRIPTS = (JAVASCRIPT, TYPESCRIPT, TSX)
_SUFFIXES = ("", ".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", "/index.ts", "/index.tsx", "/index.js")
_QUOTED = re.compile(r"""(?:from|import|require\()[ ]?["'](\.[^"'\n]{0,300})["']""")

Edge = tuple[str, str]


def new_cycles(merge: TreeMerge, base: FlatTree, read: BlobReader) -> Iterator[MergeWarning]:
    """A warning for each pair of new imports, one of each side, that together close a cycle. Imports inside functions close none."""
    graph = _ImportGraph(merge, base, read)
    ours = graph.new_edges(Side.WORKSPACE)
    theirs = graph.new_edges(Side.MAIN) if ours else []
    if not theirs:
        return
    reached = {target: graph.reached(target) for _, target in {*ours, *theirs}}
    for source, target in ours:
        for back, end in theirs:
            if back in reached[target] and source in reached[end]:
                message = (
                    f"The import of {target} is new in {Side.WORKSPACE}, that of {end} by {back} is new in {Side.MAIN}:"
                    " together they are a cycle."
                )
                yield MergeWarning(WarningKind.IMPORT_CYCLE, source, 0, message)


def module_imports(path: str, text: str, exists: Callable[[str], bool]) -> set[str]:
    """The files of the same tree that a module imports when it is loaded; `exists` says whether a path is one of them."""
    return _resolved(path, set(sorted(_imported(path, text))[:MAX_IMPORTS]), exists)


class _ImportGraph:
    """The imports of the merged tree, read as they are needed."""

    def __init__(self, merge: TreeMerge, base: FlatTree, read: BlobReader) -> None:
        self._merge, self._base, self._read = merge, base, read
        self._targets: dict[str, set[str]] = {}

    def new_edges(self, side: Side) -> list[Edge]:
        """The imports that a side added, sorted."""
        found: list[Edge] = []
        for path, each in self._merge.paths.items():
            entry = each.workspace if side is Side.WORKSPACE else each.main
            if (
                each.decision is not None
                or each.result is None
                or entry == each.base
                or code_grammar(path) is None
            ):
                continue
            before, now = _imported(path, self._text(each.base)), _imported(path, self._text(entry))
            found += [(path, target) for target in self._resolved(path, now - before) if target != path]
            if len(found) > MAX_EDGES:
                break
        return sorted(found)[:MAX_EDGES]

    def reached(self, start: str) -> set[str]:
        """The modules that a module imports, itself included, directly or through others."""
        seen, left = {start}, [start]
        while left:
            for target in sorted(self._imports(left.pop())):
                if target not in seen:
                    seen.add(target)
                    left.append(target)
        return seen

    def _imports(self, path: str) -> set[str]:
        if path not in self._targets:
            if len(self._targets) >= MAX_FILES:
                return set()
            self._targets[path] = self._resolved(path, _imported(path, self._text(self._entry(path))))
        return self._targets[path]

    def _entry(self, path: str) -> MergeEntry | None:
        merged = self._merge.paths.get(path)
        return self._base.get(path) if merged is None else merged.result

    def _text(self, entry: MergeEntry | None) -> str:
        if entry is None or entry.kind != "file" or entry.hash is None or entry.size > MAX_MODULE_BYTES:
            return ""
        contents: Mapping[str, bytes] = self._merge.contents
        data = contents[entry.hash] if entry.hash in contents else self._read(entry.hash)
        return data.decode(errors="replace")

    def _resolved(self, path: str, names: set[str]) -> set[str]:
        return _resolved(path, names, lambda each: self._entry(each) is not None)


def _resolved(path: str, names: set[str], exists: Callable[[str], bool]) -> set[str]:
    """The files that imported names stand for; names from outside the project have none."""
    found = set()
    for name in names:
        candidates = _script_files(path, name) if name.startswith((".", "/")) else _python_files(path, name)
        found.update(next(([each] for each in candidates if exists(each)), []))
    return found


def _imported(path: str, text: str) -> set[str]:
    """The names of imported modules: `./a` in a script; in Python `a/b`, or `a/b|c` where c may be in a.b or a module of it."""
    grammar = code_grammar(path)
    if grammar in _SCRIPTS:
        lines = [line for line in text.splitlines() if not line.startswith("import type ")]
        return {found[1] for line in lines for found in _QUOTED.finditer(line)}
    return set(_python_names(path, text)) if grammar is PYTHON else set()


def _python_names(path: str, text: str) -> Iterator[str]:
    lines = iter(text.splitlines())
    for line in lines:
        if not line.startswith(("import ", "from ")):
            continue
        words = line.split("#", 1)[0].replace(",", " ").split()
        if line.startswith("import "):
            yield from (word.replace(".", "/") for word in words[1:] if word[0].isalpha())
        elif len(words) > 2:
            while "(" in line and ")" not in line:
                line = next(lines, ")")
                words += line.split("#", 1)[0].replace(",", " ").split()
                line = "()" if ")" in line else "("
            module = _absolute(path, words[1])
            yield from (
                f"{module}|{word.strip('()')}" for word in words[3:] if word.strip("()").isidentifier()
            )


def _absolute(path: str, module: str) -> str:
    """A module as a path; one that begins with dots is relative to its package."""
    level = len(module) - len(module.lstrip("."))
    rest = module[level:].replace(".", "/")
    if not level:
        return rest
    package = dirname(path)
    for _ in range(level - 1):
        package = dirname(package)
    return f"{package}/{rest}".strip("/")


def _python_files(path: str, name: str) -> Iterator[str]:
    """Where a module may be: from the top, or from a directory above the importing file, as src is."""
    module, _, member = name.partition("|")
    above, at = [""], dirname(path)
    while at:
        above.append(at)
        at = dirname(at)
    for root in sorted(above, key=len):
        for part in ([f"{module}/{member}"] if member else []) + [module]:
            for suffix in (".py", "/__init__.py"):
                yield join(root, part.strip("/") + suffix)


def _script_files(path: str, name: str) -> Iterator[str]:
    place = normpath(join(dirname(path), name))
    yield from (place + suffix for suffix in _SUFFIXES)
    if place.endswith(".js"):
        yield from (place.removesuffix(".js") + suffix for suffix in (".ts", ".tsx"))
