"""Holds of calls: amounts held, races on a balance, an unreachable ledger."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.gateway.chat_format.chat_parsing import parse
from models.gateway.route import held_credits
from models.ledger import CreditHold, CreditLedger
from models.ledger.holds import LedgerUnavailable
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events, wait

pytestmark = pytest.mark.usefixtures("kind")

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "openai/house-model", "messages": MESSAGES}
STREAM = {**BODY, "stream": True}


def balance(session: OrmSession, person: Person) -> int:
    session.rollback()
    wanted = select(func.coalesce(func.sum(CreditLedger.balance), 0)).where(CreditLedger.user_id == person.id)
    return int(session.scalar(wanted) or 0)


def test_a_streaming_call_holds_a_usual_answer_and_no_connection(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks(use=fakes.usage(100, 20)), gate, 2))
    answer = web.post(PATH, json={**STREAM, "max_tokens": 100_000}, headers=rich.headers, buffered=False)
    assert next(iter(answer.response))
    (hold,) = session.scalars(select(CreditHold)).all()
    # not the limit's 100,000 tokens but 8,192, at $10.5 per million plus 5.5 %, and a little for the input
    assert hold.amount == 10
    assert hold.door == "openai"
    assert not web.application.extensions["gateway"].pool.in_use
    gate.set()
    assert answer.data
    assert facts.call().credits == 0
    assert facts.holds() == 0


def a_long_answer(words: int, use: Any) -> list[Any]:
    """A stream of `words` words, a few hundred per event."""
    text = "yes " * 500
    body = [fakes.chunk({"content": text}) for _ in range(words // 500)]
    end = [fakes.chunk({}, "stop"), fakes.chunk(None, usage=use), "[DONE]"]
    return [fakes.chunk({"role": "assistant", "content": ""}), *body, *end]


def test_the_hold_of_an_answer_that_grows_too_long_grows_with_it(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    gate = threading.Event()
    answer = a_long_answer(20_000, fakes.usage(100, 20_000))
    fake.will(fakes.pausing(answer, gate, len(answer) - 3))
    reply = web.post(PATH, json={**STREAM, "max_tokens": 1000}, headers=rich.headers, buffered=False)
    seen: list[bytes] = []
    reading = threading.Thread(target=lambda: seen.extend(reply.response))
    reading.start()
    # 20,000 words are at least 20,000 tokens: 21 cents plus 5.5 %
    wait(lambda: session.scalar(select(CreditHold.amount)) >= 23 or session.rollback())
    gate.set()
    reading.join(60)
    assert b"[DONE]" in b"".join(seen)
    assert (facts.call().credits, facts.call().error) == (22, None)
    assert facts.holds() == 0


def test_an_answer_ends_when_credits_run_out(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 10)
    fake.will(fakes.stream(a_long_answer(50_000, fakes.usage(100, 50_000)), delay=0.01))
    reply = web.post(PATH, json={**STREAM, "max_tokens": 1000}, headers=alice.headers)
    error = events(reply.data)[-1]["error"]
    assert (error["type"], error["code"]) == ("insufficient_credits", "insufficient_credits")
    assert "credits ran out" in error["message"]
    assert b"[DONE]" not in reply.data
    call = facts.call()
    assert (call.state, call.error, call.usage_source) == ("settled", "insufficient_credits", "counted")
    # everything delivered is paid: up to the last covered event or the one after it
    words = reply.data.count(b"yes ")
    assert words <= call.output_tokens <= words + 5
    assert -2 <= balance(session, alice) <= 0
    assert facts.holds() == 0


def test_parallel_answers_that_grow_too_long_share_the_credits(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 40)
    # each requests 53 credits
    fake.will(fakes.stream(a_long_answer(50_000, fakes.usage(100, 50_000)), delay=0.005))

    def one(_: int) -> bytes:
        client = web.application.test_client()
        return client.post(PATH, json={**STREAM, "max_tokens": 1000}, headers=alice.headers).data

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(6)))
    assert all(b"[DONE]" not in answer for answer in answers)
    calls = facts.calls()
    assert {(call.state, call.error) for call in calls} == {("settled", "insufficient_credits")}
    # an event costs half a credit; each answer may exceed its hold by one event
    assert -6 <= balance(session, alice) <= 3
    assert balance(session, alice) == 40 - sum(call.credits for call in calls)
    assert facts.holds() == 0


@pytest.mark.parametrize(
    ("words", "ends"),
    # 5,000 tokens cost six credits; at most twelve credits are delivered
    [(4_000, True), (9_000, True), (30_000, False)],
)
def test_an_answer_reaches_twice_its_hold_while_the_ledger_is_unreachable(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
    words: int,
    ends: bool,
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("The ledger cannot be reached. Try again in a moment.")

    monkeypatch.setattr("models.gateway.in_flight.holds.grow_hold", away)
    fake.will(fakes.stream(a_long_answer(words, fakes.usage(100, words)), delay=0.002))
    reply = web.post(PATH, json={**STREAM, "max_tokens": 5000}, headers=rich.headers)
    assert (b"[DONE]" in reply.data) is ends
    call = facts.call()
    if ends:
        assert (call.error, call.output_tokens) == (None, words)
    else:
        assert events(reply.data)[-1]["error"]["code"] == "ledger_unavailable"
        assert (call.state, call.error, call.usage_source) == ("settled", "ledger_unavailable", "counted")
        assert reply.data.count(b"yes ") <= call.output_tokens <= 13_000


def test_parallel_calls_overspend_by_no_more_than_one(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    alice: Person,
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.gateway.relay.can_stream", lambda *_: False)
    assert alice.user is not None
    factories.grant(alice.user, 40)
    # each call holds 12 credits and costs 11
    fake.will(fakes.answer(fakes.completion(use=fakes.usage(100, 9_910)), delay=0.05))
    body = {**BODY, "max_tokens": 10_000}

    def one(_: int) -> int:
        client = web.application.test_client()
        return client.post(PATH, json=body, headers=alice.headers).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(one, range(36)))
    assert set(statuses) <= {200, 402, 429}
    served = statuses.count(200)
    assert 3 <= served <= 4
    assert balance(session, alice) == 40 - 11 * served
    assert [call.credits for call in facts.calls() if call.state == "settled"] == [11] * served
    assert facts.holds() == 0


# the cost of each at the fake: more than the single output token that the request suggests
SURPRISES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "both bounds",
        {"max_tokens": 1, "max_completion_tokens": 117_000},
        {"use": fakes.usage(10, 117_000), "model": "house-model"},
    ),
    ("no bound", {}, {"use": fakes.usage(10, 117_000), "model": "house-model"}),
    (
        "a dear fallback",
        {"model": "openrouter/openai/gpt-4o-mini", "max_tokens": 8_000, "models": ["openai/gpt-5-pro"]},
        {"use": fakes.usage(10, 8_000, cost=0.96), "model": "openai/gpt-5-pro"},
    ),
    (
        "a model nobody lists",
        {"model": "openrouter-only/model", "max_tokens": 6_000},
        {"use": fakes.usage(10, 6_000, cost=1), "model": "openrouter-only/model"},
    ),
    (
        "a plugin",
        {
            "model": "openrouter/openai/gpt-4o-mini",
            "max_tokens": 10,
            "plugins": [{"id": "web", "max_results": 100}],
        },
        {"use": fakes.usage(10, 10, cost=0.4), "model": "openai/gpt-4o-mini"},
    ),
    (
        "a prediction",
        {"max_tokens": 10, "prediction": {"type": "content", "content": "x" * 120_000}},
        {"use": fakes.usage(10, 119_000), "model": "house-model"},
    ),
    (
        "odd text",
        {"max_tokens": 10, "messages": [{"role": "user", "content": "\U0002a6d0" * 150_000}]},
        {"use": fakes.usage(600_000, 10), "model": "house-model"},
    ),
    (
        "plain pictures",
        {
            "max_tokens": 10,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
                    * 100,
                }
            ],
        },
        {"use": fakes.usage(480_000, 10), "model": "house-model"},
    ),
    (
        "a film in a picture's place",
        {
            "max_tokens": 10,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:video/mp4;base64,AAAA"}}],
                }
            ],
        },
        {"use": fakes.usage(1_000_000, 10), "model": "house-model"},
    ),
    (
        "a bound by another name",
        {"max_tokens": 10, "extra_body": {"max_output_tokens": 110_000}},
        {"use": fakes.usage(10, 110_000), "model": "house-model"},
    ),
    (
        "a model that thinks longer than any",
        {"model": "openrouter/openai/gpt-5-pro"},
        {"use": fakes.usage(10, 272_000, cost=32.6), "model": "openai/gpt-5-pro"},
    ),
    (
        "many choices",
        {"max_tokens": 10_000, "n": 11},
        {"use": fakes.usage(10, 110_000), "model": "house-model"},
    ),
]


@pytest.mark.parametrize(
    ("keys", "answer"),
    [(keys, answer) for _, keys, answer in SURPRISES],
    ids=[name for name, *_ in SURPRISES],
)
def test_parallel_calls_leave_no_debt_whatever_makes_them_dear(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    alice: Person,
    facts: Facts,
    keys: dict[str, Any],
    answer: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As whole answers, which cannot be ended."""
    monkeypatch.setattr("models.gateway.relay.can_stream", lambda *_: False)
    assert alice.user is not None
    factories.grant(alice.user, 300)
    fake.will(fakes.answer(fakes.completion(**answer), delay=0.2))

    def one(_: int) -> int:
        client = web.application.test_client()
        return client.post(PATH, json={**BODY, **keys}, headers=alice.headers).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(one, range(48)))
    assert set(statuses) <= {200, 402, 429}
    served = [call for call in facts.calls() if call.state == "settled"]
    assert len(served) == statuses.count(200) >= 1
    assert balance(session, alice) == 300 - sum(call.credits for call in served)
    # the last call may exceed the balance
    assert balance(session, alice) > -max(call.credits for call in served)
    assert facts.holds() == 0


@pytest.mark.parametrize(
    ("model", "at_once"),
    [
        ("gpt-4o", 20),
        ("gpt-4o-mini", 250),
        ("gpt-4.1", 15),
        ("gpt-5-mini", 17),
        ("claude-sonnet-4.5", 4),
        ("claude-haiku-4.5", 14),
        ("gemini-2.5-flash", 25),
        ("gemini-2.5-pro", 7),
        ("openrouter/openai/gpt-4o", 20),
        ("z-ai/glm-4.6", 10),
        ("stoa/demo", 30),
    ],
)
def test_short_questions_without_a_bound_fit_side_by_side(web: FlaskClient, model: str, at_once: int) -> None:
    """With the 500 credits of a new account."""
    gateway = web.application.extensions["gateway"]
    body = {"model": model, "messages": MESSAGES}
    call = parse(body, len(orjson.dumps(body)))
    route, _ = gateway.routes.prepare(gateway.routes.find(model), call)
    assert (
        at_once * held_credits(route.cost_up_to(call, route.held_output(call, 1), 1), gateway.margin) <= 500
    )


def test_a_bound_by_another_name_takes_nothing_away(web: FlaskClient) -> None:
    gateway = web.application.extensions["gateway"]

    def held(**keys: int) -> int:
        body = {**BODY, **keys}
        call = parse(body, 100)
        route, _ = gateway.routes.prepare(gateway.routes.find(call.model), call)
        return held_credits(route.cost_up_to(call, route.held_output(call, 1), 1), gateway.margin)

    assert held(max_output_tokens=1) == held()
    assert held(max_output_tokens=1, max_tokens=10_000) == held(max_tokens=10_000)


@pytest.mark.parametrize(
    ("model", "limit", "held"),
    [
        ("gpt-4o", 100, 100),
        ("gpt-4o", 100_000, 16_384),
        ("claude-sonnet-4.5", 1_000_000, 64_000),
        # the model's own limit is not known
        ("openai/house-model", 500_000, 500_000),
        ("openai/house-model", None, 128_000),
    ],
)
def test_a_limit_above_the_models_own_holds_no_more(
    web: FlaskClient, model: str, limit: int | None, held: int
) -> None:
    gateway = web.application.extensions["gateway"]
    body = {**BODY, "model": model} | ({} if limit is None else {"max_tokens": limit})
    call = parse(body, 100)
    route, _ = gateway.routes.prepare(gateway.routes.find(call.model), call)
    assert route.held_output(call, 1) == held


def test_a_free_answer_may_be_long(web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts) -> None:
    fake.will(fakes.stream(a_long_answer(40_000, fakes.usage(100, 40_000))))
    payload = {**STREAM, "model": "openai/free-model"}
    assert b"[DONE]" in web.post(PATH, json=payload, headers=rich.headers).data
    assert (facts.call().state, facts.call().credits, facts.call().error) == ("settled", 0, None)


def test_a_free_call_needs_no_hold(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    # as much as the stream holds
    factories.grant(alice.user, 10)
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks(use=fakes.usage(100, 20)), gate, 2), fakes.answer())
    long = {**STREAM, "max_tokens": 1_000_000}
    first = web.post(PATH, json=long, headers=alice.headers, buffered=False)
    assert next(iter(first.response))
    for beside, status in (
        ({**BODY, "max_tokens": 1}, 429),
        ({**BODY, "model": "openai/free-model"}, 200),
        ({**BODY, "model": "openai/gpt-5"}, 200),
    ):
        own = {"x-openrouter-api-key": "sk-or-mine"} if beside["model"] == "openai/gpt-5" else {}
        assert web.post(PATH, json=beside, headers={**alice.headers, **own}).status_code == status
    gate.set()
    assert first.data
    wait(lambda: facts.holds() == 0)
    assert sorted(call.state for call in facts.calls()) == ["settled"] * 3


def test_answers_times_choices_are_held(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, body: dict[str, Any]
) -> None:
    held: list[int] = []

    def look(exchange: fakes.Exchange) -> None:
        if not held:
            session.rollback()
            held.extend(session.scalars(select(CreditHold.amount)))
        fakes.answer()(exchange)

    fake.will(look)
    body["model"] = "openrouter/openai/gpt-4o-mini"
    body["codebuff_metadata"]["n"] = 3
    payload = {**body, "n": 4, "max_tokens": 16_000}
    assert web.post("/api/v1/chat/completions", json=payload, headers=rich.headers).status_code == 200
    # twelve times 16,000 tokens at $0.6 per million plus 5.5 %
    assert held[0] == 13


@pytest.mark.parametrize(
    ("credits", "kilobytes", "status"),
    # a kilobyte is held as 342 tokens at $2 per million plus 5.5 %: 0.072 credits
    [(10, 100, 200), (10, 200, 402), (1, 1, 200), (1, 20, 402), (100, 1000, 200)],
)
@pytest.mark.parametrize("path", [PATH, "/api/v1/chat/completions"])
def test_call_whose_input_exceeds_the_balance_is_not_sent(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    alice: Person,
    facts: Facts,
    credits: int,
    kilobytes: int,
    status: int,
    path: str,
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, credits)
    run = factories.run(alice.user)
    payload = {
        "model": "openai/house-model",
        "messages": [{"role": "user", "content": "x" * 1024 * kilobytes}],
        "max_tokens": 100_000,
        "codebuff_metadata": {"run_id": run.id},
    }
    answer = web.post(path, json=payload, headers=alice.headers)
    assert answer.status_code == status
    assert len(fake.requests) == (status == 200)
    if status == 402:
        message = answer.json["error"]["message"]
        assert f"{credits} are available" in message
        assert "Send less" in message
        assert facts.calls() == []
    assert facts.holds() == 0


@pytest.mark.parametrize("path", [PATH, "/api/v1/chat/completions"])
def test_dense_text_is_counted_before_it_is_sent(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts, path: str
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 10)
    run = factories.run(alice.user)
    # 100,000 bytes each: 100,000 tokens (21 credits) in one text, a quarter of that in the other
    for text, status in (("\U0002a6d0" * 25_000, 402), ("yes " * 25_000, 200)):
        payload = {
            "model": "openai/house-model",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 100_000,
            "codebuff_metadata": {"run_id": run.id},
        }
        answer = web.post(path, data=orjson.dumps(payload), headers=alice.headers)
        assert answer.status_code == status
        if status == 402:
            assert "This call costs at least about 22 credits" in answer.json["error"]["message"]
            assert fake.requests == []
            assert (facts.call().state, facts.call().error) == ("failed", "insufficient_credits")


@pytest.mark.parametrize("streaming", [False, True])
def test_answer_that_could_not_be_settled_does_not_reach_its_client_whole(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
    streaming: bool,
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("The ledger cannot be reached. Try again in a moment.")

    monkeypatch.setattr("models.gateway.in_flight.holds.settle", away)
    monkeypatch.setattr("models.gateway.spool.FIRST_PAUSE", 0.01)
    answer = web.post(PATH, json=STREAM if streaming else BODY, headers=rich.headers)
    if streaming:
        assert events(answer.data)[-1]["error"]["code"] == "ledger_unavailable"
        assert b"[DONE]" not in answer.data
        assert b'"usage"' not in answer.data
    else:
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "ledger_unavailable")
    monkeypatch.undo()
    assert facts.call().state == "settled"
    wait(lambda: not web.application.extensions["gateway"].spool.closed())


def test_unreachable_ledger_refuses_before_the_provider_is_called(
    web: FlaskClient, fake: FakeUpstream, rich: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("The ledger cannot be reached. Try again in a moment.")

    monkeypatch.setattr("models.gateway.in_flight.holds.admit", away)
    for path in (PATH, "/api/v1/chat/completions"):
        answer = web.post(path, json=BODY, headers=rich.headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (503, "ledger_unavailable")
    assert fake.requests == []


def test_internal_error_is_reported_and_not_charged(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.gateway.call_answers._fetch", lambda *_: 1 / 0)
    answer = web.post(PATH, json={**BODY, "max_tokens": 100}, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal_error")
    wait(lambda: facts.holds() == 0)
    assert (facts.call().state, facts.call().error) == ("failed", "internal")


def test_small_calls_are_not_free(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.answer(fakes.completion(use=fakes.usage(1000, 0))))
    for _ in range(10):
        assert web.post(PATH, json=BODY, headers=rich.headers).status_code == 200
    # ten times 0.2 cents plus 5.5 %
    assert sum(call.credits for call in facts.calls()) == 2
    assert balance(session, rich) == 998
