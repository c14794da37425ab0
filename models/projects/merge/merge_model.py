"""What a merge is made of: entries of trees, what happens to each path, decisions and their options.

Directions: `workspace` is the side that receives, `main` the side that is merged into it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

EntryKind = Literal["file", "dir", "symlink"]


class MergeEntry(NamedTuple):
    """What stands at a path. `hash` is the SHA-256 of a file's bytes, `mode` its permission bits, `target` where a link leads.

    Entries are equal if nothing about them differs, so a change of the mode alone is a change."""

    kind: EntryKind
    mode: int | None = None
    hash: str | None = None
    size: int = 0
    target: str | None = None


FlatTree = Mapping[str, MergeEntry]
"""All entries of a tree by their path."""
BlobReader = Callable[[str], bytes]
"""The bytes of a file by its hash."""


class Side(StrEnum):
    """Who changed a path."""

    WORKSPACE = "workspace"
    MAIN = "main"
    BOTH = "both"


class MergeLabel(StrEnum):
    """How the result of a path came about."""

    SAME = "same"
    """Both sides made the same change."""
    ONE_SIDED = "one-sided"
    """Content and mode were each changed by at most one side."""
    RENAMED = "renamed"
    """One side moved the file; the other's change, if any, moved with it."""
    LINES = "lines"
    STRUCTURE = "structure"
    KEYS = "keys"
    DECISION = "decision"


class MergeReason(StrEnum):
    """Why a path needs a decision."""

    SAME_PLACE = "same_place"
    """Both sides changed the same lines, function or key."""
    UNSURE = "unsure"
    """The lines merge, but the result breaks the file's syntax, or loses a change."""
    BOTH_ADDED = "both_added"
    DELETED_CHANGED = "deleted_changed"
    DELETED_RENAMED = "deleted_renamed"
    RENAMED_APART = "renamed_apart"
    """The sides gave the file different names."""
    BINARY = "binary"
    LOCK_FILE = "lock_file"
    """Better made again by the tool that wrote it than merged."""
    TOO_LARGE = "too_large"
    MODE = "mode"
    KIND = "kind"
    """File, link and directory are no versions of each other."""
    LINK = "link"
    PATH_CLASH = "path_clash"
    """A file of one side stands where the other has a directory."""
    CASE_COLLISION = "case_collision"
    """Names that are one name on machines that ignore case."""


USE_MAIN, USE_WORKSPACE, CUSTOM = "use_main", "use_workspace", "custom"
Outcome = dict[str, MergeEntry | None]
"""What stands at each path afterwards; None: nothing."""


@dataclass(frozen=True, slots=True)
class MergeDecision:
    """A question that only a person can answer. `options` are `use_main` and `use_workspace`. With a `custom_mode`, `custom` is a
    third: a text that stands at `path` with that mode, and nothing at the other paths of the options. `draft` is a text with
    conflict markers to begin one from."""

    path: str
    reason: MergeReason
    options: dict[str, Outcome]
    custom_mode: int | None = None
    draft: bytes | None = None

    @property
    def paths(self) -> set[str]:
        """All paths that the answer settles."""
        return {path for outcome in self.options.values() for path in outcome}


@dataclass(frozen=True, slots=True)
class PathMerge:
    """What happens to a path that a side changed. `result` is what stands there afterwards, None: nothing; it counts only if
    there is no `decision`. A decision about several paths is named by each, and has the path of one.

    `renamed_from` names where a moved file stood, `renamed_to` where it went; `similar` says that the file was found by
    likeness, and is not byte for byte the same."""

    path: str
    label: MergeLabel
    side: Side
    base: MergeEntry | None = None
    workspace: MergeEntry | None = None
    main: MergeEntry | None = None
    result: MergeEntry | None = None
    decision: MergeDecision | None = None
    renamed_from: str | None = None
    renamed_to: str | None = None
    similar: bool = False


@dataclass(frozen=True, slots=True)
class Contest:
    """A file that both sides changed: its three versions. `path` is where the result will stand."""

    path: str
    base: MergeEntry | None
    workspace: MergeEntry | None
    main: MergeEntry | None
    renamed_from: str | None = None
    similar: bool = False


@dataclass(slots=True)
class MergePlan:
    """What follows from hashes alone: settled paths, and contests whose contents have to be merged. Both by path, sorted."""

    settled: dict[str, PathMerge] = field(default_factory=dict)
    contests: dict[str, Contest] = field(default_factory=dict)


class WarningKind(StrEnum):
    """What looks wrong in a clean merge."""

    REMOVED_NAME_USED = "removed_name_used"
    SIGNATURE_CHANGED = "signature_changed"
    DUPLICATE_SYMBOL = "duplicate_symbol"
    IMPORT_CYCLE = "import_cycle"
    ADDED_IN_MOVED_DIRECTORY = "added_in_moved_directory"


class MergeWarning(NamedTuple):
    """Something that merged cleanly and looks wrong. `line` counts from 1; 0: the whole file."""

    kind: WarningKind
    path: str
    line: int
    message: str


@dataclass(slots=True)
class TreeMerge:
    """A merge of two trees: every path that a side changed, sorted; the bytes of new files by hash; warnings."""

    paths: dict[str, PathMerge]
    contents: dict[str, bytes]
    warnings: list[MergeWarning]

    @property
    def decisions(self) -> dict[str, MergeDecision]:
        """The open decisions by their path."""
        return {each.decision.path: each.decision for each in self.paths.values() if each.decision}
