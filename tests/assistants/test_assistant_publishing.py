"""Assistants in the store: what is published and by whom, and that private runs are in none of its figures."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.assistants import Assistant
from models.assistants.store_publishing import published_from
from models.core.errors import Invalid
from models.orgs import Org
from models.runs import AgentRun
from models.store import Agent, AgentConfig, AgentDay, AgentVersion, publishers
from models.store.publishers import PublisherProfile
from models.store.statistics import counting
from models.store.tables import AgentRunBill
from tests import factories
from tests.factories import Person
from tests.store.ledger import assert_proved, finish, start

PATH = "/api/v1/assistants"
NEW: dict[str, Any] = {
    "name": "Editor",
    "instructions": "Edit texts.",
    "model": "stoa/demo",
    "tools": ["web_search"],
}
FUNCTION = {"type": "function", "function": {"name": "look", "description": "secret address"}}


class Publishing:
    """A client with one key, and its assistant."""

    def __init__(self, client: FlaskClient, headers: dict[str, str], **fields: Any) -> None:
        self.client, self.headers = client, headers
        made = client.post(PATH, json={**NEW, **fields}, headers=headers)
        assert made.status_code == 201, made.json
        self.id = made.json["id"]

    def __call__(
        self, headers: dict[str, str] | None = None, query: str = "", **body: Any
    ) -> tuple[int, Any]:
        sent = {"publisher_id": "acme", "agent_id": "editor", **body}
        answer = self.client.post(
            f"{PATH}/{self.id}/publish{query}",
            json=sent,
            headers=self.headers if headers is None else headers,
        )
        return answer.status_code, answer.json


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> Publishing:
    assert alice.user
    factories.publisher(alice.user, "acme")
    return Publishing(client, alice.headers, tools=["web_search", FUNCTION], description="Edits")


def test_the_current_version_becomes_an_agent_of_the_store(
    session: OrmSession, mine: Publishing, alice: Person
) -> None:
    status, answer = mine(version="1.2.0")
    assert (status, answer["published_as"], answer["assistant_version"]) == (201, "acme/editor@1.2.0", 1)
    data = session.scalars(select(AgentConfig)).one().data
    assert (
        data["systemPrompt"],
        data["toolNames"],
        data["model"],
        data["displayName"],
        data["description"],
    ) == (
        "Edit texts.",
        ["web_search", "look"],
        "stoa/demo",
        "Editor",
        "Edits",
    )
    assert "secret address" not in str(data)
    version = session.get_one(AgentVersion, ("acme", "editor", "1.2.0"))
    assert (version.published_by, version.credential) == (alice.id, "pat")
    assert mine.id in (version.changelog or "")
    assert (
        mine.client.get(f"{PATH}/{mine.id}", headers=mine.headers).json["published_as"] == "acme/editor@1.2.0"
    )
    shown = mine.client.get(f"{PATH}/{mine.id}", headers=mine.headers).json
    assert shown["published_url"].endswith("/publishers/acme/agents/editor/1.2.0")
    assert mine()[1]["published_as"] == "acme/editor@1.2.1"
    status, refused = mine(version="1.0.0")
    assert (status, refused["error"]["code"]) == (422, "publish_refused")


def test_the_page_in_the_store_links_back_for_its_owner(
    session: OrmSession,
    mine: Publishing,
    acme: Org,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
) -> None:
    factories.publisher(acme, "inside")
    ours = Publishing(mine.client, mine.headers, org_id=acme.id)
    for own, query, publisher, place in (
        (mine, "", "acme", "/assistants"),
        (ours, f"?org_id={acme.id}", "inside", f"/orgs/{acme.slug}/assistants"),
    ):
        assert own(query=query, publisher_id=publisher)[0] == 201
        assert own(query=query, publisher_id=publisher)[0] == 201
        link = f'href="{place}/{own.id}"'
        for version in ("0.0.1", "0.0.2"):
            page = f"/publishers/{publisher}/agents/editor/{version}"
            assert link in alice.browser.get(page).text
            for other in (bob, mallory, anonymous):
                assert link not in other.browser.get(page).text
    assert published_from(bob.id, "inside", "editor") == (session.get(Assistant, ours.id), acme)
    for user, names in (
        (mallory, ("inside", "editor")),
        (alice, ("acme", "edito_")),
        (alice, ("acm", "editor")),
    ):
        assert published_from(user.id, *names) is None
    mine.client.delete(f"{PATH}/{mine.id}", headers=mine.headers)
    assert published_from(alice.id, "acme", "editor") is None


def test_variables_become_parameters_of_the_input(
    session: OrmSession, client: FlaskClient, mine: Publishing
) -> None:
    variables = {
        "tone": {"type": "enum", "values": ["warm", "dry"], "required": True, "description": "How it sounds"},
        "words": {"type": "number", "default": 50, "required": True},
        "greet": {"type": "boolean"},
    }
    changed = {"variables": variables, "instructions": "Be {{tone}}."}
    assert client.patch(f"{PATH}/{mine.id}", json=changed, headers=mine.headers).status_code == 200
    assert mine()[0] == 201
    data = session.scalars(select(AgentConfig)).one().data
    assert data["systemPrompt"] == "Be {{tone}}."
    assert data["inputSchema"]["params"] == {
        "type": "object",
        "properties": {
            "tone": {"type": "string", "enum": ["warm", "dry"], "description": "How it sounds"},
            "words": {"type": "number", "default": 50},
            "greet": {"type": "boolean"},
        },
        "required": ["tone"],
    }


def test_a_context_is_published_only_if_that_is_confirmed(
    session: OrmSession, client: FlaskClient, mine: Publishing
) -> None:
    client.patch(f"{PATH}/{mine.id}", json={"context": "Prices of 2027"}, headers=mine.headers)
    for answer in (mine(), mine(confirm_private_context=False)):
        assert (answer[0], answer[1]["error"]["code"]) == (422, "validation_error")
        assert "confirm_private_context" in answer[1]["error"]["message"]
    assert session.scalars(select(AgentConfig)).all() == []
    assert mine(confirm_private_context=True)[0] == 201
    data = session.scalars(select(AgentConfig)).one().data
    assert data["systemPrompt"] == "Edit texts.\n\n<context>\nPrices of 2027\n</context>"


def test_publishers_of_others_are_403(
    session: OrmSession, client: FlaskClient, mine: Publishing, acme: Org, alice: Person, mallory: Person
) -> None:
    assert mallory.user
    factories.publisher(mallory.user, "theirs")
    for publisher in ("theirs", "unknown", "private", "new", "\ud83d\ude00", ""):
        assert mine(publisher_id=publisher)[0] == 403
    assert mine(headers=mallory.headers)[0] == 404
    assert mine(headers={})[0] == 401
    assert alice.user
    key = factories.api_key(alice.user, permissions=["agents:write"])
    assert mine(headers={"authorization": f"Bearer {key}"})[0] == 403
    assert session.scalars(select(AgentConfig)).all() == []


def test_an_organisations_assistant_goes_to_its_own_publishers(
    session: OrmSession, client: FlaskClient, acme: Org, alice: Person, bob: Person
) -> None:
    assert alice.user
    factories.publisher(alice.user, "acme")
    factories.publisher(acme, "inside")
    query = f"?org_id={acme.id}"
    ours = Publishing(client, alice.headers, org_id=acme.id)
    assert ours(query=query)[0] == 403
    assert ours(headers=bob.headers, query=query, publisher_id="inside")[0] == 403
    assert ours(query=query, publisher_id="inside")[1]["published_as"] == "inside/editor@0.0.1"


@pytest.mark.parametrize(
    "body",
    [
        {"agent_id": "Not An Id"},
        {"agent_id": "x" * 201},
        {"agent_id": ""},
        {"version": "one"},
        {"version": 1},
        {"agent_id": None},
        {"id": "agnt_x"},
        {"confirm_private_context": "yes"},
    ],
)
def test_wrong_bodies_are_422(session: OrmSession, mine: Publishing, body: dict[str, Any]) -> None:
    assert mine(**body)[0] == 422
    assert session.scalars(select(AgentConfig)).all() == []


def test_an_assistant_without_a_model_is_not_published(
    session: OrmSession, client: FlaskClient, mine: Publishing
) -> None:
    client.patch(f"{PATH}/{mine.id}", json={"model": None}, headers=mine.headers)
    assert mine()[0] == 422


def test_nobody_owns_the_publisher_private(session: OrmSession, alice: Person) -> None:
    assert alice.user
    with pytest.raises(Invalid):
        publishers.create(alice.user, "private", PublisherProfile("Private"))


def test_runs_of_private_assistants_are_in_no_figure_of_the_store(
    session: OrmSession, mine: Publishing, alice: Person, mallory: Person
) -> None:
    mine(version="1.0.0")
    for agent in (f"private/{mine.id}@1", "acme/editor@1.0.0"):
        finish(session, start(session, mallory.id, agent))
    private = session.scalars(select(AgentRun).where(AgentRun.publisher_id == "private")).one()
    assert (private.agent_name, private.agent_version) == (mine.id, "1")
    while counting.apply_queue() is not None:
        session.commit()
    session.commit()
    assert session.scalars(select(AgentRunBill.publisher_id)).all() == ["acme"]
    assert session.scalars(select(AgentDay.publisher_id)).all() == ["acme"]
    assert [(row.publisher_id, row.runs) for row in session.scalars(select(Agent))] == [("acme", 1)]
    assert_proved(session)
