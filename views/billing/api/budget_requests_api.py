"""`POST /api/v1/budget-requests`: a key asks for more of a budget, from the refusal of a call."""

from typing import Annotated, Literal

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.billing import budget_requests
from models.core.db import db
from models.core.errors import DomainError
from models.ledger import Account
from views.web.body import Body, Missing, read
from views.web.error_bodies import door
from views.web.guards import api_key, key_credential, limiter
from views.web.operation import Operation, ResponseModel

bp = Blueprint("budget_requests_api", __name__)


class BudgetRequestBody(Body):
    budgetId: Annotated[str, Field(max_length=100, description="`details.budget_id` of the refusal")]
    amount: Annotated[int, Field(ge=1, le=10**12, description="Credits")]
    reason: Missing[Annotated[str, Field(max_length=1000)]] = None
    runId: Missing[Annotated[str, Field(max_length=200)]] = Field(
        None, description="The run that needs them; it may be granted to this run only"
    )
    subject: Missing[Annotated[str, Field(max_length=300)]] = Field(
        None, description="The agent or root run, if the budget limits those"
    )


class BudgetRequested(ResponseModel):
    id: str
    state: Literal["open"]
    amount: int


@bp.post("/api/v1/budget-requests")
@Operation(
    tag="Credits",
    caller="key",
    scope=scopes.ANY_INFERENCE,
    body=BudgetRequestBody,
    answers={
        201: ("The request; owners and admins get an e-mail", BudgetRequested),
        401: "No key, or an unknown one",
        404: "There is no such budget in the key's account",
        409: "The budget is your own: raise it yourself",
        422: "The budget does not limit your calls, or the run is not yours",
    },
    door=door(),
)
@limiter.limit("20/minute")
def create_budget_request() -> ResponseReturnValue:
    """Ask for more of a budget.

    A second request for the same budget replaces one that is still open. What is approved ends by itself.
    """
    key = key_credential() if api_key() else None
    if key is None:
        raise DomainError("Unauthorized", status=401)
    body = read(BudgetRequestBody)
    made = budget_requests.request_more(
        Account.of(key.session),
        body.budgetId,
        key.user,
        body.amount,
        reason=body.reason or "",
        subject=body.subject,
        key_id=key.session.session_token,
        key_team_id=key.session.team_id,
        run_id=body.runId,
    )
    db.session.commit()
    return jsonify(id=made.id, state=made.state, amount=made.amount), 201
