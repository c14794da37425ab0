"""`/v1/moderations`: OpenAI's Moderations API."""

from typing import Any

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import MODERATIONS
from models.gateway.dialects.moderations import DEFAULT_MODEL
from views.gateway.api.model_calls import CALL_ERRORS, CALL_HEADERS, DOOR, call_model
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import Operation, ResponseModel

bp = Blueprint("gateway_moderations", __name__)


class ModerationBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    input: str | list[str] | list[dict[str, Any]] = Field(
        description="A text, texts, or parts with text or images"
    )
    model: Missing[str] = Field(None, description=f"By default {DEFAULT_MODEL}")


class Moderation(ResponseModel):
    """The provider's response; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    id: Missing[str] = None
    model: Missing[str] = None
    results: list[dict[str, Any]]


@fast_route(bp, "/v1/moderations", "/api/v1/moderations")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=MODERATIONS.scope,
    body=ModerationBody,
    parameters=CALL_HEADERS,
    answers={200: ("The classification of each input", Moderation), **CALL_ERRORS},
    door=DOOR,
)
def moderations(context: RequestContext) -> Response:
    """Classify content.

    Free at OpenAI. Elsewhere it costs what the operator's price file says for each request or token.
    """
    return call_model(context, MODERATIONS)
