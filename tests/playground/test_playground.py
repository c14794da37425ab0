"""The playground: turns are ordinary calls of the chosen account, whole or streamed, once each, with reasons where they are refused."""

import html
import json
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.gateway import GatewayCall
from models.gateway.demo_model import DemoModel
from models.gateway.streamed_answer import StreamedAnswer
from models.orgs import Org
from models.playground import code_of
from tests import factories
from tests.chromium import OpenPage, judge
from tests.factories import Person
from tests.server import serving
from views.gateway.api.model_calls import gateway
from views.playground.pages import rendered

TURN = {"model_a": "stoa/demo", "prompt": "What is a stoa?"}
STREAMED = {"Accept": "text/event-stream"}
TOOLS = json.dumps([{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}])


@pytest.fixture
def rich(session: OrmSession, alice: Person) -> Person:
    """Alice with credits."""
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    return alice


def send(who: Person, path: str = "/playground", *, headers: Any = None, **data: str) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token, **data}, headers=headers or {})


def calls(session: OrmSession) -> list[GatewayCall]:
    session.rollback()
    return list(session.scalars(select(GatewayCall).order_by(GatewayCall.started_at)))


def carried(page: str, side: str = "a") -> str:
    found = re.search(rf'name="conversation_{side}" value="([^"]*)"', page)
    assert found
    return html.unescape(found[1])


def events(answer: TestResponse) -> list[tuple[str, Any]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n", answer.get_data(as_text=True))
    return [(name, json.loads(data)) for name, data in found]


def test_a_form_shows_whole_answers_of_two_models(session: OrmSession, rich: Person) -> None:
    page = send(rich, **TURN, model_b="stoa/demo", system="Be brief.", temperature="0.5").text
    assert page.count("Open the call") == 2
    first = json.loads(carried(page))
    assert [each["role"] for each in first] == ["user", "assistant"]
    page = send(rich, **TURN, conversation_a=carried(page)).text
    assert [each["role"] for each in json.loads(carried(page))] == ["user", "assistant"] * 2
    found = calls(session)
    assert [(each.door, each.state, each.account_id) for each in found] == [
        ("playground", "settled", rich.id)
    ] * 3
    assert (found[0].parameters or {})["temperature"] == 0.5
    for each in found:
        assert rich.browser.get(f"/calls/{each.request_id}").status_code == 200


def test_a_stream_ends_with_figures_and_code(session: OrmSession, rich: Person) -> None:
    answer = send(rich, **TURN, side="a", headers=STREAMED)
    assert answer.content_type == "text/event-stream"
    found = events(answer)
    text = "".join(value for name, value in found if name == "text")
    name, end = found[-1]
    assert (name, end["conversation"][-1]["content"], end["error"]) == ("end", text, "")
    assert "Open the call" in end["facts"]
    assert all("stoa/demo" in each for each in end["code"])
    (call,) = calls(session)
    assert (call.door, call.stream, call.micro_credits > 0) == ("playground", True, True)


def test_tool_calls_are_answered_by_the_next_message(session: OrmSession, rich: Person) -> None:
    asked = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]}]  # fmt: skip
    page = send(rich, **TURN, tools=TOOLS, conversation_a=json.dumps(asked)).text
    assert json.loads(carried(page))[2] == {
        "role": "tool",
        "tool_call_id": "c1",
        "content": "What is a stoa?",
    }
    assert len(calls(session)) == 1


@pytest.mark.parametrize("headers", [{}, STREAMED])
def test_refused_calls_say_why_and_what_helps(
    app: Flask, session: OrmSession, alice: Person, headers: dict[str, str]
) -> None:
    poor = send(alice, **TURN, headers=headers)
    assert poor.status_code == 402
    assert "Add credits" in poor.text
    unknown = send(alice, **TURN | {"model_a": "nobody/nothing"}, headers=headers)
    assert (unknown.status_code, "See the models" in unknown.text) in {(404, True), (402, False)}
    gateway(app).refused_calls.flush()
    assert {each.state for each in calls(session)} == {"failed"}


def test_a_stopped_answer_is_charged_as_far_as_it_was_written(
    app: Flask, session: OrmSession, rich: Person, mallory: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway(app).routes.demo, "upstream", DemoModel(0.02))
    answer = send(rich, **TURN | {"prompt": "Write 2000 words."}, headers=STREAMED)
    chunks = iter(answer.response)
    for chunk in chunks:
        if b"event: text" in (chunk if isinstance(chunk, bytes) else chunk.encode()):
            break
    answer.close()
    (call,) = wait_for_call(session)
    assert (call.state, call.error) == ("settled", "client_stopped")
    address = f"/playground/calls/{call.request_id}"
    assert "Open the call" in rich.browser.get(address).text
    for who, path in ((rich, "/playground/calls/none"), (mallory, address)):
        assert who.browser.get(path).status_code == 404


def wait_for_call(session: OrmSession) -> list[GatewayCall]:
    import threading

    for thread in threading.enumerate():
        if thread.name == "stoa-pump":
            thread.join(10)
    return calls(session)


def test_an_organisation_pays_on_its_page(
    session: OrmSession, acme: Org, rich: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    assert rich.user is not None
    factories.grant(rich.user, 500, org_id=acme.id)
    session.commit()
    path = f"/orgs/{acme.slug}/playground"
    assert send(bob, path, **TURN).status_code == 200
    (call,) = calls(session)
    assert (call.account_id, call.user_id) == (acme.id, bob.id)
    assert f'href="/orgs/{acme.slug}/calls/' in send(rich, path, **TURN).text
    assert send(mallory, path, **TURN).status_code == 404
    assert mallory.browser.get(path).status_code == 404
    for who in (path, "/playground"):
        assert anonymous.browser.get(who).status_code == 302
        assert send(anonymous, who, **TURN).status_code == 303
    assert len(calls(session)) == 2


def test_a_form_is_sent_once(session: OrmSession, rich: Person) -> None:
    first, second = (send(rich, **TURN, form_token="t" * 20) for _ in range(2))
    assert first.text == second.text
    streamed = [send(rich, **TURN, form_token="s" * 20, headers=STREAMED).status_code for _ in range(2)]
    assert streamed == [200, 409]
    assert len(calls(session)) == 2


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"model_a": ""}, "model_a"),
        ({"model_a": "x" * 300}, "model_a"),
        ({"model_b": "a\x00b"}, "model_b"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "٣"}, "temperature"),
        ({"temperature": "3"}, "temperature"),
        ({"max_tokens": "0"}, "max_tokens"),
        ({"max_tokens": "9" * 40}, "max_tokens"),
        ({"effort": "huge"}, "effort"),
        ({"tools": "{"}, "tools"),
        ({"tools": "{}"}, "tools"),
        ({"tools": "[" * 100_000}, "tools"),
        ({"conversation_a": "[1]"}, "prompt"),
        ({"conversation_a": '[{"role": "system"}]'}, "prompt"),
        ({"conversation_b": '[{"role": "user", "tool_calls": 3}]'}, "prompt"),
        ({"conversation_a": '[{"role": "assistant", "tool_calls": [{}]}]'}, "prompt"),
        ({"conversation_a": '[{"role": "assistant", "tool_calls": [{"function": {"name": 3}}]}]'}, "prompt"),
    ],
)
def test_bad_values_are_named_and_nothing_is_called(
    session: OrmSession, rich: Person, data: dict[str, str], field: str
) -> None:
    page = send(rich, **TURN | data)
    assert page.status_code == 422
    assert f'id="{field}-e"' in page.text
    assert list(send(rich, **TURN | data, headers=STREAMED).json["fields"]) == [field]
    assert calls(session) == []


def test_answers_are_sanitised(app: Flask, session: OrmSession) -> None:
    shown = rendered(
        {"role": "assistant", "content": "<script>x</script> **b** [l](javascript:x)\n\n    code"}
    )
    assert "<script" not in shown
    assert "javascript:" not in re.sub(r">[^<]*<", "><", shown)
    assert "<strong>b</strong>" in shown
    assert "&lt;b&gt;" in rendered({"role": "user", "content": "<b>"})


def test_chunks_may_have_anything_anywhere() -> None:
    streamed = StreamedAnswer([])  # type: ignore[arg-type]
    odd = (
        b"[1]",
        b"no JSON",
        b'{"choices": [null, {"delta": 3}]}',
        b'{"choices": [{"delta": {"content": 1, "tool_calls": [null, {}]}}]}',
    )
    assert [piece for data in odd for piece in streamed._pieces(data)] == []
    calls = (
        b'{"id": "c", "function": {"name": "f", "arguments": "{"}, "index": 0}',
        b'{"function": {"arguments": "}"}, "index": 0}',
    )
    streamed = StreamedAnswer([])  # type: ignore[arg-type]
    for call in calls:
        assert list(streamed._pieces(b'{"choices": [{"delta": {"tool_calls": [' + call + b"]}}]}")) == []
    assert streamed.message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_code_has_the_arguments_of_the_call() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": 'it\'s\n"x" \\1'}], "temperature": 0.5}
    curl, python, typescript = (each.text for each in code_of("https://stoa.test", body))
    assert "it'\\''s" in curl
    assert 'curl "https://stoa.test/v1/chat/completions"' in curl
    compile(python, "code", "exec")
    assert "temperature=0.5," in python
    assert "temperature: 0.5," in typescript
    assert typescript.count("create({") == 1


def test_settings_come_from_an_agent_of_the_store(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    assert alice.user is not None
    publisher = factories.publisher(alice.user, "harbor")
    data = factories.definition("scribe", "harbor") | {"model": "stoa/demo", "systemPrompt": "You are a scribe.", "toolNames": ["read_files"]}  # fmt: skip
    factories.agent_config(publisher, "scribe", data=data)
    session.commit()
    page = alice.browser.get("/playground?agent=harbor/scribe").text
    assert "You are a scribe." in page
    assert "read_files" in page
    for name in ("harbor/nothing", "x", "%00", "a/b@" + "9" * 400):
        page = alice.browser.get(f"/playground?agent={name}")
        assert page.status_code == 200
        assert 'id="agent-e"' in page.text


@pytest.mark.browser
def test_answers_are_streamed_in_a_browser(
    app: Flask, session: OrmSession, rich: Person, open_page: OpenPage
) -> None:
    cookie = rich.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    with serving(app) as base, open_page(base, width=1440) as page:
        where = {"name": cookie.key, "value": cookie.value, "domain": "127.0.0.1", "path": "/"}
        page.context.add_cookies([where])  # type: ignore[list-item]
        page.goto("/playground?model=stoa/demo&compare=stoa/demo")
        for turn in (1, 2):
            page.get_by_label("Message").fill("What is a stoa?")
            page.get_by_role("button", name="Send message").dblclick()
            page.get_by_text("Open the call").nth(2 * turn - 1).wait_for()
        assert len(calls(session)) == 4
        judge(page, 390, 1440)
