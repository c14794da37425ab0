"""Several programs of a turn share one budget: it stops them exactly, and each answer that a provider gave is paid once."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import CreditHold, run_budgets
from models.runners import TurnSocket, open_turn_socket
from models.turns.engine import TurnHandle
from tests.factories import Person
from tests.fakes import upstream
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import fake, fake_server, gateway_app, gateway_settings  # noqa: F401  (fixtures)
from tests.runners.conftest import begun_turn
from tests.runners.socket_calls import asked

MODEL = "openai/house-model"
CALL = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 10_000}
PROGRAMS, ROUNDS = 6, 6


@pytest.fixture
def paid(gateway_app: Flask, fake: FakeUpstream, session: OrmSession, alice: Person) -> Iterator[TurnHandle]:  # noqa: F811
    """A turn of alice at a provider whose calls cost several credits."""
    with gateway_app.app_context():
        made = begun_turn(gateway_app, alice)
    yield made
    made.close()


@pytest.fixture
def opened(paid: TurnHandle) -> Iterator[TurnSocket]:
    made = open_turn_socket(paid)
    yield made
    made.close()


def budget(handle: TurnHandle, credits: int) -> None:
    assert run_budgets.open_run_budget(handle.run_id or "", credits, "start") is None
    db.session.commit()


def spent(session: OrmSession, handle: TurnHandle) -> list[int]:
    """What each call of the run cost."""
    session.expire_all()
    query = select(GatewayCall.credits).where(
        GatewayCall.run_id == handle.run_id, GatewayCall.state == "settled"
    )
    return [credits or 0 for credits in session.scalars(query)]


def all_at_once(opened: TurnSocket, body: dict[str, Any]) -> list[tuple[int, bytes]]:
    """The answers of programs that each call until they are refused."""
    answers: list[tuple[int, bytes]] = []
    start = threading.Barrier(PROGRAMS)

    def work() -> None:
        start.wait(30)
        for _ in range(ROUNDS):
            answers.append(asked(opened.path, "/v1/chat/completions", body))
            if answers[-1][0] == 402:
                return

    threads = [threading.Thread(target=work) for _ in range(PROGRAMS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(120)
    return answers


@pytest.mark.parametrize("stream", [False, True])
def test_programs_that_share_a_budget_stop_within_it_and_pay_each_answer_once(
    opened: TurnSocket,
    paid: TurnHandle,
    session: OrmSession,
    fake: FakeUpstream,  # noqa: F811
    stream: bool,
) -> None:
    use = upstream.usage(1_000, 9_000)
    whole = upstream.answer(upstream.completion(use=use), delay=0.05)
    fake.will(upstream.stream(upstream.chunks(use=use), delay=0.01) if stream else whole)
    probe = asked(opened.path, "/v1/chat/completions", {**CALL, "stream": stream})
    assert probe[0] == 200, probe[1]
    opened.calls.stop()
    [each] = spent(session, paid)
    assert each > 1
    limit = each * 8 + each // 2
    budget(paid, limit)

    answers = all_at_once(opened, {**CALL, "stream": stream})
    served = [data for status, data in answers if status == 200]
    # 429: what is left is held by calls of the others
    assert {status for status, _ in answers} <= {200, 402, 429}
    assert all(b"budget" in data for status, data in answers if status == 402)
    last = asked(opened.path, "/v1/chat/completions", {**CALL, "stream": stream})
    assert last[0] == 402, last[1]
    opened.close()
    costs = spent(session, paid)
    # what was asked before the budget is not of it
    assert sum(costs) - each <= limit
    assert len(costs) == len(served) + 1 == len(fake.requests)
    assert set(costs) == {each}
    assert opened.spent == sum(costs)
    assert session.scalar(select(func.count()).where(CreditHold.state == "live")) == 0
    row = session.execute(
        text("SELECT limit_credits, spent FROM run_budget WHERE run_id = :run"), {"run": paid.run_id}
    ).one()
    assert row == (limit, sum(costs) - each)


def test_a_budget_of_nothing_makes_no_call(
    opened: TurnSocket,
    paid: TurnHandle,
    session: OrmSession,
    fake: FakeUpstream,  # noqa: F811
) -> None:
    budget(paid, 0)
    for stream in (False, True):
        status, data = asked(opened.path, "/v1/chat/completions", {**CALL, "stream": stream})
        assert status == 402
        assert b"budget" in data
    assert fake.requests == []
    assert spent(session, paid) == []


def test_a_stream_that_outgrows_the_budget_ends_inside_and_is_paid_as_far_as_it_came(
    opened: TurnSocket,
    paid: TurnHandle,
    session: OrmSession,
    fake: FakeUpstream,  # noqa: F811
) -> None:
    words = " ".join(f"word{number}" for number in range(4_000))
    fake.will(upstream.stream(upstream.chunks(words), delay=0))
    budget(paid, 2)
    body = {key: value for key, value in CALL.items() if key != "max_tokens"}
    status, data = asked(opened.path, "/v1/chat/completions", {**body, "stream": True})
    opened.close()
    if status == 402:
        assert fake.requests == []
        return
    assert b"budget" in data
    assert b"word3999" not in data
    assert sum(spent(session, paid)) <= 3
