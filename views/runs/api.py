"""The JSON door of runs: START and FINISH, and the steps between them (contract section 2.3)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Annotated, Literal

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts.credentials import Credential
from models.core.db import db
from models.core.errors import Conflict, DomainError, Forbidden
from models.runs import recording
from models.runs.recording import Ending, StepReport, StepStatus
from models.store.publishing import takedowns
from models.store.publishing.takedowns import TakenDown
from views.web import body, error_bodies
from views.web.body import Amount, Body, Count, Instant, Missing
from views.web.error_bodies import ApiError, door
from views.web.guards import api_key, key_credential, settings
from views.web.operation import Answers, Operation, ResponseModel

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


class StartBody(Body):
    """`action: "START"`."""

    action: Literal["START"]
    agentId: Name = Field(description="publisher/agent@version, or a local id")
    ancestorRunIds: Missing[Annotated[list[RunId], Field(max_length=100)]] = Field(
        None, description="From the root to the parent"
    )


class RunStep(Body):
    """A step as the steps route takes it."""

    stepNumber: Count
    credits: Missing[Credits] = None
    childRunIds: Missing[Annotated[list[RunId], Field(max_length=1000, fail_fast=True)]] = None
    messageId: Annotated[str, Field(max_length=500)] | None = None
    status: Missing[StepStatus] = None
    errorMessage: Missing[str] = None
    startTime: Missing[Instant] = Field(None, description="Ends in Z")

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


class FinishedStep(RunStep):
    """A step that comes with the finish; its `id` is kept where it is a UUID and free."""

    id: Missing[RunId] = Field(None, description="Kept when it is a free UUID")


class FinishBody(Body):
    """`action: "FINISH"`; newer clients send their steps with it."""

    action: Literal["FINISH"]
    runId: str
    status: Ending
    totalSteps: Count
    directCredits: Credits
    totalCredits: Credits = Field(description="Its own and those of what it spawned")
    errorMessage: Missing[str] = None
    steps: Missing[Annotated[list[FinishedStep], Field(max_length=1000)]] = None


ACTIONS: dict[str, type[Body]] = {"START": StartBody, "FINISH": FinishBody}


class RunStarted(ResponseModel):
    runId: str


class RunFinished(ResponseModel):
    success: bool


class StepAdded(ResponseModel):
    stepId: str


def _words(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, RequestEntityTooLarge):
        most = request.max_content_length or MOST_BYTES
        how = "Send the steps of a run in several requests, or shorten them."
        return jsonify(error=f"The request is larger than {most:,} bytes. {how}"), 413
    return error_bodies.format_error(error)


DOOR = door(_words, too_large=ApiError)
ERRORS: Answers = {
    401: "No key",
    404: "Unknown key",
    409: "Too many runs are not finished, or the run has all the steps it may have",
    413: "A step is too large, or more bytes than the account may record in a day",
    429: "The account records too much; Retry-After says how long",
    500: "It could not be recorded",
}


@bp.post("/api/v1/agent-runs")
@Operation(
    tag="Runs",
    caller="key",
    body=Annotated[StartBody | FinishBody, Field(discriminator="action")],
    max_bytes=MOST_BYTES,
    answers={
        200: ("START answers runId, FINISH success", RunStarted | RunFinished),
        **ERRORS,
        403: "The agent was taken down",
    },
    door=DOOR,
)
def agent_runs() -> ResponseReturnValue:
    """Start or finish a run.

    A FINISH of a run that is not yours, or of none, changes nothing and answers 200.
    """
    key = _key()
    asked = body.parse_tagged("action", ACTIONS, body.read_json())
    if isinstance(asked, FinishBody):
        return _finish(key, asked)
    assert isinstance(asked, StartBody)
    return _start(key, asked)


@bp.post("/api/v1/agent-runs/<run_id>/steps")
@Operation(
    tag="Runs",
    caller="key",
    body=RunStep,
    max_bytes=MOST_STEP_BYTES,
    answers={
        200: ("The step", StepAdded),
        **ERRORS,
        403: "The run is somebody else's",
        404: "Unknown key, or no such run",
        500: "The run has a step of this number already, or it could not be recorded",
    },
    door=DOOR,
)
def steps(run_id: str) -> ResponseReturnValue:
    """Add a step to a run.

    The run may be finished already.
    """
    key = _key()
    step = body.read(RunStep)
    if key.user.id == TEST_USER:
        return jsonify(stepId="test-step-id")
    with _recorded("Failed to add agent step"):
        step_id = recording.add_step(key.user.id, run_id, step.report(), settings(), key.session.org_id)
    return jsonify(stepId=step_id)


def _start(key: Credential, asked: StartBody) -> ResponseReturnValue:
    try:
        takedowns.refuse_run(asked.agentId)
    except TakenDown as error:
        raise Forbidden(error.message) from None
    with _recorded("Failed to create agent run"):
        run_id = recording.start(
            key.user.id, asked.agentId, asked.ancestorRunIds or [], settings(), key.session.org_id
        )
    return jsonify(runId=run_id)


def _finish(key: Credential, asked: FinishBody) -> ResponseReturnValue:
    if key.user.id == TEST_USER:
        return jsonify(success=True)
    with _recorded("Failed to finish agent run"):
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
    return jsonify(success=True)


def _key() -> Credential:
    """The key and whose it is. Raises DomainError: 401 without a key, 404 for one that is unknown."""
    if api_key() is None:
        raise DomainError("Missing or invalid Authorization header", status=401)
    key = key_credential()
    if key is None:
        raise DomainError("Invalid API key or user not found", status=404)
    return key


@contextmanager
def _recorded(failure: str) -> Iterator[None]:
    """Commit what is recorded. Raises DomainError with the contract's words for a failure: 500."""
    try:
        yield
        db.session.commit()
    except Conflict as error:
        raise DomainError(failure, status=500, details=error.message) from error
    except SQLAlchemyError as error:
        log.error("%s: %s", failure, error)
        raise DomainError(failure, status=500) from error
