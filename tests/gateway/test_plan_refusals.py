"""Refusals of calls that a subscriber's plan does not cover, in each door's words (contract A.3)."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.ledger import CreditLedger
from tests import factories
from tests.factories import WINDOWS, Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES
from tests.gateway.test_holds_of_calls import a_long_answer

OPENAI, CODEBUFF = "/v1/chat/completions", "/api/v1/chat/completions"
MODEL = "openai/house-model"
"""$2 and $10.5 per million tokens."""
CONTINUE = 'Enable "Continue with credits" in the CLI to use a-la-carte credits.'


def ask(web: FlaskClient, person: Person, path: str, headers: Any = None, **keys: Any) -> Any:
    assert person.user is not None
    run = factories.run(person.user)
    body = {"model": MODEL, "messages": MESSAGES, "codebuff_metadata": {"run_id": run.id}, "max_tokens": 100}
    return web.post(path, json=body | keys, headers={**person.headers, **(headers or {})})


def subscribe(person: Person, *windows: Any, block: int | None = None, **kw: Any) -> None:
    """A subscription; `block` is what is left of a live block of 350 credits, which ends in two hours and a half."""
    assert person.user is not None
    made = factories.subscription(person.user, factories.plan(*(windows or WINDOWS), **kw))
    if block is not None:
        id = made.stripe_subscription_id
        factories.grant(
            person.user,
            350,
            "subscription",
            balance=block,
            operation_id=f"block-{id}-1",
            stripe_subscription_id=id,
            expires_at=now() + timedelta(hours=2, minutes=30),
            created_at=now() - timedelta(hours=2, minutes=30),
        )


@pytest.mark.parametrize(
    ("block", "keys", "text"),
    [
        (0, {}, f"Subscription 5-hour session limit reached. Your limit resets in 2 hours. {CONTINUE}"),
        (
            5,
            {"messages": [{"role": "user", "content": "x" * 400_000}]},
            "This call costs at least about 29 credits, and your plan has 5 left. Your limit resets in 2 hours. "
            + CONTINUE,
        ),
    ],
)
def test_a_used_up_plan_is_429_with_the_time_of_its_reset(
    web: FlaskClient, fake: FakeUpstream, alice: Person, block: int, keys: Any, text: str
) -> None:
    subscribe(alice, block=block)
    assert alice.user is not None
    factories.grant(alice.user, 1000, "purchase")
    answer = ask(web, alice, CODEBUFF, **keys)
    assert (answer.status_code, answer.json) == (429, {"error": "rate_limit_exceeded", "message": text})
    assert 8_900 < int(answer.headers["Retry-After"]) <= 9_000
    answer = ask(web, alice, OPENAI, **keys)
    assert answer.status_code == 429
    assert answer.json["error"] == {
        "message": text,
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert 8_900 < int(answer.headers["Retry-After"]) <= 9_000
    answer = ask(web, alice, OPENAI, {"anthropic-version": "2023-06-01"}, **keys)
    assert answer.json["error"] == {"type": "rate_limit_error", "message": text}
    assert fake.requests == []


def test_the_switch_continues_with_credits(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person
) -> None:
    subscribe(alice, block=0)
    assert alice.user is not None
    alice.user.fallback_to_a_la_carte = True
    session.commit()
    answer = ask(web, alice, CODEBUFF)
    assert answer.status_code == 402
    assert answer.json["message"].startswith(
        "Out of credits. Please add credits at http://localhost:8000/usage. "
        "Your plan's 5-hour session limit resets in 2 hours. Your free credits reset"
    )
    assert "limit resets in 2 hours" in ask(web, alice, OPENAI).json["error"]["message"]
    factories.grant(alice.user, 1000, "purchase")
    assert ask(web, alice, CODEBUFF).status_code == 200
    assert ask(web, alice, OPENAI).status_code == 200


def test_a_model_that_the_plan_lacks_is_403(web: FlaskClient, fake: FakeUpstream, alice: Person) -> None:
    subscribe(alice, models=["openai/gpt-5*"])
    assert alice.user is not None
    factories.grant(alice.user, 1000, "purchase")
    text = f"Your plan does not include the model 'openai/house-model'. {CONTINUE}"
    answer = ask(web, alice, CODEBUFF)
    assert (answer.status_code, answer.json) == (403, {"error": "model_not_in_plan", "message": text})
    answer = ask(web, alice, OPENAI)
    error = answer.json["error"]
    assert (answer.status_code, error["type"], error["code"]) == (
        403,
        "permission_error",
        "model_not_in_plan",
    )
    assert error["message"] == text
    assert "Retry-After" not in answer.headers
    # the listed name of what was asked for by a short one
    assert ask(web, alice, OPENAI, model="gpt-5-mini").status_code == 200
    assert len(fake.requests) == 1


def test_more_requests_a_minute_than_the_plan_allows_are_429(
    web: FlaskClient, fake: FakeUpstream, alice: Person
) -> None:
    subscribe(alice, requests_per_minute=1)
    assert ask(web, alice, OPENAI).status_code == 200
    text = "Your plan allows 1 request per minute. Try again in a moment."
    answer = ask(web, alice, CODEBUFF)
    assert (answer.status_code, answer.json) == (429, {"error": "rate_limit_exceeded", "message": text})
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert ask(web, alice, OPENAI).json["error"]["code"] == "rate_limit_exceeded"


def test_calls_in_flight_hold_the_plans_credits(web: FlaskClient, fake: FakeUpstream, alice: Person) -> None:
    subscribe(alice, block=100)
    assert alice.user is not None
    factories.hold(alice.user, 95, funding="plan")
    answer = ask(web, alice, OPENAI, max_tokens=100_000)
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "credits_held")
    assert "hold 95 of your plan's 100 credits" in answer.json["error"]["message"]


def test_a_stream_that_outgrows_the_plan_ends_and_spends_nothing_else(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person
) -> None:
    subscribe(alice, block=1)
    assert alice.user is not None
    factories.grant(alice.user, 1000, "purchase")
    fake.will(fakes.stream(a_long_answer(50_000, fakes.usage(100, 50_000)), delay=0.01))
    answer = ask(web, alice, OPENAI, stream=True, max_tokens=100_000)
    assert b"Your plan's limit was reached while this answer was written" in answer.data
    session.rollback()
    query = select(CreditLedger.type, CreditLedger.balance)
    assert ("purchase", 1000) in [tuple(row) for row in session.execute(query)]
