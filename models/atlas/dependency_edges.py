"""How the parts of a tree relate: what imports what, with the lines that say so, and which files change together."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations
from typing import Any, NamedTuple

from sqlalchemy import func, select

from models.atlas.fact_cache import FactKey, facts_of, known_imports
from models.atlas.import_resolution import ImportResolver, ReadFile
from models.atlas.tree_concepts import TreeConcepts, code_id, module_of
from models.core.cooperative import in_slices
from models.core.db import db
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.manifest_store import tree_changes_each
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.snapshots.stored_objects import Manifest, among, among_hashes

MAX_EVIDENCE = 3
"""Places that are kept of an edge."""
MAX_SNAPSHOTS = 200
"""Of the history: the newest that have one parent."""
MAX_TOGETHER = 30
"""Files that a snapshot changes; of one with more it says nothing that they changed together."""
MIN_TOGETHER = 2
MAX_PAIRS = 2_000
OF_PACKAGES = ("go", "java")


class FoundEdge(NamedTuple):
    """An edge as it follows from the files."""

    id: str
    start: str
    end: str
    type: str
    weight: int | None = None
    evidence: list[list[Any]] | None = None


def contains_edges(found: TreeConcepts) -> list[FoundEdge]:
    """System to module, and module to file."""
    return [_edge(start, end, "contains") for start, end in found.contains]


def depends_edges(account_id: str, found: TreeConcepts, languages: Mapping[str, str]) -> list[FoundEdge]:
    """What imports what: files, and the modules that they are in."""
    files = _read_files(account_id, found, languages)
    resolver = ImportResolver(files, found.files.keys())
    edges: list[FoundEdge] = []
    modules: defaultdict[tuple[str, str], list[tuple[int, list[list[Any]]]]] = defaultdict(list)
    for path in in_slices(sorted(files)):
        for target, lines in sorted(resolver.targets(path).items()):
            places = [[path, line] for line in sorted(set(lines))]
            edges.append(
                _edge(code_id(path), code_id(target), "depends_on", len(lines), places[:MAX_EVIDENCE])
            )
            pair = module_of(path), module_of(target)
            if pair[0] != pair[1]:
                modules[pair].append((len(lines), places[:1]))
    for (start, end), parts in modules.items():
        evidence = [place for _, places in parts[:MAX_EVIDENCE] for place in places]
        weight = sum(count for count, _ in parts)
        edges.append(_edge(f"module:{start}", f"module:{end}", "depends_on", weight, evidence))
    return edges


def related_edges(account_id: str, project_id: str, paths: Collection[str]) -> list[FoundEdge]:
    """Files, and modules, that at least two snapshots changed together; the weight is how many."""
    files: Counter[tuple[str, str]] = Counter()
    modules: Counter[tuple[str, str]] = Counter()
    for changed in in_slices(_changed_together(account_id, project_id)):
        there = sorted(path for path in changed if path in paths)
        files.update(combinations(there, 2))
        modules.update(combinations(sorted({module_of(path) for path in there}), 2))
    return [
        _edge(f"{layer}:{pair[0]}", f"{layer}:{pair[1]}", "relates", count)
        for layer, counts in (("code", files), ("module", modules))
        for pair, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MAX_PAIRS]
        if count >= MIN_TOGETHER
    ]


def newest_snapshot(project_id: str) -> str | None:
    """The snapshot up to which the history is counted."""
    query = select(Snapshot.id).where(Snapshot.project_id == project_id)
    return db.session.scalar(query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc()).limit(1))


def _changed_together(account_id: str, project_id: str) -> Iterable[set[str]]:
    """The files that each snapshot changed."""
    parent = select(SnapshotParent.child_id, func.min(SnapshotParent.parent_id).label("parent_id"))
    parent = parent.where(SnapshotParent.project_id == project_id).group_by(SnapshotParent.child_id)
    alone = parent.having(func.count() == 1).subquery()
    query = (
        select(Snapshot.id, alone.c.parent_id, Snapshot.manifest_hash)
        .join(alone, alone.c.child_id == Snapshot.id)
        .where(Snapshot.project_id == project_id)
        .order_by(Snapshot.created_at.desc())
        .limit(MAX_SNAPSHOTS)
    )
    rows = db.session.execute(query).all()
    before = select(Snapshot.id, Snapshot.manifest_hash).where(
        Snapshot.project_id == project_id, among(Snapshot.id, {row.parent_id for row in rows})
    )
    manifests = {row.id: row.manifest_hash for row in db.session.execute(before)}
    stored = select(Manifest.hash, Manifest.tree_hash).where(
        Manifest.account_id == account_id,
        among_hashes(Manifest.hash, {*manifests.values(), *(row.manifest_hash for row in rows)}),
    )
    trees = {row.hash: row.tree_hash for row in db.session.execute(stored)}
    pairs = [(trees.get(manifests.get(row.parent_id, "")), trees.get(row.manifest_hash)) for row in rows]
    readable = [pair for pair in pairs if pair[0] and pair[1]]
    try:
        changes = tree_changes_each(account_id, readable)
    except BlobDamaged:  # a part of the history is gone; the map is of use without
        return
    for each in changes:
        files = {path for path, both in each.items() if any(entry and entry.kind == "file" for entry in both)}
        if 1 < len(files) <= MAX_TOGETHER:
            yield files


def _read_files(account_id: str, found: TreeConcepts, languages: Mapping[str, str]) -> dict[str, ReadFile]:
    hashes = {path: entry.hash or "" for path, entry in found.files.items()}
    imports = known_imports(account_id, set(hashes.values()))
    keys = {(hashes[path], language) for path, language in languages.items() if language in OF_PACKAGES}
    facts = facts_of(account_id, keys & imports.keys())
    files = {}
    for path, language in languages.items():
        key: FactKey = (hashes[path], language)
        if key not in imports:
            continue
        package, lines = imports[key]
        known = facts.get(key, {})
        top = [each[1] for each in known.get("defs", ()) if "." not in each[1]]
        specs: Sequence[tuple[str, int]] = [(spec, line) for spec, line in lines]
        files[path] = ReadFile(path, language, package, specs, frozenset(top), known.get("refs", {}))
    return files


def _edge(
    start: str, end: str, type: str, weight: int | None = None, evidence: list[list[Any]] | None = None
) -> FoundEdge:
    id = blake2b(f"{type}\0{start}\0{end}".encode(), digest_size=16).hexdigest()
    return FoundEdge(id, start, end, type, weight, evidence)
