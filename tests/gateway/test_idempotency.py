"""`Idempotency-Key`: a retry of a model call gets the answer of the first, which is charged once."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core import jobs
from models.core.db import now
from models.gateway import idempotency
from models.ledger import IdempotentCall, balance, holds, prune_idempotent_calls
from models.orgs import Org
from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, wait

MODEL = "openrouter-only/model"
CHAT = {"model": MODEL, "messages": MESSAGES}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat, streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "codebuff": ("/api/v1/chat/completions", CHAT),
    "codebuff, streamed": ("/api/v1/chat/completions", {**CHAT, "stream": True}),
    "messages": ("/v1/messages", {**CHAT, "max_tokens": 50}),
    "messages, streamed": ("/v1/messages", {**CHAT, "max_tokens": 50, "stream": True}),
    "responses": ("/v1/responses", {"model": MODEL, "input": "Say hello."}),
    "responses, streamed": ("/v1/responses", {"model": MODEL, "input": "Say hello.", "stream": True}),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-large", "input": "Hello"}),
    "gemini": (f"/v1beta/models/{MODEL}:generateContent", CONTENTS),
    "gemini, streamed": (f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", CONTENTS),
}


class Sender:
    """Makes calls with an idempotency key."""

    def __init__(self, web: FlaskClient, person: Person, run_id: str) -> None:
        self.web = web
        self.person = person
        self.run_id = run_id

    def __call__(
        self,
        door: str = "chat",
        key: str = "k-1",
        headers: dict[str, str] | None = None,
        by: Person | None = None,
        **fields: Any,
    ) -> TestResponse:
        path, body = DOORS[door]
        if door.startswith("codebuff"):
            body = body | {"codebuff_metadata": {"run_id": self.run_id}}
        sent = {**(by or self.person).headers, "Idempotency-Key": key, **(headers or {})}
        return self.web.post(path, json=body | fields, headers=sent)

    def spent(self) -> int:
        return 1000 - balance(self.person.account).net_balance


@pytest.fixture
def send(web: FlaskClient, rich: Person, run: AgentRun) -> Sender:
    return Sender(web, rich, factories.id_of(run))


def replayed(answer: TestResponse) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


def error(answer: TestResponse) -> tuple[int, str]:
    assert answer.json
    return answer.status_code, answer.json["error"]["code"]


@pytest.mark.parametrize("door", DOORS)
def test_retry_gets_the_stored_answer_and_is_not_charged(
    send: Sender, fake: FakeUpstream, facts: Facts, door: str
) -> None:
    if door == "embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": [0.5], "note": "Hello"}]
        fake.will(
            fakes.answer({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 10**6}})
        )
    first = send(door)
    body = first.data
    again = send(door)
    assert (first.status_code, again.status_code, len(fake.requests)) == (200, 200, 1), body
    start = body.index(b"\n") if door == "codebuff, streamed" else 0  # a comment with the time
    assert again.data[start:] == body[start:]
    assert b"Hello" in body
    assert again.content_type == first.content_type
    assert (replayed(first), replayed(again)) == (False, True)
    assert again.headers["Original-Request"] == facts.call().request_id == first.headers["X-Request-Id"]
    assert [message.credits for message in facts.messages()] == [send.spent()]
    other = send(door, user="else")
    assert (other.status_code, "Keys for idempotent requests" in other.text) == (422, True)


def test_key_is_for_one_request_of_one_account(
    send: Sender, fake: FakeUpstream, acme: Org, bob: Person, mallory: Person, anonymous: Person
) -> None:
    send()
    for person in (bob, mallory):
        assert person.user
        factories.grant(person.user, 1000)
    named = {"headers": {"x-stoa-org": acme.slug}}
    for change in ({"temperature": 0.5}, {"stream": True}, {"door": "chat, streamed"}, named):
        other = send(**change)  # type: ignore[arg-type]
        assert error(other) == (422, "idempotency_error")
        assert "Try using a key other than 'k-1'" in other.text
    other = send("messages", headers={"anthropic-version": "2023-06-01"})
    assert (other.status_code, other.json and other.json["error"]["type"]) == (422, "invalid_request_error")
    assert len(fake.requests) == 1
    # the same text of another account is another key
    assert [replayed(send(by=person)) for person in (bob, mallory, bob)] == [False, False, True]
    assert not replayed(send(key="k-2"))
    assert len(fake.requests) == 4
    strangers = [send(by=anonymous), send(headers={"authorization": "Bearer cb-pat-unknown"})]
    assert [answer.status_code for answer in strangers] == [401, 401]


def test_keys_of_test_calls_are_apart(send: Sender, fake: FakeUpstream, rich: Person) -> None:
    assert rich.user
    test = {"authorization": f"Bearer {factories.api_key(rich.user, environment='test')}"}
    answers = [send(headers=test), send(), send(headers=test), send()]
    assert [replayed(answer) for answer in answers] == [False, False, True, True]
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "key", ["", " ", "x" * 256, "schlüssel"], ids=["empty", "blank", "long", "not ASCII"]
)
def test_unusable_key_is_refused_after_the_caller(
    send: Sender, fake: FakeUpstream, anonymous: Person, key: str
) -> None:
    assert error(send(key=key)) == (400, "idempotency_key_invalid")
    assert send(key=key, by=anonymous).status_code == 401
    assert not fake.requests


def test_replay_needs_no_credits_and_no_claim_outlives_a_refusal(
    send: Sender, fake: FakeUpstream, session: OrmSession, bob: Person
) -> None:
    assert bob.user
    assert send(by=bob).status_code == 402
    grant = factories.grant(bob.user, 1)
    assert (send(by=bob).status_code, replayed(send(by=bob))) == (200, True)
    assert balance(bob.account).net_balance <= 0
    assert send(by=bob, key="k-2").status_code == 402
    bob.user.banned = True
    session.commit()
    assert send(by=bob).status_code == 403
    assert grant
    assert len(fake.requests) == 1


def test_uncharged_failure_frees_the_key(send: Sender, fake: FakeUpstream, facts: Facts) -> None:
    fake.will(
        fakes.answer({"error": {"message": "Overloaded"}}, 500), fakes.answer({"choices": []}), fakes.answer()
    )
    answers = [send().status_code for _ in range(4)]
    assert answers[-2:] == [200, 200]
    assert answers[:2] == [500, 502]
    assert (len(facts.messages()), len(fake.requests)) == (1, 3)


def test_charged_error_is_replayed(
    send: Sender, fake: FakeUpstream, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.will(fakes.stream(cut_after=3))
    first = send("chat, streamed").data
    assert b"upstream_cut" in first
    assert send("chat, streamed").data == first
    assert (len(facts.messages()), len(fake.requests)) == (1, 1)


def test_disconnected_client_gets_the_whole_stream_later(
    send: Sender, fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(fakes.stream(delay=0.02))
    first = send("messages, streamed")
    next(iter(first.response))
    first.response.close()  # type: ignore[union-attr]
    facts.call()
    again = send("messages, streamed").data
    assert b"message_start" in again
    assert again.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert len(fake.requests) == 1


def test_twenty_at_once_are_one_call(send: Sender, fake: FakeUpstream, facts: Facts) -> None:
    release = threading.Event()

    def slow(exchange: Exchange) -> Any:
        release.wait(30)
        return fakes.answer()(exchange)

    fake.will(slow)
    answers: list[TestResponse] = []
    threads = [threading.Thread(target=lambda: answers.append(send())) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait(lambda: len(answers) == 19)
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    refused = answers[0]
    assert error(refused) == (409, "idempotency_key_in_use")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert len(fake.requests) == len(facts.messages()) == 1
    assert replayed(send())


def test_call_of_a_dead_worker_is_made_again_and_never_charged_twice(
    send: Sender, fake: FakeUpstream, facts: Facts, session: OrmSession
) -> None:
    """The worker only seems dead: its claim expires, a retry takes the key, and then it settles."""
    release = threading.Event()

    def slow(exchange: Exchange) -> Any:
        release.wait(30)
        return fakes.answer(fakes.completion("Too late."))(exchange)

    fake.will(slow, fakes.answer())
    late: list[TestResponse] = []
    thread = threading.Thread(target=lambda: late.append(send()))
    thread.start()
    wait(lambda: fake.requests)
    assert send().status_code == 409
    session.execute(update(IdempotentCall).values(expires_at=now() - timedelta(seconds=1)))
    session.commit()
    retry = send()
    release.set()
    thread.join()
    assert (retry.status_code, late[0].status_code, len(fake.requests)) == (200, 200, 2)
    assert [message.credits for message in facts.messages()] == [send.spent()]
    assert sorted((call.state, call.error) for call in facts.calls() if call.provider) == [
        ("failed", "superseded"),
        ("settled", None),
    ]
    assert send().data == retry.data
    assert facts.holds() == 0


def test_call_that_waits_for_the_ledger_is_replayed_once_it_is_settled(
    send: Sender, fake: FakeUpstream, facts: Facts, gateway_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = gateway_app.extensions["gateway"]
    with monkeypatch.context() as patched:
        patched.setattr(holds, "_SETTLE_CLAIMED", "SELECT pg_no_such_function()")
        assert error(send()) == (503, "ledger_unavailable")
    gateway.spool.settle_all()
    answer = send()
    assert (answer.status_code, replayed(answer), len(fake.requests)) == (200, True, 1)
    assert b"Hello there" in answer.data
    assert len(facts.messages()) == 1


@pytest.mark.parametrize("door", ["chat", "chat, streamed"])
def test_answer_too_large_to_store_is_not_charged_again(
    send: Sender, fake: FakeUpstream, facts: Facts, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(idempotency, "MAX_ANSWER", 10)
    first = send(door)
    assert first.data
    assert first.headers.get("Idempotent-Stored") == (None if "streamed" in door else "false")
    again = send(door)
    assert error(again) == (409, "idempotency_answer_not_kept")
    assert again.headers["X-Should-Retry"] == "false"
    assert (len(facts.messages()), len(fake.requests)) == (1, 1)


def test_claims_are_renewed_and_expire(
    send: Sender, fake: FakeUpstream, session: OrmSession, gateway_app: Flask
) -> None:
    send()
    claim = session.scalars(select(IdempotentCall)).one()
    assert claim.expires_at - claim.created_at == timedelta(hours=24)
    pool = gateway_app.extensions["gateway"].pool
    later = claim.expires_at + timedelta(seconds=1)
    holds.extend_claims(pool, [claim.request_id], now=later)
    assert prune_idempotent_calls(now()) == 0
    assert prune_idempotent_calls(later) == 1
    session.commit()
    assert (replayed(send()), len(fake.requests)) == (False, 2)
    # one in flight is renewed, and waits for its call
    session.execute(update(IdempotentCall).values(settled_at=None))
    session.commit()
    claim = session.scalars(select(IdempotentCall)).one()
    holds.extend_claims(pool, [claim.request_id], now=later, ttl_seconds=60)
    session.expire_all()
    assert claim.expires_at == later + timedelta(seconds=60)
    assert prune_idempotent_calls(later + timedelta(days=29)) == 0
    moment = now() - timedelta(days=1)
    session.execute(update(IdempotentCall).values(settled_at=moment, expires_at=moment))
    session.commit()
    jobs.prune_idempotent_calls(0)
    assert session.scalar(select(func.count()).select_from(IdempotentCall)) == 0
