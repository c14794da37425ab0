"""Rows for the pages of syncs and overlaps: a main workspace and two others that changed the same files in different ways."""

from typing import NamedTuple

from models.ledger import Account
from models.projects.project_editing import create_project
from models.projects.workspaces.workspace_editing import create_workspace
from tests.projects.project_rows import Files, caller_of, pushed

LINES = "".join(f"line {number}\n" for number in range(1, 31))
BASE: Files = {
    "README.md": "# Pier\n",
    "both.txt": LINES,
    "gone.txt": "gone\n",
    "kept.txt": "kept\n",
    "moved/old name.txt": LINES,
    "torn.txt": "one\ntwo\nthree\n",
}
MAIN: Files = {
    "README.md": "# Pier\n\nOf stone.\n",
    "both.txt": LINES.replace("line 2\n", "line two\n"),
    "kept.txt": "kept\n",
    "moved/new name.txt": LINES,
    "new.txt": "<b>new</b>\n",
    "torn.txt": "one\nmain\nthree\n",
}
OWN: Files = {**BASE, "both.txt": LINES.replace("line 29\n", "line 29!\n"), "torn.txt": "one\nmine\nthree\n"}


class SyncRows(NamedTuple):
    """The ids of a project, of its workspaces, and of the snapshot that all began with."""

    project: str
    main: str
    laptop: str
    agent: str
    base: str


def sync_rows(
    user_id: str,
    account: Account,
    base: Files | None = None,
    main: Files | None = None,
    own: Files | None = None,
) -> SyncRows:
    """Make them in the current transaction: `laptop` has to decide about torn.txt, `agent` changed it too."""
    caller = caller_of(user_id, account)
    base = BASE if base is None else base
    project = create_project(caller, account, "Pier")
    trunk = create_workspace(caller, project.id, "main")
    first = pushed(caller, project.id, trunk.id, base, "Begin")
    laptop = create_workspace(caller, project.id, "laptop", base_snapshot_id=first)
    agent = create_workspace(caller, project.id, "agent", base_snapshot_id=first)
    pushed(caller, project.id, trunk.id, MAIN if main is None else main, "Main works", first)
    pushed(caller, project.id, laptop.id, OWN if own is None else own, "Own work", first)
    pushed(caller, project.id, agent.id, {**base, "torn.txt": "one\nagent\nthree\n"}, "Agent works", first)
    return SyncRows(project.id, trunk.id, laptop.id, agent.id, first)
