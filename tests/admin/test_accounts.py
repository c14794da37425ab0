"""The operators' pages of accounts: who opens them, what the search finds, acts with reasons."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models import ledger
from models.accounts.users import User
from models.core.audit_log import AuditLog
from models.core.db import db
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.factories import Person

MOST_QUERIES = 24
HTMX = {"HX-Request": "true"}
TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def payment_desk(desk: Any) -> None:
    """Pages of money need Stripe's settings."""


def post(who: Person, path: str, data: dict[str, str] | None = None, **kw: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token} | (data or {}), **kw)


def audited(session: OrmSession, action: str) -> list[AuditLog]:
    session.rollback()
    return [row for row in session.query(AuditLog).order_by(AuditLog.id) if row.action == action]


ROUTES = [
    # path, method, the statuses of operator and auditor
    ("/admin", "GET", 200, 200),
    ("/admin?q=alice", "GET", 302, 302),
    ("/admin/calls", "GET", 200, 200),
    ("/admin/takedowns", "GET", 200, 200),
    ("/admin/takedowns", "POST", 422, 403),
    ("/admin/takedowns/nobody/restoration", "POST", 404, 403),
    ("/admin/audit", "GET", 200, 200),
    ("/admin/billing", "GET", 200, 200),
    ("/admin/plans", "GET", 200, 200),
    ("/admin/plans/new", "GET", 200, 403),
    ("/admin/plans", "POST", 422, 403),
    ("/admin/billing/proof", "POST", 303, 403),
    ("/admin/calls/nobody/dismissal", "GET", 200, 403),
    ("/admin/calls/nobody/dismissal", "POST", 303, 403),
    ("/admin/calls/settlements", "POST", 303, 403),
    ("/admin/proofs", "GET", 200, 200),
    ("/admin/proofs/nobody/runs", "POST", 303, 403),
    ("/admin/webhooks", "GET", 200, 200),
    ("/admin/webhooks?state=retried", "GET", 200, 200),
    ("/admin/webhooks/deliveries/nobody/attempts", "POST", 303, 403),
    ("/admin/providers", "GET", 200, 200),
    ("/admin/providers/openrouter", "GET", 200, 200),
    ("/admin/storage", "GET", 200, 200),
    ("/admin/jobs", "GET", 200, 200),
    ("/admin/jobs/schedule", "GET", 200, 200),
    ("/admin/jobs/retries", "POST", 422, 403),
    ("/admin/jobs/999999/retries", "POST", 404, 403),
    ("/admin/jobs/999999/cancellation", "POST", 404, 403),
    *(
        route
        for id in ("ALICE", "ACME", "nobody")
        for route in (
            (f"/admin/accounts/{id}", "GET", 200, 200),
            (f"/admin/accounts/{id}/grants", "GET", 200, 403),
            (f"/admin/accounts/{id}/grants", "POST", 422, 403),
            (f"/admin/accounts/{id}/grants/x/revocation", "GET", 404, 403),
            (f"/admin/accounts/{id}/grants/x/revocation", "POST", 404, 403),
        )
    ),
    *(
        (f"/admin/accounts/{id}/{act}", method, status, 403)
        for id in ("ALICE", "ACME", "nobody")
        for act in ("ban", "ban/removal", "sign-in-links")
        for method, status in (("GET", 200), ("POST", 422))
    ),
]


def test_operators_enter_auditors_read_and_nobody_else(
    app: Flask,
    session: OrmSession,
    root: Person,
    auditor: Person,
    alice: Person,
    mallory: Person,
    anonymous: Person,
    acme: Org,
) -> None:
    org_id = acme.id
    for path, method, operator, reader in ROUTES:
        address = path.replace("ALICE", alice.id).replace("ACME", org_id)
        missing = "nobody" in path or (
            "ACME" in path and operator != 404 and ("ban" in path or "sign-in" in path)
        )
        expected = [
            (root, 404 if missing else operator),
            (auditor, 404 if missing and reader != 403 else reader),
            (alice, 403),
            (mallory, 403),
            (anonymous, 302 if method == "GET" else 303),
        ]
        for who, status in expected:
            answer = who.browser.get(address) if method == "GET" else post(who, address)
            assert answer.status_code == status, (
                address,
                method,
                who.user and who.user.email,
                answer.text[-500:],
            )
            if who in (mallory, anonymous):
                assert "alice@example.org" not in answer.text
    assert {row.action for row in session.query(AuditLog)} <= {"account.viewed", "billing.prove"}
    assert 'href="/admin"' in auditor.browser.get("/runs").text
    assert 'href="/admin"' not in alice.browser.get("/runs").text


def test_the_search_finds_one_account_by_everything_it_is_known_by(
    session: OrmSession, root: Person, alice: Person, bob: Person, acme: Org
) -> None:
    user, org_id = session.get_one(User, alice.id), acme.id
    key = factories.token(user, org_id=org_id, name="ci")
    call = factories.call(user, error="upstream_failed")
    hold = factories.hold(session.get_one(User, bob.id))
    run = factories.run(user, org_id=org_id)
    to_alice, to_acme, to_bob = (f"/admin/accounts/{id}" for id in (alice.id, org_id, bob.id))
    for query, found in (
        ("ALICE@example", to_alice),
        ("Alice", to_alice),
        (alice.id, to_alice),
        (alice.token[-8:], to_alice),
        (f"••••{alice.token[-8:]}", to_alice),
        ("acme", to_acme),
        (org_id, to_acme),
        (key[-8:], to_acme),
        (call.request_id, f"{to_alice}?call={call.request_id}"),
        (hold.request_id, f"{to_bob}?call={hold.request_id}"),
        (run.id, f"{to_acme}?run={run.id}"),
    ):
        answer = root.browser.get("/admin", query_string={"q": query})
        assert (answer.status_code, answer.headers.get("Location")) == (302, found), query
        assert root.browser.get(found).status_code == 200
    assert "upstream_failed" in root.browser.get(f"{to_alice}?call={call.request_id}").text
    assert run.id in root.browser.get(f"{to_acme}?run={run.id}").text
    for query, status, words in (
        ("", 200, ""),
        ("nobody", 200, "Nothing found"),
        ("lic", 200, "Nothing found"),
        ("100%", 200, "Nothing found"),
        ("a\0", 200, "alice@example.org"),
        (alice.token, 422, "Never enter a whole key"),
        ("x" * 400, 422, "at most 320"),
    ):
        answer = root.browser.get("/admin", query_string={"q": query})
        assert (answer.status_code, words in answer.text) == (status, True), query
        assert alice.token not in answer.text
    for path in ("a%00b", "%ff", "x" * 3000, f"{alice.id}/grants/a%00b/revocation"):
        assert root.browser.get(f"/admin/accounts/{path}").status_code == 404, path
    other = root.browser.get(f"{to_bob}?call={call.request_id}&run={run.id}%00").text
    assert call.request_id not in other


def test_an_account_shows_its_state_and_no_messages_and_looking_is_logged(
    session: OrmSession, root: Person, auditor: Person, alice: Person, bob: Person, acme: Org
) -> None:
    user, org_id = session.get_one(User, alice.id), acme.id
    factories.grant(user, 700, "admin", description="Sorry for the outage", operation_id="admin/1")
    message = factories.message(user, request=[{"role": "user", "content": "a secret prompt"}])
    factories.call(user, message=message)
    factories.hold(user, 33)
    factories.run(user)
    shown = root.browser.get(f"/admin/accounts/{alice.id}").text
    for words in (
        "700",
        "33",
        "Sorry for the outage",
        "Acme",
        "stoa/demo",
        "base",
        alice.token[-8:],
        "Revoke",
    ):
        assert words in shown, words
    assert "a secret prompt" not in shown
    assert alice.token not in shown
    read = auditor.browser.get(f"/admin/accounts/{alice.id}").text
    assert "Sorry for the outage" in read
    assert not any(word in read for word in ("Grant credits", ">Revoke<", ">Ban<", "Sign-in link"))
    assert "bob@example.org" in root.browser.get(f"/admin/accounts/{org_id}").text
    root.browser.get(f"/admin/accounts/{alice.id}")
    looks = [(row.actor, row.subject) for row in audited(session, "account.viewed")]
    assert looks == [
        ("root@example.org", alice.id),
        ("auditor@example.org", alice.id),
        ("root@example.org", org_id),
    ]
    session.execute(text("ALTER TABLE audit_log DISABLE TRIGGER USER"))
    session.execute(text("UPDATE audit_log SET at = at - interval '61 minutes'"))
    session.execute(text("ALTER TABLE audit_log ENABLE TRIGGER USER"))
    session.commit()
    root.browser.get(f"/admin/accounts/{alice.id}")
    assert len(audited(session, "account.viewed")) == 4


def test_an_account_takes_the_same_queries_whatever_it_holds(
    app: Flask, session: OrmSession, root: Person, alice: Person
) -> None:
    with app.app_context():
        engine = db.engine
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    def count(id: str) -> int:
        root.browser.get(f"/admin/accounts/{id}")  # writes the look
        seen.clear()
        event.listen(engine, "before_cursor_execute", note)
        assert root.browser.get(f"/admin/accounts/{id}").status_code == 200
        event.remove(engine, "before_cursor_execute", note)
        return len(seen)

    counts = []
    for size in (1, 12):
        with factories.one_commit():
            user = factories.user(f"user{size}")
            id = user.id
            for number in range(size):
                org = factories.org(user, f"Org {size} {number}")
                factories.token(user, org_id=org.id)
                factories.call(user, message=factories.message(user))
                factories.hold(user)
                factories.run(user)
                factories.grant(user, 5)
                factories.publisher(user, f"pub-{size}-{number}")
        counts.append((count(id), count(org.id)))
    assert counts[0] == counts[1]
    assert counts[0][0] <= MOST_QUERIES


def test_credits_are_granted_once_and_revoked(
    session: OrmSession, root: Person, alice: Person, acme: Org
) -> None:
    for account, kind in ((Account(user_id=alice.id), "admin"), (Account(org_id=acme.id), "organization")):
        page = f"/admin/accounts/{account.id}"
        form = {"credits": "1,200", "days": "30", "reason": "Sorry", "form_token": TOKEN}
        for _ in range(2):
            assert post(root, f"{page}/grants", form).headers["Location"] == page
        session.rollback()
        (granted,) = ledger.grants_of(account)
        assert (granted.balance, granted.type, granted.description) == (1200, kind, "Sorry")
        assert granted.expires_at is not None
        address = f"{page}/grants/{granted.operation_id}/revocation"
        assert root.browser.get(address).status_code == 200
        assert post(root, address, {"reason": ""}).status_code == 422
        assert post(root, address, {"reason": "By mistake"}).status_code == 303
        assert post(root, address, {"reason": "By mistake"}).status_code == 404
        session.rollback()
        assert ledger.grants_of(account) == []
    assert [(row.after["credits"], row.after["reason"]) for row in audited(session, "billing.grant")] == [
        (1200, "Sorry")
    ] * 2
    assert [row.before["credits"] for row in audited(session, "billing.revoke")] == [1200] * 2


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        *(
            ("credits", value, "Enter 1 to 100,000,000")
            for value in ("", "0", "-1", "1.5", "9" * 30, "a\0", "١")
        ),
        *(("days", value, "Enter 1 to 3650 days") for value in ("0", "-1", "99999", "x")),
        *(("reason", value, "Enter a reason") for value in ("", " \n")),
        *(("reason", value, "500 ordinary characters") for value in ("a\0b", "x" * 501)),
    ],
)
def test_a_wrong_grant_is_explained_and_grants_nothing(
    session: OrmSession, root: Person, alice: Person, field: str, value: str, words: str
) -> None:
    form = {"credits": "5", "days": "", "reason": "Sorry"} | {field: value}
    answer = post(root, f"/admin/accounts/{alice.id}/grants", form, headers=HTMX)
    assert (answer.status_code, words in answer.text) == (422, True)
    assert "<html" not in answer.text
    assert audited(session, "billing.grant") == []


def test_a_person_is_banned_and_unbanned(
    session: OrmSession, root: Person, alice: Person, bob: Person
) -> None:
    page = f"/admin/accounts/{alice.id}"
    assert post(root, f"{page}/ban", {"reason": "Spam"}).status_code == 303
    assert post(root, f"{page}/ban", {"reason": "Spam"}).status_code == 303
    shown = root.browser.get(page).text
    assert "Spam" in shown
    assert "Lift the ban" in shown
    assert alice.browser.get("/runs").status_code == 403
    assert post(root, f"{page}/sign-in-links", {"reason": "Asked"}).status_code == 409
    assert post(root, f"{page}/ban/removal", {"reason": "Appealed"}).status_code == 303
    assert post(root, f"/admin/accounts/{root.id}/ban", {"reason": "Spam"}).status_code == 409
    (ban,), (unban,) = audited(session, "user.banned"), audited(session, "user.unbanned")
    assert (ban.after["reason"], ban.after["refused"]["pat"]) == ("Spam", 1)
    assert (unban.before["reason"], unban.after["because"]) == ("Spam", "Appealed")


def test_a_sign_in_link_is_shown_once_and_signs_in(
    app: Flask, session: OrmSession, root: Person, alice: Person
) -> None:
    address = f"/admin/accounts/{alice.id}/sign-in-links"
    shown = [post(root, address, {"reason": "Lost mail", "form_token": TOKEN}) for _ in range(2)]
    links = {answer.text.partition("/login/link/")[2].partition("<")[0] for answer in shown}
    assert [answer.status_code for answer in shown] == [200, 200]
    assert len(links) == 1, "a double click makes one link"
    assert shown[0].headers["Cache-Control"] == "no-store"
    (link,) = links
    assert link not in root.browser.get(f"/admin/accounts/{alice.id}").text
    assert app.test_client().get(f"/login/link/{link}").status_code == 200
    (row,) = audited(session, "user.sign_in_link")
    assert row.subject == alice.id
    assert link not in str(row.after)


def test_calls_to_review_are_listed(session: OrmSession, root: Person, alice: Person) -> None:
    empty = root.browser.get("/admin/calls").text
    for words in (
        "No bill is in doubt",
        "Every requested model has a price",
        "The outcome of every call is known",
    ):
        assert words in empty
    user = session.get_one(User, alice.id)
    flagged = factories.call(user, flags=["cost_above_list"])
    factories.call(user, state="failed", error="model_price_missing", requested_model="acme/secret-1")
    lost = factories.hold(user, state="lost", lost_at=factories.now())
    assert "Lost</span>" in root.browser.get(f"/admin/accounts/{alice.id}?call={lost.request_id}").text
    shown = root.browser.get("/admin/calls").text
    for words in ("cost above list", flagged.request_id, "acme/secret-1", lost.request_id):
        assert words in shown, words


def test_a_publisher_is_taken_down_and_restored(session: OrmSession, root: Person, alice: Person) -> None:
    factories.publisher(session.get_one(User, alice.id), "harbor")
    assert "/admin/takedowns?name=harbor#new-h" in root.browser.get(f"/admin/accounts/{alice.id}").text
    for form, words in (
        ({"name": "", "reason": "x"}, "Enter publisher"),
        ({"name": "nobody", "reason": "x"}, "nobody"),
        ({"name": "harbor", "reason": ""}, "Enter a reason"),
        ({"name": "harbor/a\0", "reason": "x"}, "Enter publisher"),
        ({"name": "harbor/a", "reason": "x"}, "no agent"),
    ):
        answer = post(root, "/admin/takedowns", form)
        assert (answer.status_code, words in answer.text) == (422, True), form
    for name in ("a%00b", "harbor/a%00", "harbor/a@1%00", "x" * 400, "a/b/c/d"):
        assert post(root, f"/admin/takedowns/{name}/restoration").status_code == 404, name
    taken = {"name": "harbor", "reason": "Malware"}
    assert post(root, "/admin/takedowns", taken).status_code == 303
    assert "Malware" in root.browser.get("/admin/takedowns").text
    assert root.browser.get("/publishers/harbor").status_code == 410
    assert post(root, "/admin/takedowns/harbor/restoration").status_code == 303
    assert root.browser.get("/publishers/harbor").status_code == 200
    assert [len(audited(session, action)) for action in ("store.taken_down", "store.restored")] == [1, 1]
