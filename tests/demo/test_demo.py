"""The demo is made through the real verbs, so its books prove; it is made once and goes without a trace."""

from datetime import UTC, datetime, timedelta

from flask import Flask
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from models import billing, demo
from models.accounts import User
from models.billing import CreditEntry
from models.gateway import GatewayCall
from models.runs import AgentRun
from models.settings import Settings
from models.usage import Message, UsageRollup

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def seeded(session: Session, postgres_url: str, settings: Settings) -> int:
    engine: Engine = billing.gateway_engine(postgres_url, 1)
    try:
        return demo.seed(session, engine, settings, commit=session.commit, now=NOW)
    finally:
        engine.dispose()


def count(session: Session, table: type) -> int:
    return session.execute(select(func.count()).select_from(table)).scalar_one()


def test_the_demo_fills_a_month_and_its_books_prove(
    app: Flask, session: Session, postgres_url: str, settings: Settings
) -> None:
    assert demo.is_first_start(session)
    calls = seeded(session, postgres_url, settings)
    assert calls > 80
    assert not demo.is_first_start(session)
    assert count(session, Message) == calls
    first, last = session.execute(select(func.min(Message.finished_at), func.max(Message.finished_at))).one()
    assert first < NOW - timedelta(days=26)
    assert NOW - timedelta(days=4) < last <= NOW
    assert session.execute(select(AgentRun.id).where(AgentRun.parent_run_id.is_not(None))).first()
    assert not session.execute(select(AgentRun.id).where(AgentRun.status == "running")).first()
    assert session.execute(select(GatewayCall.error).where(GatewayCall.state == "failed")).first()
    proof = billing.prove(session)
    assert proof.clean, proof
    spent = session.execute(
        select(func.sum(UsageRollup.credits)).where(UsageRollup.grain == "day")
    ).scalar_one()
    assert spent > 100
    run = session.execute(select(AgentRun).order_by(AgentRun.total_credits.desc()).limit(1)).scalar_one()
    assert run.total_credits >= run.direct_credits > 0


def test_a_second_seeding_does_nothing(
    app: Flask, session: Session, postgres_url: str, settings: Settings
) -> None:
    calls = seeded(session, postgres_url, settings)
    assert seeded(session, postgres_url, settings) == 0
    assert count(session, Message) == calls


def test_removing_the_demo_leaves_nothing_of_it(
    app: Flask, session: Session, postgres_url: str, settings: Settings
) -> None:
    seeded(session, postgres_url, settings)
    assert demo.remove(session)
    session.commit()
    for table in (User, Message, AgentRun, CreditEntry, UsageRollup, GatewayCall):
        assert count(session, table) == 0, table
    assert billing.prove(session).clean
    assert not demo.remove(session)


def test_the_commands_seed_and_remove(app: Flask, session: Session) -> None:
    runner = app.test_cli_runner()
    assert "demo calls were settled" in runner.invoke(args=["demo", "seed"]).output
    assert "there already" in runner.invoke(args=["demo", "seed"]).output
    assert "gone" in runner.invoke(args=["demo", "remove"]).output
    assert "no demo" in runner.invoke(args=["demo", "remove"]).output
    assert count(session, User) == 0
