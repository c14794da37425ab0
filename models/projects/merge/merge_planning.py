"""Plans a three-way merge of trees by hashes alone: which paths are settled, and which files have to be merged."""

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import compress
from operator import ne

from models.core.cooperative import heavy
from models.core.errors import Invalid
from models.projects.merge.merge_model import (
    USE_MAIN,
    USE_WORKSPACE,
    BlobReader,
    Contest,
    FlatTree,
    MergeDecision,
    MergeEntry,
    MergeLabel,
    MergePlan,
    MergeReason,
    Outcome,
    PathMerge,
    Side,
)
from models.projects.merge.renames import moved_files

HEAVY_TREE = 30_000
"""Files from which comparing trees takes tens of milliseconds."""
Changes = dict[str, MergeEntry | None]
"""What a side put at each path that it changed; None: it deleted it."""


def plan(base: FlatTree, workspace: FlatTree, main: FlatTree, read: BlobReader | None = None) -> MergePlan:
    """Plan a merge of `main` into `workspace`. Nothing is read unless there is a reader, for files that were moved and edited.

    Only paths whose entries are not the same in all three trees matter, so trees may be cut to them.
    Contests left by a plan without one may still turn out to be such files. Takes time in proportion to the trees' sizes, most
    of it in comparing hashes. Raises Invalid if a changed path is none."""
    with heavy(len(base), threshold=HEAVY_TREE):
        ours, theirs = changes(base, workspace), changes(base, main)
    for path in ours.keys() | theirs.keys():
        _check_path(path)
    return _Planner(base, ours, theirs, read).plan()


def changes(base: FlatTree, side: FlatTree) -> Changes:
    """What `side` put at each path that differs from `base`."""
    changed: Changes = dict(compress(side.items(), map(ne, map(base.get, side), side.values())))
    added = sum(path not in base for path in changed)
    if len(side) - added != len(base):
        changed.update((path, None) for path in base if path not in side)
    return changed


def _check_path(path: str) -> None:
    parts = path.split("/")
    if "\0" in path or not {"", ".", ".."}.isdisjoint(parts):
        raise Invalid(f"{path[:200]!r} is not a path inside a project.", code="path_invalid")


class _Planner:
    """Sorts changed paths into settled ones and contests, follows moved files, and finds paths that exclude each other."""

    def __init__(self, base: FlatTree, ours: Changes, theirs: Changes, read: BlobReader | None) -> None:
        self._base, self._ours, self._theirs = base, ours, theirs
        self._settled: dict[str, PathMerge] = {}
        self._contests: dict[str, Contest] = {}
        self._moved = {
            Side.WORKSPACE: moved_files(base, ours, theirs, read),
            Side.MAIN: moved_files(base, theirs, ours, read),
        }
        self._sources: dict[str, str] = {}
        """Where files stood that both sides touched, by where they went."""
        self._in_the_way: set[str] = set()

    def plan(self) -> MergePlan:
        self._sort_and_follow()
        while self._in_the_way:
            # A moved file excludes another path: what the other side did to it is decided where it did it.
            for source in self._in_the_way:
                for moved in self._moved.values():
                    moved.targets.pop(source, None)
            self._sort_and_follow()
        self._keep_directories()
        return MergePlan(dict(sorted(self._settled.items())), dict(sorted(self._contests.items())))

    def _sort_and_follow(self) -> None:
        for each in (self._settled, self._contests, self._sources, self._in_the_way):
            each.clear()
        for path in self._ours.keys() | self._theirs.keys():
            self._sort(path)
        for path in sorted(
            self._moved[Side.WORKSPACE].targets.keys() | self._moved[Side.MAIN].targets.keys()
        ):
            self._follow(path)
        self._decide_exclusions()

    # -- single paths ------------------------------------------------------------------------------------------

    def _sort(self, path: str) -> None:
        was = self._base.get(path)
        ours, theirs = self._ours.get(path, was), self._theirs.get(path, was)
        if path not in self._theirs:
            self._settle(path, MergeLabel.ONE_SIDED, Side.WORKSPACE, ours)
        elif path not in self._ours:
            self._settle(path, MergeLabel.ONE_SIDED, Side.MAIN, theirs)
        elif ours == theirs:
            self._settle(path, MergeLabel.SAME, Side.BOTH, ours)
        else:
            self._contests[path] = Contest(path, was, ours, theirs)

    def _settle(self, path: str, label: MergeLabel, side: Side, result: MergeEntry | None) -> None:
        self._contests.pop(path, None)
        was = self._base.get(path)
        self._settled[path] = PathMerge(
            path, label, side, was, self._ours.get(path, was), self._theirs.get(path, was), result
        )

    def _decide(self, path: str, reason: MergeReason, workspace: Outcome, main: Outcome) -> None:
        """Make the paths of both outcomes one decision, at `path`."""
        decision = MergeDecision(path, reason, {USE_MAIN: main, USE_WORKSPACE: workspace}, self._mode(path))
        for each in decision.paths:
            if each in self._sources:
                self._in_the_way.add(self._sources[each])
            self._settle(each, MergeLabel.DECISION, Side.BOTH, None)
            self._settled[each] = replace(self._settled[each], decision=decision)

    def _mode(self, path: str) -> int | None:
        """The mode of a custom text at the path; None if a text makes no sense there."""
        for entry in (self._ours.get(path), self._theirs.get(path), self._base.get(path)):
            if entry is not None:
                return entry.mode if entry.kind == "file" else None
        return None

    # -- moved files -------------------------------------------------------------------------------------------

    def _follow(self, source: str) -> None:
        ours, theirs = (self._moved[side].targets.get(source) for side in (Side.WORKSPACE, Side.MAIN))
        if ours is not None and theirs is not None:
            self._follow_both(source, ours, theirs)
        elif ours is not None:
            self._follow_one(source, ours, Side.WORKSPACE)
        elif theirs is not None:
            self._follow_one(source, theirs, Side.MAIN)

    def _follow_both(self, source: str, ours: str, theirs: str) -> None:
        if ours == theirs:
            self._move(
                source, Contest(ours, self._base[source], self._ours[ours], self._theirs[ours], source)
            )
            return
        if theirs in self._ours or ours in self._theirs:
            return  # each name is also taken by the other side: decided one by one
        self._decide(
            ours,
            MergeReason.RENAMED_APART,
            {ours: self._ours[ours], theirs: None},
            {ours: None, theirs: self._theirs[theirs]},
        )
        self._sources |= {ours: source, theirs: source}

    def _follow_one(self, source: str, target: str, side: Side) -> None:
        mine, other = (self._ours, self._theirs) if side is Side.WORKSPACE else (self._theirs, self._ours)
        if target in other:
            return  # the other side put a file of its own there
        moved, similar = mine[target], source in self._moved[side].similar
        if source not in other:
            self._settle(source, MergeLabel.RENAMED, side, None)
            self._settle(target, MergeLabel.RENAMED, side, moved)
            self._settled[source] = replace(self._settled[source], renamed_to=target)
            self._settled[target] = replace(self._settled[target], renamed_from=source, similar=similar)
        elif other[source] is None:
            kept, gone = {target: moved}, {target: None}
            options = (kept, gone) if side is Side.WORKSPACE else (gone, kept)
            self._decide(target, MergeReason.DELETED_RENAMED, *options)
            self._sources[target] = source
        else:
            pair = (moved, other[source]) if side is Side.WORKSPACE else (other[source], moved)
            self._move(source, Contest(target, self._base[source], *pair, source, similar))

    def _move(self, source: str, contest: Contest) -> None:
        """Merge the file where it went."""
        self._sources[contest.path] = source
        self._settled.pop(contest.path, None)
        self._settle(source, MergeLabel.RENAMED, Side.BOTH, None)
        self._settled[source] = replace(self._settled[source], renamed_to=contest.path)
        if contest.workspace == contest.main:
            self._settle(contest.path, MergeLabel.SAME, Side.BOTH, contest.main)
            self._settled[contest.path] = replace(self._settled[contest.path], renamed_from=source)
        else:
            self._contests[contest.path] = contest

    # -- paths that exclude each other -------------------------------------------------------------------------

    def _standing(self, side: Changes, directories: bool = False) -> list[str]:
        """The paths where a side put something that the plan has not moved elsewhere."""
        return [
            path
            for path, entry in side.items()
            if entry is not None
            and (directories or entry.kind != "dir")
            and (path not in self._settled or self._settled[path].renamed_to is None)
        ]

    def _decide_exclusions(self) -> None:
        """Paths of the two sides that exclude each other are one decision, with all that are connected so."""
        clashes, collisions = self._clashes(), self._collisions()
        clashing = {path for pair in clashes for path in pair}
        for paths in _connected([*clashes, *collisions]):
            workspace, main = (
                {path: side.get(path, self._base.get(path)) for path in sorted(paths)}
                for side in (self._ours, self._theirs)
            )
            reason = MergeReason.CASE_COLLISION if paths.isdisjoint(clashing) else MergeReason.PATH_CLASH
            at = min(paths, key=lambda path: (path.count("/"), path))
            self._decide(at, reason, workspace, main)

    def _clashes(self) -> list[tuple[str, str]]:
        """Files that one side put where the other has a directory with something new, case ignored, and these."""
        found = []
        for mine, other in ((self._ours, self._theirs), (self._theirs, self._ours)):
            files = {_folded(path): path for path in self._standing(mine)}
            for path in self._standing(other, directories=True):
                for above in ancestors(path):
                    file = files.get(_folded(above))
                    if file == above or (file and other.get(file, self._base.get(file)) is None):
                        found.append((file, path))
        return found

    def _collisions(self) -> list[tuple[str, str]]:
        """Different paths of the two sides that are one path where case is ignored; those of directories only do not matter."""
        names: dict[str, tuple[list[str], list[str]]] = {}
        for number, (mine, other) in enumerate(((self._ours, self._theirs), (self._theirs, self._ours))):
            for path in self._standing(mine, directories=True):
                if other.get(path, self._base.get(path)) is None:
                    names.setdefault(_folded(path), ([], []))[number].append(path)
        found = []
        for ours, theirs in names.values():
            entries = [*(self._ours[path] for path in ours), *(self._theirs[path] for path in theirs)]
            if ours and theirs and any(entry is not None and entry.kind != "dir" for entry in entries):
                found += [(ours[0], path) for path in theirs] + [(path, theirs[0]) for path in ours]
        return found

    def _keep_directories(self) -> None:
        """Directories merge by themselves: a changed one stays, and so does one that still has files."""
        needed = {
            above
            for side in (self._ours, self._theirs)
            for path in self._standing(side, directories=True)
            if path not in self._settled or self._settled[path].decision is None
            for above in ancestors(path)
        }
        for path, contest in list(self._contests.items()):
            entries = (contest.base, contest.workspace, contest.main)
            deleted = contest.workspace is None or contest.main is None
            if deleted and all(entry is None or entry.kind == "dir" for entry in entries):
                self._settle(path, MergeLabel.ONE_SIDED, Side.BOTH, contest.workspace or contest.main)
        for path in needed & self._settled.keys():
            each = self._settled[path]
            if each.result is None and each.decision is None and each.base and each.base.kind == "dir":
                self._settled[path] = replace(each, result=each.workspace or each.main or each.base)


def ancestors(path: str) -> Iterator[str]:
    """The directories above a path, the nearest first."""
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _connected(pairs: list[tuple[str, str]]) -> list[set[str]]:
    """The groups of paths that pairs connect."""
    groups: dict[str, set[str]] = {}
    for one, other in pairs:
        first, second = groups.setdefault(one, {one}), groups.setdefault(other, {other})
        if first is not second:
            first, second = (first, second) if len(first) >= len(second) else (second, first)
            first |= second
            groups.update(dict.fromkeys(second, first))
    return list({id(group): group for group in groups.values()}.values())


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
