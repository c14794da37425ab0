"""The blueprint of the JSON API of conversations about projects, whose conversation a route means, and how its errors look (fastest contract 3.12)."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from models.accounts.key_format import PresentedKey, present
from models.conversations import FoundConversation, own_conversation
from models.core.errors import Invalid
from models.core.strict_models import InvalidBody
from views.projects.api.projects_api_blueprint import (
    ProjectError,
    error_body,
    format_project_error,
    project_caller,
)
from views.web.guards import api_key
from views.web.operation import Answers, ErrorFormat, path

bp = Blueprint("conversations_api", __name__, url_prefix="/v1")

TAG = "Project conversations"
CHANGES = "600/minute"
"""How many changes a person may make."""
CONVERSATION_ID = path("conversationId", "The id of the conversation")
YOURS: Answers = {
    403: "Your role in the organisation does not allow it",
    404: "You have no such conversation",
}
WRONG: Answers = {
    400: "The body is not JSON (`INVALID_JSON`), or a field is missing or wrong (`INVALID_INPUT`)"
}
BUSY = "A turn of the conversation is in progress (`TURN_IN_PROGRESS`)"


def own(id: str, capability: str = "see_projects", *, lock: bool = False) -> FoundConversation:
    """The caller's conversation. Raises DomainError (401), NotFound, Forbidden."""
    return own_conversation(project_caller(), id, capability, lock=lock)


def presented() -> PresentedKey:
    """The key of this request, as turns keep it."""
    return present(api_key() or "")


def format_conversation_error(error: Exception) -> ResponseReturnValue | None:
    """An error in the envelope of the contract: what is wrong with a body is 400 here."""
    answer = format_project_error(error)
    match error:
        case InvalidBody():
            first = error.issues[0]
            where = ".".join(str(key) for key in first["path"])
            message = f"'{where}': {first['message']}" if where else f"The body: {first['message']}"
            return error_body(400, "INVALID_INPUT", message, error.issues)
        case Invalid(status=422) if isinstance(answer, Response):
            return error_body(400, "INVALID_INPUT", error.message, error.fields or None)
    return answer


DOOR = ErrorFormat(
    format_conversation_error, ProjectError, ProjectError, ProjectError, ProjectError, suspended=True
)
