"""Helpers of the statistics tests: create and finish runs, settle calls, count and prove."""

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from models.accounts import User
from models.core.db import db
from models.store import Agent, AgentVersion
from models.store.statistics import counting, store_proof
from tests import factories

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)


def start(
    session: Session,
    user_id: str | None,
    agent: str = "acme/reviewer@1.0.0",
    *,
    called: bool = True,
    **columns: Any,
) -> str:
    """Insert a running run and return its id; commits. `called` adds a settled call of 0 credits, so that the run counts."""
    columns = {
        "id": str(uuid.uuid4()),
        "user_id": user_id,
        "agent_id": agent,
        "created_at": NOW,
        "status": "running",
    } | columns
    names = ", ".join(columns)
    values = ", ".join(f":{name}" for name in columns)
    session.execute(text(f"INSERT INTO agent_run ({names}) VALUES ({values})"), columns)
    if called and user_id:
        settle(session, user_id, str(columns["id"]))
    session.commit()
    return str(columns["id"])


def settle(session: Session, user_id: str, run_id: str, credits: int = 0, state: str = "settled") -> None:
    """Insert a call of a run as the gateway writes it; commits."""
    factories.account(session.get_one(User, user_id))
    session.execute(
        text(
            "INSERT INTO gateway_call (request_id, account_id, user_id, run_id, door, requested_model, model, state,"
            " latency_ms, credits, started_at, finished_at) VALUES (:id, :user, :user, :run, 'codebuff', 'stoa/demo',"
            " 'stoa/demo', :state, 5, :credits, :at, :at)"
        ),
        {
            "id": str(uuid.uuid4()),
            "user": user_id,
            "run": run_id,
            "state": state,
            "credits": credits,
            "at": NOW,
        },
    )
    session.commit()


def finish(session: Session, run_id: str, status: str = "completed", seconds: float = 3) -> None:
    """Finish a run, or correct its status; commits."""
    session.execute(
        text(
            "UPDATE agent_run SET status = cast(:status AS agent_run_status), completed_at = CASE WHEN :status ="
            " 'running' THEN NULL ELSE created_at + make_interval(secs => :seconds) END WHERE id = :id"
        ),
        {"id": run_id, "status": status, "seconds": seconds},
    )
    session.commit()


def week_from(session: Session, since: datetime) -> None:
    """Set the start of the 7-day window, before anything is counted; commits."""
    session.execute(
        text(
            "INSERT INTO store_window (since) VALUES (:since) ON CONFLICT (id) DO UPDATE SET since = excluded.since"
        ),
        {"since": since},
    )
    session.commit()


def count_waiting(session: Session) -> None:
    """Count all queued runs, like the job; commits."""
    session.rollback()
    after: int | None = 0
    while after is not None:
        after = counting.apply_queue(after)
        db.session.commit()


def counted(session: Session, version: str | None = None, agent: str = "reviewer") -> Agent | AgentVersion:
    """The statistics of an agent of `acme`, or of one version, after counting the queue."""
    count_waiting(session)
    if version is None:
        return session.get_one(Agent, ("acme", agent), populate_existing=True)
    return session.get_one(AgentVersion, ("acme", agent, version), populate_existing=True)


def assert_proved(session: Session) -> None:
    """Assert that all statistics can be proved, before and after counting the queue."""
    session.rollback()
    assert store_proof.prove().differences == []
    count_waiting(session)
    found = store_proof.prove()
    assert (found.differences, found.waiting) == ([], 0)


def in_one_go(engine: Engine, statement: str, **parameters: Any) -> None:
    """Execute a statement in its own transaction."""
    with engine.begin() as connection:
        connection.execute(text(statement), parameters)
