"""The files of a tree as analysers see them: names, sizes and texts, within limits, and the code in a temporary folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from posixpath import splitext

from models.core.job_queue import Context
from models.insights.tool_runner import AnalyserTools
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.manifest_text import Entry

MAX_TREE_FILES = 20_000
"""Files whose texts are read; the first by name."""
MAX_TEXT_BYTES = 512 << 10
"""Bytes of a file that is read."""
MAX_TREE_BYTES = 128 << 20
BATCH_FILES = 1_000
IGNORED_FOLDERS = frozenset(
    [
        "node_modules",
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        "vendor",
        "third_party",
        "dist",
        "build",
        "out",
        "target",
        ".next",
        ".turbo",
        ".cache",
        "coverage",
        "__pycache__",
        ".tox",
        ".mypy_cache",
        ".fst",
        ".fast",
    ]
)
"""Folders of what others wrote, or programs made."""
CODE_ENDINGS = frozenset(
    [
        ".py",
        ".pyi",
        ".ts",
        ".tsx",
        ".mts",
        ".cts",
        ".js",
        ".jsx",
        ".mjs",
        ".cjs",
        ".go",
        ".rs",
        ".java",
        ".rb",
        ".php",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cs",
        ".kt",
        ".swift",
        ".scala",
        ".lua",
    ]
)
_GENERATED = (".min.js", ".min.css", ".bundle.js", ".lock", "-lock.json", ".map", ".svg")


@dataclass
class AnalysedTree:
    """The files of a tree. `sizes` has all that are looked at, by path; `texts` the bytes of those that are text and small enough.
    `tools` run on the code, which is in their folder under the same paths. `left_out` counts files that were not read."""

    sizes: Mapping[str, int]
    texts: dict[str, bytes] = field(default_factory=dict)
    tools: AnalyserTools | None = None
    left_out: int = 0

    @cached_property
    def code(self) -> Sequence[str]:
        """The paths of programs, sorted."""
        return sorted(path for path in self.texts if splitext(path)[1].lower() in CODE_ENDINGS)

    def text(self, path: str) -> str:
        """The text of a file; what is no UTF-8 is replaced."""
        return self.texts.get(path, b"").decode("utf-8", "replace")

    def line(self, path: str, number: int) -> str:
        """A line of a file, counted from 1; empty if there is none."""
        lines = self.texts.get(path, b"").split(b"\n", max(number, 0))
        return lines[number - 1].decode("utf-8", "replace")[:1_000] if 0 < number <= len(lines) else ""

    def relative(self, filename: str) -> str | None:
        """The path of a file that a program named by its place in the folder; None if it is not one of the tree."""
        start = f"{self.tools.seen}/" if self.tools else "/"
        path = filename.removeprefix(start)
        return path if filename.startswith(start) and path in self.texts else None


def read_analysed_tree(
    context: Context, account_id: str, entries: Sequence[Entry], tools: AnalyserTools | None = None
) -> AnalysedTree:
    """Read the texts of a tree, by a transaction for each batch, and write the code where the tools find it. Raises FilesUnavailable (503),
    BlobDamaged."""
    files = sorted(
        (each for each in entries if each.kind == "file" and each.hash), key=lambda each: each.path
    )
    shown = [each for each in files if _is_own(each.path)]
    tree = AnalysedTree({each.path: each.size for each in shown}, tools=tools)
    wanted = [each for each in shown if each.size <= MAX_TEXT_BYTES and not each.path.endswith(_GENERATED)]
    chosen = list(_within(wanted[:MAX_TREE_FILES]))
    tree.left_out = len(wanted) - len(chosen)
    for start in range(0, len(chosen), BATCH_FILES):
        batch = chosen[start : start + BATCH_FILES]
        with context():
            contents = dict(read_blobs(account_id, {each.hash or "" for each in batch}))
        for each in batch:
            data = contents.get(each.hash or "")
            if data is not None and b"\0" not in data[:8_000]:
                tree.texts[each.path] = data
    if tools is not None:
        for path in tree.code:
            _write(tools.folder, path, tree.texts[path])
    return tree


def is_test(path: str) -> bool:
    """Whether a path is that of a test (fastest contract 4.9), or of pytest's or Go's."""
    name = path.rpartition("/")[2]
    inside = f"/{path}"
    return (
        any(part in inside for part in ("/__tests__/", "/test/", "/tests/"))
        or any(part in name for part in (".test.", ".spec."))
        or (name.startswith("test_") and name.endswith(".py"))
        or name.endswith(("_test.go", "_test.py", "_test.rb", "Test.java"))
    )


def _is_own(path: str) -> bool:
    return IGNORED_FOLDERS.isdisjoint(path.split("/")[:-1])


def _within(entries: Sequence[Entry]) -> Iterator[Entry]:
    left = MAX_TREE_BYTES
    for each in entries:
        left -= each.size
        if left < 0:
            return
        yield each


def _write(folder: Path, path: str, data: bytes) -> None:
    """Names that the file system does not hold are left out: analysers still have their texts."""
    if ".." in path.split("/") or path.startswith("/"):
        return
    try:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except (OSError, ValueError):
        return
