"""What differs between two trees, file by file and line by line, for people to read. Bounded work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from models.projects.merge.text_shape import is_binary
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.manifest_store import tree_changes
from models.projects.snapshots.manifest_text import Entry
from models.store.catalogue.version_diff import DiffBudget, FieldChange, lines

MAX_PATHS = 500
"""Paths of a comparison that are named."""
MAX_FILES = 40
"""Files of a comparison that are compared line by line."""
MAX_TEXT = 256 << 10
"""Bytes of a file that is compared line by line."""

Change = Literal["added", "removed", "changed"]


class ChangedPath(NamedTuple):
    """A path that differs. `note` says why its lines are not compared; empty if they are."""

    path: str
    change: Change
    note: str = ""


@dataclass
class SnapshotChanges:
    """The paths that differ, at most `MAX_PATHS` of `count`, and the changes of those that are texts. `name` of a change is the path."""

    count: int = 0
    paths: list[ChangedPath] = field(default_factory=list)
    files: list[FieldChange] = field(default_factory=list)


def snapshot_changes(account_id: str, before: str | None, after: str | None) -> SnapshotChanges:
    """What differs between two trees of an account, by path; None is the tree without files. Raises BlobDamaged, FilesUnavailable (503)."""
    changed = sorted(tree_changes(account_id, before, after).items())
    found = SnapshotChanges(len(changed))
    readable = [both for _, both in changed[:MAX_PATHS] if _is_text_file(both[0]) and _is_text_file(both[1])]
    hashes = {entry.hash for both in readable[:MAX_FILES] for entry in both if entry and entry.hash}
    texts = dict(read_blobs(account_id, hashes))
    budget = DiffBudget()
    for path, both in changed[:MAX_PATHS]:
        note = _problem(both, texts)
        change: Change = "added" if both[0] is None else "removed" if both[1] is None else "changed"
        found.paths.append(ChangedPath(path, change, note))
        if not note:
            found.files.append(_compared(path, both, texts, budget))
    return found


def _is_text_file(entry: Entry | None) -> bool:
    return entry is None or (entry.kind == "file" and entry.size <= MAX_TEXT)


def _problem(both: tuple[Entry | None, Entry | None], texts: Mapping[str, bytes]) -> str:
    """Why the lines of a file are not compared; empty if they are."""
    there = [entry for entry in both if entry is not None]
    if any(entry.kind == "symlink" for entry in there):
        return f"link to {there[-1].target}" if there[-1].kind == "symlink" else "was a link"
    if any(entry.kind == "dir" for entry in there):
        return "folder"
    if len({entry.hash for entry in there}) == 1 and len(there) == 2:
        return "only its permissions"
    if any(entry.size > MAX_TEXT for entry in there):
        return f"larger than {MAX_TEXT >> 10} KiB"
    data = [texts.get(entry.hash or "") for entry in there]
    if any(each is None for each in data):
        return "not compared"
    return "no text" if any(is_binary(each) for each in data if each is not None) else ""


def _compared(
    path: str, both: tuple[Entry | None, Entry | None], texts: Mapping[str, bytes], budget: DiffBudget
) -> FieldChange:
    before, after = (
        texts[entry.hash or ""].decode(errors="replace") if entry is not None else None for entry in both
    )
    all_lines = lines(before or "", after or "", budget)
    shown = list(islice(all_lines, budget.lines))
    budget.lines -= len(shown)
    return FieldChange(path, before, after, lines=shown, cut=next(all_lines, None) is not None)
