"""What becomes of the files that a turn changed: a snapshot of the workspace, or, if another client moved it meanwhile, of a side workspace.

Each function is called in a transaction of the caller, and flushes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.accounts.sessions import Session
from models.conversations.conversation import ProjectConversation, TimelineItem
from models.conversations.conversation_prompts import TurnResult
from models.conversations.conversation_wire import answer_id
from models.core.db import db, now
from models.core.errors import Conflict, DomainError, Forbidden
from models.ledger import Account
from models.projects import Project, ProjectCaller, Workspace
from models.projects.activity_log import add_event
from models.projects.project_access import locked_workspace, own_project
from models.projects.snapshots.manifest_store import tree_changes
from models.projects.snapshots.snapshot_making import MadeSnapshot, NewSnapshot, push_snapshot
from models.projects.sync.sync_preparing import prepare_sync
from models.projects.workspaces.head_moves import Mover, operations_page
from models.projects.workspaces.workspace_editing import create_workspace
from models.projects.workspaces.workspace_files import head_manifest
from models.runners.changed_tree import tree_of
from models.threads import ThreadMessage
from models.turns import Turn

MAX_FILES = 500
"""Changed paths that an item names."""
MAX_NAMED = 3
"""Changed paths, and commands, that a sentence names."""
MAX_PATH = 80
MAX_ASKED = 100
"""Characters of a prompt that name a snapshot."""
SOURCE = "web"
_CHANGES = {(False, True): "added", (True, False): "deleted", (True, True): "modified"}


@dataclass(frozen=True)
class WorkBase:
    """What a turn began with: the files (None: none), and the workspace as it was then; a `scratch` belongs to no workspace."""

    manifest_hash: str | None
    snapshot_id: str | None = None
    version: int = 0
    workspace_id: str = ""
    scratch: bool = False


@dataclass(frozen=True)
class WorkDelta:
    """How two trees differ: at most `MAX_FILES` of `count` paths, each `path` and `change`."""

    files: Sequence[Mapping[str, Any]]
    count: int

    @property
    def sentence(self) -> str:
        """In words: `5 files changed: a.py added, b.py modified, c.py deleted and 2 more.`"""
        named = ", ".join(f"{_short(each['path'])} {each['change']}" for each in self.files[:MAX_NAMED])
        more = self.count - min(len(self.files), MAX_NAMED)
        rest = f" and {more:,} more" if more else ""
        return f"{self.count:,} file{'s' if self.count != 1 else ''} changed: {named}{rest}."


def work_base(workspace: Workspace) -> WorkBase:
    """The files of a workspace as they are now, for a turn that begins."""
    files = workspace.current_manifest_hash or head_manifest(
        workspace.project_id, workspace.current_snapshot_id
    )
    return WorkBase(files, workspace.current_snapshot_id, workspace.version, workspace.id)


def work_delta(account_id: str, before: str | None, after: str | None) -> WorkDelta:
    """How the trees of two manifests differ. Raises NotFound, ManifestUnreadable, BlobDamaged."""
    changed = tree_changes(account_id, tree_of(account_id, before), tree_of(account_id, after))
    files = [
        {"path": path, "change": _CHANGES[old is not None, new is not None]}
        for path, (old, new) in sorted(changed.items())[:MAX_FILES]
    ]
    return WorkDelta(files, len(changed))


def caller_of_turn(turn: Turn, project: Project) -> ProjectCaller:
    """Who asked for the turn, with the key that its calls are made with. Raises Forbidden if the key has gone."""
    session = db.session.get(Session, turn.key_id)
    if session is None or session.user_id != turn.user_id:
        raise Forbidden("The key or session that began this turn has ended.", code="key_ended")
    account = Account(user_id=turn.user_id)
    if project.account_id != turn.user_id:
        account = Account(org_id=project.account_id)
    return ProjectCaller(turn.user_id, account, session)


def _asked(turn: Turn) -> str:
    """What the turn was asked for, in one line; empty if its message was deleted."""
    message = db.session.get(ThreadMessage, turn.request.get("parent_id") or "")
    words = " ".join(message.text.split()) if message is not None else ""
    return words if len(words) <= MAX_ASKED else f"{words[: MAX_ASKED - 1]}…"


def keep_work(
    turn: Turn,
    conversation: ProjectConversation,
    base: WorkBase,
    manifest_hash: str,
    delta: WorkDelta,
    *,
    state: str,
    title: str,
) -> TimelineItem:
    """Make the snapshot of a turn's work, and its timeline item: at the head of the workspace if its files are those that the turn began
    with, else in a side workspace. Once per turn. Locks the project, the workspace and the costs of the run. Raises NotFound and Forbidden
    if who asked may change the project no longer, QuotaExceeded."""
    project = db.session.get_one(Project, conversation.project_id)
    caller = caller_of_turn(turn, project)
    project = own_project(caller, project.id, "edit_projects", lock=True)
    workspace = locked_workspace(base.workspace_id)
    lost = workspace.deleted_at is not None or not _as_before(workspace, base)
    mover = Mover(turn.user_id, SOURCE)
    asked = _asked(turn) or title
    summary = f"{delta.sentence} {commands_in_words(turn.request.get('commands'))}".rstrip()
    message = f"{asked if state == 'completed' else f'{asked} ({state})'}\n\n{summary}"
    new = NewSnapshot(
        manifest_hash,
        parent_ids=_some(base.snapshot_id if lost else workspace.current_snapshot_id),
        workspace_id=workspace.id,
        source=SOURCE,
        summary=message.partition("\n")[0],
        message=message,
        run_id=turn.run_id,
    )
    if lost:
        made, workspace = _beside(caller, project, workspace, base, new, mover, title)
    else:
        made = push_snapshot(caller, project.id, new, mover, kind="turn")
    moved = next(iter(operations_page(project.id, 1, workspace_id=workspace.id)), None)
    item = TimelineItem(
        conversation_id=conversation.id,
        project_id=project.id,
        workspace_id=workspace.id,
        turn_id=turn.id,
        message_id=answer_id(turn),
        snapshot_id=made.snapshot.id,
        operation_id=moved.id if moved and moved.after_snapshot_id == made.snapshot.id else None,
        manifest_hash=manifest_hash,
        previous_manifest_hash=base.manifest_hash,
        files=list(delta.files),
        files_count=delta.count,
        state=state,
        summary=summary,
        summary_status="completed",
        lost_race=lost,
        credits=made.snapshot.credits,
        created_at=now(),
    )
    db.session.add(item)
    conversation.updated_at = now()
    db.session.flush()
    return item


def commands_in_words(commands: Any) -> str:
    """What a turn ran, in a sentence; empty if it ran nothing: `Ran make test (exit code 2), ls (exit code 0).`"""
    found = [each for each in commands or () if isinstance(each, Mapping)]
    if not found:
        return ""
    named = [f"{each['command']} ({each['how']})" for each in found[-MAX_NAMED:]]
    more = len(found) - len(named)
    before = f"{more} more commands, then " if more > 1 else "one more command, then " if more else ""
    return f"Ran {before}{', '.join(named)}."


def offered_sync(turn: Turn, item: TimelineItem) -> str | None:
    """Prepare the sync of main into the side workspace that has the work of a turn that lost a race. Returns its id; None if there is none
    to offer. Flushes."""
    project = db.session.get_one(Project, item.project_id)
    if project.main_workspace_id == item.workspace_id:
        return None
    try:
        preview = prepare_sync(caller_of_turn(turn, project), item.workspace_id)
    except DomainError:
        return None
    return preview.id if preview in db.session else None


def result_of(
    manifest_hash: str | None, base: WorkBase, delta: WorkDelta | None, item: TimelineItem | None
) -> TurnResult:
    """What a turn made of the files."""
    if delta is None:
        return TurnResult(manifest_hash, base.manifest_hash)
    return TurnResult(
        manifest_hash,
        base.manifest_hash,
        list(delta.files),
        delta.count,
        item.snapshot_id if item else None,
        item.id if item else None,
    )


def _as_before(workspace: Workspace, base: WorkBase) -> bool:
    """Whether the files of the locked workspace are those that the turn began with: a snapshot of the same files loses nothing."""
    return workspace.version == base.version or work_base(workspace).manifest_hash == base.manifest_hash


def _beside(
    caller: ProjectCaller,
    project: Project,
    workspace: Workspace,
    base: WorkBase,
    new: NewSnapshot,
    mover: Mover,
    title: str,
) -> tuple[MadeSnapshot, Workspace]:
    """The work as a snapshot in a side workspace; beside the head of the workspace itself if the project may have no more of them."""
    side = _side_workspace(caller, project, workspace, base, title)
    if side is None:
        made = push_snapshot(caller, project.id, replace(new, expected=-1), mover, kind="turn")
    else:
        made = push_snapshot(caller, project.id, replace(new, workspace_id=side.id), mover, kind="turn")
    add_event(
        project.id,
        "workspace.out_of_date",
        SOURCE,
        caller.user_id,
        workspace_id=workspace.id,
        snapshot_id=made.snapshot.id,
    )
    db.session.flush()
    return made, side or workspace


def _side_workspace(
    caller: ProjectCaller, project: Project, workspace: Workspace, base: WorkBase, title: str
) -> Workspace | None:
    words = " ".join(title.split())[:40]
    for number in range(1, 100):
        more = f" {number}" if number > 1 else ""
        name = f"{workspace.name[:120]} (conversation {words}{more})"
        try:
            return create_workspace(caller, project.id, name, base_snapshot_id=base.snapshot_id, actor=SOURCE)
        except Conflict as error:
            if error.code != "workspace_name_taken":
                return None
    return None


def _short(path: str) -> str:
    """A path in a sentence: its end, if it is long."""
    return path if len(path) <= MAX_PATH else f"…{path[1 - MAX_PATH :]}"


def _some(id: str | None) -> list[str]:
    return [id] if id else []
