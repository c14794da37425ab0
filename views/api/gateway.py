"""The gateway as the compatible SDK knows it: chat completions (contract 5), token count (A.5), health (2.14)."""

from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug import Response

from models.db import now
from models.gateway import tokens
from models.gateway.dialects import CODEBUFF
from views import guards
from views.api.body import BadBody, BadJson, Body, TooLarge, parse, read_json
from views.gateway import call_model, json_answer
from views.lane import Visit, open_door

bp = Blueprint("gateway_api", __name__, url_prefix="/api")


@open_door(bp, "/v1/chat/completions")
def chat_completions(visit: Visit) -> Response:
    """Contract section 5."""
    return call_model(visit, CODEBUFF)


class Conversation(Body):
    """What is to be counted: messages in any dialect."""

    messages: Annotated[list[dict[str, Any]], Field(fail_fast=True)]
    system: Any = None
    tools: Any = None
    model: str | None = None


@bp.post("/v1/token-count")
def token_count() -> ResponseReturnValue:
    """Input tokens of a conversation, free of charge (A.5). Other vendors' vocabularies are finer: 30 % are added."""
    try:
        body = read_json(allow_nul=True)
    except BadJson:
        return json_answer({"error": "Invalid JSON in request body"}, 400)
    except TooLarge as error:
        return json_answer({"error": error.description}, 413)
    try:
        asked = parse(Conversation, body)
    except BadBody as error:
        return json_answer({"error": "Invalid request body", "details": error.tree}, 400)
    key = guards.api_key()
    if not key:
        return json_answer({"message": "Unauthorized"}, 401)
    if guards.key_credential(key) is None:
        return json_answer({"message": "Invalid Codebuff API key"}, 401)
    count = tokens.count_messages(asked.messages, asked.tools, asked.system)
    own = asked.model is None or tokens.knows(asked.model)
    return json_answer({"inputTokens": count if own else count + count * 3 // 10})


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """Alive. Says nothing about the database, which `/readyz` does."""
    timestamp = now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return json_answer({"status": "ok", "cached_agents": 0, "timestamp": timestamp})
