"""Pages of overlaps and of drift: the matrix and its parts, what one asks for again, what differs and what that means; by each of the cast."""

import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.ledger import Account
from models.orgs import Org
from models.projects import DriftReport, Workspace
from models.projects.project_editing import create_project
from models.projects.workspaces import overlap_matrix
from models.projects.workspaces.workspace_editing import create_workspace
from tests import factories
from tests.factories import Person
from tests.projects.project_rows import caller_of, pushed
from tests.projects.sync_rows import OWN, SyncRows, sync_rows
from tests.projects.test_projects_pages import statements

HTMX = {"HX-Request": "true"}


def send(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data})


@pytest.fixture
def rows(session: OrmSession, alice: Person) -> SyncRows:
    found = sync_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    return found


def start(rows: SyncRows) -> str:
    return f"/projects/{rows.project}"


def cells(page: str) -> list[list[str]]:
    """The counts of the matrix, row by row."""
    matrix = page[page.index('class="overlaps__matrix"') :]
    body = matrix[matrix.index("<tbody>") : matrix.index("</tbody>")]
    return [re.findall(r'<td class="n[^"]*">(?:<[^>]*>)?([^<]*)', row) for row in body.split("</tr>")[:-1]]


def files(page: str) -> list[str]:
    """The paths that overlap, as listed."""
    return re.findall(r'<span class="mono break">([^<]*)</span></th>', page)


def test_the_matrix_counts_the_files_of_each_pair(alice: Person, rows: SyncRows) -> None:
    page = alice.browser.get(f"{start(rows)}/overlaps").text
    # main, laptop, agent: laptop and agent both changed torn.txt, and main did; laptop and main also both.txt
    assert cells(page) == [["2", "·", "1"], ["1", "1", "·"]]
    assert files(page) == ["torn.txt", "both.txt"]
    assert page.count("Changed too") == 2
    names = [re.sub(r"\s+", " ", each) for each in re.findall(r'scope="row">.*?</th>', page)]
    assert "laptop" in names[0]


def test_a_part_is_chosen_by_path_and_pair(alice: Person, rows: SyncRows) -> None:
    def found(**query: str) -> list[str]:
        return files(alice.browser.get(f"{start(rows)}/overlaps", query_string=query).text)

    assert found(q="BOTH") == ["both.txt"]
    assert found(q="%") == []
    assert found(q="\0") == ["torn.txt", "both.txt"]
    assert found(first=rows.laptop, other=rows.agent) == ["torn.txt"]
    assert found(first="main", other=rows.laptop) == ["both.txt", "torn.txt"]
    assert found(first=rows.agent, other="main") == ["torn.txt"]
    assert found(first=rows.agent, other=rows.agent) == ["torn.txt", "both.txt"]
    assert found(first="x", other=rows.agent) == ["torn.txt", "both.txt"]
    assert found(first=rows.laptop, other=rows.agent, q="both") == []
    page = alice.browser.get(f"{start(rows)}/overlaps?q=zzz").text
    assert "Clear filters" in page


def test_what_is_asked_for_again_is_204_until_something_changes(
    session: OrmSession, alice: Person, rows: SyncRows
) -> None:
    def poll(page: str) -> str:
        found = re.search(r'id="overlaps" hx-get="([^"]*)"', page)
        assert found
        return found[1].replace("&amp;", "&")

    again = poll(alice.browser.get(f"{start(rows)}/overlaps?q=t").text)
    assert "q=t" in again
    for _ in range(2):
        answer = alice.browser.get(again, headers=HTMX)
        assert (answer.status_code, answer.data) == (204, b"")
    assert alice.browser.get(again).status_code == 200
    caller = caller_of(alice.id, Account(user_id=alice.id))
    head = session.get_one(Workspace, rows.agent).current_snapshot_id or ""
    pushed(caller, rows.project, rows.agent, {**OWN, "both.txt": "agent\n", "torn.txt": "x"}, "More", head)
    session.commit()
    fragment = alice.browser.get(again, headers=HTMX)
    assert fragment.status_code == 200
    assert "<h1" not in fragment.text
    assert cells(fragment.text) == [["2", "·", "2"], ["2", "2", "·"]]
    assert poll(fragment.text) != again
    assert send(alice, f"{start(rows)}/workspaces/{rows.agent}/deletion").status_code == 303
    assert cells(alice.browser.get(poll(fragment.text), headers=HTMX).text) == [["2", "·"]]


def test_empty_states_say_what_the_page_is_for(session: OrmSession, alice: Person) -> None:
    caller = caller_of(alice.id, Account(user_id=alice.id))
    project = create_project(caller, caller.account, "Quay")
    session.commit()
    page = f"/projects/{project.id}/overlaps"
    assert "No other workspaces" in alice.browser.get(page).text
    main = create_workspace(caller, project.id, "main")
    first = pushed(caller, project.id, main.id, {"a": "1"}, "Begin")
    create_workspace(caller, project.id, "other", base_snapshot_id=first)
    session.commit()
    assert "No overlaps" in alice.browser.get(page).text


def test_a_matrix_is_bounded(
    session: OrmSession, alice: Person, rows: SyncRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap_matrix, "MAX_WORKSPACES", 1)
    page = alice.browser.get(f"{start(rows)}/overlaps").text
    assert cells(page) == [["2", "·"]]
    assert "the most overlaps are shown" in page


def test_lists_take_as_many_statements_for_many_workspaces_as_for_two(
    session: OrmSession, engine: Engine, alice: Person, rows: SyncRows
) -> None:
    paths = [f"{start(rows)}/sync", f"{start(rows)}/overlaps"]
    statements(engine, alice, paths[0])  # notes that the session is in use
    first = [statements(engine, alice, path) for path in paths]
    caller = caller_of(alice.id, Account(user_id=alice.id))
    for number in range(4):
        made = create_workspace(caller, rows.project, str(number), base_snapshot_id=rows.base)
        pushed(caller, rows.project, made.id, {"torn.txt": str(number)}, str(number), rows.base)
    session.commit()
    assert [statements(engine, alice, path) for path in paths] == first


def test_drift_says_what_differs_and_is_stored_on_demand(
    session: OrmSession, alice: Person, rows: SyncRows
) -> None:
    address = f"{start(rows)}/workspaces/{rows.laptop}/drift"
    page = alice.browser.get(address).text
    for text in (
        "Medium risk",
        "torn.txt",
        "Only in main",
        "moved/new name.txt",
        "gone.txt",
        "Sync with main",
    ):
        assert text in page, text
    assert "there is none yet" in page
    assert session.scalars(select(DriftReport)).all() == []
    for words in ("The report is stored.", "Nothing moved since the last report."):
        stored = send(alice, address, source=rows.main)
        assert (stored.status_code, stored.headers["Location"]) == (303, f"{address}?source={rows.main}")
        page = alice.browser.get(stored.headers["Location"]).text
        assert words in page
        assert "says the same" in page
    session.rollback()
    report = session.scalars(select(DriftReport)).one()
    assert (report.files_added, report.files_modified, report.workspace_only_count) == (2, 3, 2)


def test_drift_is_between_any_two_workspaces(alice: Person, rows: SyncRows) -> None:
    address = f"{start(rows)}/workspaces/{rows.laptop}/drift"
    page = alice.browser.get(f"{address}?source={rows.agent}").text
    assert "Only in agent" in page
    assert "Sync with main" not in page
    for source, words in ((rows.laptop, "does not differ from itself"), ("none", "no such workspace")):
        assert words in alice.browser.get(f"{address}?source={source}").text
        assert send(alice, address, source=source).status_code == 303
    main = alice.browser.get(f"{start(rows)}/workspaces/{rows.main}/drift").text
    assert "This is the main workspace" in main


def test_markup_in_paths_and_names_is_text(session: OrmSession, alice: Person) -> None:
    base, main, own = ({"<b>.txt": text, "<i>": "1"} for text in ("1", "2", "3"))
    found = sync_rows(alice.id, Account(user_id=alice.id), base, main, own)
    assert session.get_one(Workspace, found.laptop)
    session.get_one(Workspace, found.laptop).name = "<u>laptop"
    session.commit()
    paths = (
        "/overlaps",
        f"/overlaps?first={found.laptop}&other=main&q=<b>",
        f"/workspaces/{found.laptop}/drift",
    )
    for path in paths:
        page = alice.browser.get(start(found) + path).text
        assert "&lt;b&gt;.txt" in page
        assert not re.search(r"<b>\.txt|<u>laptop", page)


def test_each_role_sees_and_does_what_it_may(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    vic = factories.person(app, "vic")
    factories.join(acme, vic.id, "viewer")
    biller = factories.person(app, "biller")
    factories.join(acme, biller.id, "billing")
    rows = sync_rows(alice.id, Account(org_id=acme.id))
    session.commit()
    drift = f"/orgs/acme{start(rows)}/workspaces/{rows.laptop}/drift"
    for path in (drift, f"/orgs/acme{start(rows)}/overlaps"):
        for who, status in (
            (alice, 200),
            (bob, 200),
            (vic, 200),
            (biller, 403),
            (mallory, 404),
            (anonymous, 302),
        ):
            assert who.browser.get(path).status_code == status, (path, who)
        assert bob.browser.get(path.removeprefix("/orgs/acme")).status_code == 404
    assert "Compare again" not in vic.browser.get(drift).text
    for who, statuses in ((vic, (403,)), (biller, (403,)), (mallory, (404,)), (anonymous, (303, 400))):
        assert send(who, drift).status_code in statuses, who
    assert send(bob, drift.removeprefix("/orgs/acme")).status_code == 404
    assert send(bob, drift).status_code == 303


def test_ids_of_others_and_none_are_404(
    session: OrmSession, alice: Person, mallory: Person, rows: SyncRows
) -> None:
    theirs = sync_rows(mallory.id, Account(user_id=mallory.id))
    session.commit()
    for path in (
        f"{start(theirs)}/overlaps",
        f"{start(theirs)}/workspaces/{theirs.laptop}/drift",
        f"{start(rows)}/workspaces/{theirs.laptop}/drift",
        f"{start(rows)}/workspaces/%00/drift",
    ):
        assert alice.browser.get(path).status_code == 404, path
    assert send(alice, f"{start(rows)}/workspaces/{theirs.laptop}/drift").status_code == 404
    foreign = alice.browser.get(f"{start(rows)}/workspaces/{rows.laptop}/drift?source={theirs.laptop}").text
    assert "no such workspace" in foreign
