"""How far workspaces are from the main one, as the list of workspaces shows it."""

import re

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account
from models.projects.project_editing import create_project
from models.projects.workspaces.main_distance import main_distances
from models.projects.workspaces.overlap_index import follow_main_choice
from models.projects.workspaces.workspace_editing import create_workspace
from tests.factories import Person
from tests.projects.project_rows import Files, caller_of, pushed

BASE: Files = {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("mine", "mains", "expected", "shown"),
    [
        (None, None, ("same", 0, 0), "In step"),
        (None, BASE | {"a": "3"}, ("behind", 0, 0), "Behind"),
        (BASE | {"a": "3"}, None, ("changed", 1, 0), "One file changed"),
        (BASE | {"a": "3", "c": "4"}, BASE | {"b": "5"}, ("changed", 2, 0), "2 files changed"),
        (BASE | {"a": "3"}, BASE | {"a": "4"}, ("changed", 1, 1), "1 overlap"),
        (BASE | {"a": "3"}, BASE | {"a": "3"}, ("same", 0, 0), "In step"),
        ({"a": "1"}, BASE | {"b": "3"}, ("changed", 1, 1), "1 overlap"),
    ],
)
def test_a_workspace_is_as_far_from_main_as_their_files_differ(
    session: OrmSession,
    alice: Person,
    mine: Files | None,
    mains: Files | None,
    expected: tuple[str, int, int],
    shown: str,
) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    base = pushed(caller, project.id, main.id, BASE, "base")
    other = create_workspace(caller, project.id, "other", base_snapshot_id=base)
    empty = create_workspace(caller, project.id, "empty")
    if mine is not None:
        pushed(caller, project.id, other.id, mine, "mine", base)
    if mains is not None:
        pushed(caller, project.id, main.id, mains, "mains", base)
    session.commit()
    found = main_distances(project)
    assert found[main.id].state == "main"
    assert found[empty.id].state == "empty"
    state, changed, contested = expected
    assert found[other.id].state == state
    if state == "changed":
        assert (found[other.id].changed, found[other.id].contested) == (changed, contested)
    page = alice.browser.get(f"/projects/{project.id}/workspaces").text
    row = re.search(rf'<tr role="row" id="workspace-{other.id}">.*?</tr>', page, re.S)
    assert row
    assert shown in row[0]


def test_nothing_is_known_without_a_main_workspace_or_for_files_that_cannot_be_read(
    session: OrmSession, alice: Person
) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Pier")
    main = create_workspace(caller, project.id, "main")
    base = pushed(caller, project.id, main.id, BASE, "base")
    other = create_workspace(caller, project.id, "other", base_snapshot_id=base)
    other.current_manifest_hash = "0" * 64
    session.commit()
    assert main_distances(project)[other.id].state == "unknown"
    main.current_snapshot_id = main.current_manifest_hash = None
    other.current_manifest_hash = None
    follow_main_choice(project.id)
    session.commit()
    assert main_distances(project)[other.id] == ("changed", 2, 0)
    project.main_workspace_id = None
    session.commit()
    assert main_distances(project)[other.id].state == "unknown"
