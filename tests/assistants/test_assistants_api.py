"""`/api/v1/assistants`: the routes of the contract, for owner, member, stranger and anonymous callers."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.assistants import Assistant, AssistantVersion
from models.orgs import Org
from tests import factories
from tests.factories import Person

PATH = "/api/v1/assistants"
NEW: dict[str, Any] = {"name": "Editor", "instructions": "Edit texts."}
WRITES = [
    ("post", "", NEW),
    ("patch", "/{id}", {"name": "x"}),
    ("delete", "/{id}", None),
    ("post", "/{id}/restore", None),
    ("post", "/{id}/duplicate", {}),
    ("post", "/{id}/versions/1/restore", None),
]
READS = ["", "/{id}", "/{id}/versions", "/{id}/versions/1"]


class Assistants:
    """A client with one key."""

    def __init__(self, client: FlaskClient, headers: dict[str, str]) -> None:
        self.client, self.headers = client, headers

    def __call__(self, method: str, path: str = "", body: Any = None, **headers: str) -> tuple[int, Any]:
        answer = self.client.open(PATH + path, method=method, json=body, headers={**self.headers, **headers})
        return answer.status_code, answer.json

    def made(self, **body: Any) -> dict[str, Any]:
        status, made = self("post", body={**NEW, **body})
        assert status == 201, made
        return dict(made)


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> Assistants:
    return Assistants(client, alice.headers)


def key_of(client: FlaskClient, person: Person, *scopes: str, org: Org | None = None) -> Assistants:
    assert person.user
    key = factories.api_key(person.user, org_id=org.id if org else None, permissions=list(scopes))
    return Assistants(client, {"authorization": f"Bearer {key}"})


def test_an_assistant_lives_from_creation_to_restoration(mine: Assistants, alice: Person) -> None:
    made = mine.made(tools='[{"type": "function", "name": "look"}]', context="Facts", budget=100)
    assert (made["version"], made["user_id"], made["org_id"]) == (1, alice.id, None)
    assert made["agent_id"] == f"private/{made['id']}@1"
    assert made["tools"] == [{"type": "function", "function": {"name": "look"}}]
    path = f"/{made['id']}"
    answer = mine.client.get(PATH + path, headers=mine.headers)
    assert (answer.status_code, answer.headers["ETag"], answer.json["context"]) == (200, '"1"', "Facts")
    status, changed = mine(
        "patch", path, {"name": "Poet", "model": "openai/gpt-5-mini"}, **{"If-Match": '"1"'}
    )
    assert (status, changed["version"], changed["name"], changed["context"]) == (200, 2, "Poet", "Facts")
    stale = mine.client.patch(PATH + path, json={"name": "x"}, headers={**mine.headers, "If-Match": "1"})
    assert (stale.status_code, stale.headers["ETag"]) == (409, '"2"')
    assert (stale.json["error"]["code"], stale.json["error"]["details"]) == (
        "version_conflict",
        "current_version=2",
    )
    for header in ("two", "-1", "1" * 10):
        assert mine("patch", path, {"name": "x"}, **{"If-Match": header})[0] == 422
    status, versions = mine("get", f"{path}/versions?limit=1")
    assert ([row["version"] for row in versions["data"]], versions["next_cursor"]) == ([2], "2")
    assert [row["version"] for row in mine("get", f"{path}/versions?cursor=2")[1]["data"]] == [1]
    assert mine("get", f"{path}/versions/1")[1]["name"] == "Editor"
    status, restored = mine("post", f"{path}/versions/1/restore")
    assert (status, restored["version"], restored["name"], restored["model"]) == (200, 3, "Editor", None)
    status, copy = mine("post", f"{path}/duplicate", {"name": "Copy"})
    assert (status, copy["name"], copy["version"], copy["budget"]) == (201, "Copy", 1, None)
    assert mine("post", f"{path}/duplicate")[1]["name"] == "Editor (copy)"
    assert mine("post", f"{path}/restore")[1]["error"]["code"] == "not_deleted"
    status, deleted = mine("delete", path)
    assert (status, deleted["deleted_at"] is not None) == (200, True)
    assert mine("get", path)[0] == 404
    assert mine("get", f"{path}?include_deleted=true")[0] == 200
    assert made["id"] not in [row["id"] for row in mine("get")[1]["data"]]
    assert made["id"] in [row["id"] for row in mine("get", "?include_deleted=true")[1]["data"]]
    assert mine("post", f"{path}/restore")[1]["deleted_at"] is None
    assert len(mine("get", f"{path}/versions")[1]["data"]) == 3


def test_lists_follow_the_cursor_and_the_search(mine: Assistants) -> None:
    ids = [mine.made(name=f"Number {number}")["id"] for number in range(5)]
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        status, page = mine("get", f"?limit=2&cursor={cursor}".replace("+", "%2B"))
        assert status == 200
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert found == ids[::-1]
    assert [row["id"] for row in mine("get", "?q=number 3")[1]["data"]] == [ids[3]]
    assert "context" not in mine("get")[1]["data"][0]
    for wrong in (
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=x",
        "include_deleted=yes",
        "cursor=2026-01-01T00:00:00Z~%00",
    ):
        assert mine("get", f"?{wrong}")[0] == 422, wrong


@pytest.mark.parametrize(
    "field",
    ["id", "user_id", "active", "deleted_at", "version", "last_used_at", "cost", "published_as", "spent"],
)
def test_fields_of_the_server_are_refused_and_nothing_is_stored(
    session: OrmSession, mine: Assistants, field: str
) -> None:
    status, answer = mine("post", body={**NEW, field: "agnt_x"})
    assert (status, answer["error"]["code"], field in answer["error"]["message"]) == (
        422,
        "validation_error",
        True,
    )
    assert session.scalars(select(Assistant)).all() == []


def test_an_id_in_the_body_leaves_the_other_assistant_untouched(
    session: OrmSession, mine: Assistants
) -> None:
    first, second = mine.made(name="A"), mine.made(name="B")
    for target in (first["id"], second["id"]):
        assert mine("patch", f"/{first['id']}", {"id": target, "name": "Changed"})[0] == 422
    assert [mine("get", f"/{each['id']}")[1]["name"] for each in (first, second)] == ["A", "B"]
    assert session.query(AssistantVersion).count() == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {**NEW, "name": None},
        {**NEW, "tools": "none"},
        {**NEW, "tools": None},
        {**NEW, "budget": -1},
        {**NEW, "budget": "7"},
        {**NEW, "model_params": []},
        {**NEW, "variables": {"a": 7}},
        {**NEW, "mcp_servers": [7]},
        {**NEW, "name": "x" * 300},
        [],
        "text",
        None,
    ],
)
def test_wrong_bodies_are_422_and_store_nothing(session: OrmSession, mine: Assistants, body: Any) -> None:
    status, answer = mine("post", body=body)
    assert (status, answer["error"]["code"]) in ((422, "validation_error"), (400, "bad_request"))
    assert session.scalars(select(Assistant)).all() == []


def test_bytes_that_no_database_stores_are_refused(mine: Assistants) -> None:
    for raw in (b'{"name": "\\u0000", "instructions": "x"}', b"{", b"\xff", b"[" * 100_000, b'{"name": NaN}'):
        answer = mine.client.post(PATH, data=raw, headers=mine.headers)
        assert answer.status_code == 400, raw[:20]


def test_foreign_ids_answer_as_random_ones_do(client: FlaskClient, mine: Assistants, mallory: Person) -> None:
    id = mine.made()["id"]
    stranger = Assistants(client, mallory.headers)
    calls = [("get", path, None) for path in READS if path] + [each for each in WRITES if each[1]]
    for method, path, body in calls:
        answers = []
        for each in (id, "agnt_00000000-0000-0000-0000-000000000000", "%00", "x" * 3_000):
            status, answer = stranger(method, path.format(id=each), body)
            answers.append((status, answer["error"]))
        assert answers == [answers[0]] * 4, (method, path)
        assert answers[0][0] == 404
    assert mine("get", f"/{id}")[1]["version"] == 1


def test_who_calls_is_checked_before_what_is_sent(
    client: FlaskClient, mine: Assistants, mallory: Person
) -> None:
    id = mine.made()["id"]
    anonymous = Assistants(client, {})
    for method, path, _ in WRITES:
        assert anonymous(method, path.format(id=id), [])[0] == 401
    assert [anonymous("get", path.format(id=id))[0] for path in READS] == [401] * 4
    assert Assistants(client, mallory.headers)("patch", f"/{id}", {"id": "x"})[0] == 404


def test_each_scope_opens_its_routes_only(client: FlaskClient, mine: Assistants, alice: Person) -> None:
    id = mine.made()["id"]
    reader, writer = key_of(client, alice, "agents:read"), key_of(client, alice, "agents:write")
    nothing = key_of(client, alice)
    for path in READS:
        assert reader("get", path.format(id=id))[0] == 200
        for other in (writer, nothing):
            status, answer = other("get", path.format(id=id))
            assert (status, answer["error"]["code"]) == (403, "insufficient_permissions")
    for method, path, body in WRITES:
        assert reader(method, path.format(id=id), body)[0] == 403
        assert writer(method, path.format(id=id), body)[0] in (200, 201), path


def test_an_organisations_assistants_are_its_members(
    session: OrmSession, client: FlaskClient, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    owner, member, stranger = (Assistants(client, each.headers) for each in (alice, bob, mallory))
    made = owner.made(org_id=acme.slug)
    assert made["org_id"] == acme.id
    path, inside = f"/{made['id']}", f"?org_id={acme.id}"
    assert member("get", path + inside)[0] == 200
    assert member("patch", path + inside, {"name": "Ours"})[1]["version"] == 2
    assert member("delete", path + inside)[0] == 403
    assert member("get", path)[0] == 404
    assert [row["id"] for row in member("get", inside)[1]["data"]] == [made["id"]]
    assert stranger("get", inside)[0] == 404
    assert stranger("get", path + inside)[0] == 404
    assert stranger("post", body={**NEW, "org_id": acme.id})[0] == 404
    assert owner("delete", path + inside)[0] == 200
    key = key_of(client, bob, "agents:read", "agents:write", org=acme)
    own = key.made(name="By key")
    assert (own["org_id"], own["user_id"]) == (acme.id, bob.id)
    assert key("get", "?org_id=other")[0] == 404
    assert key("delete", f"/{own['id']}")[0] == 200
    assert key("post", f"/{own['id']}/restore")[0] == 200
