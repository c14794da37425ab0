"""`POST /api/v1/feedback`: what users say about answers and about the product (contract A.5)."""

from typing import Annotated, Literal

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field, StringConstraints

from models.accounts import scopes
from models.admin.feedback import record_feedback
from models.core.db import db
from models.core.errors import DomainError
from models.core.strict_models import InvalidBody
from views.admin.api.admin_api_blueprint import bp
from views.web.body import Body, Missing, read
from views.web.error_bodies import door
from views.web.guards import api_key, key_user, limiter
from views.web.operation import Operation, ResponseModel

MAX_BYTES = 256 << 10
Text = Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class FeedbackBody(Body):
    """Other keys are ignored."""

    text: Text
    category: Literal["good_result", "bad_result", "app_bug", "other"]
    type: Literal["message", "general"]
    messageId: Missing[Id] = Field(None, description="The answer that it is about; needed for `message`")
    clientFeedbackId: Missing[
        Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
    ] = Field(None, description="A UUID; sent again, it is stored once")
    source: Missing[Literal["cli", "desktop", "sdk", "web"]] = None


class Stored(ResponseModel):
    success: Literal[True]


@bp.post("/api/v1/feedback")
@limiter.limit("60/hour;300/day")
@Operation(
    tag="Search and feedback",
    caller="key",
    scope=scopes.ANY,
    body=FeedbackBody,
    max_bytes=MAX_BYTES,
    answers={200: ("Stored", Stored), 401: "No key, or an unknown one"},
    door=door(),
)
def feedback() -> ResponseReturnValue:
    """Say what was good or bad about an answer, or report a problem, to the operators of this server."""
    body = read(FeedbackBody)
    if body.type == "message" and body.messageId is None:
        path = {"code": "custom", "path": ["messageId"], "message": "messageId is required for this type"}
        raise InvalidBody([path])
    if not api_key():
        raise DomainError("Unauthorized", status=401)
    user = key_user()
    if user is None:
        raise DomainError("Invalid Codebuff API key", status=401)
    record_feedback(
        user.id,
        category=body.category,
        text=body.text,
        message_id=body.messageId if body.type == "message" else None,
        source=body.source,
        client_id=body.clientFeedbackId and body.clientFeedbackId.lower(),
    )
    db.session.commit()
    return jsonify(success=True)
