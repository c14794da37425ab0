"""`/v1/embeddings`: OpenAI's Embeddings API."""

from typing import Any, Literal

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import EMBEDDINGS
from models.gateway.dialects.embeddings import MAX_DIMENSIONS, MAX_INPUTS
from views.gateway.api.model_calls import CALL_ERRORS, CALL_HEADERS, DOOR, call_model
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import Operation, ResponseModel

bp = Blueprint("gateway_embeddings", __name__)


class EmbeddingsBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    model: str = Field(
        min_length=1, description="An id from GET /v1/models", examples=["stoa/demo-embeddings"]
    )
    input: str | list[str] | list[int] | list[list[int]] = Field(
        description=f"A text, or up to {MAX_INPUTS:,}; or their tokens", examples=["The quick brown fox"]
    )
    encoding_format: Missing[Literal["float", "base64"]] = Field(
        None, description="base64: little-endian 32-bit floats"
    )
    dimensions: Missing[int] = Field(None, ge=1, le=MAX_DIMENSIONS)


class EmbeddingVector(BaseModel):
    model_config = ConfigDict(extra="allow")

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(ResponseModel):
    """The provider's response; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    object: Literal["list"]
    model: str = Field(description="The model that answered")
    data: list[EmbeddingVector]
    usage: Missing[dict[str, Any]] = Field(None, description="prompt_tokens and total_tokens")


@fast_route(bp, "/v1/embeddings", "/api/v1/embeddings")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=EMBEDDINGS.scope,
    body=EmbeddingsBody,
    parameters=CALL_HEADERS,
    answers={200: ("The vectors", Embeddings), **CALL_ERRORS},
    door=DOOR,
)
def embeddings(context: RequestContext) -> Response:
    """Create embeddings.

    The input is held before the provider is called, and charged by the tokens that it reports, or counted if it reports none.
    """
    return call_model(context, EMBEDDINGS)
