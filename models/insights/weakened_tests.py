"""Tells when a patch makes tests easier: removes, empties or skips them, or lets only some of them run. Bounded work; reads only."""

import re
from collections.abc import Mapping

from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.directory_tree import Changes
from models.projects.snapshots.manifest_text import Entry

MAX_READ, MAX_FILE = 100, 256 << 10
"""Changed tests that are read, and bytes of one; of others only a removal is noticed."""
_TEST_PARTS = ("/__tests__/", "/test/", "/tests/", "/spec/", ".test.", ".spec.")
_SKIPS = re.compile(
    r"@(?:pytest\.mark\.|unittest\.)?(?:skip|skipif|skipIf|skipUnless|xfail|expectedFailure)\b"
    r"|\bpytest\.(?:skip|xfail|importorskip)\(|\bskipTest\(|\bSkipTest\b|\bcollect_ignore|\b__test__[ \t]*=[ \t]*False"
    r"|\b(?:it|test|describe|suite|context)\.(?:skip|todo|failing|fails)\b"
    r"|(?<![.\w])(?:xit|xtest|xdescribe|xcontext)[ \t]*\(|\b[tb]\.Skip(?:f|Now)?\(|#\[ignore"
)
_ONLY = re.compile(
    r"\b(?:it|test|describe|suite|context)\.only\b|(?<![.\w])(?:fit|fdescribe|fcontext)[ \t]*\("
)
_TESTS = {
    "py": re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+test\w*[ \t]*\(", re.MULTILINE),
    "go": re.compile(r"^func[ \t]+(?:Test|Fuzz|Example)\w*[ \t]*\(", re.MULTILINE),
    "rs": re.compile(r"^[ \t]*#\[(?:\w+::)*test\b", re.MULTILINE),
    "js": re.compile(r"(?<![.\w])(?:it|test)(?:\.\w+)*[ \t]*\("),
}
_JS = ("js", "jsx", "ts", "tsx", "mjs", "cjs", "mts", "cts")


def is_test_path(path: str) -> bool:
    """Whether a file is a test, or helps tests (fastest contract 4.9, and the names of Python's and Go's)."""
    lower = f"/{path.lower()}"
    name = lower.rpartition("/")[2]
    if any(part in lower for part in _TEST_PARTS) or name == "conftest.py":
        return True
    stem, _, kind = name.rpartition(".")
    return (kind in ("py", "go") and stem.endswith("_test")) or (kind == "py" and stem.startswith("test_"))


def weakened_tests(account_id: str, changes: Changes) -> dict[str, str]:
    """By path what changes of trees of an account take away from tests, in words for "this file …". Raises FilesUnavailable (503), BlobDamaged."""
    found = {
        path: "is removed"
        for path, (before, after) in changes.items()
        if before is not None and before.kind == "file" and after is None and is_test_path(path)
    }
    read = [path for path in sorted(changes) if path not in found and _has_tests(path, changes[path])][
        :MAX_READ
    ]
    hashes = {entry.hash for path in read for entry in changes[path] if entry is not None and entry.hash}
    texts: Mapping[str, bytes] = dict(read_blobs(account_id, hashes)) if hashes else {}
    for path in read:
        before, after = (
            texts.get(entry.hash or "", b"").decode(errors="replace") if entry is not None else None
            for entry in changes[path]
        )
        if problem := weakening(path, before, after or ""):
            found[path] = problem
    return dict(sorted(found.items()))


def weakening(path: str, before: str | None, after: str) -> str:
    """What the new text of a test takes away, in words; empty if nothing that shows. `before` is None for a new file, whose skipped tests took
    nothing away."""
    kind = path.rpartition(".")[2].lower()
    kind = "js" if kind in _JS else kind
    old = before or ""
    if kind == "js" and len(_ONLY.findall(after)) > len(_ONLY.findall(old)):
        return "lets only some tests run"
    if before is None:
        return ""
    pattern = _TESTS.get(kind)
    had, has = (len(pattern.findall(text)) if pattern is not None else 0 for text in (old, after))
    if old.strip() and (not after.strip() or (had and not has)):
        return "has no test any more"
    if len(_SKIPS.findall(after)) > len(_SKIPS.findall(old)):
        return "skips tests"
    return "has fewer tests" if has < had else ""


def _has_tests(path: str, both: tuple[Entry | None, Entry | None]) -> bool:
    """Whether a changed file is read: tests, and programs in Rust, which have theirs inside."""
    there = [entry for entry in both if entry is not None]
    small = all(entry.kind == "file" and entry.size <= MAX_FILE for entry in there)
    return small and (is_test_path(path) or path.lower().endswith(".rs"))
