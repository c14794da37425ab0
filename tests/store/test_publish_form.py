"""The page that publishes a pasted or uploaded definition."""

import io
import json

import pytest
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.store import AgentConfig, Publisher
from tests import factories
from tests.factories import Person
from tests.store.listings import post

PAGE = "/publishers/harbor/publish"
GOOD = {"id": "note", "displayName": "Note", "model": "openai/gpt-5"}


@pytest.fixture
def harbor(session: OrmSession, alice: Person) -> Publisher:
    return factories.publisher(alice.user, "harbor")


MODULE = """import type { AgentDefinition } from './types/agent-definition'

const definition: AgentDefinition = {
  id: 'note',
  displayName: 'Note',
  model: 'openai/gpt-5',
  *handleSteps({ prompt }: AgentStepContext) {
    yield 'STEP' as const
  },
}

export default definition
"""
CASES = [
    (MODULE, "harbor/note"),
    (MODULE.replace("'Note'", "name()"), "Line 5, column 16: A call"),
    (MODULE.replace("'note'", "'NOTE!'"), "id: "),
    (MODULE.replace("export default definition", ""), "no default export"),
    (json.dumps(GOOD | {"license": " "}), "license: Must not be empty"),
    (json.dumps(GOOD), "harbor/note"),
    (json.dumps(GOOD | {"publisher": "harbor", "version": "2.0.0"}), "harbor/note@2.0.0"),
    (json.dumps(GOOD | {"publisher": "quarry"}), "must be harbor"),
    (json.dumps({"id": "note"}), "displayName: required"),
    (json.dumps(GOOD | {"id": "NOTE!"}), "id: "),
    (json.dumps(GOOD | {"spawnableAgents": ["nobody/none@1.0.0"]}), "nobody/none"),
    ("{", "JSON"),
    ("[1]", "Not ready"),
    ("null", "Not ready"),
    ('{"id": "a\\u0000"}', "Not ready"),
    ("[" * 100_000, "Not ready"),
    ('{"id": ' + "9" * 5000 + "}", "Not ready"),
]


@pytest.mark.parametrize(("text", "said"), CASES, ids=[case[0][:40] for case in CASES])
def test_a_definition_is_checked_and_published_or_kept(
    session: OrmSession, harbor: Publisher, alice: Person, text: str, said: str
) -> None:
    token = (alice.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    checked = alice.browser.post(
        f"{PAGE}/check", data={"csrf_token": token, "definition": text}, headers={"HX-Request": "true"}
    )
    assert checked.status_code == 200
    assert said in checked.text
    valid = "Valid" in checked.text
    answer = post(alice, PAGE, definition=text)
    assert answer.status_code == (303 if valid else 422), answer.text
    published = session.query(AgentConfig).all()
    assert len(published) == valid
    if valid:
        assert answer.headers["Location"].endswith(f"/agents/note/{published[0].version}")
    else:
        assert said in answer.text


def test_a_file_is_published(session: OrmSession, harbor: Publisher, alice: Person) -> None:
    token = (alice.browser.get("/api/auth/csrf").json or {})["csrfToken"]
    file = (io.BytesIO(json.dumps(GOOD).encode()), "note.json")
    answer = alice.browser.post(PAGE, data={"csrf_token": token, "definition": "", "file": file})
    assert answer.status_code == 303
    assert session.query(AgentConfig).one().data["displayName"] == "Note"
    assert post(alice, PAGE, definition="").status_code == 422


def test_licence_and_changes_of_the_form_replace_those_of_the_file(
    session: OrmSession, harbor: Publisher, alice: Person, anonymous: Person
) -> None:
    token = (alice.browser.get("/api/auth/csrf").json or {})["csrfToken"]

    def send(path: str, **fields: str) -> TestResponse:
        file = (io.BytesIO(MODULE.replace("id:", "license: 'isc', id:").encode()), "note.ts")
        return alice.browser.post(path, data={"csrf_token": token, "file": file} | fields)

    for given, said in (
        ({}, "Licence: ISC"),
        ({"license": "mit or apache-2.0"}, "Licence: MIT OR Apache-2.0"),
        ({"license": "Ask me"}, "Licence: <bdi>“Ask me”</bdi>, shown as you wrote it"),
    ):
        assert said in send(f"{PAGE}/check", **given).text
    assert send(PAGE).status_code == 303
    assert send(PAGE, license="Ask me", changelog="- **Shorter** notes\n").status_code == 303
    first, second = session.query(AgentConfig).order_by(AgentConfig.patch)
    assert (first.data["license"], second.data["license"]) == ("ISC", "Ask me")
    assert "changelog" not in second.data
    page = anonymous.browser.get("/publishers/harbor/agents/note/0.0.2").text
    assert "<strong>Shorter</strong> notes" in page
    assert "<bdi>“Ask me”</bdi>, as its publisher wrote it" in page
    assert "<dd>ISC</dd>" in anonymous.browser.get("/publishers/harbor/agents/note/0.0.1").text
    assert ">Shorter notes<" in anonymous.browser.get("/publishers/harbor/agents/note/versions").text
    assert "licence <bdi>Ask me</bdi>" in anonymous.browser.get("/store?license=Ask+me").text
    detail = anonymous.browser.get("/api/v1/agents/harbor/note/latest").json or {}
    assert (detail["changelog"], detail["data"]["license"]) == ("- **Shorter** notes", "Ask me")
    assert "changelog" not in (anonymous.browser.get("/api/agents/harbor/note/0.0.1").json or {})


def test_only_those_who_manage_the_publisher(
    harbor: Publisher, bob: Person, mallory: Person, anonymous: Person, alice: Person
) -> None:
    for who in (bob, mallory):
        assert who.browser.get(PAGE).status_code == 404
        for path in (PAGE, f"{PAGE}/check"):
            assert post(who, path, definition=json.dumps(GOOD)).status_code == 404
    assert "/login" in post(anonymous, PAGE, definition="").headers["Location"]
    page = alice.browser.get("/publishers/harbor").text
    assert f'href="{PAGE}"' in page
    assert "stoa.mjs publish agents/ --publisher harbor" in page
    assert PAGE not in mallory.browser.get("/publishers/harbor").text
