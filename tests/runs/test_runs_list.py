"""`GET /api/v1/runs`: the runs of a key, page by page."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.orgs import Org
from tests import factories
from tests.factories import Person


def test_a_key_lists_the_runs_of_its_account(
    client: FlaskClient, acme: Org, alice: Person, bob: Person, mallory: Person, session: OrmSession
) -> None:
    assert alice.user is not None
    assert bob.user is not None
    own = [factories.run(alice.user, agent_id=f"acme/echo@1.0.{at}") for at in range(3)]
    factories.run(alice.user, parent=own[0])
    of_acme = {person.id: factories.run(person, org_id=acme.id).id for person in (alice.user, bob.user)}
    found, after = [], ""
    while after is not None:
        page = client.get(f"/api/v1/runs?limit=2&after={after}", headers=alice.headers).json
        found += page["runs"]
        after = page["next"]
    assert [each["runId"] for each in found] == [run.id for run in reversed(own)]
    assert found[0]["url"] == f"http://localhost:8000/runs/{own[2].id}"
    assert (found[0]["agentId"], found[0]["credits"]) == ("acme/echo@1.0.2", 0)
    key = {"Authorization": f"Bearer {factories.token(bob.user, org_id=acme.id)}"}
    listed = client.get("/api/v1/runs", headers=key).json["runs"]
    assert [each["runId"] for each in listed] == [of_acme[bob.id]]
    assert listed[0]["url"] == f"http://localhost:8000/orgs/acme/runs/{of_acme[bob.id]}"
    assert client.get("/api/v1/runs", headers=mallory.headers).json == {"runs": [], "next": None}
    assert client.get("/api/v1/runs").status_code == 401


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "limit=٣", "limit=", "after=x", "after=%00"]
)
def test_bad_pages_are_refused(client: FlaskClient, alice: Person, query: str) -> None:
    answer = client.get(f"/api/v1/runs?{query}", headers=alice.headers)
    assert answer.status_code == 400
    assert client.get(f"/api/v1/runs?{query}").status_code == 401
