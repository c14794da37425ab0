"""`GET /api/v1/api-keys/{id}/usage`: what one key used over time (crafely contract 2.8)."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.usage.usage_scope import scope_of_key
from views.billing.api.api_keys_api import KEY_ID, key_record
from views.usage.api.usage_answers import UsageSeriesAnswer
from views.usage.api.usage_params import ERRORS, NARROWED, RANGE, USAGE_DOOR
from views.usage.api.usage_sum_routes import GROUP_BY, SPLIT, series_answer
from views.web.operation import Operation

bp = Blueprint("api_key_usage_api", __name__)


@bp.get("/api/v1/api-keys/<id>/usage")
@Operation(
    tag="API keys",
    caller="key",
    scope=scopes.USAGE_READ,
    parameters=[KEY_ID, *RANGE, *NARROWED, GROUP_BY, SPLIT],
    answers={
        200: ("The sums of each date", UsageSeriesAnswer),
        401: ERRORS[401],
        403: ERRORS[403],
        404: "No such key of this account",
        422: ERRORS[422],
    },
    door=USAGE_DOOR,
)
def api_key_usage(id: str) -> ResponseReturnValue:
    """Sum the usage of an API key up by hour, day, week or month.

    Of a revoked key too. In the answer's shape of `/api/v1/usage/series`.
    """
    return series_answer(scope_of_key(key_record(id).key))
