"""`/v1/assistants`: OpenAI's Assistants API on saved assistants."""

from collections.abc import Mapping
from typing import Any, Literal

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.assistants import create_assistant, delete_assistant, update_assistant
from models.assistants.assistant_access import readable_assistant
from models.assistants.assistant_import import imported_id
from models.core.db import db
from models.gateway.chat_format import BadCall
from models.threads.assistants_api_objects import assistant_object
from models.threads.assistants_api_queries import assistants_list
from models.threads.thread_documents import FILE_SEARCH
from views.threads.api.openai_format import (
    OPENAI_DOOR,
    PAGE_BOTH_WAYS,
    REFUSED,
    ListedObjects,
    Objects,
    OpenAICaller,
    OpenAIObject,
    listed,
    openai_caller,
    page,
    read_body,
)
from views.web.body import Body
from views.web.guards import key_caller, limiter, settings
from views.web.operation import Operation, ResponseModel

bp = Blueprint("openai_assistants", __name__, url_prefix="/v1/assistants")
READ, WRITE = "agents:read", "agents:write"
NO_INSTRUCTIONS = "You are a helpful assistant."
NO_NAME = "Assistant"
UPLOAD = "Upload files to POST /api/v1/files, with the id of the assistant or thread that has them"
FULL = "Your account has as many assistants as it may have"
TOO_MUCH = "Your account has saved as much as it may today"
_PARAMS = ("temperature", "top_p", "reasoning_effort", "response_format")
_FIELDS = ("name", "description", "instructions", "model", "metadata")


class AssistantBody(Body):
    name: str | None = None
    description: str | None = None
    instructions: str | None = None
    model: str | None = Field(None, examples=["stoa/demo"])
    tools: Objects | None = Field(None, description="Functions, and `file_search`")
    tool_resources: dict[str, Any] | None = Field(None, description=f"Refused, unless empty. {UPLOAD}")
    metadata: dict[str, str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    response_format: str | dict[str, Any] | None = None


class DeletedAssistant(ResponseModel):
    id: str
    object: Literal["assistant.deleted"]
    deleted: Literal[True]


@bp.post("")
@limiter.limit("60/minute", key_func=key_caller)
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    body=AssistantBody,
    answers={200: ("The assistant", OpenAIObject), 409: FULL, 429: TOO_MUCH, **REFUSED},
    door=OPENAI_DOOR,
)
def create() -> ResponseReturnValue:
    """Create an assistant, as with OpenAI's Assistants API."""
    caller = openai_caller()
    body = read_body(AssistantBody)
    if not body.model:
        raise BadCall("'model' is missing: set it to the name of a model.", param="model")
    fields = {"name": NO_NAME, "instructions": NO_INSTRUCTIONS, **_fields(body, {})}
    saved = create_assistant(caller.user_id, caller.account, fields, settings())
    db.session.commit()
    return assistant_object(saved)


@bp.get("")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=READ,
    parameters=PAGE_BOTH_WAYS,
    answers={200: ("A page of the assistants", ListedObjects), **REFUSED},
    door=OPENAI_DOOR,
)
def assistants() -> ResponseReturnValue:
    """List the assistants."""
    caller = openai_caller()
    found, more = assistants_list(caller.user_id, caller.account, page())
    return listed([assistant_object(saved) for saved in found], more=more)


@bp.get("/<assistant_id>")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=READ,
    answers={200: ("The assistant", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def retrieve(assistant_id: str) -> ResponseReturnValue:
    """Get an assistant."""
    caller, id = _named(assistant_id)
    return assistant_object(readable_assistant(caller.user_id, caller.account, id))


@bp.post("/<assistant_id>")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    body=AssistantBody,
    answers={200: ("The assistant, in a new version", OpenAIObject), 429: TOO_MUCH, **REFUSED},
    door=OPENAI_DOOR,
)
def update(assistant_id: str) -> ResponseReturnValue:
    """Change an assistant. It becomes a new version."""
    caller, id = _named(assistant_id)
    saved = readable_assistant(caller.user_id, caller.account, id)
    body = read_body(AssistantBody)
    fields = _fields(body, saved.version.model_params)
    if fields:
        saved = update_assistant(caller.user_id, caller.account, id, fields, settings())
        db.session.commit()
    return assistant_object(saved)


@bp.delete("/<assistant_id>")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    answers={200: ("It is deleted", DeletedAssistant), **REFUSED},
    door=OPENAI_DOOR,
)
def delete(assistant_id: str) -> ResponseReturnValue:
    """Delete an assistant."""
    caller, id = _named(assistant_id)
    delete_assistant(caller.user_id, caller.account, id)
    db.session.commit()
    return {"id": assistant_id, "object": "assistant.deleted", "deleted": True}


def _named(id: str) -> tuple[OpenAICaller, str]:
    """The caller, and the id of an assistant that may be that of the original of an imported one."""
    caller = openai_caller()
    return caller, imported_id(caller.account, id)


def _fields(body: AssistantBody, params: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an assistant that are sent. Raises BadCall."""
    refuse_resources(body.tool_resources)
    fields = {name: value for name in _FIELDS if (value := getattr(body, name)) is not None}
    if body.tools is not None:
        fields["tools"] = tools_of(body.tools)
    sent = {name: getattr(body, name) for name in _PARAMS if name in body.model_fields_set}
    if sent:
        if sent.get("response_format") == "auto":
            sent["response_format"] = None
        merged = {**params, **sent}
        fields["model_params"] = {name: value for name, value in merged.items() if value is not None}
    return fields


def refuse_resources(resources: Mapping[str, Any] | None) -> None:
    """Raise BadCall for resources of tools that are kept by OpenAI."""
    for name, value in (resources or {}).items():
        if value and (not isinstance(value, dict) or any(value.values())):
            what = "Vector stores are" if name == "file_search" else f"'{name[:40]}' is"
            raise BadCall(f"{what} not served here. {UPLOAD}.", param=f"tool_resources.{name[:40]}")


def tools_of(tools: list[dict[str, Any]]) -> list[Any]:
    """Tools as they are saved: functions, and the name of the search in documents. Raises BadCall."""
    found: list[Any] = []
    for number, tool in enumerate(tools):
        kind = tool.get("type")
        if kind == FILE_SEARCH:
            found.append(FILE_SEARCH)
        elif kind == "function":
            found.append({key: tool[key] for key in ("type", "function") if key in tool})
        else:
            raise BadCall(
                f"'tools[{number}].type' must be 'function' or 'file_search'; others are not served here.",
                param=f"tools[{number}].type",
            )
    return found
