"""`/v1/projects/{id}/decisions`: what was decided, from where, and what became of it (fastest contract 3.13)."""

from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.insights import ProjectDecision
from models.insights.decision_verbs import (
    adr_text,
    conversations_to_read,
    decision_in,
    decisions_in,
    review_decision,
    write_decision,
)
from models.insights.model_asking import find_decisions
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
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Answers, Operation, ResponseModel, path, query

DECISION_ID = path("decisionId", "The id of the decision")
NO_DECISION: Answers = {**NOT_YOURS, 404: "You have no such project, or it no such decision"}
COLUMNS = (
    *("id", "project_id", "conversation_id", "decision", "rationale", "category", "message_id", "quote"),
    *("state", "superseded_by_id", "found_by", "model"),
)
Category = Literal["architecture", "scope", "tech_choice", "approach", "process", "product"]


class ExtractionBody(Body):
    conversation_id: Missing[str] = Field(
        None, description="One conversation; by default those that changed last"
    )
    max_conversations: Missing[Annotated[int, Field(ge=1, le=10)]] = Field(None, description="4 by default")
    messages_per_conversation: Missing[Annotated[int, Field(ge=4, le=20)]] = Field(
        None, description="The last ones; 10 by default"
    )


class NewDecisionBody(Body):
    decision: str
    rationale: Missing[str] = None
    category: Missing[str] = Field(
        None, description="`architecture`, `scope`, `tech_choice`, `approach`, `process` or `product`"
    )


class DecisionReviewBody(Body):
    state: str = Field(description="`accepted`, `rejected`, `superseded`, or `proposed` again")
    superseded_by: Missing[str] = Field(None, description="The accepted decision that took its place")


class DecisionObject(ResponseModel):
    id: str
    project_id: str
    conversation_id: str | None
    decision: str
    rationale: str | None
    category: Category | None
    decided_at: datetime
    message_id: str | None = Field(description="The message that says it")
    quote: str | None = Field(description="Words of that message")
    state: Literal["proposed", "accepted", "rejected", "superseded"]
    superseded_by_id: str | None
    found_by: Literal["rules", "model", "person"]
    model: str | None = Field(description="The model that read it out of the message")
    reviewed_at: datetime | None


class DecisionList(ResponseModel):
    decisions: list[DecisionObject] = Field(description="The newest first")


class DecisionAnswer(ResponseModel):
    decision: DecisionObject


@bp.get("/projects/<project_id>/decisions")
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, query("state", "Those of one state; by default all")],
    answers={200: ("The decisions", DecisionList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_decisions(project_id: str) -> Response:
    """List the decisions of a project, also proposed and rejected ones."""
    project = own_project(project_caller(), project_id)
    rows = decisions_in(project, request.args.get("state") or None)
    return jsonify(decisions=[decision_json(row) for row in rows])


@bp.post("/projects/<project_id>/decisions")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    body=NewDecisionBody,
    answers={201: ("The decision, accepted", DecisionAnswer), **NOT_YOURS, **WRONG},
    door=DOOR,
)
def add_decision(project_id: str) -> ResponseReturnValue:
    """Write down a decision. Agents that work on the project are told it."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    body = read(NewDecisionBody)
    row = write_decision(caller, project_id, body.decision, body.rationale or "", body.category)
    db.session.commit()
    return jsonify(decision=decision_json(row)), 201


@bp.post("/projects/<project_id>/decisions/extract")
@limiter.limit(GENERATIONS, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, MODEL],
    body=ExtractionBody,
    answers={200: ("All decisions of the project", DecisionList), **NO_MODEL, **WRONG},
    door=DOOR,
)
def extract_decisions(project_id: str) -> Response:
    """Look for decisions in the project's conversations.

    What is found is a proposal, with the words of the message that say it: the server checks that they stand there. `model=rules` finds
    what is said in so many words, such as "we decided to …". What was rejected is not proposed again. The body may be left out.
    """
    caller = project_caller()
    project = own_project(caller, project_id, "edit_projects")
    model = asked_model()
    body = read(ExtractionBody) if request.content_length else ExtractionBody()
    chosen = conversations_to_read(caller, project, body.conversation_id, body.max_conversations or 4)
    find_decisions(chosen, body.messages_per_conversation or 10, model, said)
    db.session.commit()
    return jsonify(decisions=[decision_json(row) for row in decisions_in(project)])


@bp.get("/projects/<project_id>/decisions/export")
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("Markdown", str), **NOT_YOURS},
    door=DOOR,
)
def export_decisions(project_id: str) -> Response:
    """Export the accepted and superseded decisions as architecture decision records."""
    project = own_project(project_caller(), project_id)
    return markdown_file(adr_text(project, decisions_in(project)))


@bp.patch("/projects/<project_id>/decisions/<decision_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, DECISION_ID],
    body=DecisionReviewBody,
    answers={200: ("The decision", DecisionAnswer), **NO_DECISION, **WRONG},
    door=DOOR,
)
def review(project_id: str, decision_id: str) -> Response:
    """Accept, reject or replace a decision."""
    caller = project_caller()
    decision_in(own_project(caller, project_id, "edit_projects"), decision_id)
    body = read(DecisionReviewBody)
    row = review_decision(caller, project_id, decision_id, body.state, body.superseded_by)
    db.session.commit()
    return jsonify(decision=decision_json(row))


def markdown_file(text: str) -> Response:
    """A file that browsers save."""
    response = Response(text, mimetype="text/plain")
    response.headers["Content-Disposition"] = 'attachment; filename="decisions.md"'
    return response


def decision_json(row: ProjectDecision) -> dict[str, Any]:
    """A `DecisionObject`."""
    times = {name: iso(getattr(row, name)) for name in ("decided_at", "reviewed_at")}
    return {**{name: getattr(row, name) for name in COLUMNS}, **times}
