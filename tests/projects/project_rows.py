"""Rows for pages of projects: one with two workspaces, a history with a merge, files of several kinds, operations and a variable."""

import hashlib

from models.accounts import Session
from models.ledger import Account
from models.projects import ProjectCaller, environment
from models.projects.environment import NewVariable
from models.projects.project_editing import create_project, set_brief
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import put_entries
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.snapshot_making import NewSnapshot, push_snapshot
from models.projects.sync.sync_preparing import prepare_sync
from models.projects.workspaces.head_moves import Mover, operations_page
from models.projects.workspaces.workspace_editing import create_workspace
from tests.conversations.conversation_rows import conversation_rows

PROGRAM = '''"""Columns."""

def columns(count: int = 12) -> list[str]:
    # a stoa is open to everybody
    return ["|" for _ in range(count)]
'''
LONG = "a-name-that-does-not-wrap-" + "x" * 90
Files = dict[str, str]


def caller_of(user_id: str, account: Account) -> ProjectCaller:
    """Somebody in a browser, as the domain sees them."""
    return ProjectCaller(user_id, account, Session(user_id=user_id, type="web"))


def manifest_of(account_id: str, files: Files) -> str:
    """Store files and their manifest; the hash of the manifest."""
    data = {path: text.encode() for path, text in files.items()}
    hashes = {path: hashlib.sha256(each).hexdigest() for path, each in data.items()}
    put_blobs(account_id, [(hashes[path], each) for path, each in data.items()])
    return put_entries(
        account_id, [Entry(path, "file", 0o644, hashes[path], len(each)) for path, each in data.items()]
    )


def pushed(
    caller: ProjectCaller,
    project_id: str,
    workspace_id: str,
    files: Files,
    message: str,
    *parents: str,
    run_id: str | None = None,
) -> str:
    """Push a snapshot of these files, as an agent's run of the caller or without one; its id."""
    hash = manifest_of(caller.account.id, files)
    new = NewSnapshot(hash, workspace_id=workspace_id, message=message, parent_ids=parents, run_id=run_id)
    return push_snapshot(caller, project_id, new, Mover(caller.user_id, "cli")).snapshot.id


def project_rows(user_id: str, account: Account, run_id: str | None = None) -> dict[str, str]:
    """Make them in the current transaction; `run_id` is a run of the user that makes one of the snapshots. Ids for the arguments of routes."""
    caller = caller_of(user_id, account)
    project = create_project(caller, account, "Pier · the long one?")
    brief = {"intent": "fun", "problem": "Rain.", "mvp_features": ["columns", LONG], "other": {"deep": 1}}
    set_brief(caller, project.id, "fun", brief, 100)
    main = create_workspace(caller, project.id, "main", local_path="/home/ada/" + LONG)
    base = {"README.md": "# Pier\n\nColumns.\n", "src/columns.py": PROGRAM, f"docs/{LONG}.md": LONG}
    first = pushed(caller, project.id, main.id, base, "Begin\n\nWith a roof.")
    other = create_workspace(caller, project.id, "agent", base_snapshot_id=first)
    left = {**base, "README.md": "# Pier\n\nTwelve columns.\n", "pier.toml": "[pier]\ncolumns = 12\n"}
    right = {**base, "src/columns.py": PROGRAM.replace("12", "24"), "blob.bin": "\0\1"}
    second = pushed(caller, project.id, main.id, left, "Count them", first)
    third = pushed(caller, project.id, other.id, right, "Twice as many " + "x" * 120, first, run_id=run_id)
    pushed(caller, project.id, main.id, left | right | {"README.md": left["README.md"]}, "", second, third)
    environment.set_variable(caller, project.id, NewVariable("DATABASE_URL", "postgres://0123456789", True))
    operation = operations_page(project.id, 1)[0]
    return {
        "project_id": project.id,
        "workspace_id": other.id,
        "snapshot_id": second,
        "operation_id": operation.id,
        "preview_id": prepare_sync(caller, other.id).id,
        "environment/key": "DATABASE_URL",
        **conversation_rows(caller, project.id, other.id, second),
    }
