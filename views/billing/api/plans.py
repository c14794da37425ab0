"""JSON routes of plans: list, and management by operators (crafely contract 7.2)."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict, Field

from models.accounts import User
from models.billing.subscription_plans import plans
from models.billing.subscription_plans.plans import MAX_LINES, MAX_WINDOWS, NewPlan, Plan, WindowLimit
from models.core.db import db
from models.core.errors import DomainError, Forbidden, Invalid
from views.web.body import Body, Int32, Missing, read
from views.web.error_bodies import MANAGEMENT
from views.web.format import iso
from views.web.guards import audit, cookie_user, is_admin, limiter
from views.web.operation import Operation, ResponseModel, path

bp = Blueprint("plans_api", __name__)

KEYS = {"price_cents": "price_minor"}
"""Fields of a plan that have another name in bodies."""


_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)
Lines = Annotated[list[str], Field(max_length=MAX_LINES)]


class WindowBody(Body):
    model_config = _STRICT

    name: str = Field(description="Shown to subscribers, such as `week`; unique within the plan")
    hours: Int32 | None = Field(None, description="Its length; null is the billing period")
    credits: Int32 = Field(description="Credits that may be used in each window")


class PlanTerms(Body):
    model_config = _STRICT

    description: Missing[str] = None
    features: Missing[Lines] = Field(None, description="Lines for display")
    models: Lines | None = Field(
        None, description="Patterns of model names, such as `openai/*`; null allows all"
    )
    requests_per_minute: Int32 | None = None
    seats: Int32 | None = None
    included_credits: Missing[Int32] = Field(
        None, description="Credits granted for each paid period, which expire at its end"
    )
    tier: Int32 | None = Field(
        None, description="The number of the tier of the Codebuff client: 100, 200 or 500"
    )
    windows: Missing[Annotated[list[WindowBody], Field(max_length=MAX_WINDOWS)]] = Field(
        None, description="Limits that apply together"
    )
    public: Missing[bool] = Field(None, description="Whether it is listed for sale")
    sort: Missing[Int32] = Field(None, description="Lower ones come first")


class PlanBody(PlanTerms):
    name: str
    price_minor: Int32 = Field(description="Price of an interval in cents")
    interval: str = Field(description="`month` or `year`")


class PlanChanges(PlanTerms):
    name: Missing[str] = None
    price_minor: Missing[Int32] = Field(None, description="Price of an interval in cents")
    interval: Missing[str] = Field(None, description="`month` or `year`")


class WindowAnswer(ResponseModel):
    name: str
    hours: int | None
    credits: int


class PlanAnswer(ResponseModel):
    id: str
    name: str
    version: int = Field(
        description="A change of the price or the limits creates a new version with a new id"
    )
    description: str
    price_minor: int = Field(description="Cents")
    currency: str
    interval: str
    features: list[str]
    models: list[str] | None
    requests_per_minute: int | None
    seats: int | None
    included_credits: int
    tier: int | None
    windows: list[WindowAnswer]
    active: bool = Field(description="False: no longer for sale, still valid for its subscribers")
    public: bool
    sort: int
    created_at: datetime
    updated_at: datetime


class PlanList(ResponseModel):
    plans: list[PlanAnswer]


def _error_response(error: Exception) -> ResponseReturnValue | None:
    """That of management routes, with the names of fields in bodies."""
    if isinstance(error, Invalid):
        error.fields = {KEYS.get(name, name): text for name, text in (error.fields or {}).items()}
    return MANAGEMENT.format(error)


DOOR = replace(MANAGEMENT, format=_error_response)
PLAN_ID = path("id", "The id of a version of a plan")


@bp.get("/api/v1/plans")
@Operation(tag="Plans", answers={200: ("By order and price", PlanList)}, door=DOOR)
def listed() -> ResponseReturnValue:
    """List the plans for sale."""
    return jsonify(plans=[plan_json(each) for each in plans.public_plans()])


@bp.get("/api/v1/plans/<id>")
@Operation(
    tag="Plans",
    answers={200: ("The plan", PlanAnswer), 404: "No such plan"},
    parameters=[PLAN_ID],
    door=DOOR,
)
def plan(id: str) -> ResponseReturnValue:
    """Return a plan, for sale or retired."""
    return jsonify(plan_json(plans.get_plan(id)))


@bp.post("/api/admin/plans")
@limiter.limit("60 per minute")
@Operation(
    tag="Plans",
    caller="cookie",
    body=PlanBody,
    answers={
        201: ("Created", PlanAnswer),
        403: "You are not an operator of this server",
        409: "A plan of this name is for sale",
        422: "A field is missing, unknown or out of bounds",
    },
    door=DOOR,
)
def create() -> ResponseReturnValue:
    """Create a plan. Operators only."""
    operator = _operator()
    made = plans.create_plan(NewPlan(**_terms(read(PlanBody))))
    audit("plan.created", made.id, user=operator, after=plan_json(made))
    body = plan_json(made)
    db.session.commit()
    return jsonify(body), 201


@bp.patch("/api/admin/plans/<id>")
@limiter.limit("60 per minute")
@Operation(
    tag="Plans",
    caller="cookie",
    body=PlanChanges,
    answers={
        200: ("The plan that is for sale now", PlanAnswer),
        403: "You are not an operator of this server",
        404: "No such plan",
        409: "The version is retired, or the name taken",
        422: "A field is unknown or out of bounds",
    },
    parameters=[PLAN_ID],
    door=DOOR,
)
def change(id: str) -> ResponseReturnValue:
    """Change a plan. Operators only.

    A change of the name, the price or a limit creates a new version with its own id; subscribers keep their version.
    """
    operator = _operator()
    found = plans.get_plan(id)
    before = plan_json(found)
    saved = plans.update_plan(found, _terms(read(PlanChanges)))
    body = plan_json(saved)
    audit("plan.changed", saved.id, user=operator, before=before, after=body)
    db.session.commit()
    return jsonify(body)


@bp.delete("/api/admin/plans/<id>")
@limiter.limit("60 per minute")
@Operation(
    tag="Plans",
    caller="cookie",
    answers={
        200: ("Retired", PlanAnswer),
        403: "You are not an operator of this server",
        404: "No such plan",
    },
    parameters=[PLAN_ID],
    door=DOOR,
)
def retire(id: str) -> ResponseReturnValue:
    """Retire a plan: it is no longer sold, and its subscribers keep it. Operators only."""
    operator = _operator()
    found = plans.get_plan(id)
    plans.retire_plan(found)
    body = plan_json(found)
    audit("plan.retired", id, user=operator)
    db.session.commit()
    return jsonify(body)


def _operator() -> User:
    user = cookie_user()
    if user is None:
        raise DomainError("Sign in first.", code="unauthorized", status=401)
    if not is_admin(user):
        raise Forbidden("Only operators of this server manage plans.")
    return user


def _terms(body: PlanTerms) -> dict[str, Any]:
    """The keys that were sent, as fields of a plan."""
    sent = {name: getattr(body, name) for name in body.model_fields_set}
    if "price_minor" in sent:
        sent["price_cents"] = sent.pop("price_minor")
    if "windows" in sent:
        sent["windows"] = [WindowLimit(each.name, each.hours, each.credits) for each in sent["windows"]]
    return sent


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    return {
        "id": plan.id,
        "name": plan.name,
        "version": plan.version,
        "description": plan.description,
        "price_minor": plan.price_cents,
        "currency": plan.currency,
        "interval": plan.interval,
        "features": plan.features,
        "models": plan.models,
        "requests_per_minute": plan.requests_per_minute,
        "seats": plan.seats,
        "included_credits": plan.included_credits,
        "tier": plan.tier,
        "windows": [
            {"name": each.name, "hours": each.hours, "credits": each.credits} for each in plan.windows
        ],
        "active": plan.active,
        "public": plan.public,
        "sort": plan.sort,
        "created_at": iso(plan.created_at),
        "updated_at": iso(plan.updated_at),
    }
