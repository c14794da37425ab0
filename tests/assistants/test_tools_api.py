"""`/api/v1/tools` and `/api/v1/tool-secrets`: who manages them, what is refused, and that no secret is shown or recorded."""

import logging
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.accounts.sessions import Session
from models.assistants import Tool, ToolSecret
from models.core.audit_log import AuditLog
from models.core.personal_export import export_files
from models.orgs import Org
from tests import factories
from tests.factories import Person

TOOLS, SECRETS, ASSISTANTS = "/api/v1/tools", "/api/v1/tool-secrets", "/api/v1/assistants"
TOOL: dict[str, Any] = {"name": "look", "url": "https://api.example.com/look"}
SECRET: dict[str, Any] = {"name": "key", "host": "api.example.com", "value": "Bearer abcdefgh-secret-wxyz"}


class Api:
    """A client with one key."""

    def __init__(self, client: FlaskClient, headers: dict[str, str]) -> None:
        self.client, self.headers = client, headers

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.client.open(path, method=method, json=body, headers=self.headers)
        return answer.status_code, answer.json


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> Api:
    return Api(client, alice.headers)


def test_a_tool_lives_from_its_registration_to_its_removal(mine: Api) -> None:
    assert mine("post", SECRETS, SECRET)[0] == 201
    status, made = mine("post", TOOLS, {**TOOL, "headers": {"Authorization": "key"}, "retries": 1})
    assert status == 201
    assert (made["method"], made["timeout_seconds"], made["headers"]) == (
        "POST",
        30,
        {"Authorization": "key"},
    )
    path = f"{TOOLS}/{made['id']}"
    status, changed = mine("patch", path, {"method": "GET", "description": "Looks"})
    assert (status, changed["method"], changed["retries"]) == (200, "GET", 1)
    assert mine("get", path)[1] == changed
    assert mine("get", TOOLS)[1]["data"] == [changed]
    new = {"name": "E", "instructions": "x", "tools": ["look", "file_search"]}
    assert mine("post", ASSISTANTS, new)[1]["tools"] == ["look", "file_search"]
    assert mine("delete", path) == (200, {"deleted": True})
    assert mine("get", path)[0] == 404
    status, answer = mine("post", ASSISTANTS, new)
    assert (status, "There is no tool 'look'" in answer["error"]["message"]) == (422, True)


WRONG: list[tuple[str, Any]] = [
    ("name", "a b"),
    ("name", "x" * 65),
    ("name", "a__b"),
    ("name", "file_search"),
    ("name", 7),
    ("url", "ftp://x"),
    ("url", "https://u:p@x.example"),
    ("url", 7),
    ("method", "TRACE"),
    ("description", "x" * 4_001),
    ("parameters", {"type": "string"}),
    ("parameters", {"description": "x" * 70_000}),
    ("headers", {"Host": "key"}),
    ("headers", {"X": "gone"}),
    ("timeout_seconds", 0),
    ("timeout_seconds", 121),
    ("timeout_seconds", "30"),
    ("retries", 4),
    ("retries", 1.5),
    ("id", "tool_x"),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda each: str(each)[:30])
def test_wrong_tools_are_422_and_store_nothing(
    session: OrmSession, mine: Api, field: str, value: Any
) -> None:
    status, answer = mine("post", TOOLS, {**TOOL, field: value})
    assert (status, answer["error"]["code"]) == (422, "validation_error")
    assert session.scalars(select(Tool)).all() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "a b"),
        ("host", "https://x"),
        ("host", "a/b"),
        ("host", "u@x"),
        ("host", ""),
        ("value", "short"),
        ("value", "line\r\nX-Other: header"),
        ("value", "é" * 10),
        ("value", "x" * 5_000),
        ("value", 7),
        ("id", "x"),
    ],
)
def test_wrong_secrets_are_422_and_store_nothing(
    session: OrmSession, mine: Api, field: str, value: Any
) -> None:
    status, answer = mine("post", SECRETS, {**SECRET, field: value})
    assert (status, answer["error"]["code"]) == (422, "validation_error")
    assert session.scalars(select(ToolSecret)).all() == []


def test_names_are_taken_once(mine: Api) -> None:
    assert [mine("post", TOOLS, TOOL)[0] for _ in range(2)] == [201, 409]
    assert [mine("post", SECRETS, SECRET)[0] for _ in range(2)] == [201, 409]
    other = mine("post", TOOLS, {**TOOL, "name": "other"})[1]
    assert mine("patch", f"{TOOLS}/{other['id']}", {"name": "look"})[0] == 409
    assert mine("get", f"{TOOLS}/{other['id']}")[1]["name"] == "other"


def test_a_secret_is_bound_to_its_host(mine: Api) -> None:
    mine("post", SECRETS, {**SECRET, "host": "API.example.com"})
    assert mine("get", SECRETS)[1]["data"][0]["host"] == "api.example.com"
    headers = {"Authorization": "key"}
    for url in (
        "https://evil.example/",
        "https://api.example.com:8443/",
        "https://api.example.com.evil.example/",
    ):
        assert mine("post", TOOLS, {**TOOL, "url": url, "headers": headers})[0] == 422
        server = {"name": "s", "url": url, "headers": headers}
        assert mine("post", ASSISTANTS, {"name": "E", "instructions": "x", "mcp_servers": [server]})[0] == 422
    status, tool = mine("post", TOOLS, {**TOOL, "url": "https://api.example.com:443/", "headers": headers})
    assert status == 201
    assert mine("patch", f"{TOOLS}/{tool['id']}", {"url": "https://evil.example/"})[0] == 422


def test_a_secret_is_nowhere_to_be_read(
    session: OrmSession, mine: Api, alice: Person, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = [mine("post", SECRETS, SECRET), mine("post", SECRETS, SECRET), mine("get", SECRETS)]
    seen += [mine("post", SECRETS, {**SECRET, "value": f"{SECRET['value']}\n\0", "name": "two"})]
    exported = "".join("".join(each.chunks(alice.id)) for each in export_files() if "tool" in each.name)
    assert '"key"' in exported or "key,api.example.com,wxyz" in exported
    rows = session.execute(text("SELECT tool_secret::text FROM tool_secret")).scalars().all()
    for place in (str(seen), exported, str(rows), caplog.text):
        assert "abcdefgh-secret" not in place
    assert seen[0][1]["hint"] == "wxyz"


def test_foreign_ids_answer_as_random_ones_do(client: FlaskClient, mine: Api, mallory: Person) -> None:
    id = mine("post", TOOLS, TOOL)[1]["id"]
    mine("post", SECRETS, SECRET)
    stranger = Api(client, mallory.headers)
    for method, path, known, body in (
        ("get", TOOLS, id, None),
        ("patch", TOOLS, id, {"name": "x"}),
        ("delete", TOOLS, id, None),
        ("delete", SECRETS, "key", None),
    ):
        answers = [stranger(method, f"{path}/{each}", body) for each in (known, "unknown", "%00")]
        assert [(status, body["error"]) for status, body in answers] == [(404, answers[0][1]["error"])] * 3
    assert [stranger("get", each)[1]["data"] for each in (TOOLS, SECRETS)] == [[], []]
    assert [len(mine("get", each)[1]["data"]) for each in (TOOLS, SECRETS)] == [1, 1]


def test_owners_and_admins_manage_the_tools_of_an_organisation(
    session: OrmSession, client: FlaskClient, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    owner, member, stranger = (Api(client, each.headers) for each in (alice, bob, mallory))
    inside = f"?org_id={acme.id}"
    for caller, status in ((stranger, 404), (member, 403), (owner, 201)):
        assert caller("post", SECRETS + inside, SECRET)[0] == status
        assert caller("post", TOOLS + inside, {**TOOL, "headers": {"X-Key": "key"}})[0] == status
    id = owner("get", TOOLS + inside)[1]["data"][0]["id"]
    assert [row["id"] for row in member("get", TOOLS + inside)[1]["data"]] == [id]
    new = {"name": "E", "instructions": "x", "tools": ["look"]}
    assert member("post", ASSISTANTS + inside, new)[0] == 201
    for caller, status in ((stranger, 404), (member, 403), (owner, 200)):
        assert caller("patch", f"{TOOLS}/{id}{inside}", {"retries": 1})[0] == status
        assert caller("delete", f"{TOOLS}/{id}{inside}")[0] == status
        assert caller("delete", f"{SECRETS}/key{inside}")[0] == status
    actions = session.scalars(
        select(AuditLog.action).where(AuditLog.org_id == acme.id).order_by(AuditLog.id)
    ).all()
    assert actions == [
        "tool_secret.added",
        "tool.added",
        "assistant.created",
        "tool.changed",
        "tool.removed",
        "tool_secret.removed",
    ]


def test_anonymous_callers_and_other_scopes_are_refused(
    session: OrmSession, client: FlaskClient, alice: Person
) -> None:
    assert alice.user
    reader = Api(
        client, {"authorization": f"Bearer {factories.api_key(alice.user, permissions=['agents:read'])}"}
    )
    for path, body in ((TOOLS, TOOL), (SECRETS, SECRET)):
        assert Api(client, {})("get", path)[0] == 401
        assert Api(client, {})("post", path, [])[0] == 401
        assert reader("get", path)[0] == 200
        assert reader("post", path, body)[0] == 403
    assert session.scalars(select(Session)).all()
