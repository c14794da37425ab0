"""Finds moved files: what one side deleted and added again elsewhere, the same or nearly the same."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from posixpath import splitext

from models.projects.merge.merge_model import BlobReader, FlatTree, MergeEntry

LIKENESS = 0.6
"""Share of bytes in common lines from which a file counts as the edited version of another."""
LIKE_BASE = 0.3
"""A file of the other side with less in common with its base is another file by now, and does not move along."""
MAX_LIKE_BYTES = 1 << 20
MAX_COMPARED = 8 << 20
"""Bytes of all files that are compared for a side. Others count as not moved, so they become decisions."""


@dataclass(slots=True)
class MovedFiles:
    """Where a side moved files, by where they stood. Those in `similar` were edited too."""

    targets: dict[str, str] = field(default_factory=dict)
    similar: set[str] = field(default_factory=set)


def moved_files(
    base: FlatTree,
    mine: Mapping[str, MergeEntry | None],
    other: Mapping[str, MergeEntry | None],
    read: BlobReader | None,
) -> MovedFiles:
    """The files that the side with the changes `mine` moved. Ambiguous ones are left out: two equal files may have changed places.

    Edited files are looked for only if there is a reader, and the other side touched the file too: else it makes no difference."""
    moved = MovedFiles()
    gone = [path for path, entry in mine.items() if entry is None and _movable(base[path])]
    new = {
        path: entry
        for path, entry in mine.items()
        if path not in base and entry is not None and _movable(entry)
    }
    if gone and new:
        _find_exact(base, gone, new, moved)
        left = sorted(path for path in gone if path in other and path not in moved.targets)
        if read is not None and left:
            taken = set(moved.targets.values())
            _find_similar(base, left, {path: new[path] for path in sorted(new.keys() - taken)}, read, moved)
        if read is not None:
            for path in [path for path in moved.targets if not _stayed(base[path], other.get(path), read)]:
                del moved.targets[path]
    return moved


def _stayed(base: MergeEntry, now: MergeEntry | None, read: BlobReader) -> bool:
    """Whether what the other side has at a path is still a version of the file."""
    if now is None or now.hash == base.hash:
        return True
    if now.kind != "file" or max(base.size, now.size) > MAX_LIKE_BYTES:
        return False
    lines = _line_bytes(read(base.hash or "")), _line_bytes(read(now.hash or ""))
    return _likeness(*lines) >= LIKE_BASE


def _movable(entry: MergeEntry) -> bool:
    """Empty files are too alike."""
    return entry.kind == "file" and entry.size > 0


def _find_exact(
    base: FlatTree, gone: Iterable[str], new: Mapping[str, MergeEntry], moved: MovedFiles
) -> None:
    sources: dict[str | None, list[str]] = {}
    targets: dict[str | None, list[str]] = {}
    for path in gone:
        sources.setdefault(base[path].hash, []).append(path)
    for path, entry in new.items():
        if entry.hash in sources:
            targets.setdefault(entry.hash, []).append(path)
    for content, here in targets.items():
        moved.targets.update(_pairs(sources[content], here))


def _pairs(sources: list[str], targets: list[str]) -> dict[str, str]:
    """Which of the equal files went where: the only one, or the only one of its name."""
    if len(sources) == len(targets) == 1:
        return {sources[0]: targets[0]}
    named: dict[str, tuple[list[str], list[str]]] = {}
    for path in sources:
        named.setdefault(_name(path), ([], []))[0].append(path)
    for path in targets:
        named.setdefault(_name(path), ([], []))[1].append(path)
    return {one[0]: two[0] for one, two in named.values() if len(one) == len(two) == 1}


def _find_similar(
    base: FlatTree, gone: list[str], new: Mapping[str, MergeEntry], read: BlobReader, moved: MovedFiles
) -> None:
    """Pairs each file with the only likest one. A file that is the likest of two is neither's."""
    found: dict[str, list[str]] = {}
    left = MAX_COMPARED
    for source in gone:
        size = base[source].size
        candidates = [path for path, entry in new.items() if _near(size, entry.size)]
        lines: Counter[bytes] = _line_bytes(read(base[source].hash or "")) if candidates else Counter()
        scores: dict[str, float] = {}
        for target in sorted(candidates, key=lambda path: (*_unlike_names(source, path), path)):
            left -= new[target].size
            if left < 0:
                break
            scores[target] = _likeness(lines, _line_bytes(read(new[target].hash or "")))
        top = max(scores.values(), default=0.0)
        best = [target for target, score in scores.items() if score == top]
        if top >= LIKENESS and len(best) == 1:
            found.setdefault(best[0], []).append(source)
    for target, sources in found.items():
        if len(sources) == 1:
            moved.targets[sources[0]] = target
            moved.similar.add(sources[0])


def _unlike_names(one: str, other: str) -> tuple[bool, bool]:
    """Files of the same name, then of the same kind, are compared first, before the limit is reached."""
    return _name(one) != _name(other), splitext(one)[1] != splitext(other)[1]


def _near(one: int, other: int) -> bool:
    return max(one, other) <= MAX_LIKE_BYTES and min(one, other) >= LIKENESS * max(one, other)


def _line_bytes(data: bytes) -> Counter[bytes]:
    """The lines, without the ends that editors change."""
    return Counter(line.strip() for line in data.split(b"\n"))


def _likeness(one: Counter[bytes], other: Counter[bytes]) -> float:
    common = sum(len(line) * count for line, count in (one & other).items())
    most = max(sum(len(line) * count for line, count in each.items()) for each in (one, other))
    return common / most if most else 0.0


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
