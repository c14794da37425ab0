"""`POST /api/v1/assistants/<id>/publish`: an assistant becomes a version in the store (crafely contract 4.4, section 10)."""

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.assistants import readable_assistant
from models.assistants.store_publishing import publish_assistant
from models.core.db import db, now
from views.assistants.api.assistant_bodies import STRICT
from views.assistants.api.assistant_caller import (
    ASSISTANT_ID,
    DOOR,
    ORG,
    assistant_caller,
)
from views.assistants.api.assistant_routes import bp
from views.web.body import Body, Missing, read
from views.web.guards import audit, key_caller, key_credential, limiter, settings
from views.web.operation import Operation, ResponseModel


class PublishAssistant(Body):
    model_config = STRICT

    publisher_id: str = Field(
        description="A publisher of yours, or of the organisation that owns the assistant"
    )
    agent_id: str = Field(description="The agent's id in the store: lower-case letters, digits and hyphens")
    version: Missing[str] = Field(
        None, description="Greater than the latest, such as 1.0.0; by default the next"
    )
    confirm_private_context: Missing[bool] = Field(
        None, description="Publish the context too; needed if there is one"
    )


class PublishedAssistant(ResponseModel):
    id: str = Field(description="The assistant")
    assistant_version: int
    published_as: str = Field(description="`publisher/agent@version`")
    publisher_id: str
    agent_id: str
    version: str


@bp.post("/api/v1/assistants/<id>/publish")
@limiter.limit("20/minute;200/day", key_func=key_caller)
@Operation(
    tag="Assistants",
    caller="key",
    scope=scopes.AGENTS_PUBLISH,
    parameters=[ASSISTANT_ID, ORG],
    body=PublishAssistant,
    answers={
        201: ("The published version", PublishedAssistant),
        403: "The publisher is not yours, or your role does not allow it",
        404: "The account has no such assistant, or you belong to no such organisation",
        409: "The version was published concurrently, or a limit of the publisher is reached",
        413: "The publisher's limit of bytes is reached",
        422: "The context is not confirmed (`private_context`), or the store refuses the version (`publish_refused`)",
        429: "Daily publishing limit reached; see Retry-After",
    },
    door=DOOR,
)
def publish_an_assistant(id: str) -> ResponseReturnValue:
    """Publish an assistant's current version in the store.

    Instructions become the system prompt, tools their names, variables the parameters of the input; `{{name}}` stays in the prompt as text. MCP servers,
    functions' definitions, model parameters and secrets are not published.
    """
    arrived, caller = now(), assistant_caller()
    readable_assistant(*caller, id)
    key = key_credential()
    assert key is not None, "assistant_caller has raised"
    body = read(PublishAssistant)
    found, reference = publish_assistant(
        key.user,
        caller.account,
        id,
        publisher_id=body.publisher_id,
        agent_id=body.agent_id,
        version=body.version,
        confirm_private_context=body.confirm_private_context is True,
        credential=key.session.type,
        arrived=arrived,
        limits=settings(),
    )
    audit("agent.published", str(reference), user=key.user, after={"assistant": id})
    db.session.commit()
    answer = {
        "published_as": str(reference),
        "publisher_id": reference.publisher,
        "agent_id": reference.agent,
    }
    number = found.version.version
    return jsonify(id=id, assistant_version=number, **answer, version=reference.version), 201
