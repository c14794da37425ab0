"""Removing members: what becomes of their keys, in one transaction, with a receipt."""

from typing import Any

import pytest

from models.accounts.credentials import find, hash_token
from models.accounts.sessions import Session
from models.core.audit_log import AuditLog
from models.core.db import db
from models.core.errors import Invalid
from models.orgs import Org, OrgInvite, OrgRemoval, ServiceAccount, membership
from models.orgs.invites import invite
from models.orgs.offboarding import KeyFate, offboard
from models.runs.run_share import RunShare, share_run
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send

REMOVAL = "/orgs/acme/team/{}/removal"


@pytest.fixture
def keys(acme: Org, bob: Person, alice: Person) -> dict[str, str]:
    """Bob's keys of acme by name, with traffic, a call in flight, an invitation he sent, and his own key."""
    assert bob.user
    with factories.one_commit():
        made = {
            name: factories.token(bob.user, name=name, org_id=acme.id)
            for name in ("nightly", "laptop", "old")
        }
        factories.token(bob.user, type="cli", org_id=acme.id)
        for credits in (5, 7):
            factories.call(bob.user, org_id=acme.id, key_id=hash_token(made["nightly"]), credits=credits)
        factories.call(bob.user, org_id=acme.id, key_id=hash_token(bob.token), credits=3)
        factories.call(bob.user, key_id=hash_token(bob.token), credits=100)
        factories.hold(bob.user, 40, account_id=factories.account(acme).id)
        invite(acme, "kit@example.org", "member", bob.user, factories.now())
    return made


def owner_of(token: str) -> str | None:
    found = find(token, factories.now())
    return found.user.id if found else None


def fate(token: str, value: str) -> dict[str, str]:
    return {f"fate-{hash_token(token)}": value}


def test_the_page_shows_keys_and_traffic_to_owners_and_admins(
    acme: Org,
    keys: dict[str, str],
    alice: Person,
    bob: Person,
    carol: Person,
    dave: Person,
    mallory: Person,
    anonymous: Person,
) -> None:
    path = REMOVAL.format(bob.id)
    for who, status in ((anonymous, 302), (mallory, 404), (bob, 403), (dave, 403), (carol, 200)):
        assert who.browser.get(path).status_code == status
        if status != 200:
            assert send(who, path).status_code in (303, status)
    assert membership(bob.id, acme.id)
    text = " ".join(carol.browser.get(path).text.split())
    for words in (
        'data-label="Calls">2<',
        'data-label="Credits">12<',
        "1, holding 40 credits",
        "3 calls, 15 credits",
        "1 in 30 days. They stop being paid by Acme.",
        "Hand to alice",
        "Move to a new service account",
    ):
        assert words in text, words
    assert "Hand to dave" not in text, "billing makes no calls"
    assert carol.browser.get(REMOVAL.format(mallory.id)).status_code == 404
    owner = send(carol, REMOVAL.format(alice.id))
    assert owner.status_code == 403


def test_each_key_goes_where_it_was_sent(
    acme: Org, keys: dict[str, str], alice: Person, bob: Person, carol: Person
) -> None:
    answer = send(
        alice,
        REMOVAL.format(bob.id),
        **fate(keys["nightly"], "new"),
        **fate(keys["laptop"], f"move:{carol.id}"),
        service_name="Nightly builds",
    )
    assert answer.status_code == 303
    db.session.rollback()
    service = db.session.query(ServiceAccount).one()
    assert (service.name, service.created_by) == ("Nightly builds", alice.id)
    assert owner_of(keys["nightly"]) == service.user_id
    assert owner_of(keys["laptop"]) == carol.id
    assert owner_of(keys["old"]) is None
    assert owner_of(bob.token) == bob.id, "their own key is theirs"
    assert membership(bob.id, acme.id) is None
    assert db.session.query(Session).filter_by(org_id=acme.id).count() == 2
    assert db.session.query(OrgInvite).one().withdrawn_at is None
    receipt = " ".join(alice.browser.get(answer.location).text.split())
    for words in (
        "Nightly builds",
        "Moved",
        "Stopped",
        "1, still valid",
        "1, holding 40 credits",
        "3 calls, 15",
    ):
        assert words in receipt, words
    assert "bob@example.org" in alice.browser.get("/orgs/acme/removals").text
    assert bob.browser.get(answer.location).status_code == 404
    removed = db.session.query(AuditLog).filter_by(action="member.removed").one()
    done = {line["name"]: line["action"] for line in removed.after["keys"]}
    assert done == {"nightly": "moved", "laptop": "moved", "old": "stopped"}
    assert removed.after["live_calls"] == 1
    actions = {row.action for row in db.session.query(AuditLog)}
    assert {"key.moved", "key.revoked", "service_account.created"} <= actions
    for token in keys.values():
        assert token not in str([row.after for row in db.session.query(AuditLog)])


def test_existing_service_accounts_take_over(
    acme: Org, keys: dict[str, str], alice: Person, bob: Person
) -> None:
    service = factories.user("service")
    factories.join(acme, service.id, "service")
    factories.save(ServiceAccount(user_id=service.id, org_id=acme.id, name="Builds"))
    assert "Move to Builds" in alice.browser.get(REMOVAL.format(bob.id)).text
    move = f"move:{service.id}"
    answer = send(alice, REMOVAL.format(bob.id), **fate(keys["nightly"], move), **fate(keys["old"], move))
    assert answer.status_code == 303
    assert owner_of(keys["nightly"]) == owner_of(keys["old"]) == service.id


@pytest.mark.parametrize("form", [{"value": "new"}, {"value": "move:nobody"}, {"value": "mallory"}])
def test_an_impossible_choice_changes_nothing(
    form: dict[str, Any], acme: Org, keys: dict[str, str], alice: Person, bob: Person, mallory: Person
) -> None:
    value = f"move:{mallory.id}" if form["value"] == "mallory" else form["value"]
    answer = send(alice, REMOVAL.format(bob.id), **fate(keys["laptop"], value), service_name=" ")
    assert answer.status_code == 422
    assert "Nothing was changed" in answer.text
    assert membership(bob.id, acme.id)
    assert owner_of(keys["laptop"]) == bob.id
    assert db.session.query(OrgRemoval).count() == 0


def test_members_leave_and_their_keys_stop(
    acme: Org, keys: dict[str, str], alice: Person, bob: Person
) -> None:
    page = bob.browser.get("/orgs/acme/departure").text
    assert "Leave Acme?" in page
    assert "Hand to alice" not in page
    assert send(bob, "/orgs/acme/departure", **fate(keys["old"], f"move:{alice.id}")).status_code == 403
    answer = send(bob, "/orgs/acme/departure")
    assert (answer.status_code, answer.location) == (303, "/orgs")
    assert [owner_of(token) for token in keys.values()] == [None, None, None]
    assert "needs at least one owner" in alice.browser.get("/orgs/acme/departure").text
    assert send(alice, "/orgs/acme/departure").status_code == 409


def test_the_json_route_stops_the_keys(acme: Org, keys: dict[str, str], alice: Person, bob: Person) -> None:
    assert alice.browser.delete(f"/api/orgs/{acme.id}/members/{bob.id}").json == {"success": True}
    assert [owner_of(token) for token in keys.values()] == [None, None, None]
    assert len(db.session.query(OrgRemoval).one().receipt["keys"]) == 3


def test_an_error_leaves_everything_as_it_was(
    acme: Org, keys: dict[str, str], alice: Person, bob: Person
) -> None:
    fates = {
        hash_token(keys["laptop"]): KeyFate("move", alice.id),
        hash_token(keys["old"]): KeyFate("move", "nobody"),
    }
    with pytest.raises(Invalid):
        offboard(acme, alice.id, bob.id, fates, factories.now())
    db.session.rollback()
    assert owner_of(keys["laptop"]) == bob.id


def test_links_to_runs_that_a_member_shared_end_with_the_membership(
    acme: Org, alice: Person, bob: Person, anonymous: Person
) -> None:
    assert alice.user
    assert bob.user
    with factories.one_commit():
        team, own = factories.run(bob.user, org_id=acme.id), factories.run(bob.user)
        made = {
            name: share_run(run, by, "never", with_messages=True).token
            for name, run, by in (
                ("bob's", team, bob.user),
                ("alice's", team, alice.user),
                ("own", own, bob.user),
            )
        }
    assert {anonymous.browser.get(f"/shared/{token}").status_code for token in made.values()} == {200}
    receipt = alice.browser.get(send(alice, REMOVAL.format(bob.id)).location).text
    assert "1, revoked" in receipt
    found = {name: anonymous.browser.get(f"/shared/{token}").status_code for name, token in made.items()}
    assert found == {"bob's": 404, "alice's": 200, "own": 200}
    assert db.session.query(RunShare).filter(RunShare.revoked_at.is_not(None)).count() == 1
