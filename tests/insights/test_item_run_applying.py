"""Applying what a run made: once, to the files that it began with, or merged with what came after."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.key_format import PresentedKey
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.insights import ActionItem, ActionItemRun
from models.insights.item_run_applying import BaseChanged, apply_run
from models.insights.item_run_reading import WrongState, run_patch, taken_back, waiting_patches
from models.insights.item_run_rebasing import NothingLeft, RebaseUndecided, preview_rebase, rebase_run
from models.ledger import Account
from models.projects import ProjectCaller, Snapshot, Workspace, WorkspaceOperation
from models.projects.snapshots.blob_garbage import mark
from models.projects.snapshots.blob_packs import blob_bytes
from models.projects.snapshots.manifest_store import manifest_entries, manifest_row
from models.projects.workspaces.head_moves import Mover, StaleWorkspace
from models.projects.workspaces.operation_undo import undo_operation
from tests import factories
from tests.factories import Person
from tests.insights.item_run_rows import BASE, MENDED, ItemPlace, item_place, ready_run
from tests.projects.project_rows import Files, caller_of, pushed

pytestmark = pytest.mark.usefixtures("proved")


@pytest.fixture
def caller(session: OrmSession, alice: Person) -> ProjectCaller:
    factories.grant(alice.user, 1_000)
    return caller_of(alice.id, Account(user_id=alice.id))


@pytest.fixture
def place(caller: ProjectCaller) -> ItemPlace:
    return item_place(caller, caller.account)


def mover(caller: ProjectCaller) -> Mover:
    return Mover(caller.user_id, "web")


def rebase(caller: ProjectCaller, run_id: str, **more: Any) -> ActionItemRun:
    """The run, whose turn nobody drives."""
    key = PresentedKey("key", None)
    return rebase_run(caller, run_id, key=key, owner="nobody", **more)[0]


def checked(run: ActionItemRun) -> None:
    """As if its checks had ended well."""
    run.status, run.verified, run.completed_at = "ready", True, now()
    db.session.flush()


def workspace_of(place: ItemPlace) -> Workspace:
    return db.session.get_one(Workspace, place.workspace_id, populate_existing=True)


def files_of(place: ItemPlace, account_id: str) -> Files:
    """What the workspace has."""
    workspace = workspace_of(place)
    hash = workspace.current_manifest_hash
    assert hash is not None
    row = manifest_row(account_id, hash)
    assert row is not None
    return {
        each.path: (blob_bytes(account_id, each.hash or "") or b"").decode() for each in manifest_entries(row)
    }


def test_a_ready_patch_is_applied_once_and_can_be_undone(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED, "README.md": None})
    assert [each.run.id for each in waiting_patches([place.project_id])] == [run.id]
    done, operation = apply_run(caller, run.id, mover(caller))
    assert (done.status, done.operation_id) == ("applied", operation.id)
    assert (operation.kind, operation.detail) == (
        "turn",
        {"item_run": run.id, "item": place.item_id, "rebased": False},
    )
    assert files_of(place, caller.account.id) == {
        path: text for path, text in {**BASE, "add.py": MENDED}.items() if path != "README.md"
    }
    item = db.session.get_one(ActionItem, place.item_id)
    assert (item.status, waiting_patches([place.project_id])) == ("applied", [])
    snapshot = db.session.get_one(Snapshot, (place.project_id, operation.after_snapshot_id))
    assert (snapshot.message, snapshot.workspace_id) == ("add() subtracts", place.workspace_id)
    with pytest.raises(WrongState):
        apply_run(caller, run.id, mover(caller))
    assert not taken_back(done)
    undo = undo_operation(caller, place.workspace_id, operation.id, mover(caller))
    assert workspace_of(place).current_snapshot_id == place.base_id
    assert taken_back(done)
    undo_operation(caller, place.workspace_id, undo.id, mover(caller))
    assert not taken_back(done)


def test_a_patch_of_files_that_moved_is_refused(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED})
    version = workspace_of(place).version
    with pytest.raises(StaleWorkspace):
        apply_run(caller, run.id, mover(caller), version + 1)
    pushed(caller, place.project_id, place.workspace_id, {**BASE, "new.py": "1\n"}, "More", place.base_id)
    with pytest.raises(BaseChanged):
        apply_run(caller, run.id, mover(caller))
    assert db.session.get_one(ActionItemRun, run.id).status == "ready"


def test_files_that_came_back_to_the_base_take_the_patch(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED})
    more = pushed(
        caller, place.project_id, place.workspace_id, {**BASE, "new.py": "1\n"}, "More", place.base_id
    )
    pushed(caller, place.project_id, place.workspace_id, BASE, "Back", more)
    assert apply_run(caller, run.id, mover(caller))[0].status == "applied"


def test_a_rebase_keeps_what_both_changed(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED, "gone.md": "new\n"})
    later = {**BASE, "add.py": f"# sums\n\n{BASE['add.py']}", "other.py": "1\n"}
    pushed(caller, place.project_id, place.workspace_id, later, "More", place.base_id)
    preview = preview_rebase(caller, run.id)
    assert (preview.merge.decisions, sorted(preview.paths)) == ({}, ["add.py", "gone.md"])
    with pytest.raises(StaleWorkspace):
        rebase(caller, run.id, expected=preview.version - 1)
    begun = rebase(caller, run.id, expected=preview.version)
    assert (begun.status, begun.verified, begun.checks) == ("running", None, None)
    assert begun.attempts[-1]["state"] == "checking"
    assert files_of(place, caller.account.id) == later
    with pytest.raises(WrongState):
        rebase(caller, run.id)
    checked(begun)
    done, operation = apply_run(caller, run.id, mover(caller))
    assert (done.status, (operation.detail or {})["rebased"]) == ("applied", True)
    assert files_of(place, caller.account.id) == {
        **later,
        "add.py": f"# sums\n\n{MENDED}",
        "gone.md": "new\n",
    }


def test_a_patch_that_the_workspace_has_already_is_not_rebased(
    caller: ProjectCaller, place: ItemPlace
) -> None:
    run = ready_run(place, {"add.py": MENDED})
    later = {**BASE, "add.py": MENDED, "other.py": "1\n"}
    pushed(caller, place.project_id, place.workspace_id, later, "The same", place.base_id)
    with pytest.raises(NothingLeft):
        rebase(caller, run.id)
    assert db.session.get_one(ActionItemRun, run.id).status == "ready"


@pytest.mark.parametrize(
    ("decisions", "custom", "text"),
    [
        ({"add.py": "use_patch"}, {}, MENDED),
        ({"add.py": "use_workspace"}, {}, "def add(a, b):\n    return b - a\n"),
        (
            {},
            {"add.py": "def add(a, b):\n    return sum((a, b))\n"},
            "def add(a, b):\n    return sum((a, b))\n",
        ),
    ],
)
def test_a_conflict_is_decided_by_a_person(
    caller: ProjectCaller, place: ItemPlace, decisions: Any, custom: Any, text: str
) -> None:
    run = ready_run(place, {"add.py": MENDED})
    later = {**BASE, "add.py": "def add(a, b):\n    return b - a\n"}
    pushed(caller, place.project_id, place.workspace_id, later, "Other way", place.base_id)
    with pytest.raises(RebaseUndecided) as refused:
        rebase(caller, run.id)
    assert refused.value.paths == ["add.py"]
    if text == later["add.py"]:
        with pytest.raises(NothingLeft):
            rebase(caller, run.id, decisions=decisions, custom=custom)
        return
    checked(rebase(caller, run.id, decisions=decisions, custom=custom))
    apply_run(caller, run.id, mover(caller))
    assert files_of(place, caller.account.id) == {**BASE, "add.py": text}


@pytest.mark.parametrize(
    "decisions", [{"add.py": "use_main"}, {"add.py": 1}, {"add.py": "use_patch", "else.py": "use_patch"}]
)
def test_wrong_answers_are_refused(caller: ProjectCaller, place: ItemPlace, decisions: Any) -> None:
    run = ready_run(place, {"add.py": MENDED})
    later = {**BASE, "add.py": "def add(a, b):\n    return b - a\n"}
    pushed(caller, place.project_id, place.workspace_id, later, "Other way", place.base_id)
    with pytest.raises(Invalid):
        rebase(caller, run.id, decisions=decisions)


def test_a_run_of_a_dismissed_item_is_not_applied(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED})
    db.session.get_one(ActionItem, place.item_id).status = "dismissed"
    db.session.flush()
    with pytest.raises(WrongState):
        apply_run(caller, run.id, mover(caller))


def test_a_stranger_finds_no_run(caller: ProjectCaller, place: ItemPlace, mallory: Person) -> None:
    run = ready_run(place, {"add.py": MENDED})
    stranger = caller_of(mallory.id, Account(user_id=mallory.id))
    with pytest.raises(NotFound, match="There is no such run"):
        apply_run(stranger, run.id, mover(stranger))
    with pytest.raises(NotFound, match="There is no such run"):
        rebase(stranger, run.id)
    with pytest.raises(NotFound, match="There is no such run"):
        preview_rebase(stranger, run.id)
    assert not db.session.scalars(
        select(WorkspaceOperation.id).where(WorkspaceOperation.kind == "turn")
    ).all()


def test_the_files_of_a_run_are_kept(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED})
    live = mark(caller.account.id)
    assert {run.base_manifest_hash, run.result_manifest_hash} <= live.manifests
    db.session.delete(run)
    db.session.flush()
    assert run.result_manifest_hash not in mark(caller.account.id).manifests


def test_the_patch_is_one_that_git_takes(caller: ProjectCaller, place: ItemPlace) -> None:
    run = ready_run(place, {"add.py": MENDED, "new.txt": "no end", "README.md": None, "bin": "\0"})
    project = db.session.get_one(Workspace, place.workspace_id).project_id
    from models.projects import Project

    patch = run_patch(db.session.get_one(Project, project), run)
    assert patch.left_out == []
    assert (
        "--- a/add.py\n+++ b/add.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"
        in patch.text
    )
    assert "deleted file mode 100644" in patch.text
    assert "\\ No newline at end of file" in patch.text
    assert "Binary files" in patch.text
