"""JSON routes of evaluation results (contract 2.13)."""

from datetime import datetime
from typing import Annotated, Any

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import User, scopes
from models.admin.git_evals import GitEvalResults, eval_with_id, latest_evals, record_eval
from models.core.db import db
from models.core.errors import DomainError
from views.admin.api.admin_api_blueprint import DOOR, NOT_ADMIN, bp
from views.admin.pages.eval_pages import show_eval
from views.web.body import Body, Int32, read, read_json
from views.web.error_bodies import ApiError, door
from views.web.format import iso
from views.web.guards import (
    admin_required,
    audit,
    cookie_or_key_user,
    cookie_user,
    is_admin,
    is_auditor,
    limiter,
)
from views.web.operation import Operation, ResponseModel, query

NOT_AN_ADMIN = "Forbidden - not an admin"
BAD_LIMIT = "Limit must be a positive number between 1 and 1000"
BAD_VISIBILITY = "Missing or invalid required fields: id, is_public"
DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_BYTES = 1_000_000

Name = Annotated[str, Field(max_length=500)]


class EvalBody(Body):
    cost_mode: Name | None = Field(None, examples=["normal"])
    reasoner_model: Name | None = None
    agent_model: Name | None = Field(None, description="The agent or the model that was evaluated")
    metadata: dict[str, Any] | None = Field(
        None,
        description="Numbers in it are metrics; `suite` names the repository, `commit` the version of the agent",
        examples=[{"suite": "codebuff", "commit": "3f2a91c", "numCases": 20, "avgScore": 7.5}],
    )
    cost: Int32 = Field(0, description="Credits")


class VisibilityBody(Body):
    id: str
    is_public: bool


class EvalRow(ResponseModel):
    id: str = Field(description="Ids order results by time")
    cost_mode: str | None
    reasoner_model: str | None
    agent_model: str | None
    metadata: Any
    cost: int
    is_public: bool
    created_at: datetime


class EvalRows(ResponseModel):
    results: list[EvalRow]
    isAdmin: bool


@bp.post("/api/git-evals")
@limiter.limit("600 per minute")
@Operation(
    tag="Operators",
    caller="cookie or key",
    scope=scopes.ORG_ADMIN,
    body=EvalBody,
    max_bytes=MAX_BYTES,
    answers={201: ("The result, which only operators see", EvalRow), **NOT_ADMIN},
    door=DOOR,
)
def record() -> ResponseReturnValue:
    """Record the result of an evaluation. Operators only."""
    operator = _operator()
    body = read(EvalBody)
    made = record_eval(
        cost_mode=body.cost_mode,
        reasoner_model=body.reasoner_model,
        agent_model=body.agent_model,
        metadata=body.metadata,
        cost=body.cost,
    )
    db.session.refresh(made)
    after = {"agent_model": made.agent_model, "suite": made.suite, "cost": made.cost}
    audit("eval.recorded", made.id, user=operator, after=after)
    answer = eval_json(made)
    db.session.commit()
    return jsonify(answer), 201


@bp.get("/api/git-evals")
@Operation(
    tag="Operators",
    parameters=[query("limit", f"1 to {MAX_LIMIT}; default: {DEFAULT_LIMIT}")],
    answers={200: ("Results, newest first", EvalRows), 400: BAD_LIMIT},
    door=door(body_error=ApiError),
)
def listed() -> ResponseReturnValue:
    """List evaluation results: public ones, for operators and auditors all."""
    text = request.args.get("limit") or str(DEFAULT_LIMIT)
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= MAX_LIMIT):
        raise DomainError(BAD_LIMIT)
    viewer = cookie_user()
    admin = is_admin(viewer)
    found = latest_evals(int(text), public_only=not (admin or is_auditor(viewer)))
    return jsonify(results=[eval_json(each) for each in found], isAdmin=admin)


@bp.patch("/api/git-evals/visibility")
@Operation(
    tag="Operators",
    caller="cookie",
    body=VisibilityBody,
    answers={
        200: ("The result", EvalRow),
        400: BAD_VISIBILITY,
        404: "No such result",
        **NOT_ADMIN,
    },
    door=DOOR,
)
@admin_required
def change_visibility() -> ResponseReturnValue:
    """Publish an evaluation result, or hide it. Operators only."""
    sent = read_json()
    id, public = (sent.get("id"), sent.get("is_public")) if isinstance(sent, dict) else (None, None)
    if not isinstance(id, str) or not id or not isinstance(public, bool):
        raise DomainError(BAD_VISIBILITY)
    found = eval_with_id(id)
    show_eval(found, public)
    answer = eval_json(found)
    db.session.commit()
    return jsonify(answer)


def _operator() -> User:
    user = cookie_or_key_user()
    if user is None or not is_admin(user):
        raise DomainError(NOT_AN_ADMIN, status=403)
    return user


def eval_json(row: GitEvalResults) -> dict[str, Any]:
    """A result as JSON: the whole row."""
    return {
        "id": row.id,
        "cost_mode": row.cost_mode,
        "reasoner_model": row.reasoner_model,
        "agent_model": row.agent_model,
        "metadata": row.details,
        "cost": row.cost,
        "is_public": row.is_public,
        "created_at": iso(row.created_at),
    }
