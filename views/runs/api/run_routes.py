"""JSON API of runs: START, steps and FINISH (contract section 2.3)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import RequestEntityTooLarge

from models.accounts import scopes
from models.accounts.credentials import Credential
from models.core.db import db
from models.core.errors import Conflict, DomainError, Forbidden
from models.gateway.budget_errors import RUN_BUDGET, read_run_budget
from models.gateway.chat_format.request_tags import MAX_TAG, MAX_TAGS, tags_of_metadata
from models.ledger import Account
from models.ledger.payers import payer_hint
from models.orgs import Org, membership
from models.runs import AgentRun, history, recording
from models.runs.history import RunFilter
from models.runs.recording import Ending, StepReport, StepStatus
from models.runs.run_costs import CostOfRun, cost_of_run
from models.runs.run_notes import may_annotate, set_score, set_tags
from models.runs.run_totals import RunCost
from models.store.publishing import takedowns
from models.store.publishing.run_defaults import default_run_budget
from models.store.publishing.takedowns import TakenDown
from views.gateway.api.model_calls import PAYER_HEADERS
from views.web import body, error_bodies
from views.web.body import Amount, Body, Count, Instant, Missing
from views.web.error_bodies import ApiError, door
from views.web.format import iso
from views.web.guards import api_key, audit, key_credential, settings
from views.web.operation import Answers, Operation, ResponseModel, query

log = logging.getLogger("stoa.runs")
bp = Blueprint("runs_api", __name__)

TEST_USER = "test-user-id"
MAX_LISTED = 100
MAX_BYTES = 5_000_000
MAX_STEP_BYTES = 1_000_000
"""Of the request body; STOA_STEP_BYTES limits the stored step."""

# Large enough for any agent, small enough for an index entry and a page.
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
    runBudget: Missing[Annotated[int, Field(ge=0, le=10**12)]] = Field(
        None,
        description="Credits that the run and its sub-runs may spend, taken from what the run above has left. The header"
        " x-stoa-run-budget says the same",
    )
    orgId: Missing[Name] = Field(None, description="Id or slug of the organisation that pays for the run")
    repoUrl: Missing[Name] = Field(
        None, description="The repository of the run; an organisation of yours that has it pays"
    )
    metadata: Missing[Any] = Field(
        None, description="`tags`: up to 20 strings of up to 64 characters; all else is ignored"
    )


class RunStep(Body):
    """A step in the body of the steps route."""

    stepNumber: Count
    credits: Missing[Credits] = None
    childRunIds: Missing[Annotated[list[RunId], Field(max_length=1000, fail_fast=True)]] = None
    messageId: Annotated[str, Field(max_length=500)] | None = None
    status: Missing[StepStatus] = None
    errorMessage: Missing[str] = None
    startTime: Missing[Instant] = Field(None, description="Ends in Z")

    def report(self, step_id: str | None = None) -> StepReport:
        """Convert to the domain's type."""
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
    """A step in a FINISH body."""

    id: Missing[RunId] = Field(None, description="Used if it is a UUID that no other run's step has")


class FinishBody(Body):
    """`action: "FINISH"`. Newer clients include their steps."""

    action: Literal["FINISH"]
    runId: str
    status: Ending
    totalSteps: Count
    directCredits: Credits
    totalCredits: Credits = Field(description="Including spawned runs")
    errorMessage: Missing[str] = None
    steps: Missing[Annotated[list[FinishedStep], Field(max_length=1000)]] = None


ACTIONS: dict[str, type[Body]] = {"START": StartBody, "FINISH": FinishBody}


class NotesBody(Body):
    """What to change about a run; fields that are not sent stay."""

    score: Literal[1, -1] | None = Field(None, description="Null removes it")
    tags: Missing[Annotated[list[Annotated[str, Field(max_length=MAX_TAG)]], Field(max_length=MAX_TAGS)]] = (
        Field(None, description="Replace those of the run")
    )


class RunStarted(ResponseModel):
    runId: str


class RunFinished(ResponseModel):
    success: bool


class StepAdded(ResponseModel):
    stepId: str


class ListedRun(ResponseModel):
    """A run that no other run spawned."""

    runId: str
    agentId: str
    status: str
    startedAt: datetime
    finishedAt: datetime | None
    credits: int = Field(description="Including spawned runs; 1 credit = 1 US cent")
    calls: int
    url: str = Field(description="Its page")


class ListedRuns(ResponseModel):
    runs: list[ListedRun]
    next: str | None = Field(description="The `after` of the next page; null on the last")


class CostFigures(ResponseModel):
    credits: int
    costUsd: str = Field(description="The provider's price in dollars")
    calls: int
    failedCalls: int
    inputTokens: int = Field(description="Cached ones included")
    outputTokens: int


class RunNotes(ResponseModel):
    """Score and tags of a run."""

    runId: str
    score: int | None
    tags: list[str]


class RunCostRow(CostFigures):
    """Own calls of one run of the tree."""

    runId: str
    parentRunId: str | None
    agentId: str
    status: str


class ModelCostRow(CostFigures):
    model: str = Field(description="Empty for the models that are not listed")


class RunCostAnswer(CostFigures):
    """Totals including spawned runs."""

    runId: str
    agentId: str
    url: str = Field(description="The run's page")
    status: str = Field(description="While it is running, the figures grow")
    spawnedRuns: int
    runs: list[RunCostRow] = Field(description="The run and those it spawned; the 1,000 most expensive")
    models: list[ModelCostRow]


def _error_response(error: Exception) -> ResponseReturnValue | None:
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length or MAX_BYTES
        remedy = "Send the steps of a run in several requests, or shorten them."
        return jsonify(error=f"The request is larger than {limit:,} bytes. {remedy}"), 413
    return error_bodies.format_error(error)


DOOR = door(_error_response, too_large=ApiError)
ERRORS: Answers = {
    401: "No key",
    404: "Unknown key",
    409: "Too many unfinished runs, or the run has reached its limit of steps",
    413: "A step is too large, or exceeds the account's bytes per day",
    429: "The account reached a write limit; see Retry-After",
    500: "Recording failed",
}


@bp.post("/api/v1/agent-runs")
@Operation(
    tag="Runs",
    caller="key",
    scope=scopes.AGENTS_RUN,
    parameters=PAYER_HEADERS,
    body=Annotated[StartBody | FinishBody, Field(discriminator="action")],
    max_bytes=MAX_BYTES,
    answers={
        200: ("START returns runId, FINISH returns success", RunStarted | RunFinished),
        **ERRORS,
        402: "The budget of the run above leaves less than `runBudget`",
        403: "The agent was taken down, or your role or your team in the organisation may not start runs",
        404: "Unknown key, or you belong to no such organisation",
    },
    door=DOOR,
)
def agent_runs() -> ResponseReturnValue:
    """Start or finish a run.

    FINISH of an unknown run, or of a run that is not yours, changes nothing and returns 200.
    """
    key = _key()
    parsed = body.parse_tagged("action", ACTIONS, body.read_json())
    if isinstance(parsed, FinishBody):
        return _finish(key, parsed)
    assert isinstance(parsed, StartBody)
    return _start(key, parsed)


@bp.post("/api/v1/agent-runs/<run_id>/steps")
@Operation(
    tag="Runs",
    caller="key",
    scope=scopes.AGENTS_RUN,
    body=RunStep,
    max_bytes=MAX_STEP_BYTES,
    answers={
        200: ("The step", StepAdded),
        **ERRORS,
        403: "The run is not yours",
        404: "Unknown key or run",
        500: "The step number is taken, or recording failed",
    },
    door=DOOR,
)
def steps(run_id: str) -> ResponseReturnValue:
    """Add a step to a run.

    Also works for a finished run.
    """
    key = _key()
    step = body.read(RunStep)
    if key.user.id == TEST_USER:
        return jsonify(stepId="test-step-id")
    with _recorded("Failed to add agent step"):
        step_id = recording.add_step(key.user.id, run_id, step.report(), settings(), key.session.org_id)
    return jsonify(stepId=step_id)


@bp.get("/api/v1/runs")
@Operation(
    tag="Runs",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[
        query("limit", f"1 to {MAX_LISTED}; default: {history.PAGE_SIZE}"),
        query("after", "The `next` of the page before"),
    ],
    answers={200: ("A page of runs", ListedRuns), 400: "Invalid `limit` or `after`", 401: "No key"},
    door=door(),
)
def list_runs() -> ResponseReturnValue:
    """List runs, newest first.

    Of the key's account; an organisation's key lists the runs that its user started. Runs that other runs spawned are
    left out.
    """
    key = _signed_key()
    limit = request.args.get("limit", str(history.PAGE_SIZE))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LISTED):
        raise DomainError(f"limit must be a number from 1 to {MAX_LISTED}.")
    account = Account.of(key.session)
    own = RunFilter(user_id=key.user.id if account.org_id else "")
    page = history.runs_of(account.id, own, request.args.get("after"), int(limit))
    listed = [
        {
            "runId": each.run.id,
            "agentId": each.run.agent_id,
            "status": each.run.status,
            "startedAt": iso(each.run.created_at),
            "finishedAt": iso(each.run.completed_at),
            "credits": each.totals.all.credits,
            "calls": each.totals.all.calls,
            "url": _page(each.run),
        }
        for each in page.runs
    ]
    return jsonify(runs=listed, next=page.next)


@bp.get("/api/v1/runs/<run_id>/cost")
@Operation(
    tag="Runs",
    caller="key",
    scope=scopes.USAGE_READ,
    answers={
        200: ("Or one line of text for Accept: text/plain", RunCostAnswer),
        401: "No key",
        404: "Unknown run",
    },
    door=door(),
)
def run_cost(run_id: str) -> ResponseReturnValue:
    """Return what a run cost: in total, by spawned run, by model.

    Of the key's account; with a personal key also a run that you started for an organisation.
    """
    key = _signed_key()
    cost = cost_of_run(Account.of(key.session), key.user.id, run_id)
    kinds = ("application/json", "text/plain")
    if request.accept_mimetypes.best_match(kinds, "application/json") == "text/plain":
        return Response(_line(cost), mimetype="text/plain", headers={"Vary": "Accept"})
    answer = {
        "runId": cost.run.id,
        "agentId": cost.run.agent_id,
        "url": _page(cost.run),
        "status": cost.run.status,
        "spawnedRuns": cost.spawned,
        **_figures(cost.totals.all),
        "runs": [
            {
                "runId": run.id,
                "parentRunId": run.parent_run_id,
                "agentId": run.agent_id,
                "status": run.status,
                **_figures(own),
            }
            for run, own in cost.runs
        ],
        "models": [{"model": each.model, **_figures(each.usage)} for each in cost.models],
    }
    response = jsonify(answer)
    response.headers["Vary"] = "Accept"
    return response


@bp.patch("/api/v1/runs/<run_id>")
@Operation(
    tag="Runs",
    caller="key",
    scope=scopes.AGENTS_RUN,
    body=NotesBody,
    answers={
        200: ("The run's score and tags", RunNotes),
        401: "No key",
        403: "Your role in the organisation may not change this run",
        404: "Unknown run",
        422: "A tag has characters that are not printable",
    },
    door=door(),
)
def update_run(run_id: str) -> ResponseReturnValue:
    """Score or tag a run.

    Of the key's account; in an organisation, owners and admins those of all members, members their own.
    """
    key = key_credential()
    if key is None:
        raise DomainError("Authentication required. Send an API key as Authorization: Bearer.", status=401)
    account = Account.of(key.session)
    member = membership(key.user.id, account.org_id) if account.org_id else None
    run = history.run_of(account.id, run_id)
    if (account.org_id and member is None) or not may_annotate(run, key.user.id, member):
        raise Forbidden("Your role may not change this run.")
    notes = body.read(NotesBody)
    before = {"score": run.score, "tags": run.tags}
    changed = "score" in notes.model_fields_set and set_score(run, notes.score)
    if notes.tags is not None:
        changed = set_tags(run, notes.tags) or changed
    if changed:
        after = {"score": run.score, "tags": run.tags}
        audit("run.changed", run.id, user=key.user, before=before, after=after, org_id=run.org_id)
    db.session.commit()
    return jsonify(runId=run.id, score=run.score, tags=run.tags or [])


def _start(key: Credential, parsed: StartBody) -> ResponseReturnValue:
    try:
        takedowns.refuse_run(parsed.agentId)
    except TakenDown as error:
        raise Forbidden(error.message) from None
    with _recorded("Failed to create agent run"):
        run_id = recording.start(
            key.user.id,
            parsed.agentId,
            parsed.ancestorRunIds or [],
            settings(),
            key.session.org_id,
            key.session.team_id,
            payer_hint(
                parsed.orgId or request.headers.get("x-stoa-org"),
                parsed.repoUrl or request.headers.get("x-stoa-repo"),
            ),
            key_id=key.session.session_token,
            budget=read_run_budget(request.headers.get(RUN_BUDGET))
            if parsed.runBudget is None
            else parsed.runBudget,
            default_budget=default_run_budget(parsed.agentId),
            tags=tags_of_metadata(parsed.metadata),
        )
    return jsonify(runId=run_id)


def _finish(key: Credential, parsed: FinishBody) -> ResponseReturnValue:
    if key.user.id == TEST_USER:
        return jsonify(success=True)
    with _recorded("Failed to finish agent run"):
        recording.finish(
            key.user.id,
            parsed.runId,
            status=parsed.status,
            total_steps=parsed.totalSteps,
            direct_credits=parsed.directCredits,
            total_credits=parsed.totalCredits,
            settings=settings(),
            org_id=key.session.org_id,
            error_message=parsed.errorMessage,
            steps=[step.report(step.id) for step in parsed.steps or ()],
        )
    return jsonify(success=True)


def _signed_key() -> Credential:
    """Return the credential of the API key. Raises DomainError (401)."""
    key = key_credential()
    if key is None:
        raise DomainError("Authentication required. Send an API key as Authorization: Bearer.", status=401)
    return key


def _page(run: AgentRun) -> str:
    """The absolute URL of the run's page."""
    org = db.session.get(Org, run.org_id) if run.org_id else None
    place: dict[str, Any] = {"slug": org.slug} if org else {}
    return settings().base_url + url_for("runs.run", run_id=run.id, **place)


def _key() -> Credential:
    """Return the credential of the API key. Raises DomainError: 401 without a key, 404 for an unknown key."""
    if api_key() is None:
        raise DomainError("Missing or invalid Authorization header", status=401)
    key = key_credential()
    if key is None:
        raise DomainError("Invalid API key or user not found", status=404)
    return key


@contextmanager
def _recorded(failure: str) -> Iterator[None]:
    """Commit after the block. Raises DomainError (500) with the contract's message on failure."""
    try:
        yield
        db.session.commit()
    except Conflict as error:
        raise DomainError(failure, status=500, details=error.message) from error
    except SQLAlchemyError as error:
        log.error("%s: %s", failure, error)
        raise DomainError(failure, status=500) from error


def _figures(cost: RunCost) -> dict[str, Any]:
    return {
        "credits": cost.credits,
        "costUsd": dollars(cost.cost),
        "calls": cost.calls,
        "failedCalls": cost.failed,
        "inputTokens": cost.tokens - cost.output_tokens,
        "outputTokens": cost.output_tokens,
    }


def _line(cost: CostOfRun) -> str:
    """`124 credits, $1.1763, 38 calls, 3 spawned runs, completed`."""
    total = cost.totals.all
    return (
        f"{_count(total.credits, 'credit')}, ${dollars(total.cost)}, {_count(total.calls, 'call')}, "
        f"{_count(cost.spawned, 'spawned run')}, {cost.run.status}\n"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def dollars(value: Decimal | None) -> str:
    """Dollars without trailing zeros."""
    text = f"{value or 0:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text
