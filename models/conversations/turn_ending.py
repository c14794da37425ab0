"""The end of a conversation's turn: its work becomes a snapshot and a timeline item, and is told in the order of the contract (3.12)."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from models.conversations.conversation import ProjectConversation, TimelineItem
from models.conversations.conversation_messages import answer_of, item_of_turn
from models.conversations.conversation_wire import answer_id, answer_json, item_json
from models.conversations.work_keeping import WorkBase, WorkDelta, keep_work, offered_sync, result_of
from models.core.db import db
from models.core.errors import DomainError
from models.deployments.project_info import FILES as CONFIG_FILES
from models.deployments.project_info import project_info
from models.projects import Project
from models.projects.snapshots.blob_packs import BlobDamaged
from models.runners.changed_tree import tree_of
from models.turns import Turn
from models.turns.engine import TurnHandle


@dataclass(frozen=True)
class TurnEnding:
    """How a turn is to end, once its work is kept. `ours`: it failed on our side, so what it cost is given back."""

    state: str
    code: str | None = None
    message: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False


class SavingFailed(DomainError):
    """The changed files could not be stored: the turn fails, with what was stored before."""

    status = 502
    code = "upload_failed"

    def __init__(self, cause: DomainError) -> None:
        super().__init__(f"The changed files could not be stored. {cause.message}", code=cause.code)
        self.ours = cause.status >= 500
        """Whether the store failed, not a limit of the account."""


class TurnWorkKeeper:
    """Keeps the work of one turn, once, also if the process dies between its steps."""

    def __init__(self, handle: TurnHandle, conversation_id: str, title: str) -> None:
        self._handle, self._conversation_id, self._title = handle, conversation_id, title

    def keep(self, base: WorkBase, work: str | None, delta: WorkDelta, ending: TurnEnding) -> None:
        """Make the snapshot and the timeline item, if anything changed and it is no scratch, and prepare the sync if the workspace was moved
        meanwhile. Raises DomainError, LeaseLost."""
        item: TimelineItem | None
        with self._handle.step() as turn:
            if "result" in turn.request:
                item = item_of_turn(turn.id)
            else:
                made = bool(delta.count) and not base.scratch
                item = self._made(turn, base, work or "", delta, ending.state) if made else None
                result = result_of(work, base, delta, item)
                turn.request = {**turn.request, "ending": asdict(ending), "result": result._asdict()}
            lost = item is not None and item.lost_race and item.sync_preview_id is None
        if lost:
            self._offer_sync()

    def _made(self, turn: Turn, base: WorkBase, work: str, delta: WorkDelta, state: str) -> TimelineItem:
        conversation = db.session.get_one(ProjectConversation, self._conversation_id)
        return keep_work(turn, conversation, base, work, delta, state=state, title=self._title)

    def _offer_sync(self) -> None:
        """Outside of the turn's own transactions: a merge may take long."""
        with self._handle.transaction():
            turn = db.session.get_one(Turn, self._handle.id)
            item = item_of_turn(turn.id)
            if item is not None:
                item.sync_preview_id = offered_sync(turn, item)


def tell_end(handle: TurnHandle, turn: Turn, ending: TurnEnding) -> None:
    """Within a step: record how the turn ends and what it changed."""
    record, id = handle.record, answer_id(turn)
    item, messages = item_of_turn(turn.id), answer_of(turn)
    whole = ending.state == "completed"
    if not whole:
        record("error", {"error": ending.message or f"The turn was {ending.state}.", "code": ending.code})
    record("message_status", {"messageId": id, "status": "completed" if whole else "failed"})
    said: dict[str, Any] = {"state": ending.state, "error": ending.message}
    record("message_complete", {"message": answer_json(turn, messages, **said)})
    if item is None:
        return
    record("timeline_item", {"item": item_json(item)})
    record("files_changed", {"files": item.files})
    record("message_update", {"message": answer_json(turn, messages, item.files, **said)})
    if item.lost_race:
        record("warning", _lost(item))
    if any(each["path"] in CONFIG_FILES for each in item.files):
        with suppress(DomainError, BlobDamaged):
            record("project_info", {"info": _info(item)})
    record("timeline_summary", {"itemId": item.id, "summary": item.summary})


def _info(item: TimelineItem) -> dict[str, str]:
    """How the files say that they are deployed, after a turn that changed it."""
    account_id = db.session.get_one(Project, item.project_id).account_id
    return project_info(account_id, tree_of(account_id, item.manifest_hash)).wire


def _lost(item: TimelineItem) -> dict[str, Any]:
    """What the watchers are told of work that is in a side workspace."""
    return {
        "warning": "Another client moved the workspace during this turn. The work is kept in a workspace beside it.",
        "workspaceId": item.workspace_id,
        "snapshotId": item.snapshot_id,
        "syncPreviewId": item.sync_preview_id,
    }
