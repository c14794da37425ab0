"""`/v1/responses/<id>`: responses that this server keeps."""

from collections.abc import Callable
from typing import Any, Literal

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict
from werkzeug import Response

from models.accounts import scopes
from models.core.errors import DomainError, NotFound
from models.gateway.chat_format import BadCall
from models.gateway.dialects import RESPONSES
from models.gateway.lenient_json import read
from models.gateway.response_state.response_items import is_item_id, shown
from models.gateway.response_state.response_listing import MAX_PAGE, item_page
from models.gateway.response_state.response_store import ResponseOwner, ResponseStore
from views.gateway.api.model_calls import (
    DOOR,
    FORBIDDEN,
    PAYER_HEADERS,
    gateway,
    json_answer,
    refuse_in,
    response_owner,
)
from views.gateway.api.responses import ModelResponse
from views.threads.api.stateful_responses import (
    background_input,
    cancel_background,
    delete_background,
    find_background,
    stream_background,
)
from views.web.fast_path import current_context
from views.web.operation import Answers, Operation, ResponseModel, query

bp = Blueprint("gateway_stored_responses", __name__, url_prefix="/v1")

INCLUDABLE = (
    *("file_search_call.results", "web_search_call.results", "web_search_call.action.sources"),
    *("message.input_image.image_url", "computer_call_output.output.image_url"),
    *("code_interpreter_call.outputs", "reasoning.encrypted_content", "message.output_text.logprobs"),
)
INCLUDE = query("include", "Additional data, such as `reasoning.encrypted_content`; may be repeated")
GONE = "No such response of yours is kept"
UNREACHABLE = "Kept responses cannot be reached"
REFUSED: Answers = {403: FORBIDDEN, 404: GONE, 503: UNREACHABLE}
IN_PROGRESS = "It is not complete: cancel it first"


class DeletedResponse(ResponseModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(ResponseModel):
    """What the response was generated from: the items before it, if it continued a response, and its own."""

    model_config = ConfigDict(extra="allow")

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


@bp.get("/responses/<id>")
@Operation(
    tag="Responses",
    caller="key",
    scope=scopes.CHAT,
    parameters=[
        INCLUDE,
        query("stream", "The events of a response in the background, from its first one"),
        query("starting_after", "The `sequence_number` after which events are wanted"),
        *PAYER_HEADERS[:2],
    ],
    answers={200: ("The response", ModelResponse), 400: "A parameter is invalid", **REFUSED},
    door=DOOR,
)
def response(id: str) -> ResponseReturnValue:
    """Get a response.

    Responses are kept for 30 days after they were last continued, unless the operator set another time or the request had `store`
    false.
    """

    def found(store: ResponseStore, owner: ResponseOwner) -> Any:
        app = current_context().app
        _include()
        if request.args.get("stream", "").lower() in ("true", "1"):
            if (streamed := stream_background(app, owner, id, _starting_after())) is not None:
                return streamed
            _kept(store, owner, id)
            raise BadCall("Only responses in the background can be streamed again.", param="stream")
        kept = store.find(owner, id)
        whole = read(kept).value if kept is not None else find_background(app, owner, id)
        if whole is None:
            raise _unknown(id)
        return whole

    return _answer(found)


@bp.delete("/responses/<id>")
@Operation(
    tag="Responses",
    caller="key",
    scope=scopes.CHAT,
    parameters=[*PAYER_HEADERS[:2]],
    answers={200: ("It is deleted", DeletedResponse), 409: IN_PROGRESS, **REFUSED},
    door=DOOR,
)
def delete_response(id: str) -> ResponseReturnValue:
    """Delete a response.

    Responses that continue it stay, but can no longer be continued.
    """

    def deleted(store: ResponseStore, owner: ResponseOwner) -> Any:
        ended = delete_background(current_context().app, owner, id)
        if not (store.delete(owner, id) or ended):
            raise _unknown(id)
        return {"id": id, "object": "response", "deleted": True}

    return _answer(deleted)


@bp.get("/responses/<id>/input_items")
@Operation(
    tag="Responses",
    caller="key",
    scope=scopes.CHAT,
    parameters=[
        query("limit", f"Items on a page, 1 to {MAX_PAGE}; 20 by default"),
        query("order", "`desc` (newest first, the default) or `asc`"),
        query("after", "The id of the last item of the page before"),
        INCLUDE,
        *PAYER_HEADERS[:2],
    ],
    answers={200: ("A page of the items", InputItems), 400: "A parameter is invalid", **REFUSED},
    door=DOOR,
)
def input_items(id: str) -> ResponseReturnValue:
    """List the input items of a response."""

    def listed(store: ResponseStore, owner: ResponseOwner) -> Any:
        include, limit, newest_first, after = _include(), _limit(), _newest_first(), request.args.get("after")
        if after is not None and not is_item_id(after):
            raise BadCall("'after' must be the id of an item.", param="after")
        if store.find(owner, id) is not None:
            items = store.input_items(owner, id)
        elif (given := background_input(current_context().app, owner, id)) is not None:
            items = given
        else:
            raise _unknown(id)
        page = item_page(items, limit=limit, newest_first=newest_first, after=after)
        return {
            "object": "list",
            "data": [shown(item, include) for item in page.items],
            "first_id": page.items[0].get("id") if page.items else None,
            "last_id": page.items[-1].get("id") if page.items else None,
            "has_more": page.more,
        }

    return _answer(listed)


@bp.post("/responses/<id>/cancel")
@Operation(
    tag="Responses",
    caller="key",
    scope=scopes.CHAT,
    parameters=[*PAYER_HEADERS[:2]],
    answers={
        200: ("The response", ModelResponse),
        400: "Only responses in the background can be cancelled",
        **REFUSED,
    },
    door=DOOR,
)
def cancel_response(id: str) -> ResponseReturnValue:
    """Cancel a response.

    What was written is kept in it and charged. To end a response that is not in the background, close its connection. Has no effect on
    one that has ended.
    """

    def cancelled(store: ResponseStore, owner: ResponseOwner) -> Any:
        if (found := cancel_background(current_context().app, owner, id)) is not None:
            return found
        _kept(store, owner, id)
        raise BadCall("Cannot cancel a synchronous response.")

    return _answer(cancelled)


def _answer(verb: Callable[[ResponseStore, ResponseOwner], Any]) -> ResponseReturnValue:
    """The answer to the caller whose responses they are, or the error in OpenAI's format."""
    context = current_context()
    try:
        owner = response_owner(context)
        found = verb(gateway(context.app).responses, owner)
        return found if isinstance(found, Response) else json_answer(found)
    except Exception as error:
        return refuse_in(context, RESPONSES, error)


def _kept(store: ResponseStore, owner: ResponseOwner, id: str) -> bytes:
    found = store.find(owner, id)
    if found is None:
        raise _unknown(id)
    return found


def _unknown(id: str) -> DomainError:
    return NotFound(f"Response with id '{id}' not found.")


def _include() -> list[str]:
    wanted = [*request.args.getlist("include"), *request.args.getlist("include[]")]
    for name in wanted:
        if name not in INCLUDABLE:
            raise BadCall(f"'include' must be one of {', '.join(INCLUDABLE)}.", param="include")
    return wanted


def _limit() -> int:
    text = request.args.get("limit", "20")
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_PAGE):
        raise BadCall(f"'limit' must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return int(text)


def _starting_after() -> int:
    text = request.args.get("starting_after", "-1")
    if text != "-1" and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadCall("'starting_after' must be the number of an event.", param="starting_after")
    return int(text)


def _newest_first() -> bool:
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadCall("'order' must be 'asc' or 'desc'.", param="order")
    return order == "desc"
