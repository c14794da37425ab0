"""GET /api/v1/calls/:id: one model call, for who made it or pays for it."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.accounts.users import User
from models.orgs import Org
from tests import factories
from tests.factories import Person


def test_a_call_says_what_it_cost_and_what_was_said(
    session: OrmSession, client: FlaskClient, alice: Person
) -> None:
    user = session.get_one(User, alice.id)
    run = factories.run(user)
    message = factories.message(user, credits=5, reasoning_text="Hm")
    call = factories.call(
        user,
        message=message,
        run_id=run.id,
        uncached_input_tokens=100,
        output_tokens=50,
        micro_credits=5_250_000,
        price={"input": "2", "output": "10"},
        parameters={"temperature": 0.5},
    )
    shown = client.get(f"/api/v1/calls/{call.request_id}", headers=alice.headers).json
    assert shown is not None
    assert (shown["state"], shown["runId"], shown["credits"], shown["exactCredits"]) == (
        *("settled", run.id, 5),
        "5.25",
    )
    assert shown["parameters"] == {"temperature": 0.5}
    priced = {each["name"]: (each["count"], each["costUsd"]) for each in shown["tokens"]}
    assert (priced["Input"], priced["Output"]) == ((100, "0.0002"), (50, "0.0005"))
    assert shown["messages"] == {
        "request": [{"role": "user", "content": "Hello"}],
        "response": {"content": "Hello yourself"},
        "reasoning": "Hm",
    }
    refused = factories.call(
        user, state="failed", error="out_of_credits", provider=None, model=None, http_status=402
    )
    shown = client.get(f"/api/v1/calls/{refused.request_id}", headers=alice.headers).json
    assert shown is not None
    assert (shown["httpStatus"], shown["error"], shown["messages"]["request"]) == (
        402,
        "out_of_credits",
        None,
    )


def test_a_call_is_there_for_its_account_alone(
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
    keys = {
        who.id: {"authorization": f"Bearer {factories.token(users[who.id], org_id=org_id)}"}
        for who in (alice, bob, carol, dave)
    }
    bobs, owners = (
        factories.call(users[who.id], org_id=org_id, message=factories.message(users[who.id], org_id=org_id))
        for who in (bob, alice)
    )
    personal = factories.call(users[bob.id], message=factories.message(users[bob.id]))
    for name, call, headers, status, reads in (
        ("owner, of a member", bobs, keys[alice.id], 200, True),
        ("admin, of a member", bobs, keys[carol.id], 200, True),
        ("billing role, of a member", bobs, keys[dave.id], 200, False),
        ("member, own", bobs, keys[bob.id], 200, True),
        ("member, of the owner", owners, keys[bob.id], 404, None),
        ("personal key, own paid by the organisation", bobs, bob.headers, 200, True),
        ("personal key of the owner", bobs, alice.headers, 404, None),
        ("personal", personal, bob.headers, 200, True),
        ("personal call, key of the organisation", personal, keys[bob.id], 404, None),
        ("outsider", bobs, mallory.headers, 404, None),
        ("outsider, personal", personal, mallory.headers, 404, None),
        ("anonymous", bobs, {}, 401, None),
        ("bad key", bobs, {"authorization": "Bearer cb-pat-" + "0" * 64}, 401, None),
    ):
        answer = client.get(f"/api/v1/calls/{call.request_id}", headers=headers)
        assert answer.status_code == status, (name, answer.text)
        if status == 200:
            assert answer.json is not None
            assert (answer.json["messages"] is not None) == reads, name


@pytest.mark.parametrize("id", ["nobody", "a%00b", "x" * 3000])
def test_an_unknown_call_is_not_found(client: FlaskClient, alice: Person, id: str) -> None:
    answer = client.get(f"/api/v1/calls/{id}", headers=alice.headers)
    assert (answer.status_code, answer.json) == (404, {"error": "There is no such call here"})
