"""`/api/v1/api-keys`: what a key may do with keys, and that none is ever wider than the one that makes or opens it."""

import re
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import ApiKey, Session
from models.accounts.scopes import INFERENCE, NAMES
from models.core.audit_log import AuditLog
from models.ledger import Budget
from models.orgs import Org
from tests import factories
from tests.factories import Person

PATH = "/api/v1/api-keys"
KEY = r"sk_(?:live|test)_[0-9A-Za-z]{73}"


class Keys:
    """A client with one key."""

    def __init__(self, client: FlaskClient, key: str) -> None:
        self.client, self.headers = client, {"authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        answer = self.client.open(PATH + path, method=method, json=body, headers=self.headers)
        return answer.status_code, answer.json

    def made(self, **body: Any) -> dict[str, Any]:
        status, made = self("post", body=body)
        assert status == 201, made
        return dict(made)


@pytest.fixture
def manager(session: OrmSession, client: FlaskClient, alice: Person) -> Keys:
    """A key of alice's that may do everything, of the older kind."""
    return Keys(client, alice.token)


def test_a_key_lives_from_creation_to_revocation(
    session: OrmSession, client: FlaskClient, manager: Keys, alice: Person
) -> None:
    answer = client.post(PATH, json={"name": "ci", "permissions": ["chat"]}, headers=manager.headers)
    made = answer.json
    assert (answer.status_code, answer.headers["Cache-Control"]) == (201, "no-store")
    assert re.fullmatch(KEY, made["key"])
    assert made["key_id"] == made["key"][:32]
    assert (made["permissions"], made["environment"], made["state"]) == (["inference:chat"], "live", "active")
    assert made["id"].startswith("key_")
    path = f"/{made['id']}"
    status, changed = manager("patch", path, {"name": "deploys", "limits": {"rpm": 7}, "strict": True})
    assert (status, changed["name"], changed["limits"]["rpm"], changed["strict"]) == (200, "deploys", 7, True)
    assert changed["permissions"] == ["inference:chat"]
    status, rotated = manager("post", f"{path}/rotate", {"grace_seconds": 60})
    assert (status, rotated["id"], rotated["key_id"]) == (200, made["id"], made["key_id"])
    assert rotated["key"] != made["key"]
    assert rotated["prev_valid_until"] > rotated["rotated_at"]
    old, new = Keys(client, made["key"]), Keys(client, rotated["key"])
    assert [each("get")[0] for each in (old, new)] == [403, 403]  # known, without the scope
    assert manager("post", f"{path}/deactivate")[1]["state"] == "inactive"
    assert [each("get")[0] for each in (old, new)] == [401, 401]
    assert manager("post", f"{path}/rotate", {})[0] == 409
    assert manager("post", f"{path}/activate")[1]["state"] == "active"
    assert new("get")[0] == 403
    assert manager("delete", path)[1]["state"] == "revoked"
    assert new("get")[0] == 401
    assert manager("delete", path)[0] == 200
    for verb in ("rotate", "activate", "deactivate"):
        assert manager("post", f"{path}/{verb}", {})[0] == 409
    assert manager("patch", path, {"name": "x"})[0] == 409
    assert manager("get", path)[1]["state"] == "revoked"
    assert [row["id"] for row in manager("get", "?active=false")[1]["data"]] == [made["id"]]
    assert manager("get", "?active=true")[1]["data"] == []
    everything = [manager("get")[1], [entry.after for entry in session.scalars(select(AuditLog))]]
    assert not re.findall(KEY, str(everything))
    assert [entry.action for entry in session.scalars(select(AuditLog).order_by(AuditLog.id))] == [
        f"token.{verb}" for verb in ("created", "changed", "rotated", "changed", "changed", "revoked")
    ]


def test_pages_follow_the_cursor(manager: Keys) -> None:
    ids = [manager.made(name=str(number))["id"] for number in range(5)]
    found, cursor = [], ""
    while cursor is not None:
        status, page = manager("get", f"?limit=2{f'&before={cursor}' if cursor else ''}".replace("+", "%2B"))
        assert status == 200
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert found == ids[::-1]


@pytest.mark.parametrize(
    "body",
    [
        {"permissions": ["everything"]},
        {"permissions": "chat"},
        {"permissions": [1]},
        {"user_id": "x"},
        {"id": "key_1"},
        {"active": False},
        {"last_used_at": "2026-01-01T00:00:00Z"},
        {"cost": 1},
        {"environment": "staging"},
        {"name": "a" * 101},
        {"name": "line\nbreak"},
        {"limits": {"rpm": 0}},
        {"limits": {"rpm": -1}},
        {"limits": {"rpm": 10**30}},
        {"limits": {"rpm": "7"}},
        {"limits": {"rps": 7}},
        {"allowed_ips": ["nowhere"]},
        {"allowed_models": ["a"] * 5 + ["b" * 300]},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00Z"},
        {"expires_at": "soon"},
        [],
        None,
    ],
)
def test_wrong_fields_are_422_and_store_nothing(session: OrmSession, manager: Keys, body: Any) -> None:
    status, answer = manager("post", body=body)
    assert (status, answer["error"]["code"]) in ((422, "validation_error"), (400, "bad_request"))
    assert session.scalars(select(ApiKey)).all() == []


def test_nul_and_unknown_ids_are_404(manager: Keys) -> None:
    for id in ("key_unknown", "%00", "x" * 5000):
        for method, path in (
            ("get", ""),
            ("patch", ""),
            ("delete", ""),
            ("post", "/rotate"),
            ("post", "/activate"),
        ):
            assert manager(method, f"/{id}{path}", {} if method != "get" else None)[0] == 404


NARROW: dict[str, Any] = {
    "permissions": ["inference:chat", "keys:read", "keys:write"],
    "allowed_models": ["openai/*"],
    "allowed_ips": ["127.0.0.0/8"],
    "rpm_limit": 10,
    "is_strict": True,
}
LIKE: dict[str, Any] = {
    "permissions": ["inference:chat"],
    "allowed_models": ["openai/gpt-5"],
    "allowed_ips": ["127.0.0.1"],
    "limits": {"rpm": 10},
    "strict": True,
}


@pytest.mark.parametrize(
    "wider",
    [
        {"permissions": ["inference:chat", "usage:read"]},
        {"permissions": list(INFERENCE)},
        {"allowed_models": None},
        {"allowed_models": ["openai/gpt-5", "*"]},
        {"allowed_models": ["o*"]},
        {"allowed_ips": ["127.0.0.1", "10.0.0.1"]},
        {"allowed_ips": None},
        {"limits": {"rpm": 11}},
        {"limits": {"rpm": None}},
        {"strict": False},
        {"expires_at": None},
    ],
)
def test_a_key_makes_and_opens_no_wider_key(
    session: OrmSession, client: FlaskClient, alice: Person, wider: dict[str, Any]
) -> None:
    assert alice.user
    raw = factories.api_key(alice.user, **NARROW)
    narrow = Keys(client, raw)
    session.get_one(Session, raw[:32]).expires = factories.now() + timedelta(days=30)
    session.commit()
    made = narrow.made(**LIKE)
    status, answer = narrow("post", body={**LIKE, **wider})
    assert (status, answer["error"]["code"]) == (403, "wider_key")
    status, answer = narrow("patch", f"/{made['id']}", wider)
    assert (status, answer["error"]["code"]) == (403, "wider_key")
    # nor does it get the secret of one, or switch it on
    full = factories.api_key(alice.user, permissions=NAMES)
    other = Keys(client, full).made(**{"permissions": list(NAMES), **wider})
    for verb in ("rotate", "activate"):
        assert narrow("post", f"/{other['id']}/{verb}", {})[0] == 403
    assert narrow("post", f"/{other['id']}/deactivate")[0] == 200
    session.rollback()
    assert len(session.scalars(select(ApiKey)).all()) == 4


def test_keys_of_a_key_end_with_it_and_a_test_key_makes_test_keys(
    session: OrmSession, client: FlaskClient, alice: Person
) -> None:
    assert alice.user
    first = factories.api_key(alice.user, permissions=NAMES)
    child = Keys(client, first).made(permissions=list(NAMES))
    grandchild = Keys(client, child["key"]).made(permissions=["keys:read"])
    tester = Keys(client, first).made(permissions=list(NAMES), environment="test")
    assert Keys(client, tester["key"])("post", body={"permissions": []})[0] == 403
    assert Keys(client, tester["key"])("post", body={"permissions": [], "environment": "test"})[0] == 201
    assert Keys(client, grandchild["key"])("get")[0] == 200
    session.delete(session.get_one(Session, first[:32]))
    session.commit()
    for key in (first, child["key"], grandchild["key"], tester["key"]):
        assert Keys(client, key)("get")[0] == 401
    session.expire_all()
    assert all(row.revoked_at for row in session.scalars(select(ApiKey)))


def test_a_key_with_a_budget_creates_none(session: OrmSession, client: FlaskClient, alice: Person) -> None:
    assert alice.user
    key = factories.api_key(alice.user, permissions=NAMES)
    factories.grant(alice.user, 100)
    factories.save(
        Budget(
            account_id=alice.id,
            level="key",
            subject=key[:32],
            period="day",
            limit_credits=5,
            created_by=alice.id,
        )
    )
    status, answer = Keys(client, key)("post", body={})
    assert (status, answer["error"]["code"]) == (403, "wider_key")


def test_accounts_see_their_own_keys_only(
    session: OrmSession,
    client: FlaskClient,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
    acme: Org,
) -> None:
    assert alice.user
    assert bob.user
    own = Keys(client, alice.token).made(name="own")
    ours = Keys(client, factories.token(alice.user, org_id=acme.id)).made(name="ours")
    bobs = Keys(client, factories.token(bob.user, org_id=acme.id)).made(name="bobs")
    assert (ours["org_id"], own["org_id"]) == (acme.id, None)
    admin = Keys(client, factories.token(alice.user, org_id=acme.id))
    member = Keys(client, factories.token(bob.user, org_id=acme.id))
    seen = {
        "alice": {row["name"] for row in Keys(client, alice.token)("get")[1]["data"]},
        "admin": {row["name"] for row in admin("get")[1]["data"]},
        "member": {row["name"] for row in member("get")[1]["data"]},
        "mallory": {row["name"] for row in Keys(client, mallory.token)("get")[1]["data"]},
    }
    assert seen == {"alice": {"own"}, "admin": {"ours", "bobs"}, "member": {"bobs"}, "mallory": set()}
    for stranger, id in ((mallory.token, own["id"]), (mallory.token, bobs["id"]), (alice.token, ours["id"])):
        keys = Keys(client, stranger)
        found = [keys("get", f"/{id}"), keys("patch", f"/{id}", {"name": "x"}), keys("delete", f"/{id}")]
        found += [keys("post", f"/{id}/{verb}", {}) for verb in ("rotate", "activate", "deactivate")]
        assert {status for status, _ in found} == {404}
    assert member("delete", f"/{ours['id']}")[0] == 404
    assert Keys(client, mallory.token)("post", body={"org_id": acme.id, "name": "x"})[0] == 404
    assert admin("post", body={})[0] in (400, 422)  # an organisation's key has a name
    assert admin("delete", f"/{bobs['id']}")[0] == 200
    assert Keys(client, "nothing")("get")[0] == 401
    assert client.get(PATH).status_code == 401
