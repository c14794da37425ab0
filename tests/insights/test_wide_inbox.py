"""The inbox over all projects: what waits for whom, with which addresses, in pages; and how much of it the rail says."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db, now
from models.insights import ActionItem, FoundItem, ProjectDecision, upsert_item
from models.insights.wide_inbox import MOST_COUNTED, waiting_count
from models.ledger import Account
from models.orgs import Org
from models.projects import Workspace
from tests import factories
from tests.factories import Person
from tests.insights.insight_rows import insight_rows
from tests.projects.project_rows import project_rows
from views.insights.pages import wide_inbox_page


def made(user_id: str, account: Account) -> dict[str, str]:
    ids = project_rows(user_id, account)
    return ids | insight_rows(ids)


@pytest.fixture
def ids(session: OrmSession, alice: Person) -> dict[str, str]:
    found = made(alice.id, Account(user_id=alice.id))
    session.commit()
    return found


def titles(who: Person, query: str = "", at: str = "/inbox") -> list[str]:
    """The rows of the page, those of items by the end of their titles."""
    answer = who.browser.get(f"{at}{query}")
    assert answer.status_code == 200, answer.text
    return re.findall(r'data-row href="[^"]*">([^<]*)</a>', answer.text)


def severities(who: Person, query: str = "", at: str = "/inbox") -> list[str]:
    return [each.rsplit(" ", 1)[1] for each in titles(who, query, at) if each.startswith("Mend")]


def badge(who: Person, at: str = "/inbox") -> str:
    found = re.search(r'Inbox <span class="count">([^<]*)<', who.browser.get(at).text)
    return found[1] if found else ""


def add(workspace_id: str, count: int, severity: str = "info", **more: Any) -> list[ActionItem]:
    workspace, rows = db.session.get_one(Workspace, workspace_id), []
    for number in range(count):
        found = FoundItem(
            "t:more", "refactoring", severity, f"More {number} {severity}", fingerprint=f"{severity}-{number}"
        )
        row = upsert_item(workspace, found, analyser="more")
        row.created_at = now() - timedelta(seconds=number // 2)
        for name, value in more.items():
            setattr(row, name, value)
        rows.append(row)
    db.session.commit()
    return rows


def test_it_shows_what_waits_for_me_and_on_demand_everything(
    session: OrmSession, alice: Person, ids: dict[str, str]
) -> None:
    first = titles(alice)
    assert "A decision to review" in first
    assert "Sync of agent with main" in first
    assert severities(alice) == ["critical?"]
    assert severities(alice, "?view=all") == ["critical?", "warning?", "info?"]
    warning = session.scalars(select(ActionItem).where(ActionItem.severity == "warning")).one()
    warning.assignee_id = alice.id
    session.commit()
    assert severities(alice) == ["critical?", "warning?"]
    assert severities(alice, "?view=all&assignee=none") == ["critical?", "info?"]
    assert severities(alice, "?view=all&assignee=me") == ["warning?"]
    assert severities(alice, "?view=all&type=test_coverage") == ["info?"]
    assert severities(alice, "?view=all&severity=warning") == ["warning?"]
    assert severities(alice, f"?view=all&project={ids['project_id']}") == ["critical?", "warning?", "info?"]
    for nothing in ("?project=none", "?view=snoozed", "?view=all&type=drift&severity=critical&assignee=me"):
        assert titles(alice, nothing) == []
    warning.snoozed_until = now() + timedelta(days=1)
    session.commit()
    assert severities(alice) == ["critical?"]
    assert severities(alice, "?view=snoozed") == ["warning?"]


def test_who_has_nothing_is_told_what_comes_there(
    alice: Person, mallory: Person, ids: dict[str, str]
) -> None:
    page = mallory.browser.get("/inbox").text
    assert ("No projects yet" in page, badge(mallory)) == (True, "")
    assert titles(mallory, f"?project={ids['project_id']}&view=all") == []
    assert "Nothing is snoozed" in alice.browser.get("/inbox?view=snoozed").text
    assert "No such item" in alice.browser.get("/inbox?project=none").text


def test_projects_of_organisations_are_in_it_with_their_own_addresses(
    app: Flask, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    own, theirs = made(alice.id, Account(user_id=alice.id)), made(alice.id, Account(org_id=acme.id))
    dave, vic = factories.person(app, "dave"), factories.person(app, "vic")
    factories.join(acme, dave.id, "billing")
    factories.join(acme, vic.id, "viewer")
    session.commit()
    page = alice.browser.get("/inbox?view=all").text
    assert f'href="/projects/{own["project_id"]}/items/' in page
    assert f'href="/orgs/acme/projects/{theirs["project_id"]}/items/' in page
    assert f'"/projects/{theirs["project_id"]}/' not in page
    assert severities(alice, "?view=all", "/orgs/acme/inbox") == ["critical?", "warning?", "info?"]
    assert severities(bob, "?view=all") == ["critical?", "warning?", "info?"]
    assert ("Fix with an agent" in bob.browser.get("/inbox").text) is True
    assert ("Fix with an agent" in vic.browser.get("/inbox").text) is False
    assert (badge(bob), badge(dave), badge(mallory)) == (badge(bob, "/orgs/acme/inbox"), "", "")
    assert int(badge(alice)) == 2 * int(badge(bob)) + 2, "and the syncs that alice began"
    assert titles(dave, "?view=all") == []
    for who, status in ((alice, 200), (bob, 200), (vic, 200), (dave, 403), (mallory, 404), (anonymous, 302)):
        assert who.browser.get("/orgs/acme/inbox").status_code == status, who
    assert anonymous.browser.get("/inbox").status_code == 302


def test_its_pages_have_each_row_once(
    session: OrmSession, alice: Person, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(ids["workspace_id"], 7)
    add(ids["workspace_id"], 4, "warning")
    whole = titles(alice, "?view=all")
    monkeypatch.setattr(wide_inbox_page, "PAGE", 3)
    seen, address = [], "/inbox?view=all"
    for _ in range(20):
        page = alice.browser.get(address)
        seen += re.findall(r'data-row href="[^"]*">([^<]*)</a>', page.text)
        found = re.search(r'href="([^"]*)"[^>]*>Next page', page.text)
        if found is None:
            break
        address = found[1].replace("&amp;", "&")
    assert seen == whole
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    "after",
    [
        "x",
        "0~0~now~a",
        "0~0~2026-01-01~a",
        "9~1~2026-01-01T00:00:00+00:00",
        "0~0~2026-01-01T00:00:00+00:00~%00",
    ],
)
def test_another_place_is_refused(alice: Person, ids: dict[str, str], after: str) -> None:
    assert alice.browser.get(f"/inbox?after={after}").status_code == 422


def test_hostile_values_of_filters_are_no_error(alice: Person, ids: dict[str, str]) -> None:
    for name in ("view", "project", "type", "severity", "assignee"):
        for value in ("%00", "'", "x" * 3_000, "%F0%9F%98%80", "<script>"):
            assert alice.browser.get(f"/inbox?{name}={value}").status_code == 200, (name, value)


def test_the_rail_counts_what_waits(session: OrmSession, alice: Person, ids: dict[str, str]) -> None:
    assert badge(alice) == badge(alice, "/projects") == "3", "a critical item, a begun sync, decisions"
    add(ids["workspace_id"], 3, assignee_id=alice.id)
    assert badge(alice) == "6"
    (asleep, *_) = session.scalars(select(ActionItem).where(ActionItem.assignee_id == alice.id))
    asleep.snoozed_until = now() + timedelta(days=1)
    for row in session.scalars(select(ProjectDecision).where(ProjectDecision.state == "proposed")):
        row.state = "rejected"
    session.commit()
    assert badge(alice) == "4"
    add(ids["workspace_id"], MOST_COUNTED + 5, "critical")
    assert badge(alice) == "99+"
    assert waiting_count(alice.id) == MOST_COUNTED
    workspace = session.get_one(Workspace, ids["workspace_id"])
    workspace.deleted_at = now()
    session.commit()
    assert badge(alice) == ""


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_it_takes_as_many_statements_for_many_projects_as_for_one(
    session: OrmSession, alice: Person, ids: dict[str, str], statements: list[str]
) -> None:
    def count() -> int:
        statements.clear()
        assert alice.browser.get("/inbox?view=all").status_code == 200
        return len(statements)

    count()
    before = count()
    for _ in range(2):
        made(alice.id, Account(user_id=alice.id))
    session.commit()
    assert count() == before
