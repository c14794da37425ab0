"""GET /api/v1/calls: the calls of an account, newest or dearest first, for whom, and bad parameters."""

from datetime import timedelta
from decimal import Decimal

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.accounts.users import User
from models.orgs import Org
from models.runs import call_sources
from tests import factories
from tests.factories import Person, now

PATH = "/api/v1/calls"


def test_calls_are_listed_in_order(session: OrmSession, client: FlaskClient, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    with factories.one_commit():
        calls = []
        for n in range(14):
            at = now() - timedelta(minutes=n)
            message = factories.message(user, finished_at=at, cost=Decimal(n % 3) / 10, model="north/large")
            calls.append(
                factories.call(
                    user, message=message, finished_at=at, model="north/large", micro_credits=1_500_000
                )
            )
        failed = factories.call(
            user, state="failed", error="out_of_credits", cost=0, credits=0, http_status=402
        )
    dear = [call.request_id for call in sorted(calls, key=lambda call: -call.cost) if call.cost]
    for query, expected in (
        ("", [failed.request_id, *(call.request_id for call in calls)]),
        ("sort=dearest", dear),
        ("sort=dearest&model=north/large&state=settled", dear),
        ("sort=dearest&state=failed", []),
        ("state=failed&run=none", [failed.request_id]),
    ):
        found, after = list[str](), ""
        for _ in range(10):
            page = client.get(f"{PATH}?limit=4&{query}{after}", headers=alice.headers).json
            assert page is not None
            found += [call["requestId"] for call in page["calls"]]
            if page["next"] is None:
                break
            after = f"&after={page['next'].replace('+', '%2B')}"
        assert found == expected, query
    first = client.get(f"{PATH}?sort=dearest&limit=1", headers=alice.headers).json
    assert first is not None
    assert (first["calls"][0]["costUsd"], first["calls"][0]["exactCredits"]) == ("0.2", "1.5")
    from_to = {
        "from": (now() - timedelta(minutes=5)).isoformat(),
        "to": (now() + timedelta(minutes=1)).isoformat(),
    }
    recent = client.get(PATH, query_string={"sort": "dearest", **from_to}, headers=alice.headers).json
    assert recent is not None
    assert 1 <= len(recent["calls"]) < len(dear)


def test_roles_see_the_calls_of_an_organisation(
    session: OrmSession,
    client: FlaskClient,
    alice: Person,
    bob: Person,
    carol: Person,
    dave: Person,
    mallory: Person,
    acme: Org,
) -> None:
    org_id = acme.id
    users = {who.id: session.get_one(User, who.id) for who in (alice, bob, carol, dave)}
    for who in (alice, bob):
        message = factories.message(users[who.id], org_id=org_id)
        factories.call(users[who.id], message=message, org_id=org_id, model=f"north/{who.id}")
    both, own = {f"north/{alice.id}", f"north/{bob.id}"}, {f"north/{bob.id}"}
    for query in ("", "?sort=dearest"):
        for who, seen in ((alice, both), (carol, both), (dave, both), (bob, own)):
            key = {"authorization": f"Bearer {factories.token(users[who.id], org_id=org_id)}"}
            page = client.get(f"{PATH}{query}", headers=key).json
            assert page is not None
            assert {call["model"] for call in page["calls"]} == seen
        for who in (alice, mallory):  # with a personal key
            page = client.get(f"{PATH}{query}", headers=who.headers).json
            assert page == {"calls": [], "next": None}
        assert client.get(f"{PATH}{query}").status_code == 401
    assert client.get(f"{PATH}?sort=worst").status_code == 401  # who you are comes first


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sort=worst", "sort"),
        ("state=refused", "state"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=%C2%B2", "limit"),
        ("from=2026-11-20", "from"),
        ("from=2026-11-20T10:00:00", "from"),
        ("to=9999-12-31T23:59:59%2B00:00", "to"),
        ("model=a%00b", "model"),
        ("agent=" + "a" * 201, "agent"),
        ("after=x", "after"),
        ("after=2026-11-20T00:00:00%2B00:00~a&sort=dearest", "after"),
        ("after=1~2026-11-20T00:00:00%2B00:00~a", "after"),
        ("after=0001-01-01T00:00:00%2B14:00~a&agent=a/b", "after"),
        ("after=1~9999-12-31T23:59:59-14:00~a&sort=dearest", "after"),
    ],
)
def test_bad_parameters_are_named(client: FlaskClient, alice: Person, query: str, named: str) -> None:
    answer = client.get(f"{PATH}?{query}", headers=alice.headers)
    assert answer.status_code == 422, answer.text
    assert answer.json is not None
    assert named in answer.json["error"]


def test_the_dearest_calls_of_messages_that_have_none(
    session: OrmSession, client: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_sources, "MESSAGE_SCAN", 2)
    for _ in range(3):
        factories.message(session.get_one(User, alice.id), agent_id="a/b@1.0.0")
    page = client.get(f"{PATH}?sort=dearest&agent=a/b", headers=alice.headers)
    assert (page.status_code, page.get_json()["calls"]) == (200, [])
