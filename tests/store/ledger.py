"""What the tests of figures share: runs that end, calls that are billed, and the proof."""

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from models.store import Agent, AgentVersion, proof

NOW = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)


def start(session: Session, user_id: str | None, agent: str = "acme/reviewer@1.0.0", **columns: Any) -> str:
    """A running run, committed; its id."""
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
    session.commit()
    return str(columns["id"])


def finish(session: Session, run_id: str, status: str = "completed", seconds: float = 3) -> None:
    """End a run, or correct how it ended."""
    session.execute(
        text(
            "UPDATE agent_run SET status = cast(:status AS agent_run_status), completed_at = CASE WHEN :status ="
            " 'running' THEN NULL ELSE created_at + make_interval(secs => :seconds) END WHERE id = :id"
        ),
        {"id": run_id, "status": status, "seconds": seconds},
    )
    session.commit()


def week_from(session: Session, since: datetime) -> None:
    """Put the week where a test wants it, before anything is counted."""
    session.execute(
        text(
            "INSERT INTO store_window (since) VALUES (:since) ON CONFLICT (id) DO UPDATE SET since = excluded.since"
        ),
        {"since": since},
    )
    session.commit()


def figures(session: Session, version: str | None = None, agent: str = "reviewer") -> Agent | AgentVersion:
    """The figures of an agent of `acme`, or of one version, as they are now."""
    session.rollback()
    if version is None:
        return session.get_one(Agent, ("acme", agent), populate_existing=True)
    return session.get_one(AgentVersion, ("acme", agent, version), populate_existing=True)


def assert_proved(session: Session) -> None:
    """Every figure is what the rows say."""
    session.rollback()
    assert proof.prove(session).differences == []


def in_one_go(engine: Engine, statement: str, **parameters: Any) -> None:
    """A statement in a transaction of its own."""
    with engine.begin() as connection:
        connection.execute(text(statement), parameters)
