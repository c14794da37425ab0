"""`/v1/rerank`: documents by relevance."""

from typing import Any

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import RERANK
from models.gateway.dialects.rerank import MAX_DOCUMENTS
from views.gateway.api.model_calls import CALL_ERRORS, CALL_HEADERS, DOOR, call_model
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import Operation, ResponseModel

bp = Blueprint("gateway_rerank", __name__)


class RerankBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["cohere/rerank-v3.5"])
    query: str = Field(min_length=1)
    documents: list[str | dict[str, Any]] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    top_n: Missing[int] = Field(None, ge=1, description="How many results to return")
    return_documents: Missing[bool] = None


class RankedDocument(BaseModel):
    model_config = ConfigDict(extra="allow")

    index: int
    relevance_score: float


class Ranking(ResponseModel):
    """The provider's response; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    results: list[RankedDocument]


@fast_route(bp, "/v1/rerank", "/api/v1/rerank")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=RERANK.scope,
    body=RerankBody,
    parameters=CALL_HEADERS,
    answers={200: ("The documents by relevance", Ranking), **CALL_ERRORS},
    door=DOOR,
)
def rerank(context: RequestContext) -> Response:
    """Rank documents.

    In the format of Cohere, Jina and OpenRouter. Charged by search units (up to a hundred documents each) or tokens, as reported.
    """
    return call_model(context, RERANK)
