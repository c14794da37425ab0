"""Reading a prepared sync again: the preview, whether a head moved since, and the versions of its files with their texts.

A page reads the preview by `stored_sync`, lists `planned_merge(preview.plan).paths`, and asks for the texts of those that it shows by one
call of `previewed_files`, which costs some queries for all of them together."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from models.core.errors import NotFound
from models.projects.merge import MergeEntry, MergeLabel
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_workspace
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.manifest_store import manifest_row
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.snapshots.tree_reading import entries_at
from models.projects.sync.sync_plan import decisions_by_path, draft_entry, entry_of
from models.projects.sync.sync_preparing import main_workspace
from models.projects.sync.sync_preview import SyncPreview, moved_heads, own_preview
from models.projects.sync.sync_refusals import SyncRefused
from models.projects.sync.sync_texts import MAX_ALL, MAX_SHOWN, text_of
from models.projects.sync.sync_trees import merge_entry
from models.projects.workspaces.workspace import Workspace

Lack = Literal["binary", "long", "absent"]


@dataclass(frozen=True, slots=True)
class StoredSync:
    """An open preview, its workspace and project. `moved` are the heads that moved since, `workspace` and `main`: with any, its execution
    answers PreviewStale."""

    project: Project
    workspace: Workspace
    preview: SyncPreview
    moved: list[str]


class FileVersion(NamedTuple):
    """What stands at a path: a file with its `text`, a link or a directory. A file without a text lacks it because it is `binary`, too
    `long` or past the limit of all texts, or because its bytes are `absent`: nobody sent them."""

    entry: MergeEntry
    text: str | None = None
    lack: Lack | None = None


@dataclass(frozen=True, slots=True)
class PreviewedFile:
    """A path of a preview in its versions, None where nothing stands. `result` is None too for a decision, whose `draft` is a text with
    conflict markers to begin an own one from. Of a moved file, `renamed_from` names where the versions stand that did not move."""

    path: str
    label: MergeLabel
    renamed_from: str | None
    base: FileVersion | None
    main: FileVersion | None
    workspace: FileVersion | None
    result: FileVersion | None
    draft: str | None


def stored_sync(caller: ProjectCaller, workspace_id: str, preview_id: str) -> StoredSync:
    """A preview that the caller prepared of this workspace, unless it expired or was executed; writes nothing. Raises NotFound,
    PreviewGone (404), SyncRefused (403 for another member's, 400 for one of another workspace)."""
    project, workspace = own_workspace(caller, workspace_id)
    preview = own_preview(caller.user_id, project, workspace, preview_id)
    try:
        moved = moved_heads(workspace, main_workspace(project), preview)
    except SyncRefused:
        moved = moved_heads(workspace, None, preview)
    return StoredSync(project, workspace, preview, moved)


def previewed_files(stored: StoredSync, paths: Collection[str]) -> list[PreviewedFile]:
    """These paths of a preview in their order, each in its versions: as base, main and workspace were when it was made. A text has at
    most `MAX_SHOWN` bytes, and all have at most `MAX_ALL` together, the first first. Raises NotFound for a path that the preview neither
    changes nor asks about, FilesUnavailable (503), BlobDamaged."""
    plan = stored.preview.plan
    changes, decisions = {row[0]: row for row in plan["changes"]}, decisions_by_path(plan)
    unknown = [path for path in paths if path not in changes and path not in decisions]
    if unknown:
        raise NotFound(f"The preview changes no {unknown[0][:200]!r}.")
    sources = {
        path: changes[path][4] if path in changes else decisions[path]["renamed_from"] for path in paths
    }
    trees = [_entries(stored, hash, sources) for hash in _manifests(stored)]
    drafts = {
        path: draft_entry(each) for path in paths if (each := decisions.get(path)) and each["path"] == path
    }
    results = {path: entry_of(changes[path][3]) for path in paths if path in changes}
    versions = FileVersions(
        stored.project.account_id,
        (
            each
            for path in paths
            for each in (*(tree.get(path) for tree in trees), results.get(path), drafts.get(path))
        ),
    )

    def file(path: str) -> PreviewedFile:
        label = MergeLabel(changes[path][1]) if path in changes else MergeLabel.DECISION
        base, main, workspace = (versions.of(tree.get(path)) for tree in trees)
        draft, result = versions.of(drafts.get(path)), versions.of(results.get(path))
        return PreviewedFile(
            path, label, sources[path], base, main, workspace, result, draft.text if draft else None
        )

    return [file(path) for path in paths]


def _manifests(stored: StoredSync) -> tuple[str | None, str, str]:
    """Those of base, main and workspace."""
    preview = stored.preview
    base = snapshot_in(stored.project.id, preview.base_snapshot_id) if preview.base_snapshot_id else None
    return base.manifest_hash if base else None, preview.main_manifest_hash, preview.workspace_manifest_hash


def _entries(
    stored: StoredSync, manifest_hash: str | None, sources: Mapping[str, str | None]
) -> dict[str, MergeEntry]:
    """What a side has for each path: there, or where the file stood before it was moved."""
    account_id = stored.project.account_id
    row = manifest_row(account_id, manifest_hash) if manifest_hash else None
    if row is None or row.tree_hash is None:
        return {}
    wanted = {*sources, *filter(None, sources.values())}
    found = entries_at(account_id, row.tree_hash, wanted)
    named = {path: found.get(path) or found.get(source or "") for path, source in sources.items()}
    return {path: merge_entry(entry) for path, entry in named.items() if entry is not None}


class FileVersions:
    """The texts of entries, read at once; those of `made` are at hand, by hash. Raises FilesUnavailable (503), BlobDamaged."""

    def __init__(
        self,
        account_id: str,
        entries: Iterable[MergeEntry | None],
        made: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self._wanted: set[str] = set()
        left = MAX_ALL
        for entry in entries:
            if entry is None or entry.hash is None or entry.hash in self._wanted:
                continue
            if entry.size <= min(left, MAX_SHOWN):
                self._wanted.add(entry.hash)
                left -= entry.size
        missing = self._wanted - made.keys()
        self._bytes = {**made, **(dict(read_blobs(account_id, missing)) if missing else {})}

    def of(self, entry: MergeEntry | None) -> FileVersion | None:
        """What stands there, with its text; None where nothing does."""
        if entry is None or entry.hash is None:
            return FileVersion(entry) if entry else None
        if entry.hash not in self._wanted:
            return FileVersion(entry, lack="long")
        data = self._bytes.get(entry.hash)
        if data is None:
            return FileVersion(entry, lack="absent")
        text = text_of(data)
        return FileVersion(entry, text, None if text is not None else "binary")
