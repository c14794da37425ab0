"""`/v1/images/*`: OpenAI's Images API."""

from typing import Any

from flask import Blueprint
from pydantic import BaseModel, ConfigDict, Field
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import IMAGE_EDITS, IMAGES
from models.gateway.formats.image_requests import MAX_IMAGES
from views.gateway.api.model_calls import CALL_ERRORS, CALL_HEADERS, DOOR, call_model
from views.web.fast_path import MAX_UPLOAD_BYTES, RequestContext, fast_route
from views.web.operation import Operation, ResponseModel

bp = Blueprint("gateway_images", __name__)


class ImagesBody(BaseModel):
    """Documentation only: the dialect parses the body (`models/gateway/dialects`)."""

    model: str = Field(min_length=1, description="An id from GET /v1/models", examples=["openai/gpt-image-2"])
    prompt: str = Field(min_length=1, max_length=32_000)
    n: Missing[int] = Field(None, ge=1, le=MAX_IMAGES, description="Number of images")
    size: Missing[str] = Field(None, description="Such as 1024x1024; or give `width` and `height`")
    quality: Missing[str] = None
    stream: Missing[bool] = Field(None, description="Answer as server-sent events, with partial images")
    partial_images: Missing[int] = Field(None, ge=0, le=3)


class ImageEditBody(ImagesBody):
    """JSON with the addresses of images; or a form with the same fields, and files as `image`, `image[]` and `mask`."""

    images: Missing[list[dict[str, Any]]] = Field(None, description="Objects with `image_url`")


class Images(ResponseModel):
    """The provider's response; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    data: list[dict[str, Any]] = Field(description="Each with `b64_json` or `url`")
    usage: Missing[dict[str, Any]] = None


@fast_route(bp, "/v1/images/generations", "/api/v1/images/generations")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=IMAGES.scope,
    body=ImagesBody,
    parameters=CALL_HEADERS,
    answers={200: ("The images, or their stream", Images), **CALL_ERRORS},
    door=DOOR,
)
def image_generations(context: RequestContext) -> Response:
    """Generate images.

    What they cost at most is held before the provider is called: tokens, or a price per image by size and quality. Charged by the
    reported tokens, or by the images of the answer.
    """
    return call_model(context, IMAGES)


@fast_route(bp, "/v1/images/edits", "/api/v1/images/edits")
@Operation(
    tag="Embeddings and media",
    caller="key",
    scope=IMAGE_EDITS.scope,
    body=ImageEditBody,
    max_bytes=MAX_UPLOAD_BYTES,
    parameters=CALL_HEADERS,
    answers={200: ("The images, or their stream", Images), **CALL_ERRORS},
    door=DOOR,
)
def image_edits(context: RequestContext) -> Response:
    """Edit images.

    A multipart form with image files, or JSON with their addresses.
    """
    return call_model(context, IMAGE_EDITS)
