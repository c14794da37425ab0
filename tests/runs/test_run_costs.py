"""GET /api/v1/runs/:id/cost: what a run cost, for scripts."""

from decimal import Decimal

import pytest
from flask.testing import FlaskClient

from models.orgs import Org
from tests import factories
from tests.factories import Person


@pytest.fixture
def run_id(alice: Person) -> str:
    """A run of alice's with two calls, and a spawned run with one."""
    assert alice.user
    with factories.one_commit():
        factories.account(alice.user)
        run = factories.run(alice.user, status="completed")
        spawned = factories.run(alice.user, "helper", parent=run, status="completed")
        for credits, model, id in (
            (10, "north/large-4", run.id),
            (5, "north/small-4", run.id),
            (7, "north/small-4", spawned.id),
        ):
            message = factories.message(
                alice.user, credits=credits, cost=Decimal(credits) / 100, client_request_id=id
            )
            factories.call(
                alice.user,
                message=message,
                run_id=id,
                model=model,
                credits=credits,
                cost=Decimal(credits) / 100,
            )
    return run.id


def test_cost_is_told_in_total_by_run_and_by_model(client: FlaskClient, alice: Person, run_id: str) -> None:
    found = client.get(f"/api/v1/runs/{run_id}/cost", headers=alice.headers)
    assert found.status_code == 200
    told = found.json or {}
    assert (told["credits"], told["costUsd"], told["calls"], told["spawnedRuns"]) == (22, "0.22", 3, 1)
    assert [row["credits"] for row in told["runs"]] == [15, 7]
    assert sum(row["credits"] for row in told["models"]) == 22
    line = client.get(f"/api/v1/runs/{run_id}/cost", headers=alice.headers | {"accept": "text/plain"})
    assert line.text == "22 credits, $0.22, 3 calls, 1 spawned run, completed\n"
    assert line.mimetype == "text/plain"


def test_cost_is_for_the_account_that_paid(
    client: FlaskClient, alice: Person, mallory: Person, run_id: str
) -> None:
    url = f"/api/v1/runs/{run_id}/cost"
    assert client.get(url).status_code == 401
    assert client.get(url, headers={"authorization": "Bearer nonsense"}).status_code == 401
    assert client.get(url, headers=mallory.headers).status_code == 404
    assert client.get("/api/v1/runs/nothing/cost", headers=alice.headers).status_code == 404


def test_run_for_an_organisation_is_open_to_its_keys_and_to_who_started_it(
    client: FlaskClient, acme: Org, alice: Person, bob: Person
) -> None:
    assert alice.user
    assert bob.user
    factories.account(acme)
    run = factories.run(bob.user, org_id=acme.id, paid_by="named")
    url = f"/api/v1/runs/{run.id}/cost"
    key = {"authorization": f"Bearer {factories.token(alice.user, org_id=acme.id)}"}
    assert [client.get(url, headers=each).status_code for each in (key, bob.headers, alice.headers)] == [
        200,
        200,
        404,
    ]
