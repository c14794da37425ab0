"""Manifests: reading the texts of both dialects, refusing hostile ones, and writing them byte for byte (fastest contract 3.8)."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from models.core.cooperative import heavy, in_slices
from models.core.errors import DomainError, Invalid

Kind = Literal["file", "dir", "symlink"]
Dialect = Literal["typed", "untyped"]

MAX_ENTRIES = 200_000
"""Entries of one manifest."""
MAX_PATH = 4_096
"""Characters of a path, and of the target of a link."""
MAX_DEPTH = 200
"""Directories above a file."""
MAX_FILE = 2**53 - 1
"""The greatest integer that every client reads exactly."""
MODES = 0o7777
KEYS = frozenset({"type", "path", "hash", "size", "mode", "mod_time", "target"})
_HASH = re.compile(r"[0-9a-f]{64}")
_ODD = re.compile(r"^$|^[^/]:|^/|[\\\0]|/$|//|(?:^|/)\.")
"""What the path of an ordinary file does not have; those that do are looked at closely."""
_DRIVE = re.compile(r"[A-Za-z]:(?:[\\/]|$)")


class Entry(NamedTuple):
    """A file, an explicit directory or a symbolic link of a manifest. `mode` are its permission bits."""

    path: str
    kind: Kind
    mode: int | None = None
    hash: str | None = None
    size: int = 0
    target: str | None = None


class ManifestInvalid(Invalid):
    """The text is a manifest that no client can use, or that could harm one."""

    code = "manifest_invalid"


class TooManyEntries(DomainError):
    """The manifest has more than `MAX_ENTRIES`."""

    status = 413
    code = "manifest_too_large"

    def __init__(self) -> None:
        super().__init__(
            f"The manifest has more than {MAX_ENTRIES:,} entries. Ignore folders of generated files."
        )


def read_entries(text: bytes) -> list[Entry] | None:
    """The entries of a manifest of either dialect, by path; None if the text is no manifest at all. Raises ManifestInvalid, naming the
    entry, and TooManyEntries."""
    if text.count(b'"path"') > MAX_ENTRIES:
        raise TooManyEntries
    files = _files(text)
    if files is None:
        return None
    return listed_entries(files)


def listed_entries(files: Sequence[Any]) -> list[Entry]:
    """The entries of the list `files` of a manifest, by path. Raises ManifestInvalid, naming the entry, and TooManyEntries."""
    if len(files) > MAX_ENTRIES:
        raise TooManyEntries
    return sorted((_entry(each, number) for number, each in enumerate(in_slices(files))), key=_place)


def write_text(entries: Iterable[Entry], dialect: Dialect) -> bytes:
    """The canonical text of these entries: sorted by the bytes of their paths, indented by two spaces. The typed one escapes as Go does."""
    write = _typed if dialect == "typed" else _untyped
    files = [write(entry) for entry in in_slices(sorted(entries, key=_place))]
    with heavy(len(files) * 100):
        text = orjson.dumps({"version": "1", "files": files}, option=orjson.OPT_INDENT_2)
        if dialect == "typed":
            for character, escape in _GO_ESCAPES:
                text = text.replace(character, escape)
    return text


def _place(entry: Entry) -> tuple[str, str]:
    return entry.path, entry.kind  # code points sort as their UTF-8 does


_GO_ESCAPES = (
    (b"&", b"\\u0026"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def _typed(entry: Entry) -> dict[str, Any]:
    if entry.kind == "symlink":
        return {"type": "symlink", "path": entry.path, "target": entry.target}
    if entry.kind == "dir":
        return {"type": "dir", "path": entry.path, "mode": entry.mode}
    size = {"size": entry.size} if entry.size else {}
    return {"type": "file", "path": entry.path, "hash": entry.hash, **size, "mode": entry.mode}


def _untyped(entry: Entry) -> dict[str, Any]:
    return {"path": entry.path, "hash": entry.hash, "size": entry.size, "mode": entry.mode}


def _files(text: bytes) -> list[Any] | None:
    try:
        with heavy(len(text)):
            manifest = orjson.loads(text)
    except orjson.JSONDecodeError:
        # other readers are more lenient, and may find a manifest there
        if _lenient_files(text) is not None:
            raise ManifestInvalid("The manifest is not valid JSON: check that its text is Unicode.") from None
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), list):
        return None
    if manifest.get("version", "1") != "1":
        raise ManifestInvalid('The manifest must have the version "1".')
    return list(manifest["files"])


def _lenient_files(text: bytes) -> Any:
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return manifest.get("files") if isinstance(manifest, dict) else None


def _entry(value: Any, number: int) -> Entry:
    if not isinstance(value, dict):
        raise ManifestInvalid(f"files[{number}] must be an object.")
    if not KEYS.issuperset(value):
        unknown = next(key for key in value if key not in KEYS)
        raise ManifestInvalid(f"files[{number}] has the unknown key '{unknown[:40]}'.")
    path = value.get("path")
    if not isinstance(path, str) or (problem := path_problem(path)):
        raise ManifestInvalid(
            f"files[{number}]: {problem if isinstance(path, str) else 'path must be text'}."
        )
    kind, mode = value.get("type", "file"), value.get("mode")
    if mode is not None and not _is_int(mode, MODES):
        raise _wrong(number, path, "mode must be permission bits, such as 420")
    if kind == "file":
        hash, size = value.get("hash"), value.get("size", 0)
        if not isinstance(hash, str) or not _HASH.fullmatch(hash):
            raise _wrong(number, path, "hash must be a SHA-256 in 64 lower-case hexadecimal digits")
        if not _is_int(size, MAX_FILE):
            raise _wrong(number, path, "size must be a number of bytes")
        return Entry(path, "file", mode, hash, size)
    if kind == "dir":
        return Entry(path, "dir", mode)
    if kind == "symlink":
        target = value.get("target")
        if not isinstance(target, str) or (problem := target_problem(path, target)):
            raise _wrong(number, path, problem if isinstance(target, str) else "target must be text")
        return Entry(path, "symlink", mode, target=target)
    raise _wrong(number, path, "type must be file, dir or symlink")


def _wrong(number: int, path: str, problem: str) -> ManifestInvalid:
    return ManifestInvalid(f"files[{number}], '{path[:100]}': {problem}.")


def _is_int(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def path_problem(path: str) -> str:
    """What is wrong with a path; empty if nothing is."""
    if len(path) <= MAX_PATH and path.count("/") < MAX_DEPTH and not _ODD.search(path):
        return ""
    if not path or len(path) > MAX_PATH:
        return f"the path must have 1 to {MAX_PATH:,} characters"
    if "\0" in path:
        return "the path contains a NUL character"
    if path.startswith(("/", "\\")) or _DRIVE.match(path):
        return f"'{path[:100]}' is absolute: paths are relative to the root of the project"
    segments = path.split("/")
    if len(segments) > MAX_DEPTH:
        return f"the path has more than {MAX_DEPTH} directories"
    # a client on Windows splits at backslashes too
    if any(each in ("", ".", "..") for each in segments) or ".." in path.replace("\\", "/").split("/"):
        return f"'{path[:100]}' has an empty segment, '.' or '..'"
    return ""


def target_problem(path: str, target: str) -> str:
    """What is wrong with the target of a link; empty if it stays in the project."""
    if not target or len(target) > MAX_PATH:
        return f"target must have 1 to {MAX_PATH:,} characters"
    if "\0" in target:
        return "target contains a NUL character"
    if target.startswith(("/", "\\")) or _DRIVE.match(target):
        return "the link leaves the project: its target is absolute"
    depth = path.count("/")
    for segment in target.replace("\\", "/").split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(segment, 1)
        if depth < 0:
            return "the link leaves the project: its target is above the root"
    return ""
