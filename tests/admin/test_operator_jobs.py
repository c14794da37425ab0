"""The operators' page of jobs: the queue, errors without secrets, retries, cancellation."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models.admin import job_review
from models.core import jobs, mail
from models.core.job_failures import JobFailure, forget_failures
from models.core.settings import Settings
from tests.admin.test_accounts import audited, post
from tests.factories import Person

pytestmark = pytest.mark.usefixtures("desk")


@pytest.fixture
def failed(app: Flask, session: OrmSession, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> int:
    """A job that failed with an error that quotes a secret and an address."""

    def refuse(settings: Settings, message: mail.Email) -> None:
        raise mail.MailError("sk-test-0123456789abcdef refused alice@example.org", permanent=True)

    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    monkeypatch.setattr(mail, "deliver", refuse)
    mail.send(settings, mail.Email(to="alice@example.org", subject="Hello", text="secret text"))
    session.commit()
    work(app)
    return int(one(session, "SELECT id FROM procrastinate_jobs WHERE status = 'failed'"))


def work(app: Flask) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(jobs.work, app.app_context, wait=False).result()


def one(session: OrmSession, query: str) -> Any:
    session.rollback()
    return session.execute(text(query)).scalar_one()


def test_a_failed_job_shows_its_error_and_is_retried(
    app: Flask,
    session: OrmSession,
    root: Person,
    auditor: Person,
    failed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for address in ("/admin/jobs", "/admin/jobs?state=failed&task=mail.deliver"):
        shown = root.browser.get(address).text
        for words in (
            "MailError: sk-*** refused ***",
            "test_operator_jobs.py:",
            "mail.deliver",
            "Retry all",
            ">Retry<",
        ):
            assert words in shown, words
    for secret in ("0123456789abcdef", "alice@example.org", "secret text", "sealed="):
        assert secret not in shown, secret
    read = auditor.browser.get("/admin/jobs").text
    assert "MailError" in read
    assert "<form method" not in read.partition("<main")[2]
    assert post(auditor, f"/admin/jobs/{failed}/retries").status_code == 403

    assert post(root, f"/admin/jobs/{failed}/retries").status_code == 303
    assert one(session, f"SELECT status::text FROM procrastinate_jobs WHERE id = {failed}") == "todo"
    assert post(root, f"/admin/jobs/{failed}/retries").status_code == 409
    work(app)
    delivered: list[str] = []
    monkeypatch.setattr(mail, "deliver", lambda settings, message: delivered.append(message.text))
    assert post(root, "/admin/jobs/retries", {"task": "mail.deliver"}).status_code == 303
    work(app)
    assert delivered == ["secret text"]
    assert post(root, f"/admin/jobs/{failed}/retries").status_code == 404
    forget_failures()
    assert session.query(JobFailure).count() == 0
    session.rollback()
    assert [(row.subject, row.after) for row in audited(session, "job.retried")] == [
        (str(failed), {"task": "mail.deliver"})
    ]
    assert [row.after for row in audited(session, "job.task_retried")] == [{"jobs": 1}]


def test_a_waiting_job_is_cancelled_and_a_second_one_stays_failed(
    app: Flask, session: OrmSession, root: Person
) -> None:
    jobs.enqueue(jobs.forget_submissions, timestamp=0)
    session.commit()
    id = one(session, "SELECT id FROM procrastinate_jobs")
    assert "No worker is running" in root.browser.get("/admin/jobs").text
    assert post(root, f"/admin/jobs/{id}/cancellation").status_code == 303
    assert post(root, f"/admin/jobs/{id}/cancellation").status_code == 409
    assert "Cancelled" in root.browser.get("/admin/jobs?state=cancelled").text
    session.execute(text("UPDATE procrastinate_jobs SET status = 'failed'"))
    jobs.enqueue(jobs.forget_submissions, timestamp=0)
    session.commit()
    assert post(root, f"/admin/jobs/{id}/retries").status_code == 409, "the same job waits already"
    assert post(root, "/admin/jobs/retries", {"task": "core.forget_submissions"}).status_code == 303
    assert one(session, f"SELECT status::text FROM procrastinate_jobs WHERE id = {id}") == "failed"
    assert len(audited(session, "job.cancelled")) == 1


def test_jobs_are_paged_and_bad_input_is_refused(
    session: OrmSession, root: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("views.admin.pages.job_pages.PAGE", 2)
    for number in range(3):
        jobs.enqueue(jobs.deliver_mail, sealed=f"x{number}")
    session.commit()
    first = root.browser.get("/admin/jobs?task=mail.deliver").text
    more = first.partition("data-load-more")[2].partition('href="')[2].partition('"')[0].replace("&amp;", "&")
    rest = root.browser.get(more, headers={"HX-Request": "true"}).text
    assert (first.count("Cancel job"), rest.count("Cancel job"), "<html" in rest) == (2, 1, False)
    assert "<html" in root.browser.get(more).text
    for path, status in (
        ("?state=lost", 404),
        ("?task=%00", 404),
        ("?before=x", 422),
        ("?before=" + "9" * 30, 422),
        ("/schedule", 200),
    ):
        assert root.browser.get(f"/admin/jobs{path}").status_code == status, path
    for path, form, status in (
        ("/99999999999999999999/retries", {}, 404),
        ("/0/cancellation", {}, 404),
        ("/retries", {"task": "a\0"}, 422),
        ("/retries", {}, 422),
        ("/retries", {"task": "nothing.at_all"}, 303),
    ):
        assert post(root, f"/admin/jobs{path}", form).status_code == status, path
    assert audited(session, "job.task_retried") == []


def test_the_schedule_has_the_next_time(session: OrmSession) -> None:
    from models.core.db import now

    tasks = {each.task: each for each in job_review.scheduled_tasks(now())}
    assert tasks["billing.prove"].cron == "17 1 * * *"
    assert (tasks["billing.prove"].next.hour, tasks["billing.prove"].last) == (1, None)
    assert tasks["billing.sweep"].next > now()
