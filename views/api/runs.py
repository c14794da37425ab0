"""The JSON door of runs: START and FINISH, and the steps between them (contract section 2.3)."""

import logging
from decimal import Decimal
from typing import Annotated, Literal

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts.credentials import Credential
from models.accounts.quotas import QuotaExceeded
from models.db import db
from models.errors import Conflict, DomainError, Forbidden, NotFound
from models.runs import recording
from models.runs.recording import Ending, StepReport, StepStatus
from models.store import takedowns
from models.store.takedowns import TakenDown
from views.api import body
from views.api.body import Amount, BadBody, BadJson, Body, Count, Instant, Missing
from views.api.refusals import refusal
from views.guards import api_key, key_credential, settings

log = logging.getLogger("stoa.runs")
bp = Blueprint("runs_api", __name__)

TEST_USER = "test-user-id"
MOST_BYTES = 5_000_000
MOST_STEP_BYTES = 1_000_000
"""Of a request; what a step may have is a setting."""

# Generous for any agent, and small enough for an index entry, a page and a reader.
Name = Annotated[str, Field(max_length=500)]
RunId = Annotated[str, Field(max_length=200)]
Credits = Annotated[Amount, Field(le=10**15)]


class Start(Body):
    """`action: "START"`."""

    action: Literal["START"]
    agentId: Name
    ancestorRunIds: Missing[Annotated[list[RunId], Field(max_length=100)]] = None


class Step(Body):
    """A step as the steps route takes it."""

    stepNumber: Count
    credits: Missing[Credits] = None
    childRunIds: Missing[Annotated[list[RunId], Field(max_length=1000, fail_fast=True)]] = None
    messageId: Annotated[str, Field(max_length=500)] | None = None
    status: Missing[StepStatus] = None
    errorMessage: Missing[str] = None
    startTime: Missing[Instant] = None

    def report(self, step_id: str | None = None) -> StepReport:
        """The step in the domain's words."""
        return StepReport(
            number=self.stepNumber,
            credits=self.credits or Decimal(0),
            child_run_ids=self.childRunIds or (),
            message_id=self.messageId,
            status=self.status or "completed",
            error_message=self.errorMessage,
            started_at=self.startTime,
            id=step_id,
        )


class FinishedStep(Step):
    """A step that comes with the finish; its `id` is kept where it is a UUID and free."""

    id: Missing[RunId] = None


class Finish(Body):
    """`action: "FINISH"`; newer clients send their steps with it."""

    action: Literal["FINISH"]
    runId: str
    status: Ending
    totalSteps: Count
    directCredits: Credits
    totalCredits: Credits
    errorMessage: Missing[str] = None
    steps: Missing[Annotated[list[FinishedStep], Field(max_length=1000)]] = None


ACTIONS: dict[str, type[Body]] = {"START": Start, "FINISH": Finish}


@bp.post("/api/v1/agent-runs")
def agent_runs() -> ResponseReturnValue:
    """Start or finish a run of the caller. A finish of anybody else's run, or of none, changes nothing: 200."""
    key = _key()
    if not isinstance(key, Credential):
        return key
    request.max_content_length = MOST_BYTES
    try:
        asked = body.parse_tagged("action", ACTIONS, body.read_json())
    except (BadJson, BadBody) as error:
        return _refused(error)
    if isinstance(asked, Finish):
        return _finish(key, asked)
    assert isinstance(asked, Start)
    return _start(key, asked)


@bp.post("/api/v1/agent-runs/<run_id>/steps")
def steps(run_id: str) -> ResponseReturnValue:
    """Add a step to a run of the caller, running or not. A second step of one number is a failure: 500."""
    key = _key()
    if not isinstance(key, Credential):
        return key
    request.max_content_length = MOST_STEP_BYTES
    try:
        step = body.read(Step)
    except (BadJson, BadBody) as error:
        return _refused(error)
    if key.user.id == TEST_USER:
        return jsonify(stepId="test-step-id")
    try:
        step_id = recording.add_step(key.user.id, run_id, step.report(), settings(), key.session.org_id)
        db.session.commit()
    except (NotFound, Forbidden, QuotaExceeded) as error:
        db.session.rollback()
        return refusal(error)
    except (Conflict, SQLAlchemyError) as error:
        return _failed("Failed to add agent step", error)
    return jsonify(stepId=step_id)


def _start(key: Credential, asked: Start) -> ResponseReturnValue:
    try:
        takedowns.refuse_run(asked.agentId)
        run_id = recording.start(
            key.user.id, asked.agentId, asked.ancestorRunIds or [], settings(), key.session.org_id
        )
        db.session.commit()
    except QuotaExceeded as error:
        db.session.rollback()
        return refusal(error)
    except SQLAlchemyError as error:
        return _failed("Failed to create agent run", error)
    except TakenDown as error:
        return _error(error.message, 403)
    return jsonify(runId=run_id)


def _finish(key: Credential, asked: Finish) -> ResponseReturnValue:
    if key.user.id == TEST_USER:
        return jsonify(success=True)
    try:
        recording.finish(
            key.user.id,
            asked.runId,
            status=asked.status,
            total_steps=asked.totalSteps,
            direct_credits=asked.directCredits,
            total_credits=asked.totalCredits,
            settings=settings(),
            org_id=key.session.org_id,
            error_message=asked.errorMessage,
            steps=[step.report(step.id) for step in asked.steps or ()],
        )
        db.session.commit()
    except QuotaExceeded as error:
        db.session.rollback()
        return refusal(error)
    except SQLAlchemyError as error:
        return _failed("Failed to finish agent run", error)
    return jsonify(success=True)


def _key() -> Credential | ResponseReturnValue:
    """The key and whose it is, or the refusal: 401 without a key, 404 for one that is unknown."""
    if api_key() is None:
        return _error("Missing or invalid Authorization header", 401)
    return key_credential() or _error("Invalid API key or user not found", 404)


def _refused(error: BadJson | BadBody) -> ResponseReturnValue:
    if isinstance(error, BadBody):
        return jsonify(error="Invalid request body", details=error.tree), 400
    return _error("Invalid JSON in request body", 400)


def _error(message: str, status: int, details: str | None = None) -> ResponseReturnValue:
    """`message` is the contract's; `details` says beside it what caused it and how to mend it."""
    return jsonify(error=message, **({"details": details} if details else {})), status


def _failed(message: str, error: Exception) -> ResponseReturnValue:
    db.session.rollback()
    if isinstance(error, DomainError):
        return _error(message, 500, error.message)
    log.error("%s: %s", message, error)
    return _error(message, 500)


@bp.errorhandler(RequestEntityTooLarge)
def _too_large(error: RequestEntityTooLarge) -> ResponseReturnValue:
    most = request.max_content_length or MOST_BYTES
    return _error(
        f"The request is larger than {most:,} bytes. Send the steps of a run in several requests, or shorten them.",
        413,
    )
