"""The unified diff of two trees, as `git apply` takes it: a view of what a run changed. Bounded work."""

from typing import NamedTuple

from models.core.cooperative import TimeSlices
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.directory_tree import Changes
from models.projects.snapshots.manifest_store import FILE_MODE
from models.projects.snapshots.manifest_text import Entry

MAX_FILES = 200
MAX_FILE = 256 << 10
"""Bytes of a version of a file that is compared."""
MAX_PATCH = 1 << 20
"""Characters of a patch."""


class PatchText(NamedTuple):
    """A patch. `left_out` are the paths that it does not show: those of links and folders, of what is too large, and what is past its length."""

    text: str
    left_out: list[str]


def patch_text(account_id: str, changes: Changes) -> PatchText:
    """The patch of these changes of trees of an account, by path. Raises FilesUnavailable (503), BlobDamaged."""
    shown = [path for path in sorted(changes) if all(map(_comparable, changes[path]))][:MAX_FILES]
    hashes = {entry.hash for path in shown for entry in changes[path] if entry and entry.hash}
    texts = dict(read_blobs(account_id, hashes)) if hashes else {}
    parts: list[str] = []
    done: set[str] = set()
    left, slices = MAX_PATCH, TimeSlices()
    for path in shown:
        part = _file_patch(path, changes[path], texts)
        if part is None or len(part) > left:
            continue
        left -= len(part)
        parts.append(part)
        done.add(path)
        slices.pause()
    return PatchText("".join(parts), [path for path in sorted(changes) if path not in done])


def _comparable(entry: Entry | None) -> bool:
    return entry is None or (entry.kind == "file" and entry.size <= MAX_FILE)


def _file_patch(path: str, both: tuple[Entry | None, Entry | None], texts: dict[str, bytes]) -> str | None:
    """The part of one file; None if its bytes are not stored, or git could not tell what is meant."""
    import pygit2

    old, new = (texts.get(entry.hash or "") if entry else None for entry in both)
    if any(entry is not None and data is None for entry, data in zip(both, (old, new), strict=True)):
        return None
    before, after = map(_mode, both)
    if old == new:
        plain = path.isascii() and path.isprintable() and not set(path) & set('"\\')
        modes = f"old mode {before}\nnew mode {after}\n" if plain and before != after else ""
        return f"diff --git a/{path} b/{path}\n{modes}" if modes else None
    patch = pygit2.Patch.create_from(old, new, old_as_path=path, new_as_path=path)
    first, _, rest = patch.data.decode(errors="replace").replace("\0", "\ufffd").partition("\n")
    modes = f"old mode {before}\nnew mode {after}\n" if before and after and before != after else ""
    head, index, body = rest.partition("index ")
    line, _, body = body.partition("\n")
    # a comparison of contents knows no modes
    head = head.replace("100644", after or before or "")
    line = line.removesuffix(" 100644") + (f" {after}" if before == after else "")
    return f"{first}\n{modes}{head}{index}{line}\n{body}"


def _mode(entry: Entry | None) -> str | None:
    """The mode of a file as git writes it."""
    if entry is None:
        return None
    return "100755" if (entry.mode or FILE_MODE) & 0o100 else "100644"
