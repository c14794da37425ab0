"""`flask usage prune` deletes the messages of old calls and keeps their billing data."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models import ledger
from models.core.audit_log import AuditLog
from models.core.db import db
from models.core.pool import Pool
from models.gateway import CallBody, GatewayCall
from models.ledger import Account
from models.usage import Message
from models.usage.pruning import BEGINNING, bodies_before, drop_bodies
from tests import factories
from tests.factories import Person
from tests.ledger.conftest import pool
from tests.ledger.stage import Payer, assert_proved, call, give, payer, spend

__all__ = ["pool"]

Run = Callable[..., tuple[int, str]]
TODAY = datetime.now(UTC)
OLD = TODAY - timedelta(days=100)
BODIES: dict[str, Any] = {
    "request": [{"role": "user", "content": "Why?"}],
    "response": "An answer",
    "reasoning_text": "It is so.",
}


@pytest.fixture
def run(app: Flask) -> Run:
    """Run a command and return its exit code and output."""
    runner = app.test_cli_runner()

    def invoke(*args: str) -> tuple[int, str]:
        result = runner.invoke(args=["usage", "prune", *args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.output

    return invoke


def spender(session: Session, name: str = "alice") -> Payer:
    """A user with enough credits whose quota cycle is not due."""
    user = payer(
        session, name, created_at=OLD - timedelta(days=9), next_quota_reset=TODAY + timedelta(days=10)
    )
    give(session, user.account, 100_000, now=OLD - timedelta(days=1))
    return user


def bodies(session: Session) -> list[tuple[Any, ...]]:
    """The stored bodies of every call, oldest first."""
    session.rollback()
    query = select(Message.request, Message.last_message, Message.response, Message.reasoning_text)
    return [tuple(row) for row in session.execute(query.order_by(Message.finished_at))]


PRUNED = (None, None, None, None)
STORED = (BODIES["request"], BODIES["request"][0], "An answer", "It is so.")


def test_old_bodies_are_deleted_and_the_ledger_stays(run: Run, pool: Pool, session: Session) -> None:
    alice = spender(session)
    spend(pool, alice, 3, now=OLD, **BODIES)
    spend(pool, alice, 0.2, now=OLD, **BODIES)
    spend(pool, alice, 5, now=TODAY - timedelta(days=89), **BODIES)
    facts = text("SELECT id, credits, cost, input_tokens, output_tokens, latency_ms FROM message ORDER BY id")
    before = session.execute(facts).all()
    code, output = run("--older-than", "90d")
    assert (code, output.splitlines()[-1][:34]) == (0, "Deleted the messages of 2 calls th")
    assert bodies(session) == [PRUNED, PRUNED, STORED]
    assert session.execute(facts).all() == before
    assert_proved(session, now=TODAY)
    log = session.scalars(select(AuditLog)).one()
    assert (log.action, log.after["calls"]) == ("usage.prune", 2)


def test_pruning_again_changes_nothing(run: Run, pool: Pool, session: Session) -> None:
    alice = spender(session)
    spend(pool, alice, 3, now=OLD, **BODIES)
    assert run("--older-than", "12w")[0] == 0
    versions = session.execute(text("SELECT xmin::text FROM message")).all()
    code, output = run("--older-than", "12w")
    assert (code, output[:21]) == (0, "0 calls that ended be")
    session.rollback()
    assert session.execute(text("SELECT xmin::text FROM message")).all() == versions


def test_a_dry_run_counts_and_changes_nothing(run: Run, pool: Pool, session: Session) -> None:
    alice = spender(session)
    spend(pool, alice, 3, now=OLD, **BODIES)
    spend(pool, alice, 3, now=OLD, response="only an answer")
    spend(pool, alice, 3, now=OLD, response=None)
    code, output = run("--older-than", "90d", "--dry-run")
    assert (code, output[:26]) == (0, "2 calls that ended before ")
    assert output.rstrip().endswith("have messages to delete.")
    assert bodies(session)[0] == STORED
    assert not session.scalars(select(AuditLog)).all()


@pytest.mark.parametrize("age", ["", "90", "d", "-3d", "0d", "1h", "9e9d", "٣d", "12345d", "90 d"])
def test_an_invalid_age_is_rejected(run: Run, age: str) -> None:
    code, output = run("--older-than", age)
    assert code == 2
    assert "is not a valid age: use days or weeks, such as 90d or 12w." in output


def test_an_age_is_required(run: Run) -> None:
    code, output = run()
    assert code == 2
    assert "Missing option '--older-than'" in output


def test_a_huge_age_finds_nothing(run: Run) -> None:
    code, output = run("--older-than", "9999w")
    assert (code, output[:28]) == (0, "0 calls that ended before 18")


def test_batches_are_oldest_first(pool: Pool, session: Session) -> None:
    alice = spender(session)
    for day in range(5):
        spend(pool, alice, 1, now=OLD + timedelta(days=day), **BODIES)
    first = drop_bodies(TODAY, limit=2)
    assert (first.calls, first.reached) == (2, OLD + timedelta(days=1))
    session.commit()
    assert bodies(session) == [PRUNED, PRUNED, STORED, STORED, STORED]
    # another run continues without a start
    assert drop_bodies(TODAY, limit=2).reached == OLD + timedelta(days=3)
    session.commit()
    assert drop_bodies(TODAY, start=OLD + timedelta(days=3), limit=2).calls == 1
    session.commit()
    assert drop_bodies(TODAY, start=OLD + timedelta(days=4), limit=2).calls == 0
    assert bodies_before(TODAY) == 0


def test_bodies_of_failed_calls_are_deleted_and_the_calls_stay(run: Run, session: Session) -> None:
    user = factories.user()
    for days, error in ((100, "old"), (101, "older"), (1, "new")):
        at = TODAY - timedelta(days=days)
        failed = factories.call(user, state="failed", error=error, finished_at=at)
        body = CallBody(
            request_id=failed.request_id, finished_at=at, request=BODIES["request"], error_message="No."
        )
        factories.save(body)
    session.commit()
    assert run("--older-than", "90d", "--dry-run")[1].startswith("2 calls that ended before ")
    assert run("--older-than", "90d")[1].startswith("Deleted the messages of 2 calls")
    session.rollback()
    kept = select(GatewayCall.error).join(CallBody)
    assert list(session.scalars(kept)) == ["new"]
    assert len(list(session.scalars(select(GatewayCall)))) == 3


def test_calls_with_the_same_timestamp_are_all_found(pool: Pool, session: Session) -> None:
    alice = spender(session)
    for _ in range(5):
        spend(pool, alice, 1, now=OLD, **BODIES)
    start = BEGINNING
    for expected in (2, 2, 1, 0):
        batch = drop_bodies(TODAY, start=start, limit=2)
        session.commit()
        start = batch.reached or start
        assert batch.calls == expected


def test_concurrent_runs_share_the_work_without_waiting(app: Flask, pool: Pool, session: Session) -> None:
    alice = spender(session)
    for _ in range(6):
        spend(pool, alice, 1, now=OLD, **BODIES)
    assert drop_bodies(TODAY, limit=4).calls == 4
    with app.app_context():
        db.session.execute(text("SET LOCAL lock_timeout = '100ms'"))
        assert drop_bodies(TODAY, limit=4).calls == 2
        db.session.commit()
    session.commit()
    assert bodies(session) == [PRUNED] * 6


def test_calls_settle_during_pruning(app: Flask, pool: Pool, session: Session) -> None:
    alice = spender(session)
    for _ in range(60):
        spend(pool, alice, 1, now=OLD, **BODIES)
    failed: list[BaseException] = []

    def settling() -> None:
        try:
            for _ in range(40):
                spend(pool, alice, 1, now=datetime.now(UTC), **BODIES)
        except BaseException as error:
            failed.append(error)

    def dropping() -> None:
        try:
            with app.app_context():
                while drop_bodies(TODAY - timedelta(days=90), limit=3).calls:
                    db.session.commit()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for work in (settling, settling, dropping, dropping)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert bodies(session) == [PRUNED] * 60 + [STORED] * 80
    assert_proved(session, now=datetime.now(UTC))


def test_an_uncommitted_batch_does_not_block_settling(pool: Pool, session: Session) -> None:
    alice = spender(session)
    spend(pool, alice, 1, now=OLD, **BODIES)
    assert drop_bodies(TODAY, limit=4).calls == 1
    spend(pool, alice, 1, now=TODAY)
    session.rollback()
    assert bodies(session)[0] == STORED


def test_the_page_of_a_pruned_call_says_so(run: Run, alice: Person, pool: Pool, session: Session) -> None:
    assert alice.user is not None
    owner = Payer(alice.user.id, "", Account(user_id=alice.user.id))
    give(session, owner.account, 100, now=OLD - timedelta(days=1))
    admission = ledger.Admission("admitted", "req-old", "", user_id=owner.id, door="openai")
    ledger.settle(pool, admission, call(3, **BODIES), now=OLD)
    page = alice.browser.get("/calls/req-old")
    assert b"An answer" in page.data
    assert run("--older-than", "90d")[0] == 0
    page = alice.browser.get("/calls/req-old")
    assert page.status_code == 200
    assert b"The messages of this call were not stored." in page.data
    assert b"An answer" not in page.data
