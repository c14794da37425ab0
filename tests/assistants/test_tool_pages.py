"""Pages of tools, secrets and documents of assistants."""

import io
import re

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.assistants import Tool, ToolSecret
from models.core.settings import Settings
from models.index import Document
from models.orgs import Org
from tests import factories
from tests.assistants.conftest import ToolServer
from tests.factories import Person

NEW = {"name": "find_order", "url": "https://api.example.com/orders", "method": "POST", "parameters": "{}", "timeout_seconds": "30", "retries": "0"}  # fmt: skip
SECRET = {"name": "crm", "host": "api.example.com", "value": "Bearer sk-1234567890abcdef"}
HTMX = {"HX-Request": "true"}


def send(who: Person, path: str, *, headers: object = None, **data: object) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data}, headers=headers or {})  # type: ignore[arg-type]


def made(who: Person, start: str = "") -> str:
    answer = send(who, f"{start}/assistants", name="Writer", instructions="Write.")
    return answer.headers["Location"]


def test_a_secret_is_written_once_and_shown_never(session: OrmSession, alice: Person) -> None:
    assert "No secrets" in alice.browser.get("/assistants/secrets").text
    assert send(alice, "/assistants/secrets", **SECRET).status_code == 303
    page = alice.browser.get("/assistants/secrets").text
    assert "…cdef" in page
    assert "sk-1234" not in page
    again = send(alice, "/assistants/secrets", **SECRET)
    assert again.status_code == 422
    assert "There is a secret named" in again.text
    assert "sk-1234" not in again.text
    for name, value in (("host", "not a host"), ("value", "short"), ("name", "a b")):
        wrong = send(alice, "/assistants/secrets", headers=HTMX, **{**SECRET, name: value})
        assert wrong.status_code == 422
        assert f'aria-describedby="{name}-e' in wrong.text
        assert "sk-1234" not in wrong.text
    assert "Remove “crm”" in alice.browser.get("/assistants/secrets/crm/removal").text
    assert send(alice, "/assistants/secrets/crm/removal").status_code == 303
    assert session.scalars(select(ToolSecret)).all() == []
    assert alice.browser.get("/assistants/secrets/crm/removal").status_code == 404


def test_a_tool_is_registered_changed_and_removed(session: OrmSession, alice: Person) -> None:
    send(alice, "/assistants/secrets", **SECRET)
    added = send(alice, "/assistants/tools", **NEW, description="Finds orders")
    assert added.status_code == 303
    path = added.headers["Location"]
    assert 'value="https://api.example.com/orders"' in alice.browser.get(path).text
    token = (alice.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    fields = {"csrf_token": token, **NEW, "retries": "2", "headers": "Authorization: crm"}
    assert alice.browser.post(path, data=fields).status_code == 303
    session.rollback()
    row = session.scalars(select(Tool)).one()
    assert (row.retries, row.headers) == (2, {"Authorization": "crm"})
    editor = alice.browser.get(made(alice)).text
    assert 'name="tool" value="find_order"' in editor
    assert send(alice, f"{path}/removal").status_code == 303
    assert "No tools registered" in alice.browser.get("/assistants/tools").text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", "", "Enter a name"),
        ("name", "a b", "Use at most 64 letters"),
        ("name", "file_search", "is a tool of this server"),
        ("url", "ftp://x", "https://"),
        ("url", "", "Enter an address"),
        ("parameters", "{", "This is not JSON"),
        ("parameters", "[]", "is a JSON Schema"),
        ("timeout_seconds", "0", "from 1 to 120"),
        ("retries", "x", "from 0 to 3"),
        ("method", "LOOK", "Use GET"),
        ("headers", "Authorization: none", "There is no secret"),
        ("headers", "Host: none", "is no header"),
    ],
)
def test_wrong_fields_of_a_tool_are_named(session: OrmSession, alice: Person, name: str, value: str, message: str) -> None:  # fmt: skip
    token = (alice.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    data = {"csrf_token": token, **NEW, "description": "Kept", name: value}
    answer = alice.browser.post("/assistants/tools", data=data)
    assert answer.status_code == 422
    found = re.search(rf'id="f-{name}-e">(?:<svg.*?</svg>)?(.*?)</p>', answer.text, re.S)
    assert found
    assert message in found[1]
    assert "Kept" in answer.text
    assert session.scalars(select(Tool)).all() == []


def test_a_tool_is_tried_with_a_call(alice: Person, tool_server: ToolServer, open_network: Settings) -> None:
    url = f"{tool_server.address}/tool"
    added = send(alice, "/assistants/tools", **{**NEW, "url": url})
    path = added.headers["Location"]
    answer = send(alice, f"{path}/calls", headers=HTMX, arguments='{"query": "blue"}')
    assert (answer.status_code, "blue" in answer.text, tool_server.requests) == (200, True, 1)
    assert "<html" in send(alice, f"{path}/calls", arguments="{}").text
    wrong = send(alice, f"{path}/calls", headers=HTMX, arguments="[")
    assert wrong.status_code == 422
    assert "not a JSON object" in wrong.text
    tool_server.statuses = [500]
    failed = send(alice, f"{path}/calls", headers=HTMX, arguments="{}")
    assert failed.status_code == 422
    assert "status 500" in failed.text


def test_documents_are_uploaded_listed_and_deleted(session: OrmSession, alice: Person) -> None:
    path = made(alice)
    assert "No documents" in alice.browser.get(f"{path}/documents").text
    files = [
        (io.BytesIO(b"# Pipes\nThey leak."), "pipes.md"),
        (io.BytesIO(b"\x7fELF\x02\x01" + b"\0" * 99), "tool.exe"),
    ]
    mixed = send(alice, f"{path}/documents", file=files)
    assert mixed.status_code == 422
    assert "tool.exe:" in mixed.text
    assert "pipes.md" in mixed.text
    row = session.scalars(select(Document)).one()
    assert (row.scope_kind, row.scope_id, row.account_id) == ("assistant", path.rpartition("/")[2], alice.id)
    assert "Choose a file." in send(alice, f"{path}/documents").text
    assert "Delete this document" in alice.browser.get(f"{path}/documents/{row.id}/removal").text
    assert send(alice, f"{path}/documents/{row.id}/removal").status_code == 303
    assert "No documents" in alice.browser.get(f"{path}/documents").text
    assert alice.browser.get(f"{path}/documents/{row.id}/removal").status_code == 404


def test_a_document_is_of_its_own_assistant_only(session: OrmSession, alice: Person, mallory: Person) -> None:
    path, other = made(alice), made(alice)
    send(alice, f"{path}/documents", file=(io.BytesIO(b"Facts"), "facts.txt"))
    row = session.scalars(select(Document)).one()
    assert send(alice, f"{other}/documents/{row.id}/removal").status_code == 404
    assert send(mallory, f"{path}/documents/{row.id}/removal").status_code == 404
    assert send(mallory, f"{path}/documents", file=(io.BytesIO(b"x"), "x.txt")).status_code == 404


@pytest.mark.parametrize(("role", "manages", "edits"), [("admin", True, True), ("member", False, True), ("viewer", False, False)])  # fmt: skip
def test_roles_manage_tools_and_documents(session: OrmSession, acme: Org, alice: Person, bob: Person, role: str, manages: bool, edits: bool) -> None:  # fmt: skip
    assert bob.user
    factories.membership(acme, bob.id).role = role
    session.commit()
    start = "/orgs/acme/assistants"
    path = made(alice, "/orgs/acme")
    send(alice, f"{start}/secrets", **SECRET)
    tool = send(alice, f"{start}/tools", **NEW).headers["Location"]
    send(alice, f"{path}/documents", file=(io.BytesIO(b"Facts"), "facts.txt"))
    document = session.scalars(select(Document)).one()
    for address in (f"{start}/tools", tool, f"{start}/secrets", f"{path}/documents"):
        assert bob.browser.get(address).status_code == 200, address
    assert bob.browser.get(f"/documents/{document.id}").status_code == 200
    expected = 200 if manages else 403
    for address in (f"{start}/tools/new", f"{tool}/removal", f"{start}/secrets/crm/removal"):
        assert bob.browser.get(address).status_code == expected, address
    expected = 303 if manages else 403
    assert send(bob, f"{start}/secrets", **{**SECRET, "name": "other"}).status_code == expected
    assert send(bob, f"{start}/tools", **{**NEW, "name": "other"}).status_code == expected
    assert send(bob, tool, **NEW).status_code == expected
    assert send(bob, f"{tool}/calls", arguments="[").status_code == (422 if manages else 403)
    assert send(bob, f"{start}/secrets/crm/removal").status_code == expected
    assert send(bob, f"{tool}/removal").status_code == expected
    upload = {"file": (io.BytesIO(b"More"), "more.txt")}
    assert send(bob, f"{path}/documents", **upload).status_code == (303 if edits else 403)
    assert send(bob, f"{path}/documents/{document.id}/removal").status_code == (303 if edits else 403)
