"""What the doors of OpenAI's stateful APIs share: who calls, lists with cursors, and errors in OpenAI's format."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from flask import jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field

from models.accounts.key_format import PresentedKey, present
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.core.strict_models import InvalidBody
from models.gateway.chat_format import BadCall
from models.gateway.dialects.dialect import MissingApiKey
from models.gateway.dialects.error_shapes import model_error
from models.ledger import Account
from models.ledger.payers import payer_hint
from models.threads.assistants_api_queries import CursorPage
from views.web import body, guards
from views.web.body import BadJson
from views.web.error_bodies import ModelError, retry_header
from views.web.operation import Answers, ErrorFormat, ResponseModel, query

M = TypeVar("M", bound=BaseModel)
MAX_PAGE = 100
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
READ, WRITE = "threads:read", "threads:write"
FORBIDDEN = "The key lacks the scope, or may not be used from this address, or your account is suspended"
REFUSED: Answers = {
    400: "A parameter is invalid: `param` names it",
    401: "The key is missing, unknown or expired",
    403: FORBIDDEN,
    404: "There is none of yours with this id",
}
PAGE = [
    query("limit", f"Objects on a page, 1 to {MAX_PAGE}; 20 by default"),
    query("order", "By time: `desc` (newest first, the default) or `asc`"),
    query("after", "The id of the last object of the page before"),
]
PAGE_BOTH_WAYS = [*PAGE, query("before", "The id of the first object of the page that follows")]


class ListedObjects(ResponseModel):
    """A page of a list."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAIObject(ResponseModel):
    """An object of OpenAI's API; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str


class OpenAICaller(NamedTuple):
    """Whose objects a key reads and writes: those of one person, paid by the key's account."""

    user_id: str
    account: Account
    key: PresentedKey


def openai_caller() -> OpenAICaller:
    """The caller. Raises MissingApiKey, and a DomainError (401) for an unknown key."""
    token = guards.single_api_key(request.environ)
    if not token:
        raise MissingApiKey
    found = guards.key_credential(token)
    if found is None:
        raise DomainError("This API key is unknown or expired.", status=401, code="invalid_api_key")
    return OpenAICaller(found.user.id, Account.of(found.session), present(token))


def payer_org() -> str | None:
    """The organisation that the client says pays, if it is not the key's own."""
    return payer_hint(request.headers.get("x-stoa-org"), None).org


def read_body(model: type[M], *, optional: bool = False) -> M:
    """The body as `model`; nothing sent is `{}` if it is optional. Raises BadJson, InvalidBody."""
    if optional and not request.content_length and "Transfer-Encoding" not in request.headers:
        return body.parse(model, {})
    return body.read(model)


def page() -> CursorPage:
    """The page that the query asks for. Raises BadCall."""
    text, order = request.args.get("limit", "20"), request.args.get("order", "desc")
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_PAGE):
        raise BadCall(f"'limit' must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    if order not in ("asc", "desc"):
        raise BadCall("'order' must be 'asc' or 'desc'.", param="order")
    after, before = request.args.get("after") or None, request.args.get("before") or None
    return CursorPage(int(text), order == "desc", after, before)


def listed(data: Sequence[Mapping[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of a list, as OpenAI gives it."""
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def unix(moment: datetime) -> int:
    """Seconds since 1970."""
    return int(moment.timestamp())


def format_openai(error: Exception) -> ResponseReturnValue | None:
    """An error in OpenAI's format, which names the parameter that is wrong; None for the server's default."""
    db.session.rollback()
    match error:
        case BadJson():
            return _error(400, f"The request body is not valid JSON: {error}.", "invalid_json")
        case InvalidBody():
            first = error.issues[0]
            param = _param(first["path"])
            where = f"'{param}': " if param else "The body: "
            return _error(400, f"{where}{first['message']}", "invalid_request", param)
        case Invalid():
            param = next(iter(error.fields), None)
            return _error(400 if error.status == 422 else error.status, error.message, error.code, param)
        case DomainError():
            param = getattr(error, "param", None)
            answer = _error(error.status, error.message, error.code, param)
            return (*answer, retry_header(error))
    return None


def _error(status: int, message: str, code: str, param: str | None = None) -> tuple[Any, int]:
    return jsonify(model_error({}, guards.request_id(), status, message, code, param=param)), status


def _param(path: Sequence[Any]) -> str | None:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or None


OPENAI_DOOR = ErrorFormat(format_openai, ModelError, ModelError, ModelError, ModelError)
