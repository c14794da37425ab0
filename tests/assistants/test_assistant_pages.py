"""Pages of assistants: the list, the editor and its test, versions, publication, by owner, members, strangers and anonymous viewers."""

import re
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.assistants import Assistant, AssistantVersion
from models.orgs import Org
from models.threads import Thread
from tests import factories
from tests.factories import Person

FORM: dict[str, Any] = {"name": "Writer", "instructions": "Write for {{company}}.", "model": "stoa/demo"}
HTMX = {"HX-Request": "true"}


def send(who: Person, path: str, *, headers: Any = None, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data}, headers=headers or {})


def made(who: Person, start: str = "", **data: Any) -> str:
    """The address of a new assistant's editor."""
    answer = send(who, f"{start}/assistants", **{**FORM, **data})
    assert answer.status_code == 303, errors_of(answer)
    return answer.headers["Location"]


def errors_of(answer: TestResponse) -> list[str]:
    """The messages beside fields."""
    found = re.findall(r'<p class="field__error[^>]*>(?:<svg.*?</svg>)?(.*?)</p>', answer.text, re.S)
    return [each.replace("&#39;", "'").strip() for each in found]


def versions(session: OrmSession) -> list[AssistantVersion]:
    session.rollback()
    return list(session.scalars(select(AssistantVersion).order_by(AssistantVersion.version)))


def test_an_assistant_is_made_changed_and_compared(session: OrmSession, alice: Person) -> None:
    assert "No assistants yet" in alice.browser.get("/assistants").text
    path = made(alice, description="For blogs", temperature="0.5", budget="1,000", tool="file_search")
    page = alice.browser.get(path).text
    assert 'value="0.5"' in page
    assert "No variable is named company" in page
    row = session.scalars(select(Assistant)).one()
    assert (row.name, row.budget, row.account_id) == ("Writer", 1000, alice.id)
    (first,) = versions(session)
    assert (first.tools, first.model_params) == (["file_search"], {"temperature": 0.5})

    changes = {
        **FORM,
        "version": "1",
        "budget": "1000",
        "description": "For blogs",
        "variable-0-name": "company",
        "variable-0-type": "enum",
        "variable-0-values": "Acme\nUmbrella",
        "variable-0-default": "Acme",
        "server-0-name": "docs",
        "server-0-url": "https://mcp.example.com/mcp",
        "server-0-allowed": "find read",
        "functions": '[{"type": "function", "name": "look"}]',
        "params": '{"seed": 7}',
    }
    assert send(alice, path, **changes).status_code == 303
    second = versions(session)[1]
    assert second.variables["company"] == {
        "type": "enum",
        "required": False,
        "default": "Acme",
        "description": None,
        "values": ["Acme", "Umbrella"],
    }
    assert second.mcp_servers[0]["allowed_tools"] == ["find", "read"]
    assert (second.tools[0]["function"]["name"], second.model_params) == ("look", {"seed": 7})
    compared = alice.browser.get(f"{path}/comparison?before=1&after=2").text
    for title in ("Variables", "MCP servers", "Tools", "Parameters"):
        assert f">{title}</h2>" in compared
    assert send(alice, f"{path}/versions/1/restoration", current="2").status_code == 303
    assert versions(session)[2].model_params == {"temperature": 0.5}
    listed = alice.browser.get(f"{path}/versions").text
    assert "Version 3" in listed
    assert "Changes of version 3" in listed


def test_what_is_saved_unchanged_makes_no_version(session: OrmSession, alice: Person) -> None:
    path = made(alice, **{"variable-0-name": "n", "variable-0-type": "number", "variable-0-default": "3"})
    page = alice.browser.get(path).text
    fields = {**FORM, "version": "1", "variable-0-name": "n", "variable-0-type": "number"}
    assert 'value="3"' in page
    assert send(alice, path, **fields, **{"variable-0-default": "3"}).status_code == 303
    assert [each.version for each in versions(session)] == [1]


@pytest.mark.parametrize(
    ("entered", "message"),
    [
        ({"name": ""}, "Enter a name"),
        ({"instructions": " "}, "Enter instructions."),
        ({"temperature": "hot"}, "Enter a number from 0 to 2."),
        ({"top_p": "7"}, "Enter a number from 0 to 1."),
        ({"max_tokens": "0.5"}, "Enter a whole number"),
        ({"reasoning_effort": "most"}, "Enter one of"),
        ({"params": "{seed: 7}"}, "This is not JSON"),
        ({"params": '{"temperature": 1}'}, "has a field of its own"),
        ({"params": '{"colour": 1}'}, "unknown"),
        ({"params": "[" * 5000}, "nested too deep"),
        ({"functions": "7"}, "Enter a JSON list"),
        ({"functions": '["file_search"]'}, "Tools by name are chosen above"),
        ({"functions": '[{"type": "x"}]'}, "A tool is the name"),
        ({"tool": "nothing"}, "There is no tool"),
        ({"budget": "-1"}, "Enter a whole number of credits"),
        ({"variable-0-name": "1a"}, "is no name of a variable"),
        ({"variable-0-name": "a", "variable-0-type": "enum"}, "are 1 to 100 texts"),
        ({"variable-0-name": "a", "variable-0-type": "number", "variable-0-default": "x"}, "Give a number"),
        ({"server-0-name": "a", "server-0-url": "ftp://x"}, "https://"),
        ({"server-0-url": "https://example.com"}, "A server needs a name"),
        ({"server-0-name": "a", "server-0-url": "https://example.com", "server-0-headers": "X-Key: none"}, "There is no secret"),
        ({"model": "x" * 300}, "Enter the name of a model"),
        ({"context": "x" * 300_000}, "Shorten the context"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("change", [False, True])
def test_wrong_fields_are_named_and_what_was_entered_is_kept(
    session: OrmSession, alice: Person, entered: dict[str, str], message: str, change: bool
) -> None:
    path = made(alice, version="1") if change else "/assistants"
    answer = send(alice, path, **{**FORM, "version": "1", "description": "Kept <words>", **entered})
    assert answer.status_code == 422
    assert any(message in each for each in errors_of(answer)), errors_of(answer)
    assert "Kept &lt;words&gt;" in answer.text
    assert len(versions(session)) == change


def test_rows_are_added_without_saving(session: OrmSession, alice: Person) -> None:
    answer = send(alice, "/assistants", **FORM, more="variables", **{"variable-0-name": "a"})
    assert answer.status_code == 200
    assert 'name="variable-2-name"' in answer.text
    assert versions(session) == []


def test_a_change_of_somebody_else_is_shown_and_not_overwritten(session: OrmSession, alice: Person) -> None:
    path = made(alice)
    assert send(alice, path, **{**FORM, "version": "1", "name": "Poet"}).status_code == 303
    mine = {**FORM, "version": "1", "name": "Critic"}
    for headers in ({}, HTMX):
        stale = send(alice, path, headers=headers, **mine)
        assert stale.status_code == 409
        assert "somebody saved version 2 meanwhile" in stale.text
        assert "<code>Poet</code>" in stale.text
        assert 'value="Critic"' in stale.text
        assert stale.headers["HX-Reswap"].startswith("outerHTML")
    assert [each.name for each in versions(session)] == ["Writer", "Poet"]
    number = re.search(r'name="version" value="(\d+)"', stale.text)
    assert number
    assert send(alice, path, **{**mine, "version": number[1]}).status_code == 303
    assert versions(session)[-1].name == "Critic"
    late = send(alice, f"{path}/versions/1/restoration", current="1")
    assert late.status_code == 303
    assert len(versions(session)) == 3


def test_a_test_is_a_thread_with_the_saved_version(session: OrmSession, alice: Person) -> None:
    path = made(alice)
    saved = send(alice, path, **{**FORM, "version": "1", "name": "Poet"}, then="test")
    assert saved.status_code == 303
    assert saved.headers["Location"].endswith("#test")
    thread = session.scalars(select(Thread)).one()
    assert (thread.name, thread.model, thread.user_id) == ("Test of Poet, version 2", "stoa/demo", alice.id)
    page = alice.browser.get(saved.headers["Location"]).text
    assert f"/threads/{thread.id}/messages" in page
    assert page.count("<h1") == 1
    # an empty one is used again
    again = {**FORM, "version": "2", "name": "Critic", "test": thread.id}
    assert send(alice, path, **again, then="test").status_code == 303
    assert send(alice, f"{path}/tests?test={thread.id}").status_code == 303
    session.rollback()
    assert session.scalars(select(Thread)).one().name == "Test of Critic, version 3"
    assert send(alice, f"{path}/tests").status_code == 303
    assert len(session.scalars(select(Thread)).all()) == 2


def test_a_test_of_another_assistant_is_not_shown(session: OrmSession, alice: Person) -> None:
    one, other = made(alice), made(alice)
    send(alice, f"{other}/tests")
    thread = session.scalars(select(Thread)).one()
    assert f"/threads/{thread.id}" not in alice.browser.get(f"{one}?test={thread.id}").text


def test_an_assistant_is_duplicated_deleted_and_restored(session: OrmSession, alice: Person) -> None:
    path = made(alice)
    copy = send(alice, f"{path}/copies")
    assert copy.status_code == 303
    assert "Writer (copy)" in alice.browser.get(copy.headers["Location"]).text
    assert "Delete this assistant" in alice.browser.get(f"{path}/deletion", headers=HTMX).text
    assert send(alice, f"{path}/deletion").status_code == 303
    id = path.rpartition("/")[2]
    assert id not in alice.browser.get("/assistants").text
    deleted = alice.browser.get("/assistants?deleted=1").text
    assert id in deleted
    assert copy.headers["Location"] not in deleted
    page = alice.browser.get(path).text
    assert "This assistant is deleted" in page
    assert 'fieldset class="assistant__fields" disabled' in page
    for address in ("", "/copies", "/tests", "/versions/1/restoration"):
        assert send(alice, path + address, **FORM).status_code in (404, 409), address
    for _ in range(2):
        assert send(alice, f"{path}/restoration").status_code == 303
    assert "This assistant is deleted" not in alice.browser.get(path).text


def test_the_list_is_searched_and_goes_on(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("views.assistants.pages.assistant_list.PAGE", 2)
    for number in range(3):
        alice.browser.get(made(alice, name=f"Number {number}"))  # takes the toast
    page = alice.browser.get("/assistants").text
    assert "Number 2" in page
    assert "Number 0" not in page
    found = re.search(r'href="(/assistants\?before=[^"]*)"', page)
    assert found
    assert "Number 0" in alice.browser.get(found[1].replace("&amp;", "&")).text
    more = alice.browser.get(found[1].replace("&amp;", "&"), headers=HTMX).text
    assert "Number 0" in more
    assert "<html" not in more
    searched = alice.browser.get("/assistants?q=number+1", headers=HTMX).text
    assert "Number 1" in searched
    assert "Number 2" not in searched
    assert "Clear the search" in alice.browser.get("/assistants?q=zzz").text


POSTS = [
    "/assistants",
    "{path}",
    "{path}/tests",
    "{path}/copies",
    "{path}/deletion",
    "{path}/restoration",
    "{path}/publication",
    "{path}/documents",
    "{path}/versions/1/restoration",
]
GETS = [
    "{path}",
    "{path}/versions",
    "{path}/comparison",
    "{path}/documents",
    "{path}/publication",
    "{path}/deletion",
]


def test_strangers_find_nothing_and_anonymous_viewers_sign_in(
    session: OrmSession, alice: Person, mallory: Person, anonymous: Person
) -> None:
    path = made(alice)
    random = path[:-3] + "000"
    for each in [*POSTS[1:], *GETS]:
        find = mallory.browser.get if each in GETS else (lambda where: send(mallory, where, **FORM))
        for target in (path, random):
            assert find(each.format(path=target)).status_code == 404, each
    for each in POSTS:
        answer = send(anonymous, each.format(path=path), **FORM)
        assert "/login" in answer.headers["Location"], each
    for each in (*GETS, "/assistants", "/assistants/new", "/assistants/tools", "/assistants/secrets"):
        answer = anonymous.browser.get(each.format(path=path))
        assert "/login" in answer.headers["Location"], each
    assert [each.name for each in versions(session)] == ["Writer"]


STATUSES = {
    # role: edit, read, test, delete another's
    "admin": (303, 200, 303, 303),
    "member": (303, 200, 303, 403),
    "viewer": (403, 200, 403, 403),
    "billing": (403, 403, 403, 403),
}


@pytest.mark.parametrize("role", STATUSES)
def test_roles_of_an_organisation(
    session: OrmSession, acme: Org, alice: Person, bob: Person, role: str
) -> None:
    assert bob.user
    factories.membership(acme, bob.id).role = role
    session.commit()
    path = made(alice, "/orgs/acme")
    assert path.startswith("/orgs/acme/assistants/")
    edit, read, test, delete = STATUSES[role]
    page = bob.browser.get(path)
    assert page.status_code == read
    if read == 200:
        assert ("Save and test" in page.text) == (edit == 303)
        assert ("/deletion" in page.text) == (delete == 303)
        assert "/orgs/acme/assistants" in bob.browser.get("/orgs/acme/assistants").text
    assert bob.browser.get("/orgs/acme/assistants/new").status_code == (200 if edit == 303 else 403)
    assert send(bob, path, **{**FORM, "version": "1", "name": "Poet"}).status_code == edit
    assert send(bob, "/orgs/acme/assistants", **FORM).status_code == edit
    assert send(bob, f"{path}/tests").status_code == test
    assert send(bob, f"{path}/copies").status_code == edit
    assert send(bob, f"{path}/deletion").status_code == delete
    # the same id is none of a person's own
    assert alice.browser.get(path.removeprefix("/orgs/acme")).status_code == 404


def test_a_form_makes_one_assistant_however_often_it_is_sent(session: OrmSession, alice: Person) -> None:
    fields = {**FORM, "form_token": "a" * 20}
    places = {send(alice, "/assistants", **fields).headers["Location"] for _ in range(2)}
    assert len(places) == 1
    assert len(versions(session)) == 1


def test_a_version_is_published_with_problems_beside_fields(session: OrmSession, alice: Person) -> None:
    path = made(alice, context="Private facts")
    assert "No publisher to publish under" in alice.browser.get(f"{path}/publication").text
    assert alice.user
    factories.publisher(alice.user, "harbor")
    session.commit()
    page = alice.browser.get(f"{path}/publication").text
    assert "Different in the store" not in page
    variable = {"variable-0-name": "company", "variable-0-type": "string"}
    server = {"server-0-name": "crm", "server-0-url": "https://crm.example.com/mcp"}
    sent = {**FORM, **variable, **server, "context": "Private facts", "temperature": "0.5"}
    assert send(alice, path, **sent).status_code == 303
    page = alice.browser.get(f"{path}/publication").text
    assert re.findall(r'<dt>([\w ]+) <span class="mono break">(\w+)</span>', page) == [
        ("MCP servers", "crm"),
        ("Parameters", "temperature"),
        ("Variables", "company"),
    ]
    fields = {"publisher": "harbor", "agent": "writer", "version": "1.0.0"}
    for wrong, message in (
        ({}, "The context is private"),
        ({"publisher": "others", "confirm": "1"}, "You have no publisher"),
        ({"version": "one", "confirm": "1"}, "ersion"),
        ({"agent": "Not An Id", "confirm": "1"}, ""),
    ):
        answer = send(alice, f"{path}/publication", **{**fields, **wrong})
        assert answer.status_code == 422
        assert message in answer.text
    published = send(alice, f"{path}/publication", **fields, confirm="1")
    assert published.status_code == 303
    assert published.headers["Location"] == "/publishers/harbor/agents/writer/1.0.0"
    page = alice.browser.get(f"{path}/publication").text
    assert "Published as harbor/writer@1.0.0" in page
    assert published.headers["Location"] in page
    assert "In the store as harbor/writer@1.0.0" in alice.browser.get(path).text
