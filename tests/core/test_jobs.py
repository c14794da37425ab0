"""Jobs exist if and only if their transaction commits; they are retried after failures and survive dead workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import procrastinate
import psycopg
import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.core import job_queue, jobs, mail
from models.core.db import now
from models.core.settings import Settings

DELIVERED: list[str] = []


@pytest.fixture(autouse=True)
def console(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[None]:
    """Deliver mail to a list."""
    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    monkeypatch.setattr(mail, "deliver", lambda settings, message: DELIVERED.append(message.text))
    yield
    DELIVERED.clear()


def work(app: Flask) -> None:
    """Run due jobs, in a thread: the browser of other tests keeps an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(jobs.work, app.app_context, wait=False).result()


def _queued(session: Session) -> list[Any]:
    rows = session.execute(
        text(
            "SELECT status::text, attempts, args::text FROM procrastinate_jobs WHERE task_name = 'mail.deliver' ORDER BY id"
        )
    )
    return list(rows)


def _mail(text: str) -> mail.Email:
    return mail.Email(to="alice@example.org", subject="Subject", text=text)


def test_a_job_runs_after_the_commit_of_its_cause(app: Flask, session: Session, settings: Settings) -> None:
    mail.send(settings, _mail("committed"))
    session.commit()
    mail.send(settings, _mail("rolled back"))
    session.rollback()
    assert [row.status for row in _queued(session)] == ["todo"]
    session.rollback()
    work(app)
    assert DELIVERED == ["committed"]
    assert _queued(session) == []


def test_queued_mail_is_encrypted(app: Flask, session: Session, settings: Settings) -> None:
    mail.send(settings, _mail("http://localhost/login/link/secret"))
    session.commit()
    stored = _queued(session)[0].args
    assert "secret" not in stored
    assert "alice" not in stored


def test_a_failed_mail_waits_for_its_next_try(
    app: Flask, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: Settings, message: mail.Email) -> None:
        raise mail.MailError("the mail server is away", permanent=False)

    monkeypatch.setattr(mail, "deliver", refuse)
    mail.send(settings, _mail("later"))
    session.commit()
    began = now()
    work(app)
    assert [(row.status, row.attempts) for row in _queued(session)] == [("todo", 1)]
    due = session.execute(
        text("SELECT scheduled_at FROM procrastinate_jobs WHERE task_name = 'mail.deliver'")
    ).scalar_one()
    assert began < due <= now() + timedelta(seconds=5)


def test_a_permanent_failure_is_not_retried(
    app: Flask, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: Settings, message: mail.Email) -> None:
        raise mail.MailError("no such person", permanent=True)

    monkeypatch.setattr(mail, "deliver", refuse)
    mail.send(settings, _mail("never"))
    session.commit()
    work(app)
    assert [row.status for row in _queued(session)] == ["failed"]


def test_a_job_can_be_postponed(app: Flask, session: Session) -> None:
    jobs.enqueue(jobs.deliver_mail, at=now() + timedelta(hours=1), sealed="x")
    session.commit()
    work(app)
    assert [row.status for row in _queued(session)] == ["todo"]


def test_the_jobs_of_a_dead_worker_start_again(app: Flask, session: Session, settings: Settings) -> None:
    mail.send(settings, _mail("survived"))
    session.execute(
        text("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '10 minutes')")
    )
    session.execute(
        text(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)"
        )
    )
    jobs.enqueue(jobs.rescue_stalled, timestamp=0)
    session.commit()
    work(app)
    work(app)
    assert DELIVERED == ["survived"]


def test_the_worker_restarts_when_its_tables_were_restored(
    app: Flask,
    session: Session,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A restore drops the worker's registration; whatever error that raises, it registers again and continues."""
    monkeypatch.setattr(job_queue, "FIRST_PAUSE", 0)
    monkeypatch.setattr(job_queue, "LONGEST_PAUSE", 0)
    errors = [
        psycopg.errors.UndefinedTable('relation "procrastinate_workers" does not exist: secret'),
        procrastinate.exceptions.ConnectorException("Database error."),
        DBAPIError("SELECT secret", {}, Exception("gone")),
        psycopg.OperationalError("the server went away"),
    ]
    ran = job_queue._work

    async def once_more(conninfo: str, run: Any, wait: bool) -> None:
        if errors:
            raise errors.pop()
        await ran(conninfo, run, False)

    monkeypatch.setattr(job_queue, "_work", once_more)
    mail.send(settings, _mail("survived the restore"))
    session.commit()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(jobs.work, app.app_context).result()
    assert DELIVERED == ["survived the restore"]
    assert caplog.text.count("restarting in") == 4
    assert "secret" not in caplog.text
