"""`/v1/runners`: the runners of an account. Making one returns its key, once."""

from datetime import datetime, timedelta
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.accounts.key_changes import check_not_wider, lock_creator
from models.accounts.sessions import NEVER
from models.core.db import db, now
from models.core.errors import Forbidden, NotFound
from models.orgs import can, membership
from models.projects.project_access import ProjectCaller
from models.runners.account_runner import (
    RULES,
    check_removal,
    create_runner,
    remove_runner,
    runner_of_account,
    runners_of,
)
from models.runners.runner_tables import Runner
from models.runners.work_queue import ask_stop, work_of_account
from views.projects.api.projects_api_blueprint import DOOR, WRONG, project_caller
from views.runners.api.runners_api_blueprint import WORK_ID, Texts, bp
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import key_caller, limiter, require_key, settings
from views.web.operation import Operation, ResponseModel, path

RUNNER_ID = path("runnerId", "The id of the runner")
DAY = timedelta(days=1)


class NewRunner(Body):
    name: str = Field(description="At most 60 characters, of which the account has no other runner")
    labels: Missing[Texts] = Field(None, description="At most 20 words; work may ask for a runner with some")


class RunnerObject(ResponseModel):
    id: str
    name: str
    labels: list[str]
    connected: bool = Field(description="Whether it asked for work within the last minute")
    last_seen_at: datetime | None
    version: str | None
    platform: str | None
    isolation: str | None = Field(description="What confines its commands there, in its own words")
    created_at: datetime


class RunnerList(ResponseModel):
    runners: list[RunnerObject]


class CreatedRunner(ResponseModel):
    runner: RunnerObject
    token: str = Field(description="Its key, shown this once: it takes work, and opens nothing else")


class StoppedWork(ResponseModel):
    state: str
    stop_asked: bool


@bp.get("")
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.KEYS_READ,
    answers={200: ("By name", RunnerList), 404: "Your role does not show it"},
    door=DOOR,
)
def list_runners() -> ResponseReturnValue:
    """List the runners of the account of the key."""
    caller = _caller("see_projects")
    return jsonify(runners=[_answer(each) for each in runners_of(caller.account.id)])


@bp.post("")
@limiter.limit("20/minute;200/hour", key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.KEYS_WRITE,
    body=NewRunner,
    answers={
        201: ("The runner and its key", CreatedRunner),
        403: "Your role does not allow it, or your key lacks `runners:work` itself (`WIDER_KEY`)",
        404: "Your role does not show it",
        409: "The name is taken (`NAME_TAKEN`), or the limit of runners or keys is reached",
        **WRONG,
    },
    door=DOOR,
)
def make_runner() -> ResponseReturnValue:
    """Make a runner of the account of the key.

    Its key is no wider than the one that makes it, ends with it at the latest, and can also be revoked where keys are.
    """
    caller, credential, moment = _caller("edit_projects"), require_key(), now()
    body = read(NewRunner)
    expires = None if credential.session.expires == NEVER else credential.session.expires
    check_not_wider(credential.session, credential.key, RULES, expires)
    runner, token = create_runner(
        credential.user,
        caller.account,
        name=body.name,
        labels=body.labels or (),
        by=None,
        days=None if expires is None else (expires - moment) / DAY,
        limit=settings().stoa_keys_per_account,
        now=moment,
    )
    lock_creator(credential.session, moment)
    db.session.commit()
    response = jsonify(runner=_answer(runner), token=token)
    response.headers["Cache-Control"] = "no-store"
    return response, 201


@bp.delete("/<runner_id>")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.KEYS_WRITE,
    parameters=[RUNNER_ID],
    answers={
        204: ("It is gone, and its key", None),
        403: "Only whoever made it and admins remove it",
        404: "Your account has no such runner",
    },
    door=DOOR,
)
def delete_runner(runner_id: str) -> ResponseReturnValue:
    """Remove a runner and revoke its key. What it works on is lost."""
    caller = _caller("edit_projects")
    runner = runner_of_account(caller.account.id, runner_id)
    check_removal(caller.user_id, runner)
    remove_runner(runner)
    db.session.commit()
    return "", 204


@bp.post("/work/<work_id>/stop")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORK_ID],
    answers={
        200: ("Its state; the runner hears of it with its next request", StoppedWork),
        403: "Your role does not allow it",
        404: "Your account has no such work",
    },
    door=DOOR,
)
def stop_work(work_id: str) -> ResponseReturnValue:
    """Let a work end. Repeating it does nothing."""
    caller = _caller("edit_projects")
    row = work_of_account(caller.account.id, work_id, lock=True)
    ask_stop(row)
    db.session.commit()
    return jsonify(state=row.state, stop_asked=row.stop_asked)


def _caller(capability: str) -> ProjectCaller:
    """Who calls for their own account, or as a member for the organisation of the key. Raises NotFound, Forbidden."""
    caller = project_caller()
    org_id = caller.session.org_id
    if org_id is not None:
        member = membership(caller.user_id, org_id)
        if member is None or not can(member, "see_projects"):
            raise NotFound("Organization not found")
        if not can(member, capability):
            raise Forbidden(
                "Your role in the organisation does not run work. Ask an admin to make you a member."
            )
    return caller


def _answer(row: Runner) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "labels": row.labels,
        "connected": row.connected(now()),
        "last_seen_at": row.last_seen_at and iso(row.last_seen_at),
        "version": row.version,
        "platform": row.platform,
        "isolation": row.isolation,
        "created_at": iso(row.created_at),
    }
