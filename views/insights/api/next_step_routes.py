"""`/v1/projects/{id}/next-steps`: what would bring a project on (fastest contract 3.13)."""

from datetime import datetime
from typing import Any, Literal

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.insights import NextStep, model_asking
from models.insights.step_verbs import rate_step, set_step_status, steps_in
from models.projects.project_access import own_project
from views.insights.api.insights_api_blueprint import (
    GENERATIONS,
    MODEL,
    NO_MODEL,
    asked_model,
    bp,
    said,
)
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    NOT_YOURS,
    PROJECT_ID,
    WRONG,
    project_caller,
)
from views.web.body import Body, read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Answers, Operation, ResponseModel, path, query

STEP_ID = path("stepId", "The id of the next step")
NO_STEP: Answers = {**NOT_YOURS, 404: "You have no such project, or it no such next step"}
COLUMNS = (
    *("id", "project_id", "title", "description", "rationale", "category", "priority", "effort", "status"),
    *("helpful_count", "not_helpful_count", "model"),
)


class StepStatusBody(Body):
    status: str = Field(description="`pending`, `started`, `completed` or `dismissed`")


class StepFeedbackBody(Body):
    helpful: bool


class StepObject(ResponseModel):
    id: str
    project_id: str
    title: str
    description: str | None
    rationale: str | None = Field(description="Why")
    category: Literal["feature", "validation", "launch", "technical", "user_research"]
    priority: Literal[1, 2, 3] = Field(description="1 is the highest")
    effort: Literal["small", "medium", "large"] | None
    status: Literal["pending", "started", "completed", "dismissed"]
    helpful_count: int
    not_helpful_count: int
    model: str | None = Field(description="The model that wrote it; null for the rules of the server")
    generated_at: datetime
    acted_on_at: datetime | None


class StepList(ResponseModel):
    next_steps: list[StepObject]


class StepAnswer(ResponseModel):
    next_step: StepObject


@bp.get("/projects/<project_id>/next-steps")
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, query("status", "Those of one status; by default all")],
    answers={200: ("The newest first", StepList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_steps(project_id: str) -> Response:
    """List the next steps of a project."""
    project = own_project(project_caller(), project_id)
    rows = steps_in(project, request.args.get("status") or None)
    return jsonify(next_steps=[step_json(row) for row in rows])


@bp.post("/projects/<project_id>/next-steps/generate")
@limiter.limit(GENERATIONS, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, MODEL],
    answers={
        200: ("The new ones alone", StepList),
        **NO_MODEL,
        422: "The project has neither an intent nor a brief, which a model needs, or a parameter is wrong",
    },
    door=DOOR,
)
def generate_steps(project_id: str) -> Response:
    """Propose next steps.

    First those that follow from what is known, such as findings and drift; they cost nothing. Then a model adds some: it sees the brief,
    counts, names of workspaces and former steps, no files. What the project has already, also dismissed, is left out.
    """
    project = own_project(project_caller(), project_id, "edit_projects")
    new = model_asking.generate_steps(project, asked_model(), said)
    db.session.commit()
    return jsonify(next_steps=[step_json(row) for row in new.steps])


@bp.patch("/projects/<project_id>/next-steps/<step_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, STEP_ID],
    body=StepStatusBody,
    answers={200: ("The step", StepAnswer), **NO_STEP, **WRONG},
    door=DOOR,
)
def patch_step(project_id: str, step_id: str) -> Response:
    """Begin, complete or dismiss a next step, or make it pending again."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    step = set_step_status(caller, project_id, step_id, read(StepStatusBody).status)
    db.session.commit()
    return jsonify(next_step=step_json(step))


@bp.post("/projects/<project_id>/next-steps/<step_id>/feedback")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, STEP_ID],
    body=StepFeedbackBody,
    answers={200: ("The step, with one more", StepAnswer), **NO_STEP, **WRONG},
    door=DOOR,
)
def rate(project_id: str, step_id: str) -> Response:
    """Say whether a next step was of help."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    step = rate_step(caller, project_id, step_id, helpful=read(StepFeedbackBody).helpful)
    db.session.commit()
    return jsonify(next_step=step_json(step))


def step_json(row: NextStep) -> dict[str, Any]:
    """A `StepObject`."""
    times = {name: iso(getattr(row, name)) for name in ("generated_at", "acted_on_at")}
    return {**{name: getattr(row, name) for name in COLUMNS}, **times}
