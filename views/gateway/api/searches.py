"""Search helpers of the Codebuff SDK: `/api/v1/web-search` and `/api/v1/docs-search` (contract 2.5)."""

from flask import Blueprint
from pydantic import ConfigDict
from werkzeug import Response

from models.core.strict_models import Missing
from models.gateway.dialects import DOCS_SEARCH, WEB_SEARCH
from models.gateway.dialects.searches import DocsSearchBody, WebSearchBody
from views.gateway.api.model_calls import PAYER_HEADERS, call_model
from views.web import error_bodies
from views.web.error_bodies import ApiBodyError, ApiError, MessageError
from views.web.fast_path import RequestContext, fast_route
from views.web.operation import Answers, ErrorFormat, Operation, ResponseModel

bp = Blueprint("gateway_searches", __name__)

DOOR = ErrorFormat(error_bodies.format_error, ApiError, ApiError, ApiError, ApiError)


class InsufficientForSearch(ResponseModel):
    message: str
    totalRemaining: int
    required: int
    nextQuotaReset: str | None


class WebSearchResult(ResponseModel):
    """`result`, or `error` if nothing was found, which is charged too."""

    model_config = ConfigDict(extra="forbid")

    result: Missing[str] = None
    creditsUsed: Missing[int] = None
    error: Missing[str] = None


class DocsSearchResult(ResponseModel):
    """`documentation`, or `error` if nothing was found, which is charged too."""

    model_config = ConfigDict(extra="forbid")

    documentation: Missing[str] = None
    creditsUsed: Missing[int] = None
    error: Missing[str] = None


ERRORS: Answers = {
    400: ("The body is invalid", ApiBodyError | ApiError),
    401: ("No key, or an unknown one", MessageError),
    402: ("Not enough credits", InsufficientForSearch),
    500: "The service failed, or the credits could not be charged; nothing is charged",
    503: "The operator has set up no service for this search",
}


@fast_route(bp, "/api/v1/web-search")
@Operation(
    tag="Search and feedback",
    caller="key",
    scope=WEB_SEARCH.scope,
    body=WebSearchBody,
    parameters=PAYER_HEADERS,
    answers={200: ("What was found", WebSearchResult), **ERRORS},
    door=DOOR,
)
def web_search(context: RequestContext) -> Response:
    """Search the web.

    Costs 1 credit, and 5 with `depth` deep.
    """
    return call_model(context, WEB_SEARCH)


@fast_route(bp, "/api/v1/docs-search")
@Operation(
    tag="Search and feedback",
    caller="key",
    scope=DOCS_SEARCH.scope,
    body=DocsSearchBody,
    parameters=PAYER_HEADERS,
    answers={200: ("The documentation", DocsSearchResult), **ERRORS},
    door=DOOR,
)
def docs_search(context: RequestContext) -> Response:
    """Search the documentation of a library.

    Costs 1 credit.
    """
    return call_model(context, DOCS_SEARCH)
