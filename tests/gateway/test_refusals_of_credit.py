"""Refusals for lack of credit: 402 when it is used up, 429 while calls in flight hold it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.core.db import now
from models.gateway.output_estimator import MIN_CALLS
from models.ledger import CreditHold
from models.ledger.holds import LedgerUnavailable
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events, wait

OPENAI, CODEBUFF = "/v1/chat/completions", "/api/v1/chat/completions"
MODEL = "openai/house-model"
"""$2 and $10.5 per million tokens."""


def payload(person: Person, **keys: Any) -> dict[str, Any]:
    """A request for either door."""
    assert person.user is not None
    run = factories.run(person.user)
    return {"model": MODEL, "messages": MESSAGES, "codebuff_metadata": {"run_id": run.id}, **keys}


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
@pytest.mark.parametrize(
    ("balance", "held", "keys", "status", "code"),
    [
        # 100,000 tokens of output are 111 credits; the input and a short answer are one
        (0, 0, {}, 402, "insufficient_credits"),
        (-5, 0, {}, 402, "insufficient_credits"),
        (0, 50, {}, 402, "insufficient_credits"),
        (5, 0, {"messages": [{"role": "user", "content": "x" * 400_000}]}, 402, "insufficient_credits"),
        (5, 3, {"messages": [{"role": "user", "content": "x" * 400_000}]}, 402, "insufficient_credits"),
        (100, 95, {"messages": [{"role": "user", "content": "x" * 400_000}]}, 429, "credits_held"),
        (100, 100, {"max_tokens": 1}, 429, "credits_held"),
        (100, 150, {"max_tokens": 1}, 429, "credits_held"),
        # a whole answer holds its limit if a stream cannot carry it, else a usual answer, as a stream does
        (120, 20, {"max_tokens": 50_000, "n": 2}, 429, "credits_held"),
        (120, 9, {"max_tokens": 50_000, "n": 2}, 200, None),
        (100, 95, {"max_tokens": 100_000}, 429, "credits_held"),
        (100, 90, {"max_tokens": 100_000}, 200, None),
        (100, 95, {"max_tokens": 100_000, "stream": True}, 429, "credits_held"),
        (100, 90, {"max_tokens": 100_000, "stream": True}, 200, None),
        # alone, it may become debt
        (5, 0, {"max_tokens": 100_000}, 200, None),
        (100, 100, {"max_tokens": 1, "model": "openai/free-model"}, 200, None),
    ],
)
def test_refusal_says_whether_waiting_helps(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    alice: Person,
    path: str,
    balance: int,
    held: int,
    keys: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 500, balance=balance)
    hold = factories.hold(alice.user, held) if held else None
    answer = web.post(path, json=payload(alice, **keys), headers=alice.headers)
    assert answer.status_code == status
    assert len(fake.requests) == (status == 200)
    if status == 200:
        assert answer.data
        return
    if path == CODEBUFF and balance <= 0:
        # contract 5.2 row 5
        assert set(answer.json) == {"message"}
        assert answer.json["message"].startswith("Out of credits. Please add credits at ")
        return
    error = answer.json["error"]
    assert error["code"] == code
    if path == CODEBUFF:
        assert answer.json["message"] == error["message"]
    if status == 402:
        assert "Retry-After" not in answer.headers
        assert "details" not in error
        return
    assert hold is not None
    assert error["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    details = error["details"]
    (listed,) = details.pop("holds")
    since = datetime.fromisoformat(listed.pop("since"))
    assert abs(since - hold.created_at) < timedelta(milliseconds=1)
    assert listed == {"request_id": hold.request_id, "model": "stoa/demo", "credits": held}
    needed = details.pop("needed")
    assert needed > balance - held
    assert details == {
        "balance": balance,
        "held": held,
        "available": max(balance - held, 0),
        "holds_total": 1,
    }


def test_anthropic_clients_get_the_details_in_their_format(
    web: FlaskClient, session: OrmSession, alice: Person
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100)
    factories.hold(alice.user, 100)
    headers = {**alice.headers, "anthropic-version": "2023-06-01"}
    answer = web.post(OPENAI, json=payload(alice), headers=headers)
    assert (answer.status_code, answer.json["error"]["type"]) == (429, "rate_limit_error")
    assert len(answer.json["error"]["details"]["holds"]) == 1


def test_dense_text_is_refused_by_what_calls_in_flight_leave(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100)
    lone = factories.hold(alice.user, 85, expires_at=now() + timedelta(minutes=5))
    # counted: 100,000 tokens, 22 credits; by its size a third of that
    keys = {"messages": [{"role": "user", "content": "\U0002a6d0" * 25_000}], "max_tokens": 1}
    answer = web.post(OPENAI, json=payload(alice, **keys), headers=alice.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "credits_held")
    assert [hold["request_id"] for hold in answer.json["error"]["details"]["holds"]] == [lone.request_id]
    assert fake.requests == []
    session.rollback()
    assert session.scalars(select(CreditHold.request_id)).all() == [lone.request_id]


def test_list_of_holds_is_bounded_and_oldest_first(
    web: FlaskClient, session: OrmSession, alice: Person, bob: Person
) -> None:
    assert alice.user is not None
    assert bob.user is not None
    factories.grant(alice.user, 100)
    started = now()
    for index in range(25):
        created_at = started - timedelta(seconds=index)
        factories.hold(alice.user, 4, request_id=f"call-{index:02}", created_at=created_at)
    factories.hold(bob.user, 1)
    factories.hold(alice.user, 900, expires_at=started - timedelta(seconds=1))
    details = web.post(OPENAI, json=payload(alice), headers=alice.headers).json["error"]["details"]
    assert [hold["request_id"] for hold in details["holds"]] == [
        f"call-{index:02}" for index in range(24, 4, -1)
    ]
    assert (details["holds_total"], details["held"]) == (25, 100)


@pytest.mark.parametrize(
    ("seconds", "age", "retry_after"), [(20, 5, 15), (20, 60, 1), (0.2, 0, 1), (600, 0, 60)]
)
def test_retry_after_is_the_earliest_expected_settlement(
    web: FlaskClient,
    session: OrmSession,
    alice: Person,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    age: int,
    retry_after: int,
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100)
    outputs = web.application.extensions["gateway"].outputs
    for _ in range(MIN_CALLS):
        outputs.record(hash_token(alice.token), "a-model", 100, int(seconds * 1000))
        outputs.record(hash_token(alice.token), "a-slow-model", 100, 900_000)
    factories.hold(alice.user, 60, model="a-model", created_at=now() - timedelta(seconds=age))
    factories.hold(alice.user, 40, model="a-slow-model", created_at=now() - timedelta(seconds=age))
    answer = web.post(OPENAI, json=payload(alice), headers=alice.headers)
    assert answer.status_code == 429
    assert retry_after - 1 <= int(answer.headers["Retry-After"]) <= retry_after


def test_refused_without_a_list_when_the_holds_cannot_be_read(
    web: FlaskClient, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("The ledger cannot be reached. Try again in a moment.")

    assert alice.user is not None
    factories.grant(alice.user, 100)
    factories.hold(alice.user, 100)
    monkeypatch.setattr("models.gateway.admitter.holds.live_holds", away)
    answer = web.post(OPENAI, json=payload(alice), headers=alice.headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    details = answer.json["error"]["details"]
    assert (details["held"], details["holds"]) == (100, [])


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
def test_parallel_calls_beyond_the_credits_wait_and_then_succeed(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts, path: str
) -> None:
    """Fifty calls with credit for ten: ten are sent, forty get 429. After the ten have settled for less, the others are
    served."""
    assert alice.user is not None
    # each holds 9 credits and costs one
    factories.grant(alice.user, 90)
    gate = threading.Event()

    def behave(exchange: fakes.Exchange) -> None:
        gate.wait(60)
        fakes.answer(fakes.completion(use=fakes.usage(100, 900)))(exchange)

    fake.will(behave)
    body = payload(alice, max_tokens=8_000)

    def one(_: int) -> Any:
        return web.application.test_client().post(path, json=body, headers=alice.headers)

    with ThreadPoolExecutor(50) as pool:
        pending = [pool.submit(one, index) for index in range(50)]
        wait(lambda: sum(each.done() for each in pending) == 40)
        refused = [each.result() for each in pending if each.done()]
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.json["error"]["code"] for answer in refused} == {"credits_held"}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert facts.holds() == 10
        gate.set()
        assert sorted(each.result().status_code for each in pending) == [200] * 10 + [429] * 40
        wait(lambda: facts.holds() == 0)
        statuses = [one(0).status_code for _ in range(40)]
    assert statuses == [200] * 40
    assert sum(call.credits for call in facts.calls()) == 50
    assert facts.holds() == 0


def test_a_stream_holds_what_its_key_and_model_used_lately_and_grows(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    def held(**keys: Any) -> int:
        """The hold of a stream before its first token."""
        gate = threading.Event()
        fake.will(fakes.pausing(fakes.chunks(use=fakes.usage(100, 600)), gate, 1))
        body = payload(rich, stream=True, **keys)
        answer = web.post(OPENAI, json=body, headers=rich.headers, buffered=False)
        assert next(iter(answer.response))
        session.rollback()
        amount = session.scalars(select(CreditHold.amount)).one()
        gate.set()
        assert b"[DONE]" in answer.data
        wait(lambda: facts.holds() == 0)
        return amount

    # 8,192 tokens at $10.5 per million plus 5.5 %
    assert [held(), held(max_tokens=100_000), held(max_tokens=2000)] == [10, 10, 3]
    for _ in range(MIN_CALLS - 3):
        held()
    # 900 tokens, 1.5 times 600, and the input: a little more than a credit
    assert [held(), held(max_tokens=100_000), held(max_tokens=200)] == [2, 2, 1]

    text = "yes " * 500
    long = [fakes.chunk({"content": text}) for _ in range(20)]
    end = [fakes.chunk({}, "stop"), fakes.chunk(None, usage=fakes.usage(100, 10_000)), "[DONE]"]
    gate = threading.Event()
    fake.will(fakes.pausing([*long, *end], gate, len(long)))
    answer = web.post(OPENAI, json=payload(rich, stream=True), headers=rich.headers, buffered=False)
    seen: list[bytes] = []
    reading = threading.Thread(target=lambda: seen.extend(answer.response))
    reading.start()
    wait(lambda: session.scalar(select(CreditHold.amount)) >= 11 or session.rollback())
    gate.set()
    reading.join(60)
    assert b"[DONE]" in b"".join(seen)
    wait(lambda: facts.holds() == 0)
    assert max(call.credits for call in facts.calls()) == 11


@pytest.mark.parametrize(
    ("keys", "credits"),
    [({"max_tokens": 50_000}, 1), ({}, 1), ({"max_tokens": 50_000, "n": 2}, 111), ({"max_tokens": 500}, 1)],
)
def test_a_whole_answer_holds_what_was_used_lately_if_it_can_be_ended(
    web: FlaskClient,
    session: OrmSession,
    fake: FakeUpstream,
    rich: Person,
    keys: dict[str, Any],
    credits: int,
) -> None:
    outputs = web.application.extensions["gateway"].outputs
    for _ in range(MIN_CALLS):
        outputs.record(hash_token(rich.token), MODEL, 10, 100)
    held: list[int] = []

    def look(exchange: fakes.Exchange) -> None:
        session.rollback()
        held.extend(session.scalars(select(CreditHold.amount)))
        fakes.answer()(exchange)

    fake.will(look)
    assert web.post(OPENAI, json=payload(rich, **keys), headers=rich.headers).status_code == 200
    assert held == [credits]


@pytest.mark.parametrize("streams", [True, False])
def test_streams_that_learned_a_small_size_do_not_overspend(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts, streams: bool
) -> None:
    """Parallel answers, each far longer than the key's usual one, end when the credits run out."""
    assert alice.user is not None
    factories.grant(alice.user, 20)
    outputs = web.application.extensions["gateway"].outputs
    for _ in range(MIN_CALLS):
        outputs.record(hash_token(alice.token), MODEL, 10, 100)
    # 20,000 tokens each: 23 credits; an event of 100 tokens is a tenth of a credit
    text = "yes " * 100
    long = [fakes.chunk({"content": text}) for _ in range(200)]
    end = [fakes.chunk({}, "stop"), fakes.chunk(None, usage=fakes.usage(100, 20_000)), "[DONE]"]
    fake.will(fakes.stream([*long, *end], delay=0.002))
    body = payload(alice, stream=streams, max_tokens=50_000)

    def one(_: int) -> Any:
        answer = web.application.test_client().post(OPENAI, json=body, headers=alice.headers)
        return answer.status_code, answer.data

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(12)))
    assert {status for status, _ in answers} <= {200, 402, 429}
    ended = 0
    for status, data in answers:
        error = events(data)[-1]["error"] if status == 200 else json.loads(data)["error"]
        assert error["code"] == "insufficient_credits" if status < 429 else "credits_held"
        if not streams and status == 402 and "details" in error:
            # what was written was paid for
            (choice,) = error["details"]["answer"]["choices"]
            assert choice["message"]["content"].startswith("yes yes ")
            assert error["details"]["answer"]["usage"]["completion_tokens"] > 100
            ended += 1
    assert streams or ended > 1
    wait(lambda: facts.holds() == 0)
    settled = [call.credits for call in facts.calls() if call.state == "settled"]
    session.rollback()
    assert 10 <= sum(settled) <= 20


def test_a_stream_within_its_limit_needs_no_more_than_its_hold(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    """Long words make it count early; what may follow is bounded by the limit, for which there is just enough credit."""
    assert alice.user is not None
    factories.grant(alice.user, 2)
    words = [fakes.chunk({"content": " international" * 10}) for _ in range(98)]
    end = [fakes.chunk({}, "stop"), fakes.chunk(None, usage=fakes.usage(100, 980)), "[DONE]"]
    fake.will(fakes.stream([*words, *end]))
    # 1,000 tokens hold two credits
    answer = web.post(OPENAI, json=payload(alice, stream=True, max_tokens=1000), headers=alice.headers)
    assert b"[DONE]" in answer.data
    assert (facts.call().credits, facts.call().error) == (1, None)
