"""`/admin/jobs`: the job queue with its failures, retries and schedule."""

import re

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.admin import job_review
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from views.admin.pages.admin_blueprint import bp, operating_user
from views.web import format
from views.web.guards import admin_required, audit, limiter
from views.web.htmx import render, see_other, toast

PAGE = 50
LIMIT = "60 per minute"
JOB_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
TASK = re.compile(r"[a-z_.]{1,128}", re.ASCII)


@bp.get("/jobs")
@admin_required
def job_list() -> ResponseReturnValue:
    """The queue by task, and its jobs, newest first. Query: `state` (`job_review.STATES`), `task`, `before` (a job's id)."""
    state, task, before = request.args.get("state") or None, request.args.get("task") or None, _before()
    if state is not None and state not in job_review.STATES:
        raise NotFound("There is no such list.")
    if task is not None and not TASK.fullmatch(task):
        raise NotFound("There is no such task.")
    jobs = job_review.listed_jobs(state=state, task=task, before=before, limit=PAGE + 1)
    more = (
        url_for(".job_list", state=state, task=task, before=jobs[PAGE - 1].id) if len(jobs) > PAGE else None
    )
    if before is not None:
        return render("admin/more_jobs.html", partial="admin/_jobs.html", jobs=jobs[:PAGE], more=more)
    heartbeat = job_review.last_heartbeat()
    return render(
        "admin/jobs.html",
        counts=job_review.task_counts(),
        counted=job_review.COUNTED,
        jobs=jobs[:PAGE],
        more=more,
        state=state,
        task=task,
        states=list(job_review.STATES),
        heartbeat=heartbeat,
        alive=heartbeat is not None and now() - heartbeat < job_review.ALIVE_WITHIN,
        late_after=job_review.LATE_AFTER,
    )


@bp.get("/jobs/schedule")
@admin_required
def job_schedule() -> ResponseReturnValue:
    """The recurring tasks, with the last time each was started and the next."""
    return render("admin/job_schedule.html", tasks=job_review.scheduled_tasks(now()))


@bp.post("/jobs/<int:id>/retries")
@admin_required
@limiter.limit(LIMIT)
def retry_job(id: int) -> ResponseReturnValue:
    """Run a failed job once more."""
    task = job_review.retry_job(id)
    audit("job.retried", str(id), user=operating_user(), after={"task": task})
    db.session.commit()
    toast(f"{task} runs again.")
    return _back()


@bp.post("/jobs/retries")
@admin_required
@limiter.limit(LIMIT)
def retry_task() -> ResponseReturnValue:
    """Run all failed jobs of a task once more. Form: `task`."""
    task = request.form.get("task", "")
    if not TASK.fullmatch(task):
        raise Invalid("Enter the name of a task.")
    count = job_review.retry_task(task)
    if count:
        audit("job.task_retried", task, user=operating_user(), after={"jobs": count})
        db.session.commit()
    toast(
        f"{format.number(count)} {'job' if count == 1 else 'jobs'} of {task} run again.",
        "good" if count else "info",
    )
    return _back()


@bp.post("/jobs/<int:id>/cancellation")
@admin_required
@limiter.limit(LIMIT)
def cancel_job(id: int) -> ResponseReturnValue:
    """Cancel a job that has not started."""
    task = job_review.cancel_job(id)
    audit("job.cancelled", str(id), user=operating_user(), after={"task": task})
    db.session.commit()
    toast(f"{task} is cancelled.")
    return _back()


def _before() -> int | None:
    text = request.args.get("before", "")
    if text and not JOB_ID.fullmatch(text):
        raise Invalid("Invalid page: 'before' must be the id of a job.")
    return int(text) if text else None


def _back() -> ResponseReturnValue:
    return see_other(url_for(".job_list"))
