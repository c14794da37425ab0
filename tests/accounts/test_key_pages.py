"""Pages of keys with scopes: create, edit and rotate, of a person and of an organisation."""

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import ApiKey
from models.accounts.scopes import INFERENCE, NEW_KEY
from models.core.audit_log import AuditLog
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send

KEY = r"sk_(?:live|test)_[0-9A-Za-z]{73}"
RULES: dict[str, Any] = {
    "rules": "1",
    "environment": "test",
    "permissions": ["inference:chat", "usage:read"],
    "allowed_models": "openai/*\n stoa/demo, openai/*",
    "allowed_ips": "10.1.2.3/8",
    "rpm_limit": "1,000",
    "is_strict": "1",
}
HOMES = [("/profile/keys", "/profile?tab=api-keys"), ("/orgs/acme/keys", "/orgs/acme/keys")]


def latest(session: OrmSession) -> ApiKey:
    session.rollback()
    row = session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc())).first()
    assert row
    session.refresh(row)
    return row


def shown_key(person: Person, answer: Any) -> str:
    """The key on the page that a form led to, which shows it once."""
    assert answer.status_code == 303, answer.text
    (key,) = set(re.findall(KEY, person.browser.get(answer.headers["Location"]).text))
    assert not re.findall(KEY, person.browser.get(answer.headers["Location"]).text)
    return str(key)


@pytest.mark.parametrize(("home", "page"), HOMES)
def test_a_key_is_made_with_rules_changed_and_rotated(
    session: OrmSession, client: FlaskClient, alice: Person, acme: Org, home: str, page: str
) -> None:
    form = alice.browser.get(page).text
    assert re.findall(r'name="permissions" value="([^"]+)" checked', form) == list(NEW_KEY)
    simple = shown_key(alice, send(alice, home, name="simple", days="30"))
    row = latest(session)
    assert (row.environment, row.permissions, row.allowed_models) == ("live", list(INFERENCE), None)
    key = shown_key(alice, send(alice, home, name="ci", days="30", **RULES))
    row = latest(session)
    assert key.startswith("sk_test_")
    assert (row.environment, row.permissions) == ("test", ["inference:chat", "usage:read"])
    assert (row.allowed_models, row.allowed_ips) == (["openai/*", "stoa/demo"], ["10.0.0.0/8"])
    assert (row.rpm_limit, row.tpm_limit, row.is_strict) == (1000, None, True)
    listed = alice.browser.get(page).text
    assert ("inference:chat, usage:read" in listed, "Model calls" in listed, key in listed) == (
        True,
        True,
        False,
    )
    # change
    edited = {**RULES, "permissions": ["inference:chat"], "rpm_limit": "", "is_strict": None}
    edited = {name: value for name, value in edited.items() if value is not None}
    address = f"{home}/{key[:32]}"
    if home.startswith("/orgs"):
        changed = send(alice, f"{address}/rules", **edited)
    else:
        changed = send(alice, address, name="ci", on="1", **edited)
    assert changed.status_code == 303
    row = latest(session)
    assert (row.permissions, row.rpm_limit, row.is_strict, row.environment) == (
        ["inference:chat"],
        None,
        False,
        "test",
    )
    # rotate
    asked = alice.browser.get(f"{address}/rotation")
    assert "Rotate the key" in asked.text
    fresh = shown_key(alice, send(alice, f"{address}/rotation", grace="3600"))
    assert (fresh[:32], fresh != key) == (key[:32], True)
    for each in (key, fresh, simple):
        assert client.get("/api/v1/me", headers={"x-api-key": each}).status_code in (200, 403)
    assert send(alice, f"{address}/rotation", grace="99").status_code == 422
    written = str([(entry.before, entry.after) for entry in session.scalars(select(AuditLog))])
    assert not re.findall(KEY, written)
    # revoke
    assert send(alice, f"{address}/revocation").status_code == 303
    assert "Revoked keys" in alice.browser.get(page).text


@pytest.mark.parametrize(("home", "page"), HOMES)
def test_wrong_rules_are_explained_beside_their_fields(
    session: OrmSession, alice: Person, acme: Org, home: str, page: str
) -> None:
    for field, value in (
        ("permissions", "everything"),
        ("allowed_ips", "nowhere"),
        ("rpm_limit", "many"),
        ("tpm_limit", "9" * 40),
        ("environment", "staging"),
        ("allowed_models", "a" * 300),
        ("allowed_agents", "\n".join(f"a/{number}" for number in range(101))),
    ):
        answer = send(alice, home, name="ci", days="30", **{**RULES, field: value})
        assert answer.status_code == 422, field
        assert "field__error" in answer.text
    assert session.scalars(select(ApiKey)).all() == []


def test_keys_of_others_do_not_exist(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, anonymous: Person, acme: Org
) -> None:
    assert alice.user
    own = factories.api_key(alice.user)[:32]
    ours = factories.api_key(alice.user, org_id=acme.id, name="deploys")[:32]
    for person in (bob, mallory, anonymous):
        for path in (
            f"/profile/keys/{own}/rotation",
            f"/orgs/acme/keys/{ours}/rotation",
            f"/orgs/acme/keys/{ours}/rules",
        ):
            answer = send(person, path, grace="0", **RULES)
            assert answer.status_code == (404 if person.user else 303), (person, path)
    session.rollback()
    assert {row.rotated_at for row in session.scalars(select(ApiKey))} == {None}
    assert {tuple(row.permissions) for row in session.scalars(select(ApiKey))} == {INFERENCE}


def test_the_older_kind_stays_and_cannot_be_rotated(alice: Person) -> None:
    page = alice.browser.get("/profile?tab=api-keys").text
    assert "Everything (older kind)" in page
    assert "/rotation" not in page
