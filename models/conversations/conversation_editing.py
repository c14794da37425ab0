"""Beginning a conversation, renaming and moving it, and emptying it (fastest contract 3.12)."""

from sqlalchemy import delete, select, update

from models.conversations.conversation import ENGINES, PURPOSES, ConversationQuestion, ProjectConversation
from models.conversations.conversation_access import FoundConversation, open_turn_of, own_conversation
from models.conversations.conversation_engine import check_engine
from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.ledger import Account
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import own_workspace
from models.projects.snapshots.manifest_store import use_manifest
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.workspaces.head_moves import Mover, move_head
from models.runners import LEVELS
from models.threads import create_thread, lock
from models.threads.message_store import MESSAGES
from models.threads.thread import PROJECT_KIND
from models.threads.thread_settings import change_thread
from models.turns import ENDED, Turn

MAX_TITLE = 255
MAX_NAME = 300
UNTITLED = "Untitled conversation"
TITLE_FROM_PROMPT = 100
"""Characters of a first prompt that become the title."""


def start_conversation(
    caller: ProjectCaller,
    workspace_id: str,
    *,
    title: str | None = None,
    engine: str = "builtin",
    level: str = "virtual",
    agent: str | None = None,
    model: str | None = None,
    budget: int | None = None,
    purpose: str = "chat",
    mover: Mover | None = None,
) -> FoundConversation:
    """Begin a conversation about a workspace, paid by the account of its project. `budget` is the most that its turns may spend, in
    credits. A workspace that has a snapshot and no files told gets those of the snapshot. Locks the workspace and the account; flushes.

    Raises NotFound, Forbidden, Invalid, WriteLimitExceeded, and what `ConversationEngine.check` raises: another engine or level is never
    taken silently.
    """
    own_workspace(caller, workspace_id, "edit_projects")
    _check(engine, level, agent, model, purpose)
    title = checked_title(title)
    project, workspace = own_workspace(caller, workspace_id, "edit_projects", lock=True)
    account = Account(user_id=caller.user_id)
    if project.account_id != caller.user_id:
        account = Account(org_id=project.account_id)
    thread = create_thread(
        caller.user_id, account, kind=PROJECT_KIND, name=title or UNTITLED, model=model or None, budget=budget
    )
    made = ProjectConversation(
        thread_id=thread.id,
        project_id=project.id,
        workspace_id=workspace.id,
        title=title,
        engine=engine,
        level=level,
        agent=agent or None,
        model=model or None,
        purpose=purpose,
        created_at=now(),
        updated_at=now(),
    )
    check_engine(made, project.account_id)
    db.session.add(made)
    db.session.flush()
    _tell_files(project, workspace, mover or Mover(caller.user_id, "web"))
    return FoundConversation(made, project, workspace, thread)


def change_conversation(
    caller: ProjectCaller,
    id: str,
    *,
    title: str | None = None,
    workspace_id: str | None = None,
    model: str | None = None,
    level: str | None = None,
    budget: int | str | None = "same",
) -> FoundConversation:
    """Change what is given. The workspace is one of the same project, and no turn may be in progress then; the next turn reads its files.
    Locks the conversation; flushes. Raises NotFound, Forbidden, Invalid, Conflict (`turn_in_progress`)."""
    found = own_conversation(caller, id, "edit_projects", lock=True)
    row = found.conversation
    if workspace_id is not None and workspace_id != row.workspace_id:
        project, workspace = own_workspace(caller, workspace_id, "edit_projects")
        if project.id != row.project_id:
            raise Invalid("A conversation moves to another workspace of its own project only.")
        check_idle(row, "move the conversation")
        row.workspace_id, found = workspace.id, found._replace(workspace=workspace)
    if title is not None:
        row.title = checked_title(title)
        change_thread(found.thread, name=row.title or UNTITLED)
    if model is not None:
        change_thread(found.thread, model=model)
        row.model = model or None
    if level is not None:
        _check(row.engine, level, row.agent, row.model, row.purpose)
        row.level = level
        check_engine(row, found.project.account_id)
    if not isinstance(budget, str):
        change_thread(found.thread, budget=budget)
    row.updated_at = now()
    db.session.flush()
    return found


def clear_conversation(caller: ProjectCaller, id: str) -> FoundConversation:
    """Empty the messages: the next turn begins without them. The timeline, and what turns cost, stay. Locks the conversation and its
    thread; flushes; again, it changes nothing. Raises NotFound, Forbidden, Conflict (`turn_in_progress`)."""
    found = own_conversation(caller, id, "edit_projects", lock=True)
    check_idle(found.conversation, "clear the conversation")
    thread = lock(found.thread)
    MESSAGES.delete_all(thread)
    thread.head_id = None
    turns = select(Turn.id).where(Turn.subject_id == thread.id, Turn.state.in_(ENDED))
    db.session.execute(delete(ConversationQuestion).where(ConversationQuestion.turn_id.in_(turns)))
    # what was asked goes too
    db.session.execute(update(Turn).where(Turn.id.in_(turns)).values(request={"cleared": True}))
    db.session.flush()
    return found


def check_idle(conversation: ProjectConversation, what: str) -> None:
    """Raise Conflict (`turn_in_progress`) while a turn of the conversation is active or waits."""
    if open_turn_of(conversation) is not None:
        raise Conflict(
            f"A turn of this conversation is in progress. Wait for it or stop it, then {what}.",
            code="turn_in_progress",
        )


def title_of(prompt: str) -> str:
    """The title of a conversation without one: the beginning of its first prompt."""
    words = " ".join(prompt.split())
    return words if len(words) <= TITLE_FROM_PROMPT else f"{words[:TITLE_FROM_PROMPT]}..."


def checked_title(title: str | None) -> str | None:
    """A title without spaces around it; None for a blank one. Raises Invalid."""
    title = (title or "").strip()
    if len(title) > MAX_TITLE or "\0" in title:
        raise Invalid(f"A title has at most {MAX_TITLE} characters, and no NUL.")
    return title or None


def _check(engine: str, level: str, agent: str | None, model: str | None, purpose: str) -> None:
    for name, value, known in (
        ("engine", engine, ENGINES),
        ("level", level, LEVELS),
        ("purpose", purpose, PURPOSES),
    ):
        if value not in known:
            raise Invalid(f"'{name}' must be one of {', '.join(known)}.")
    if engine != "builtin" and not agent:
        raise Invalid(f"Name the 'agent' that the engine '{engine}' runs.")
    for name, text in (("agent", agent), ("model", model)):
        if text is not None and (len(text) > MAX_NAME or "\0" in text):
            raise Invalid(f"'{name}' has at most {MAX_NAME} characters, and no NUL.")


def _tell_files(project: Project, workspace: Workspace, mover: Mover) -> None:
    """Let a workspace that has a head, and no files told, have those of the head."""
    if workspace.current_manifest_hash or not workspace.current_snapshot_id:
        return
    head = snapshot_in(project.id, workspace.current_snapshot_id)
    if head is not None and use_manifest(project.account_id, head.manifest_hash) is not None:
        move_head(workspace, mover, "manifest", snapshot_id=head.id, manifest_hash=head.manifest_hash)
