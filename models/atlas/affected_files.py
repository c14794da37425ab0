"""Which files' dependencies a change of files touches: theirs, and those of files whose imports now stand for others."""

from collections import Counter
from posixpath import basename, dirname

from models.atlas.fact_reading import language_of
from models.atlas.import_resolution import MAX_TARGETS, OF_PACKAGES, ImportResolver
from models.atlas.tree_delta import FilesDelta
from models.atlas.tree_imports import TreeImports, package_names

HOMES = ("package.json", "Cargo.toml", "go.mod")
"""Files whose coming or going gives packages other names: then every import is looked at again."""


def affected_files(account_id: str, tree: TreeImports, delta: FilesDelta) -> set[str] | None:
    """The files whose dependencies have to be found again; None if it is all of them."""
    if any(basename(path) in HOMES for path in delta.came | delta.went) or _crowded(tree, delta):
        return None
    names = _changed_names(account_id, delta)
    if names is None:
        return None
    affected = set(delta.after)
    if delta.moved:
        resolver = ImportResolver(tree.files, tree.paths, tree.names_of, delta.came, delta.went)
        affected |= {
            path
            for path, file in tree.files.items()
            if file.language not in OF_PACKAGES and resolver.meets_moved(path)
        }
    return affected | (tree.naming(names) if names else set())


def resolver_of(tree: TreeImports, affected: set[str]) -> ImportResolver:
    """What finds the dependencies of these files. The others are read only if imports of packages need them."""
    if any(language_of(path) in OF_PACKAGES for path in affected):
        return ImportResolver(tree.files, tree.paths, tree.names_of)
    return ImportResolver(tree.files_of(affected), tree.paths, tree.names_of)


def _changed_names(account_id: str, delta: FilesDelta) -> set[str] | None:
    """The names that files of packages define now and did not, or the other way round; None if that is not known any more, or if a module
    of Go has another name."""
    states = (delta.before, delta.after)
    keys = [
        {path: (entry.hash or "", language_of(path)) for path, entry in state.items()} for state in states
    ]
    watched = {path for path in delta.touched if language_of(path) in (*OF_PACKAGES, "gomod")}
    known = package_names(account_id, {each[path] for each in keys for path in watched & each.keys()})
    changed: set[str] = set()
    for path in watched:
        if path in keys[0] and keys[0][path] not in known:
            return None
        old, new = (known.get(each.get(path, ("", "")), (None, frozenset[str]())) for each in keys)
        if old[0] == new[0]:
            changed |= old[1] ^ new[1]
        elif language_of(path) == "gomod":
            return None
        else:
            changed |= old[1] | new[1]
    return changed


def _crowded(tree: TreeImports, delta: FilesDelta) -> bool:
    """Whether files of Go came or went in a folder of more of them than an import stands for: others take their places."""
    folders = {dirname(path) for path in delta.came | delta.went if path.endswith(".go")}
    if not folders:
        return False
    counts = Counter(dirname(path) for path in tree.paths | delta.went if path.endswith(".go"))
    return any(counts[folder] > MAX_TARGETS for folder in folders)
