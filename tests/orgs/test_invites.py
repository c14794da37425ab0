"""Invitations: who may, what becomes of each, the e-mail, the JSON of the contract, and the pages."""

import re
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from flask import Flask
from sqlalchemy import text

from models.core import jobs, mail
from models.core.audit_log import AuditLog
from models.core.db import db
from models.core.mail import Email
from models.core.settings import Settings
from models.orgs import Org, OrgInvite, OrgInviteEvent, membership
from models.orgs.invite_lists import read_list
from models.orgs.invites import SENDS_PER_ADDRESS, derived_token
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send
from tests.usage.test_usage_pages import recorded_statements


@pytest.fixture
def kit(app: Flask, acme: Org) -> Person:
    """Somebody with an account who is not a member yet."""
    return factories.person(app, "kit")


def api(org: Org, rest: str = "") -> str:
    return f"/api/orgs/{org.id}/invitations{rest}"


def token_in(message: Email) -> str:
    found = re.search(r"/invites/([0-9a-f-]{36})\s", message.text)
    assert found
    return found[1]


def invited(org: Org, by: Person, email: str = "kit@example.org", role: str = "member") -> str:
    """Invite an address; returns the token."""
    assert by.browser.post(api(org), json={"email": email, "role": role}).status_code == 201
    row = newest(email)
    return derived_token(row.id, row.issue)


def newest(email: str) -> OrgInvite:
    db.session.rollback()
    return (
        db.session.query(OrgInvite)
        .filter_by(email=email.lower())
        .order_by(OrgInvite.created_at.desc())
        .first()
    )


def timeline(email: str) -> list[str]:
    events = db.session.query(OrgInviteEvent).filter_by(invite_id=newest(email).id)
    return [event.kind for event in events.order_by(OrgInviteEvent.id)]


def expire(email: str, after: timedelta = -timedelta(minutes=1)) -> None:
    newest(email).expires_at = factories.now() + after
    db.session.commit()


# -- who may -------------------------------------------------------------------------------------------------

Call = Callable[[Person, str, str], Any]
CHANGES: dict[str, Call] = {
    "invite": lambda who, org, _: who.browser.post(
        f"/api/orgs/{org}/invitations", json={"email": "new@example.org", "role": "member"}
    ),
    "withdraw": lambda who, org, _: who.browser.delete(f"/api/orgs/{org}/invitations/kit%40example.org"),
    "resend": lambda who, org, _: who.browser.post(f"/api/orgs/{org}/invitations/kit%40example.org/resend"),
    "page": lambda who, _, __: who.browser.get("/orgs/acme/invites/new"),
    "send": lambda who, _, __: send(who, "/orgs/acme/invites/new", email="new@example.org", role="member"),
    "send again": lambda who, _, id: send(who, f"/orgs/acme/invites/{id}/messages"),
    "withdraw on the page": lambda who, _, id: send(who, f"/orgs/acme/invites/{id}/withdrawal"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_owners_and_admins_invite(
    change: str,
    acme: Org,
    alice: Person,
    bob: Person,
    carol: Person,
    dave: Person,
    mallory: Person,
    anonymous: Person,
    outbox: list[Email],
) -> None:
    invited(acme, alice)
    id, call = newest("kit@example.org").id, CHANGES[change]
    page = "page" in change or change.startswith("send")
    signed_out = (302 if change == "page" else 303) if page else 401
    for who, status in ((anonymous, signed_out), (mallory, 404), (bob, 403), (dave, 403)):
        assert call(who, acme.id, id).status_code == status, who.user
    assert timeline("kit@example.org") == ["sent"]
    assert call(carol, acme.id, id).status_code in (200, 201, 303)


def test_another_organisations_invitation_is_not_found(
    acme: Org, alice: Person, mallory: Person, outbox: list[Email]
) -> None:
    invited(acme, alice)
    assert mallory.user
    factories.org(mallory.user, "Other")
    id = newest("kit@example.org").id
    for what in ("messages", "withdrawal"):
        assert send(mallory, f"/orgs/other/invites/{id}/{what}").status_code == 404
    assert "kit@example.org" not in mallory.browser.get("/orgs/other/invites?show=all").text


# -- sending -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "role", "status", "error"),
    [
        ("kit@example.org", "owner", 400, "Choose one of the roles member, admin, billing, viewer."),
        ("kit@example.org", "service", 400, "Choose one of the roles member, admin, billing, viewer."),
        ("kit", "member", 400, "Enter an address like name@example.org."),
        ("BOB@example.org", "member", 409, "User is already a member"),
        ("Rosa@Example.org", "member", 409, "Invitation already exists for this email"),
    ],
)
def test_refused_invitations(
    email: str, role: str, status: int, error: str, acme: Org, alice: Person, outbox: list[Email]
) -> None:
    invited(acme, alice, "rosa@example.org")
    expire("rosa@example.org")
    answer = alice.browser.post(api(acme), json={"email": email, "role": role})
    assert (answer.status_code, answer.json) == (status, {"error": error})
    assert len(outbox) == 1


def test_the_list_has_open_invitations_and_no_token(
    acme: Org, alice: Person, bob: Person, outbox: list[Email]
) -> None:
    tokens = [invited(acme, alice, f"{name}@example.org", "viewer") for name in ("a", "b", "c")]
    expire("b@example.org")
    assert alice.browser.delete(api(acme, "/C@example.org")).json == {"success": True}
    assert alice.browser.delete(api(acme, "/nobody@example.org")).json == {"success": True}
    answer = bob.browser.get(api(acme))
    assert [each["email"] for each in answer.json["invitations"]] == ["a@example.org", "b@example.org"]
    first = answer.json["invitations"][0]
    assert set(first) == {"id", "email", "role", "invited_by_name", "created_at", "expires_at"}
    assert (first["role"], first["invited_by_name"]) == ("viewer", "alice")
    for token in tokens:
        assert token not in answer.text
        assert not db.session.query(OrgInvite).filter_by(token=token).count(), "stored in clear"


def test_sending_again_makes_a_new_link_and_is_limited(
    acme: Org, alice: Person, carol: Person, outbox: list[Email]
) -> None:
    first = invited(acme, alice)
    expire("kit@example.org")
    assert carol.browser.post(api(acme, "/KIT@example.org/resend")).json == {"success": True}
    second = token_in(outbox[-1])
    assert carol.browser.get(f"/api/invites/{first}").status_code == 404
    assert carol.browser.get(f"/api/invites/{second}").json["invitation"]["inviter_name"] == "carol"
    for _ in range(SENDS_PER_ADDRESS - 2):
        assert carol.browser.post(api(acme, "/kit@example.org/resend")).status_code == 200
    # withdrawing and inviting anew does not reset the count
    carol.browser.delete(api(acme, "/kit@example.org"))
    refused = carol.browser.post(api(acme), json={"email": "kit@example.org", "role": "member"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "86400")
    assert carol.browser.post(api(acme, "/kit@example.org/resend")).json == {"error": "Invitation not found"}
    assert len(outbox) == SENDS_PER_ADDRESS


LIST = """\ufeffname,e-mail,role
Kit Doe,KIT@example.org,Admin

"Doe, Jo" <jo@example.org>; rosa@example.org
bob@example.org
kit@example.org
nobody
boss@example.org,owner
"""


def test_a_list_tells_what_became_of_each_line(acme: Org, alice: Person, outbox: list[Email]) -> None:
    answer = send(alice, "/orgs/acme/invites/new", addresses=LIST, role="viewer")
    assert answer.status_code == 200
    assert "3 of 7 invited" in answer.text
    words = re.sub(r"<[^>]+>|\s+", " ", answer.text)
    for line in ("bob@example.org line 5 Viewer Already a member.", "nobody line 7 Viewer Not an e-mail"):
        assert line in re.sub(" +", " ", words)
    assert [(each.to, each.subject) for each in outbox] == [
        (f"{name}@example.org", "alice invites you to Acme") for name in ("kit", "jo", "rosa")
    ]
    for message in outbox:
        assert token_in(message) in answer.text
    assert newest("kit@example.org").role == "admin"
    assert newest("rosa@example.org").role == "viewer"
    assert "0 of 7 invited" in send(alice, "/orgs/acme/invites/new", addresses=LIST, role="viewer").text


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"email": "kit", "role": "member"}, "Not an e-mail address."),
        ({"email": "", "role": "member"}, "Enter an address like name@example.org."),
        ({"email": "bob@example.org", "role": "member"}, "Already a member."),
        ({"email": "kit@example.org", "role": "owner"}, "Choose one of the roles"),
        ({"addresses": "", "role": "member"}, "Enter at least one e-mail address."),
        ({"addresses": "a@example.org\n" * 501, "role": "member"}, "At most 500 people at a time."),
    ],
)
def test_form_errors(
    form: dict[str, str], problem: str, acme: Org, alice: Person, outbox: list[Email]
) -> None:
    answer = send(alice, "/orgs/acme/invites/new", **form)
    assert answer.status_code == 422
    assert problem in answer.text
    assert outbox == []


def test_lists_are_read_in_many_forms() -> None:
    read = read_list("a@x.org, b@x.org;c@x.org\tviewer\nD <d@x.org>")
    assert [(each.line, each.email, each.role) for each in read] == [
        (1, "a@x.org", "viewer"),
        (1, "b@x.org", "viewer"),
        (1, "c@x.org", "viewer"),
        (2, "d@x.org", None),
    ]


# -- answering -----------------------------------------------------------------------------------------------


def test_the_invited_joins_by_the_contract(
    acme: Org, alice: Person, kit: Person, mallory: Person, anonymous: Person, outbox: list[Email]
) -> None:
    token = invited(acme, alice, "Kit@Example.org", "billing")
    assert token == token_in(outbox[0])
    path = f"/api/invites/{token}"
    shown = anonymous.browser.get(path).json
    assert shown["invitation"].pop("expires_at").endswith("Z")
    assert shown == {
        "invitation": {
            "organization_name": "Acme",
            "organization_slug": "acme",
            "email": "kit@example.org",
            "role": "billing",
            "inviter_name": "alice",
        }
    }
    refusals = [
        (anonymous, path, 401, "Unauthorized"),
        (kit, "/api/invites/unknown", 404, "Invalid or expired invitation"),
        (mallory, path, 403, "Invitation email does not match your account"),
    ]
    for who, where, status, error in refusals:
        answer = who.browser.post(where)
        assert (answer.status_code, answer.json) == (status, {"error": error})
    factories.join(acme, kit.id, "viewer")
    answer = kit.browser.post(path)
    assert (answer.status_code, answer.json) == (
        409,
        {"error": "You are already a member of this organization"},
    )
    db.session.delete(membership(kit.id, acme.id))
    db.session.commit()
    answer = kit.browser.post(path)
    joined = {"id": acme.id, "name": "Acme", "slug": "acme", "role": "billing"}
    assert (answer.status_code, answer.json) == (200, {"success": True, "organization": joined})
    assert kit.browser.post(path).json == {"error": "Invalid or expired invitation"}
    gone = anonymous.browser.get(path)
    assert (gone.status_code, gone.json) == (410, {"error": "Invitation has already been accepted"})
    assert timeline("kit@example.org") == ["sent", "accepted"]
    actions = [row.action for row in db.session.query(AuditLog).order_by(AuditLog.id)]
    assert actions[0] == "invite.sent"
    assert actions[1].startswith("member.")
    # expiry is checked before acceptance
    expire("kit@example.org")
    assert anonymous.browser.get(path).json == {"error": "Invitation has expired"}


def test_an_unverified_address_cannot_accept(
    acme: Org, alice: Person, kit: Person, outbox: list[Email]
) -> None:
    token = invited(acme, alice)
    assert kit.user
    kit.user.email_verified = None
    db.session.commit()
    assert kit.browser.post(f"/api/invites/{token}").status_code == 403
    page = kit.browser.get(f"/invites/{token}").text
    assert "Confirm your address first" in page
    assert send(kit, f"/invites/{token}/acceptance").status_code == 403


def test_the_page_leads_everybody_on(
    acme: Org,
    alice: Person,
    bob: Person,
    kit: Person,
    mallory: Person,
    anonymous: Person,
    outbox: list[Email],
) -> None:
    token = invited(acme, alice)
    page = f"/invites/{token}"
    assert bob.browser.get(page).status_code == 200
    assert timeline("kit@example.org") == ["sent"], "members do not count as opening it"
    for who, words in (
        (anonymous, f"/login?next=/invites/{token}&amp;email=kit@example.org"),
        (mallory, "You are signed in as mallory@example.org"),
        (kit, "Accept the invitation"),
        (bob, "You are a member of Acme."),
    ):
        assert words in who.browser.get(page).text, words
    assert timeline("kit@example.org") == ["sent", "opened"]
    assert (
        'value="kit@example.org"' in anonymous.browser.get(f"/login?next={page}&email=kit@example.org").text
    )
    assert send(anonymous, f"{page}/acceptance").status_code == 303
    answer = send(mallory, f"{page}/acceptance")
    assert answer.status_code == 403
    assert "This invitation is for kit@example.org" in answer.text
    answer = send(kit, f"{page}/acceptance")
    assert (answer.status_code, answer.location) == (303, "/orgs/acme")
    assert "Welcome to Acme." in kit.browser.get("/orgs/acme").text
    assert anonymous.browser.get(page).status_code == 410


def test_declining_needs_no_account_and_ends_it(
    acme: Org, alice: Person, kit: Person, anonymous: Person, outbox: list[Email]
) -> None:
    token = invited(acme, alice)
    assert send(anonymous, f"/invites/{token}/refusal").status_code == 303
    assert "was declined" in anonymous.browser.get(f"/invites/{token}").text
    assert kit.browser.post(f"/api/invites/{token}").status_code == 404
    assert kit.browser.get(f"/api/invites/{token}").json == {"error": "Invalid invitation token"}
    assert send(anonymous, f"/invites/{token}/refusal").status_code == 404
    assert "Invite again" in alice.browser.get("/orgs/acme/invites?show=all").text
    invited(acme, alice)


def test_invitations_of_a_deleted_organisation_end(
    acme: Org, alice: Person, kit: Person, outbox: list[Email]
) -> None:
    token = invited(acme, alice)
    acme.deleted_at = factories.now()
    db.session.commit()
    assert kit.browser.get(f"/invites/{token}").status_code == 404
    assert kit.browser.post(f"/api/invites/{token}").status_code == 404


# -- members who exist ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"invitations": []}, {"invitations": "x"}, []])
def test_bulk_checks_the_list_before_the_membership(
    body: Any, acme: Org, mallory: Person, anonymous: Person
) -> None:
    answer = mallory.browser.post(api(acme, "/bulk"), json=body)
    assert (answer.status_code, answer.json) == (400, {"error": "Invalid invitations array"})
    assert anonymous.browser.post(api(acme, "/bulk"), json=body).status_code == 401


def test_bulk_adds_those_who_have_an_account(
    acme: Org, alice: Person, bob: Person, carol: Person, kit: Person, mallory: Person, outbox: list[Email]
) -> None:
    people = [
        {"email": "KIT@example.org", "role": "viewer"},
        {"email": "bob@example.org", "role": "admin"},
        {"email": "nobody@example.org", "role": "member"},
    ]
    for who, status in ((bob, 403), (mallory, 404)):
        assert who.browser.post(api(acme, "/bulk"), json={"invitations": people}).status_code == status
    bad = [*people, {"email": "mallory@example.org", "role": "boss"}]
    assert carol.browser.post(api(acme, "/bulk"), json={"invitations": bad}).status_code == 400
    assert membership(kit.id, acme.id) is None
    answer = carol.browser.post(api(acme, "/bulk"), json={"invitations": people})
    assert (answer.status_code, answer.json) == (
        201,
        {
            "success": True,
            "added": 1,
            "skipped": [
                {"email": "bob@example.org", "reason": "Already a member"},
                {"email": "nobody@example.org", "reason": "User not found"},
            ],
        },
    )
    db.session.rollback()
    member = membership(kit.id, acme.id)
    assert member
    assert member.role == "viewer"
    assert outbox == []


# -- time ----------------------------------------------------------------------------------------------------


def test_a_reminder_a_day_before_repeats_the_link(
    app: Flask, acme: Org, alice: Person, outbox: list[Email]
) -> None:
    token = invited(acme, alice)
    jobs.remind_invites(0)
    assert len(outbox) == 1, "seven days are left"
    expire("kit@example.org", timedelta(hours=23))
    for _ in range(2):
        jobs.remind_invites(0)
    assert [message.subject for message in outbox[1:]] == ["Your invitation to Acme ends soon"]
    assert token_in(outbox[1]) == token
    expire("kit@example.org")
    for _ in range(2):
        jobs.remind_invites(0)
    assert timeline("kit@example.org") == ["sent", "reminded", "expired"]
    page = alice.browser.get("/orgs/acme/invites").text
    assert "Send again" in page
    assert "Expired" in page
    send(alice, f"/orgs/acme/invites/{newest('kit@example.org').id}/messages")
    assert timeline("kit@example.org")[-1] == "sent"
    assert alice.browser.get(f"/api/invites/{token_in(outbox[-1])}").status_code == 200


def test_the_list_takes_as_many_statements_for_fifty_as_for_one(
    app: Flask, acme: Org, alice: Person, outbox: list[Email]
) -> None:
    counts = []
    for people in ("a@example.org", "\n".join(f"p{n}@example.org" for n in range(60))):
        send(alice, "/orgs/acme/invites/new", addresses=people, role="member")
        with recorded_statements(app) as statements:
            page = alice.browser.get("/orgs/acme/invites").text
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 10
    older = re.search(r'href="([^"]+before=[^"]+)"', page)
    assert older
    assert alice.browser.get(older[1].replace("&amp;", "&")).text.count("Send again to") == 11


def test_the_mail_arrives(acme: Org, alice: Person, settings: Settings) -> None:
    received: list[bytes] = []

    class Sink:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            received.append(envelope.content)
            return "250 OK"

    token = invited(acme, alice)
    query = text("SELECT args ->> 'sealed' FROM procrastinate_jobs WHERE task_name = 'mail.deliver'")
    (sealed,) = db.session.scalars(query).all()
    assert token not in sealed
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(Sink(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        url = {"smtp_url": f"smtp://127.0.0.1:{port}"}
        mail.deliver_sealed(Settings(_env_file=None, **settings.model_dump() | url), sealed)  # type: ignore[arg-type]
    finally:
        controller.stop()
    assert token.encode() in received[0]
    assert b"To: kit@example.org" in received[0]
