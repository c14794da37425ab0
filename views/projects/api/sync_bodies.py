"""Bodies and answers of syncs, in the shapes of the fastest contract 3.10; what is beyond it says how each file came about."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.projects import SyncPreview
from models.projects.merge import USE_MAIN, USE_WORKSPACE, MergeReason
from models.projects.sync.sync_executing import ExecutedSync
from models.projects.sync.sync_plan import COMBINED, plan_counts
from models.projects.sync.sync_reading import FileVersion, PreviewedFile
from views.web.body import Body, Missing
from views.web.format import iso
from views.web.operation import ResponseModel

REASONS = {
    MergeReason.SAME_PLACE: "Both sides changed the same place.",
    MergeReason.UNSURE: "The lines merge, but the result would break the file or lose a change.",
    MergeReason.BOTH_ADDED: "Both sides added this file, and their contents differ.",
    MergeReason.DELETED_CHANGED: "One side deleted the file, the other changed it.",
    MergeReason.DELETED_RENAMED: "One side deleted the file, the other moved it.",
    MergeReason.RENAMED_APART: "The sides gave the file different names.",
    MergeReason.BINARY: "Both sides changed a binary file.",
    MergeReason.LOCK_FILE: "Both sides changed a lock file. Take one, and let its tool write it again.",
    MergeReason.TOO_LARGE: "Both sides changed it, and it is too large to merge, or all such files together are.",
    MergeReason.MODE: "Both sides changed the permissions of the file.",
    MergeReason.KIND: "A file, a link and a directory stand at the same path.",
    MergeReason.LINK: "The sides made the link lead to different places.",
    MergeReason.PATH_CLASH: "One side has a file where the other has a directory.",
    MergeReason.CASE_COLLISION: "The names are one name on machines that ignore case.",
}
LABELS = {
    "same": "Both sides made the same change",
    "one-sided": "As in main",
    "renamed": "Moved",
    "lines": "Merged by lines",
    "structure": "Merged by structure",
    "keys": "Merged by key",
}


class SyncEntry(ResponseModel):
    kind: str = Field(description="`file`, `dir` or `symlink`")
    mode: int | None
    hash: str | None
    size: int
    target: str | None


class SyncAction(ResponseModel):
    path: str
    action: Literal["copy_from_main", "ai_combined"] = Field(
        description="`ai_combined` is the contract's word for a file with parts of both sides: no model was asked"
    )
    description: str
    combined_content: Missing[str] = Field(None, description="The text of a combined file, unless it is long")
    label: str = Field(
        description="How: `same`, `one-sided`, `renamed`, or by `lines`, `structure` or `keys`"
    )
    result: SyncEntry | None = Field(description="What stands there afterwards; null: nothing")
    renamed_from: str | None


class SyncOption(ResponseModel):
    id: str = Field(description="`use_main` or `use_workspace`")
    label: str
    description: str
    resulting_content: str | None = Field(description="The text; null for none, bytes, or a long one")


class SyncDecision(ResponseModel):
    path: str
    main_intent: str
    workspace_intent: str
    conflict_reason: str
    options: list[SyncOption]
    recommended_option_id: str
    reason: str = Field(description="A code, such as `same_place`")
    custom_allowed: bool = Field(description="`custom` is an option too, with a text in `custom_values`")
    draft: str | None = Field(description="A text with conflict markers to begin a custom one from")


class SyncWarning(ResponseModel):
    kind: str = Field(
        description="`removed_name_used`, `signature_changed`, `duplicate_symbol`, `import_cycle` or `added_in_moved_directory`"
    )
    path: str
    line: int = Field(description="From 1; 0 is the whole file")
    message: str


class SyncPreviewObject(ResponseModel):
    id: str
    workspace_id: str
    drift_report_id: str = Field(description="Empty")
    auto_actions: list[SyncAction]
    decisions_needed: list[SyncDecision]
    files_to_update: int = Field(description="Combined files and decisions")
    files_to_add: int = Field(description="Files taken from main as they are")
    files_unchanged: int
    summary: str
    created_at: datetime
    expires_at: datetime
    warnings: list[SyncWarning] = Field(description="What merged cleanly and looks wrong")
    workspace_version: int = Field(description="The version of the workspace that it was made from")
    workspace_snapshot_id: str
    main_workspace_id: str
    main_snapshot_id: str
    base_snapshot_id: str | None = Field(description="The common ancestor; null without one")


class PreparedSync(ResponseModel):
    preview: SyncPreviewObject


class StoredPreview(ResponseModel):
    preview: SyncPreviewObject
    moved: list[Literal["workspace", "main"]] = Field(
        description="The heads that moved since: with any, the sync has to be prepared again"
    )


class SyncFileVersion(ResponseModel):
    entry: SyncEntry
    text: str | None = Field(description="The text of a file")
    lack: Literal["binary", "long", "absent"] | None = Field(
        description="Why a file has no text: its bytes are none, too many, or were never sent"
    )


class SyncFile(ResponseModel):
    path: str
    label: str = Field(description="As of an action, or `decision`")
    renamed_from: str | None = Field(description="Where the versions stand that were not moved")
    base: SyncFileVersion | None = Field(description="Of the common ancestor; null: nothing stands there")
    main: SyncFileVersion | None
    workspace: SyncFileVersion | None
    result: SyncFileVersion | None = Field(description="What the sync makes; null too for a decision")
    draft: str | None = Field(description="A text with conflict markers to begin a custom one from")


class SyncFileAnswer(ResponseModel):
    file: SyncFile


class OfferBody(Body):
    path: str = Field(description="The path of a decision")
    model: str = Field(
        min_length=1, max_length=200, description="A model of `GET /v1/models`; your key pays for its call"
    )


class SyncOffer(ResponseModel):
    path: str
    text: str = Field(description="Check it. To take it, answer the decision `custom` with this text")
    written_by: str = Field(description="The model")
    request_id: str = Field(description="The call, which was charged")


class OfferAnswer(ResponseModel):
    offer: SyncOffer


class SyncExecution(Body):
    preview_id: str | None = None
    decisions: dict[str, Any] | None = Field(None, description="An option for the path of each decision")
    custom_values: dict[str, Any] | None = Field(
        None, description="By path the texts of decisions answered `custom`"
    )
    create_snapshot_before: bool = Field(True, description="Keep the workspace's files as a snapshot")
    create_snapshot_after: bool = Field(
        True,
        description="Make a snapshot of the result, with both heads as parents. Without one the workspace has the files, and the next"
        " sync starts from the same base",
    )


class SyncResult(ResponseModel):
    success: Literal[True]
    files_updated: int
    files_added: int
    errors: list[str] = Field(description="Empty: a sync succeeds or changes nothing")
    snapshot_before_id: Missing[str] = None
    snapshot_after_id: Missing[str] = None
    operation_id: str = Field(description="The operation, which can be undone")


def preview_json(row: SyncPreview, texts: Mapping[str, str]) -> dict[str, Any]:
    """A `SyncPreviewObject`, with these texts of files by hash."""
    copied, combined = plan_counts(row.plan)
    decisions = [_decision_json(each, texts) for each in row.plan["decisions"]]
    names = ("workspace_version", "workspace_snapshot_id", "main_workspace_id", "main_snapshot_id")
    return {
        "id": row.id,
        "workspace_id": row.workspace_id,
        "drift_report_id": "",
        "auto_actions": [_action_json(each, texts) for each in row.plan["changes"]],
        "decisions_needed": decisions,
        "files_to_update": combined,
        "files_to_add": copied,
        "files_unchanged": row.files_unchanged,
        "summary": _summary(copied, combined - len(decisions), len(decisions)),
        "created_at": iso(row.created_at),
        "expires_at": iso(row.expires_at),
        "warnings": [dict(zip(SyncWarning.model_fields, each, strict=True)) for each in row.plan["warnings"]],
        **{name: getattr(row, name) for name in names},
        "base_snapshot_id": row.base_snapshot_id,
    }


def file_json(file: PreviewedFile) -> dict[str, Any]:
    """A `SyncFile`."""
    versions = ("base", "main", "workspace", "result")
    return {
        "path": file.path,
        "label": file.label,
        "renamed_from": file.renamed_from,
        **{name: _version_json(getattr(file, name)) for name in versions},
        "draft": file.draft,
    }


def executed_json(done: ExecutedSync) -> dict[str, Any]:
    """A `SyncResult`."""
    made = {"snapshot_before_id": done.before_id, "snapshot_after_id": done.after_id}
    return {
        "success": True,
        "files_updated": done.combined,
        "files_added": done.copied,
        "errors": [],
        **{name: id for name, id in made.items() if id is not None},
        "operation_id": done.operation.id,
    }


def _version_json(version: FileVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"entry": version.entry._asdict(), "text": version.text, "lack": version.lack}


def _summary(copied: int, combined: int, decisions: int) -> str:
    if not copied and not combined and not decisions:
        return "The workspace is up to date with main."
    parts = [f"{copied} from main", f"{combined} combined", f"{decisions} to decide"]
    return f"Files: {', '.join(parts)}."


def _action_json(row: list[Any], texts: Mapping[str, str]) -> dict[str, Any]:
    path, label, _, entry, source = row
    combined = label in COMBINED
    text = texts.get(entry[2]) if combined and entry else None
    return {
        "path": path,
        "action": "ai_combined" if combined else "copy_from_main",
        "description": "Deleted, as in main" if entry is None else LABELS[label],
        **({} if text is None else {"combined_content": text}),
        "label": label,
        "result": _entry_json(entry),
        "renamed_from": source,
    }


def _decision_json(each: dict[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    base, workspace, main = each["sides"]
    return {
        "path": each["path"],
        "main_intent": _intent("Main", base, main),
        "workspace_intent": _intent("The workspace", base, workspace),
        "conflict_reason": REASONS[MergeReason(each["reason"])],
        "options": [
            _option_json(USE_MAIN, "Use main", "main has", each, texts),
            _option_json(USE_WORKSPACE, "Use workspace", "the workspace has", each, texts),
        ],
        "recommended_option_id": USE_MAIN,
        "reason": each["reason"],
        "custom_allowed": each["custom_mode"] is not None,
        "draft": texts.get(each["draft"]) if each["draft"] else None,
    }


def _option_json(
    id: str, label: str, whose: str, each: dict[str, Any], texts: Mapping[str, str]
) -> dict[str, Any]:
    outcome = each["options"][id]
    standing = {path: entry for path, entry in outcome.items() if entry is not None}
    gone = sorted(outcome.keys() - standing.keys())
    kept = [f"Keep {', '.join(sorted(standing)[:5])} as {whose} it"] if standing else []
    removed = [f"remove {', '.join(gone[:5])}" if kept else f"Remove {', '.join(gone[:5])}"] if gone else []
    shown = standing.get(each["path"]) or next(iter(standing.values()), None)
    return {
        "id": id,
        "label": label,
        "description": " and ".join([*kept, *removed]),
        "resulting_content": texts.get(shown[2]) if shown and shown[2] else None,
    }


def _intent(who: str, base: list[Any] | None, now: list[Any] | None) -> str:
    if base == now:
        return f"{who} did not change it here."
    if base is None:
        return f"{who} added it."
    return f"{who} deleted it." if now is None else f"{who} changed it."


def _entry_json(entry: list[Any] | None) -> dict[str, Any] | None:
    return None if entry is None else dict(zip(SyncEntry.model_fields, entry, strict=True))
