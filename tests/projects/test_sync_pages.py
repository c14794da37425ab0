"""Pages of syncs: the list, the preview with its decisions, the sync with its undo, and what makes a preview useless; by each of the cast."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.db import now
from models.ledger import Account
from models.orgs import Org
from models.projects import Project, SyncPreview, Workspace, WorkspaceOperation
from models.projects.project_states import state_of
from models.projects.snapshots.blob_packs import blob_bytes
from models.projects.snapshots.tree_reading import read_path
from tests import factories
from tests.factories import Person
from tests.projects.project_rows import caller_of, pushed
from tests.projects.sync_rows import BASE, LINES, MAIN, OWN, SyncRows, sync_rows

HTMX = {"HX-Request": "true"}
Made = Callable[..., SyncRows]


def send(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data})


@pytest.fixture
def made(session: OrmSession, alice: Person) -> Made:
    """Makes the rows in Alice's account."""

    def make(*files: dict[str, str]) -> SyncRows:
        found = sync_rows(alice.id, Account(user_id=alice.id), *files)
        session.commit()
        return found

    return make


def start(rows: SyncRows) -> str:
    return f"/projects/{rows.project}"


def prepared(who: Person, rows: SyncRows, before: str = "") -> str:
    """The address of a new preview of the laptop."""
    answer = send(who, f"{before}{start(rows)}/workspaces/{rows.laptop}/sync")
    assert answer.status_code == 303, answer.text
    assert f"/workspaces/{rows.laptop}/sync/" in answer.headers["Location"]
    return answer.headers["Location"]


def content(session: OrmSession, app: Flask, workspace_id: str, path: str) -> bytes | None:
    """The bytes of a file of a workspace."""
    session.rollback()
    project = session.get_one(Project, session.get_one(Workspace, workspace_id).project_id)
    entry: Any = read_path(project.account_id, state_of(project, workspace_id=workspace_id).tree or "", path)
    return blob_bytes(project.account_id, entry.hash)


def test_the_list_says_where_each_workspace_stands(alice: Person, made: Made) -> None:
    rows = made()
    page = alice.browser.get(f"{start(rows)}/sync").text
    assert page.count("Main moved on") == 2
    assert page.count(">Sync with main</button>") == 2
    assert "Continue" not in page
    address = prepared(alice, rows)
    assert f'href="{address}"' in alice.browser.get(f"{start(rows)}/sync").text


def test_a_preview_shows_decisions_first_and_each_file_with_its_label(alice: Person, made: Made) -> None:
    rows = made()
    address = prepared(alice, rows)
    page = alice.browser.get(address).text
    for text in (
        *("Decide about one file", "Both sides changed the same place.", "1 of 1 decisions left"),
        *(
            "What main changed",
            "What the workspace changed",
            "Merged by lines",
            "Moved from moved/old name.txt",
        ),
        *("main changed 7 files and the workspace 2", "Use main", "Use workspace", "Own text"),
    ):
        assert text in unescape(page), text
    assert page.index("decision-1") < page.index("README.md")
    assert "checked" not in page
    own = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)
    assert own
    assert "<<<<<<<" in unescape(own[1])
    split = alice.browser.get(f"{address}?view=split").text
    assert "side by side" in split
    assert "diff--columns" in split


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("both.txt", ["line two"]),
        ("new.txt", ["&lt;b&gt;new&lt;/b&gt;"]),
        ("gone.txt", ["gone"]),
        ("torn.txt", ["What main changed", "mine"]),
        ("moved/new name.txt", ["Moved as it is."]),
    ],
)
def test_a_file_of_a_preview_is_loaded_by_itself(
    alice: Person, made: Made, path: str, texts: list[str]
) -> None:
    address = f"{prepared(alice, made())}/file"
    page = alice.browser.get(address, query_string={"path": path})
    part = alice.browser.get(address, query_string={"path": path, "view": "split"}, headers=HTMX)
    assert (page.status_code, part.status_code) == (200, 200)
    assert "<h1" in page.text
    assert "<h1" not in part.text
    for text in texts:
        assert text in page.text, text
    for wrong in ("kept.txt", "no", "x" * 5000):
        assert alice.browser.get(address, query_string={"path": wrong}).status_code == 404
    for nothing in ("", "\0"):
        assert alice.browser.get(address, query_string={"path": nothing}).status_code == 303


def test_a_sync_is_done_and_undone(app: Flask, session: OrmSession, alice: Person, made: Made) -> None:
    rows = made()
    address = prepared(alice, rows)
    done = send(alice, address, **{"choice-1": "use_main"})
    assert (done.status_code, done.headers["Location"]) == (303, address)
    page = alice.browser.get(address).text
    assert "is synced. This can be undone." in page
    assert "is synced with" in page
    assert "Main’s" in page
    assert content(session, app, rows.laptop, "torn.txt") == b"one\nmain\nthree\n"
    both = LINES.replace("line 2\n", "line two\n").replace("line 29\n", "line 29!\n")
    assert content(session, app, rows.laptop, "both.txt") == both.encode()
    undo = re.search(r'href="([^"]*/undo)"', page)
    assert undo
    version = re.search(r'name="version" value="(\d+)"', alice.browser.get(undo[1]).text)
    assert version
    assert send(alice, undo[1], version=version[1]).status_code == 303
    assert content(session, app, rows.laptop, "torn.txt") == b"one\nmine\nthree\n"
    # sent again, it changes nothing
    again = send(alice, address, **{"choice-1": "use_main"})
    assert (again.status_code, again.headers["Location"]) == (303, address)
    kinds = session.scalars(
        select(WorkspaceOperation.kind).where(WorkspaceOperation.workspace_id == rows.laptop)
    )
    assert sorted(kinds) == ["snapshot", "sync", "undo"]
    assert prepared(alice, rows) != address


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "Choose one."),
        ({"choice-1": ""}, "Choose one."),
        ({"choice-1": "shrug"}, "Choose one of these."),
        ({"choice-2": "use_main"}, "Choose one."),
        ({"rest": "custom"}, "Choose one."),
        ({"choice-1": "custom"}, "Enter the text of the file."),
        ({"choice-1": "custom", "text-1": " \n"}, "Enter the text of the file."),
        (
            {"choice-1": "custom", "text-1": "<<<<<<< a\nx\n=======\ny\n>>>>>>> b\n"},
            "still has conflict markers",
        ),
    ],
)
def test_wrong_answers_are_422_and_kept(
    session: OrmSession, alice: Person, made: Made, form: dict[str, str], message: str
) -> None:
    address = prepared(alice, made())
    refused = send(alice, address, **form)
    assert refused.status_code == 422
    assert message in refused.text
    assert "Not synced" in refused.text
    if form.get("choice-1") == "custom":
        assert 'value="custom" checked' in refused.text
        assert (form.get("text-1") or "").strip()[:7] in unescape(refused.text)
    session.rollback()
    assert session.scalars(select(SyncPreview.state)).all() == ["open"]


@pytest.mark.parametrize(
    ("end", "mark"), [("\n", ""), ("\r\n", ""), ("\r\n", "\ufeff")], ids=["lines", "returns", "mark"]
)
def test_a_text_of_ones_own_keeps_the_shape_of_the_file(
    app: Flask, session: OrmSession, alice: Person, made: Made, end: str, mark: str
) -> None:
    def shaped(*lines: str) -> dict[str, str]:
        return {"torn.txt": mark + "".join(line + end for line in lines)}

    rows = made(shaped("one", "two"), shaped("one", "main"), shaped("one", "mine"))
    address = prepared(alice, rows)
    page = alice.browser.get(address).text
    assert "\ufeff" not in page[page.index("<textarea") : page.index("</textarea>")]
    sent = send(alice, address, **{"choice-1": "custom", "text-1": "one\r\nboth ö\r\n"})
    assert sent.status_code == 303
    assert content(session, app, rows.laptop, "torn.txt") == shaped("one", "both ö")["torn.txt"].encode()


def test_all_undecided_files_are_answered_at_once(
    app: Flask, session: OrmSession, alice: Person, made: Made
) -> None:
    def side(text: str) -> dict[str, str]:
        return {f"{number:03}.txt": f"{number} {text}\n" for number in range(230)}

    rows = made(side("base"), side("main"), side("mine"))
    address = prepared(alice, rows)
    page = alice.browser.get(address).text
    assert page.count("data-decision=") == 200
    assert "Only the first 200 are shown" in page
    assert page.count("Show what differs") == 160
    refused = send(alice, address, **{"choice-1": "use_workspace"})
    assert (refused.status_code, "229 of 230 decisions left" in refused.text) == (422, True)
    assert send(alice, address, **{"choice-1": "use_workspace", "rest": "use_main"}).status_code == 303
    texts = [content(session, app, rows.laptop, f"{number:03}.txt") for number in (0, 1, 229)]
    assert texts == [b"0 mine\n", b"1 main\n", b"229 main\n"]


ODD = {
    "bytes": ({"x": "a\0b"}, {"x": "b\0c"}, {"x": "c\0d"}, "This is no text"),
    "deleted here": ({"x": "1\n", "y": "1"}, {"x": "2\n", "y": "1"}, {"y": "1"}, "The workspace deleted it."),
    "deleted there": ({"x": "1\n", "y": "1"}, {"y": "1"}, {"x": "2\n", "y": "1"}, "Main deleted it."),
    "both added": ({"y": "1"}, {"x": "1\n", "y": "1"}, {"x": "2\n", "y": "1"}, "Both sides added this file"),
    "huge": (
        {"x": "a\n" * 200_000},
        {"x": "b\n" * 200_000},
        {"x": "c\n" * 200_000},
        "too long to compare",
    ),
    "file and folder": (
        {"y": "1"},
        {"x/a": "1", "y": "1"},
        {"x": "2", "y": "1"},
        "One side has a file where",
    ),
    "case": ({"y": "1"}, {"A": "1", "y": "1"}, {"a": "2", "y": "1"}, "ignore case"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_decisions_are_shown_and_taken(session: OrmSession, alice: Person, made: Made, name: str) -> None:
    *files, text = ODD[name]
    rows = made(*files)
    address = prepared(alice, rows)
    for view in ("", "?view=split"):
        page = alice.browser.get(address + view)
        assert page.status_code == 200
        assert text in page.text
    assert send(alice, address, rest="use_workspace").status_code == 303


def test_nothing_to_do_is_said(alice: Person, made: Made) -> None:
    rows = made(BASE, BASE, OWN)
    answer = send(alice, f"{start(rows)}/workspaces/{rows.laptop}/sync")
    assert answer.headers["Location"] == f"{start(rows)}/sync"
    assert "There is nothing to sync." in alice.browser.get(f"{start(rows)}/sync").text


def test_what_cannot_be_prepared_is_said(session: OrmSession, alice: Person, made: Made) -> None:
    rows = made()
    for workspace, words in ((rows.main, "This is the main workspace."),):
        assert send(alice, f"{start(rows)}/workspaces/{workspace}/sync").status_code == 303
        assert words in alice.browser.get(f"{start(rows)}/sync").text
    assert send(alice, f"{start(rows)}/workspaces", name="empty").status_code == 303
    empty = session.scalars(select(Workspace.id).where(Workspace.name == "empty")).one()
    assert "No files" in alice.browser.get(f"{start(rows)}/sync").text
    send(alice, f"{start(rows)}/workspaces/{empty}/sync")
    assert "has no snapshot. Push one first." in alice.browser.get(f"{start(rows)}/sync").text.replace(
        "&#39;", "'"
    )


def test_a_stale_or_expired_preview_says_to_prepare_again(
    session: OrmSession, alice: Person, made: Made
) -> None:
    rows = made()
    expired, stale = prepared(alice, rows), prepared(alice, rows)
    id = expired.rpartition("/")[2]
    moment = now() - timedelta(minutes=1)
    values = {"created_at": moment - timedelta(hours=1), "expires_at": moment}
    session.execute(update(SyncPreview).where(SyncPreview.id == id).values(values))
    session.commit()
    caller = caller_of(alice.id, Account(user_id=alice.id))
    main = session.get_one(Workspace, rows.main)
    pushed(caller, rows.project, rows.main, {**MAIN, "more": "1"}, "More", main.current_snapshot_id or "")
    session.commit()
    for address, words in ((expired, "This preview has expired"), (stale, "This preview is out of date")):
        sent = send(alice, address, **{"choice-1": "use_main"})
        assert (sent.status_code, sent.headers["Location"]) == (303, address)
        page = alice.browser.get(address).text
        assert words in page
        assert "Prepare again" in page
    session.rollback()
    assert session.get_one(Workspace, rows.laptop).version == 2


def test_markup_in_names_and_texts_is_text(alice: Person, made: Made) -> None:
    base = {"<b>.txt": "1\n", "<i>": "1\n"}
    rows = made(base, {"<b>.txt": "<u>2\n", "<i>": "2\n"}, {"<b>.txt": "<s>3\n", "<i>": "1\n"})
    address = prepared(alice, rows)
    pages = [alice.browser.get(address + view).text for view in ("", "?view=split")]
    pages.append(alice.browser.get(f"{address}/file", query_string={"path": "<i>"}).text)
    assert not any(re.search(r"<b>\.|<u>2|<s>3|<i>\"|>1</i>|<i></", page) for page in pages)


def test_each_role_sees_and_does_what_it_may(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    vic = factories.person(app, "vic")
    factories.join(acme, vic.id, "viewer")
    biller = factories.person(app, "biller")
    factories.join(acme, biller.id, "billing")
    rows = sync_rows(alice.id, Account(org_id=acme.id))
    session.commit()
    org = "/orgs/acme"
    address = prepared(bob, rows, org)
    workspace = f"{org}{start(rows)}/workspaces/{rows.laptop}"
    pages = [f"{org}{start(rows)}/sync", address, f"{address}/file?path=new.txt"]
    for path in pages:
        for who, status in (
            (alice, 200),
            (bob, 200),
            (vic, 200),
            (biller, 403),
            (mallory, 404),
            (anonymous, 302),
        ):
            assert who.browser.get(path).status_code == status, (path, who)
    assert "Your role in the organisation does not sync" in vic.browser.get(address).text
    assert "Prepare one yourself" in alice.browser.get(address).text
    for path, form in ((f"{workspace}/sync", {}), (address, {"rest": "use_main"})):
        for who, statuses in ((vic, (403,)), (biller, (403,)), (mallory, (404,)), (anonymous, (303, 400))):
            assert send(who, path, **form).status_code in statuses, (path, who)
        # in one's own account it does not exist
        assert send(bob, path.removeprefix(org), **form).status_code == 404
    refused = send(alice, address, rest="use_main")
    assert (refused.status_code, "Another member prepared this sync" in refused.text) == (422, True)
    assert send(bob, address, rest="use_main").status_code == 303


def test_ids_of_others_and_none_are_404(
    session: OrmSession, alice: Person, mallory: Person, made: Made
) -> None:
    mine = made()
    theirs = sync_rows(mallory.id, Account(user_id=mallory.id))
    session.commit()
    preview, foreign = prepared(alice, mine), prepared(mallory, theirs)
    id = preview.rpartition("/")[2]
    for path in (
        foreign,
        f"{start(mine)}/workspaces/{theirs.laptop}/sync/{foreign.rpartition('/')[2]}",
        f"{start(mine)}/workspaces/{mine.laptop}/sync/{foreign.rpartition('/')[2]}",
        f"{start(mine)}/workspaces/{mine.agent}/sync/{id}",
        f"{start(mine)}/workspaces/{mine.laptop}/sync/none",
        f"{start(mine)}/workspaces/{mine.laptop}/sync/%00",
        f"{start(mine)}/workspaces/{mine.laptop}/sync/{'x' * 300}",
    ):
        assert alice.browser.get(path).status_code == 404, path
        assert send(alice, path, rest="use_main").status_code == 404, path
    assert send(alice, f"{start(mine)}/workspaces/{theirs.laptop}/sync").status_code == 404
