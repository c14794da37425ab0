"""The JSON door of runs: START and FINISH, and the steps between them (contract section 2.3)."""

import logging
from typing import Annotated, Literal

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, Field
from sqlalchemy.exc import SQLAlchemyError

from models.db import db
from models.errors import Conflict, DomainError
from models.runs import recording
from models.runs.recording import Ending, StepReport, StepStatus
from views.api.body import (
    Amount,
    BadBody,
    BadJson,
    Body,
    Count,
    Instant,
    Missing,
    parse,
    parse_tagged,
    read_json,
)

log = logging.getLogger("stoa.runs")
runs = Blueprint("runs_api", __name__)

TEST_USER = "test-user-id"

# generous for any agent, and small enough for an index entry, a page and a reader
Name = Annotated[str, Field(max_length=500)]
RunId = Annotated[str, Field(max_length=200)]
Credits = Annotated[Amount, Field(le=10**15)]
StartTime = Annotated[Instant, AfterValidator(recording.credible_start)]


class Start(Body):
    action: Literal["START"]
    agentId: Name
    ancestorRunIds: Missing[Annotated[list[RunId], Field(max_length=100)]] = None


class Step(Body):
    stepNumber: Count
    credits: Missing[Credits] = None
    childRunIds: Missing[Annotated[list[RunId], Field(max_length=1000)]] = None
    messageId: Annotated[str, Field(max_length=500)] | None = None
    status: Missing[StepStatus] = None
    errorMessage: Missing[str] = None
    startTime: Missing[StartTime] = None


class FinishedStep(Step):
    id: Missing[Annotated[str, Field(max_length=200)]] = None


class Finish(Body):
    action: Literal["FINISH"]
    runId: str
    status: Ending
    totalSteps: Count
    directCredits: Credits
    totalCredits: Credits
    errorMessage: Missing[str] = None
    steps: Missing[Annotated[list[FinishedStep], Field(max_length=1000)]] = None
