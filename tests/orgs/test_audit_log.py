"""The audit log of an organisation: page, JSON, exports, retention; and the operators' over all."""

import csv
import io
import json
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.audit_log import AuditLog
from models.core.audit_trail import changes
from models.core.db import db
from models.orgs import Org, record_org
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

PAGE = "/orgs/acme/audit"


@pytest.fixture
def entries(acme: Org, session: OrmSession) -> list[AuditLog]:
    """60 changes of acme a minute apart, the last of them a role, and one of another organisation."""
    began = factories.now() - timedelta(days=200)
    rows = [
        AuditLog(
            at=began + timedelta(minutes=number),
            actor="alice@example.org" if number % 2 else "bob@example.org",
            action="key.created" if number < 50 else "member.added",
            subject=f"subject-{number}",
            org_id=acme.id,
            ip="192.0.2.1",
        )
        for number in range(59)
    ]
    rows.append(
        AuditLog(
            at=factories.now(),
            actor="alice@example.org",
            actor_id="alice-id",
            action="member.role_changed",
            subject="=bob@example.org",
            before={"role": "member", "same": 1},
            after={"role": "admin", "same": 1},
            org_id=acme.id,
            request_id="r" * 32,
        )
    )
    rows.append(AuditLog(actor="eve", action="member.added", subject="secret", org_id="other-org"))
    session.add_all(rows)
    session.commit()
    return rows


def test_the_page_is_for_owners_and_admins(
    acme: Org,
    entries: list[AuditLog],
    alice: Person,
    bob: Person,
    carol: Person,
    dave: Person,
    mallory: Person,
    anonymous: Person,
) -> None:
    people = ((alice, 200), (carol, 200), (bob, 403), (dave, 403), (mallory, 404), (anonymous, 302))
    for person, status in people:
        for path in (PAGE, f"{PAGE}.csv", f"{PAGE}.json"):
            answer = person.browser.get(path)
            assert answer.status_code == status, (person.id, path)
            assert "secret" not in answer.text
        answer = person.browser.get(f"/api/orgs/{acme.id}/audit")
        assert answer.status_code == (401 if status == 302 else status)
    text_ = alice.browser.get(PAGE).text
    assert "<del>member</del> → <ins>admin</ins>" in text_
    assert "same" not in text_


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 60),
        ("actor=ALICE@example.org", 30),
        ("actor=alice-id", 1),
        ("action=member", 10),
        ("action=member.added", 9),
        ("action=mem", 0),
        ("subject=subject-3", 1),
        ("from=2020-01-01&to=2020-01-02", 0),
        ("from=2020-01-01", 60),
        ("action=key.created&actor=bob@example.org", 25),
    ],
)
def test_filters_and_cursors_reach_every_entry_once(
    acme: Org, entries: list[AuditLog], alice: Person, query: str, count: int
) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        answer = alice.browser.get(f"/api/orgs/acme/audit?limit=7&{query}{cursor}").json
        seen += [each["subject"] for each in answer["entries"]]
        if answer["nextCursor"] is None:
            break
        cursor = f"&cursor={answer['nextCursor']}"
    assert len(seen) == len(set(seen)) == count
    exported = alice.browser.get(f"{PAGE}.json?{query}")
    assert [each["subject"] for each in json.loads(exported.text)] == seen
    lines = list(csv.DictReader(io.StringIO(alice.browser.get(f"{PAGE}.csv?{query}").text)))
    assert [each["subject"].removeprefix("'") for each in lines] == seen
    assert all(not each["subject"].startswith("=") for each in lines)


def test_the_page_loads_more(acme: Org, entries: list[AuditLog], alice: Person) -> None:
    page = alice.browser.get(f"{PAGE}?actor=").text
    assert page.count('role="rowheader"') == 50
    href = page[page.index(f'href="{PAGE}?before=') + 6 :].partition('"')[0].replace("&amp;", "&")
    more = alice.browser.get(href, headers={"HX-Request": "true"}).text
    assert more.count('role="rowheader"') == 10
    assert "<html" not in more


def test_bad_input_is_told(acme: Org, entries: list[AuditLog], alice: Person) -> None:
    page = alice.browser.get(f"{PAGE}?from=yesterday")
    assert (page.status_code, "Enter a day like" in page.text) == (422, True)
    for query in ("from=x", "cursor=x", "limit=0", "limit=201", "limit=x", "actor=%00"):
        answer = alice.browser.get(f"/api/orgs/acme/audit?{query}")
        assert answer.status_code == 422, query
    assert alice.browser.get(f"{PAGE}?before=x").status_code == 422
    assert alice.browser.get(f"{PAGE}?from=0001-01-01&to=9999-12-31").status_code == 200


def test_entries_end_by_their_retention_only(
    acme: Org, entries: list[AuditLog], alice: Person, carol: Person, session: OrmSession
) -> None:
    def refused(statement: str) -> None:
        with pytest.raises(IntegrityError, match="append-only"):
            session.execute(text(statement))
        session.rollback()

    refused("UPDATE audit_log SET actor = 'nobody'")
    refused("DELETE FROM audit_log")
    refused("TRUNCATE audit_log")
    form = {"csrf_token": token_of(carol.browser.get("/profile?tab=api-keys")), "days": "90"}
    assert carol.browser.post(f"{PAGE}/retention", data=form).status_code == 403
    form["csrf_token"] = token_of(alice.browser.get(PAGE))
    for days, status in (("30", 422), ("x", 404), ("365", 303), ("180", 303)):
        assert alice.browser.post(f"{PAGE}/retention", data={**form, "days": days}).status_code == status
    refused("DELETE FROM audit_log WHERE action = 'member.role_changed'")
    refused("DELETE FROM audit_log WHERE org_id = 'other-org'")
    with pytest.raises(IntegrityError, match="org_audit_retention"):
        session.execute(text("UPDATE org SET audit_retention_days = 1"))
    session.rollback()
    jobs.expire_audit(timestamp=0)
    db.session.commit()
    left = session.scalars(
        select(AuditLog.action).where(AuditLog.org_id == acme.id).order_by(AuditLog.id)
    ).all()
    assert left == ["member.role_changed", *["audit.retention_changed"] * 2, "audit.expired"]
    last = session.scalars(select(AuditLog).order_by(AuditLog.id.desc()).limit(1)).one()
    assert last.after == {"entries": 59, "older_than_days": 180, "more": False}
    jobs.expire_audit(timestamp=0)
    db.session.commit()
    assert session.scalars(select(AuditLog.action)).all().count("audit.expired") == 1


def test_operators_see_all_organisations(
    app: Flask, acme: Org, entries: list[AuditLog], alice: Person
) -> None:
    root = factories.person(app, "root")
    page = root.browser.get("/admin/audit?action=member.added&org=")
    assert (page.status_code, "secret" in page.text, ">acme<" in page.text) == (200, True, True)
    assert "secret" not in root.browser.get("/admin/audit?org=acme").text
    assert "secret" in root.browser.get("/admin/audit.csv?org=other-org").text
    assert len(json.loads(root.browser.get("/admin/audit.json").text)) == 61
    assert root.browser.get("/admin/audit?org=%00").status_code == 200
    assert alice.browser.get("/admin/audit").status_code == 403
    assert alice.browser.get("/admin/audit.csv").status_code == 403


def test_changes_name_what_differs() -> None:
    assert changes(None, {"a": 1}) == [("a", None, 1)]
    assert changes({"a": 1, "b": 2}, {"b": 3, "a": 1}) == [("b", 2, 3)]
    assert changes([1], {"a": 1}) == [("", [1], {"a": 1})]
    assert changes(None, None) == []


def test_record_and_page_agree(acme: Org, alice: Person) -> None:
    record_org(acme.id, "org.renamed", "acme", before={"name": "Acme"}, after={"name": "<b>"})
    db.session.commit()
    assert "<del>Acme</del> → <ins>&lt;b&gt;</ins>" in alice.browser.get(PAGE).text
