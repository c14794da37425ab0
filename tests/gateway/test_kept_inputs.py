"""What is kept of calls that were refused or failed: a row with the error and status that the client got, and the input."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from sqlalchemy import delete, func, select, true
from sqlalchemy.orm import Session as OrmSession

import models.ledger.holds
from models.accounts import User
from models.core.db import db, now
from models.gateway import CallBody, GatewayCall
from models.gateway.chat_format import request_definitions, request_parameters
from models.gateway.refused_calls import INPUT_BYTES, INPUTS, ROWS, KeyWindows, RefusedCalls
from models.ledger import CreditEntry, budgets
from models.ledger.holds import LedgerUnavailable
from models.ledger.message import Message
from models.orgs import Org
from models.runs.kill_switch import stop_account
from models.usage.pruning import drop_bodies, drop_failed_bodies
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, wait

OPENAI, CODEBUFF = "/v1/chat/completions", "/api/v1/chat/completions"
MODEL = "openai/house-model"
LONG = [{"role": "user", "content": "x" * 200_000}]


@pytest.fixture
def refused(web: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> RefusedCalls:
    """The queue of refused calls, with a minute of its own."""
    gateway = web.application.extensions["gateway"]
    windows = KeyWindows()
    monkeypatch.setattr(gateway.settlements, "windows", windows)
    monkeypatch.setattr(gateway.refused_calls, "_windows", windows)
    return gateway.refused_calls  # type: ignore[no-any-return]


def payload(person: Person, path: str, **keys: Any) -> dict[str, Any]:
    assert person.user is not None
    body = {
        "model": MODEL,
        "messages": MESSAGES,
        "temperature": 0.5,
        "tools": [{"function": {"name": "look"}}],
    }
    if path == CODEBUFF:
        body["codebuff_metadata"] = {"run_id": factories.run(person.user).id}
    return {**body, **keys}


def poor(person: Person) -> None:
    assert person.user is not None
    factories.grant(person.user, 500, balance=0)


def small(person: Person) -> None:
    assert person.user is not None
    factories.grant(person.user, 5)


def held(person: Person) -> None:
    assert person.user is not None
    factories.grant(person.user, 100)
    factories.hold(person.user, 100)


def rich(person: Person) -> None:
    assert person.user is not None
    factories.grant(person.user, 1000)


def stopped(person: Person) -> None:
    rich(person)
    assert person.user is not None
    stop_account(person.account, person.user)
    db.session.commit()


def banned(person: Person) -> None:
    rich(person)
    assert person.user is not None
    person.user.banned = True
    db.session.commit()


def limited(person: Person) -> None:
    rich(person)
    budgets.create_budget(person.account, "account", "month", 1)
    db.session.commit()


Setup = Callable[[Person], None]
REFUSALS: list[tuple[str, Setup, dict[str, Any], dict[str, str], int, str]] = [
    ("out of credits", poor, {}, {}, 402, "insufficient_credits"),
    ("too expensive", small, {"messages": LONG}, {}, 402, "insufficient_credits"),
    ("held", held, {"max_tokens": 1}, {}, 429, "credits_held"),
    ("over budget", limited, {"max_tokens": 50_000}, {}, 402, "budget_exceeded"),
    ("stopped", stopped, {}, {}, 403, "account_stopped"),
    ("banned", banned, {}, {}, 403, "account_suspended"),
    ("organisation", rich, {}, {"x-stoa-org": "nobody"}, 404, "org_not_found"),
    ("no price", rich, {"model": "openai/unheard-of"}, {}, 400, "model_price_missing"),
    ("invalid", rich, {"temperature": "hot"}, {}, 400, "invalid_request"),
    ("too long", rich, {"messages": [], "padding": "x" * (20 << 20)}, {}, 413, "request_too_large"),
]


@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
@pytest.mark.parametrize(
    ("setup", "keys", "headers", "status", "code"),
    [case[1:] for case in REFUSALS],
    ids=[c[0] for c in REFUSALS],
)
def test_a_refused_call_leaves_its_row_and_its_input(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    refused: RefusedCalls,
    alice: Person,
    path: str,
    setup: Setup,
    keys: dict[str, Any],
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    setup(alice)
    entries = session.scalar(select(func.count()).select_from(CreditEntry))
    body = payload(alice, path, **keys)
    answer = web.post(path, json=body, headers=alice.headers | headers)
    assert (answer.status_code, fake.requests) == (status, [])
    refused.flush()
    session.rollback()
    call = session.scalars(select(GatewayCall)).one()
    assert alice.user is not None
    assert (call.request_id, call.account_id) == (answer.headers["X-Request-Id"], alice.user.id)
    assert (call.state, call.provider, call.credits) == ("failed", None, 0)
    assert (call.error, call.http_status) == (code, status)
    kept = session.get(CallBody, call.request_id)
    assert kept is not None
    assert kept.error_message
    assert kept.error_message in answer.get_data(as_text=True).replace("\\u2019", "\u2019")
    assert kept.response is None
    if status != 413:
        assert kept.request == body["messages"]
        assert call.requested_model == body["model"]
        assert call.parameters is not None
        assert call.parameters["tools"] == ["look"]
        run = body.get("codebuff_metadata", {}).get("run_id")
        assert call.run_id == run
    assert session.scalar(select(func.count()).select_from(CreditEntry)) == entries


@pytest.mark.parametrize(
    ("case", "error", "named"),
    [
        ("missing", "run_not_found", False),
        ("unknown", "run_not_found", False),
        ("another's", "run_not_found", False),
        ("ended", "run_not_running", True),
    ],
)
def test_a_refused_call_names_its_run_only_if_it_is_the_accounts(
    web: FlaskClient,
    session: OrmSession,
    refused: RefusedCalls,
    alice: Person,
    mallory: Person,
    case: str,
    error: str,
    named: bool,
) -> None:
    rich(alice)
    assert alice.user is not None
    assert mallory.user is not None
    runs = {
        "missing": None,
        "unknown": "nothing",
        "another's": factories.run(mallory.user).id,
        "ended": factories.run(alice.user, status="completed").id,
    }
    body = payload(alice, CODEBUFF, codebuff_metadata={"run_id": runs[case]})
    assert web.post(CODEBUFF, json=body, headers=alice.headers).status_code == 400
    refused.flush()
    session.rollback()
    call = session.scalars(select(GatewayCall)).one()
    assert (call.error, call.account_id) == (error, alice.user.id)
    assert call.run_id == (runs[case] if named else None)


def test_the_key_of_an_organisation_leaves_its_refusals_there_and_unknown_keys_nothing(
    web: FlaskClient, session: OrmSession, refused: RefusedCalls, acme: Org, alice: Person
) -> None:
    assert alice.user is not None
    key = factories.token(alice.user, org_id=acme.id)
    for token in (key, "unknown"):
        headers = {"Authorization": f"Bearer {token}"}
        web.post(OPENAI, json=payload(alice, OPENAI), headers=headers)
        web.post(OPENAI, data=b"x" * (21 << 20), headers=headers)
    refused.flush()
    session.rollback()
    calls = session.scalars(select(GatewayCall).order_by(GatewayCall.http_status)).all()
    assert [(call.account_id, call.http_status) for call in calls] == [(acme.id, 402), (acme.id, 413)]


@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_call_keeps_its_input_and_the_providers_words(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    refused: RefusedCalls,
    alice: Person,
    facts: Facts,
    path: str,
    stream: bool,
) -> None:
    rich(alice)
    words = "No such tool: look." * 80
    fake.will(fakes.answer({"error": {"message": words, "metadata": {"raw": "because"}}}, 422))
    body = payload(alice, path, stream=stream)
    answer = web.post(path, json=body, headers=alice.headers)
    assert answer.status_code == 422
    call = facts.call()
    kept = session.get(CallBody, call.request_id)
    assert kept is not None
    assert (call.http_status, call.error) == (422, "upstream_status")
    assert kept.error_message == f"{words}\n\nbecause"
    assert kept.request == MESSAGES
    assert call.parameters is not None
    assert call.parameters["temperature"] == 0.5


def test_a_settled_call_keeps_its_parameters_and_why_it_was_cut(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    refused: RefusedCalls,
    alice: Person,
    facts: Facts,
) -> None:
    rich(alice)
    fake.will(fakes.stream([fakes.chunk({"content": "half an answer"})] * 3, cut_after=2))
    web.post(OPENAI, json=payload(alice, OPENAI, stream=True), headers=alice.headers).data  # noqa: B018
    call = facts.call()
    kept = session.get(CallBody, call.request_id)
    assert kept is not None
    assert (call.state, call.error) == ("settled", "upstream_cut")
    assert kept.error_message
    assert kept.request is None
    assert call.parameters == {"temperature": 0.5, "tools": ["look"], "stream": True}


def test_what_is_kept_goes_with_its_account(
    web: FlaskClient, session: OrmSession, refused: RefusedCalls, alice: Person
) -> None:
    poor(alice)
    web.post(OPENAI, json=payload(alice, OPENAI), headers=alice.headers)
    refused.flush()
    session.rollback()
    assert session.scalar(select(func.count()).select_from(CallBody)) == 1
    session.execute(delete(User).where(User.id == alice.id))
    session.commit()
    assert session.scalar(select(func.count()).select_from(CallBody)) == 0


def test_a_thread_records_refusals_by_itself(
    web: FlaskClient,
    session: OrmSession,
    refused: RefusedCalls,
    alice: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refused, "background", True)
    poor(alice)
    web.post(OPENAI, json=payload(alice, OPENAI), headers=alice.headers)

    def recorded() -> bool:
        session.rollback()
        return session.scalar(select(func.count()).select_from(CallBody)) == 1

    wait(recorded)


def test_a_flood_of_refusals_is_counted_not_stored(
    web: FlaskClient, session: OrmSession, refused: RefusedCalls, alice: Person
) -> None:
    poor(alice)
    body = payload(alice, OPENAI)
    for _ in range(ROWS + 7):
        assert web.post(OPENAI, json=body, headers=alice.headers).status_code == 402
    refused.flush()
    session.rollback()
    calls = session.scalars(select(GatewayCall).order_by(GatewayCall.started_at)).all()
    assert (len(calls), sum(call.more_refused for call in calls)) == (ROWS, 7)
    assert calls[-1].more_refused == 7
    stored = select(func.count()).select_from(CallBody).where(CallBody.request.is_not(None))
    assert session.scalar(stored) == INPUTS


def test_a_key_stores_so_many_bytes_a_minute_and_more_in_the_next() -> None:
    clock = [0.0]
    windows = KeyWindows(lambda: clock[0])
    taken = [windows.take_input("key", INPUT_BYTES // 4) for _ in range(6)]
    assert taken == [True] * 4 + [False] * 2
    assert windows.take_input("another", 10)
    clock[0] = 61.0
    assert windows.take_input("key", 10)


@pytest.mark.parametrize("text", ["\x00", "a\ud800b", "x" * 1000])
def test_refusals_are_idempotent_and_survive_any_text(
    web: FlaskClient, session: OrmSession, refused: RefusedCalls, alice: Person, text: str
) -> None:
    poor(alice)
    body = json.dumps({"model": text or "m", "messages": [{"role": "user", "content": text}], text: 1})
    for _ in range(2):
        answer = web.post(OPENAI, data=body, headers=alice.headers | {"Content-Type": "application/json"})
        assert answer.status_code in (400, 402)
    refused.flush()
    session.rollback()
    assert len(session.scalars(select(GatewayCall)).all()) == 2


def test_an_outage_loses_the_refusals_and_nothing_else(
    web: FlaskClient,
    session: OrmSession,
    refused: RefusedCalls,
    alice: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poor(alice)
    web.post(OPENAI, json=payload(alice, OPENAI), headers=alice.headers)

    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(models.ledger.holds, "refuse_many", away)
        refused.flush()
    refused.flush()
    session.rollback()
    assert session.scalars(select(GatewayCall)).all() == []


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (None, {}),
        ([1], {}),
        (
            {"temperature": 10**30, "stop": ["a", 1, "b" * 500], "seed": True},
            {"stop": ["a", "b" * 100], "seed": True},
        ),
        (
            {"tools": [{"type": "web_search"}, 5, {"function": {"name": 7}}]},
            {"tools": ["web_search", "?", "?"]},
        ),
        (
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
            {"tool_choice": "function look"},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
            {"response_format": "json_schema s"},
        ),
        (
            {"metadata": {"tags": "a, b"}, "codebuff_metadata": {"tags": ["b", 7, "c" * 65]}},
            {"tags": ["a", "b"], "other": ["metadata", "codebuff_metadata"]},
        ),
        ({"metadata": {"secret": "x"}, "user": "someone"}, {"other": ["metadata", "user"]}),
        # the conversation of Anthropic's and of Responses requests is kept as messages
        (
            {"system": "Be brief", "instructions": "Answer", "input": "Hello", "max_tokens": 5},
            {"max_tokens": 5},
        ),
    ],
)
def test_parameters_are_bounded_and_without_texts(body: Any, kept: dict[str, Any]) -> None:
    assert request_parameters(body) == kept
    hostile = {key: [{"function": {"name": "n" * 9999}}] * 9999 for key in ("tools", "functions")}
    hostile |= {f"{number:0500}": number for number in range(500)}
    assert len(orjson.dumps(request_parameters(hostile))) < 20_000


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (None, None),
        ({"tools": "many", "tool_choice": "auto", "response_format": []}, None),
        ({"tools": [TOOL, 7], "response_format": SCHEMA}, {"tools": [TOOL, 7], "response_format": SCHEMA}),
        ({"functions": [TOOL], "function_call": {"name": "look"}}, {"functions": [TOOL], "function_call": {"name": "look"}}),
        ({"tools": [TOOL, "x" * 70_000, TOOL]}, {"tools": [TOOL], "cut": {"tools": 2}}),
        ({"tools": [TOOL], "response_format": {"type": "x" * 70_000}}, {"tools": [TOOL], "cut": {"response_format": 1}}),
        ({"tools": [{"name": 2**70}]}, {"cut": {"tools": 1}}),
    ],
)  # fmt: skip
def test_definitions_are_kept_up_to_a_size_and_say_what_is_cut(body: Any, kept: Any) -> None:
    assert request_definitions(body, 0) == kept


def test_the_tools_of_a_call_are_kept_shown_and_sent_again(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    refused: RefusedCalls,
    alice: Person,
) -> None:
    rich(alice)
    tools = [TOOL | {"description": "\x00</script>"}]
    body = payload(alice, OPENAI, tools=tools, tool_choice="auto", response_format=SCHEMA)
    fake.will(fakes.answer(fakes.completion()), fakes.answer({"error": {"message": "no"}}, 422))
    answers = [
        web.post(OPENAI, json=sent, headers=alice.headers)
        for sent in (body, body, body | {"temperature": "hot"})
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 400]
    refused.flush()
    for answer in answers:
        call = answer.headers["X-Request-Id"]
        page = alice.browser.get(f"/calls/{call}").get_data(as_text=True)
        assert page.count('<span class="mono clip">look</span>') == 1
        assert "Not kept" not in page
        sent = json.loads(alice.browser.get(f"/calls/{call}/request.json").data)
        kept = (sent["tools"], sent["tool_choice"], sent["response_format"])
        assert kept == ([TOOL | {"description": "</script>"}], "auto", SCHEMA)
    later = now() + timedelta(days=1)
    drop_bodies(later)
    drop_failed_bodies(later)
    session.commit()
    found = session.execute(
        select(Message.definitions, CallBody.request_id).select_from(Message).outerjoin(CallBody, true())
    )
    assert found.all() == [(None, None)]
