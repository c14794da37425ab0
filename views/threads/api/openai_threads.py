"""`/v1/threads`, and the messages in them: OpenAI's Assistants API on threads."""

from typing import Any, Literal

import orjson
from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models import threads
from models.core.db import db
from models.core.errors import Conflict
from models.gateway.chat_format import BadCall
from models.threads import Thread, tree
from models.threads.assistants_api_objects import message_object, thread_object
from models.threads.assistants_api_queries import (
    Json,
    assistants_of,
    message_fields,
    messages_list,
    shown_message,
)
from models.threads.message_content import checked_metadata
from models.threads.thread import ThreadMessage
from models.threads.thread_limits import count_written
from views.threads.api.openai_assistants import refuse_resources
from views.threads.api.openai_format import (
    OPENAI_DOOR,
    PAGE_BOTH_WAYS,
    READ,
    REFUSED,
    WRITE,
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
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, query

bp = Blueprint("openai_threads", __name__, url_prefix="/v1/threads")
KIND, NAME = "assistants", "Thread"
MAX_MESSAGES = 32
FULL = "The thread is full"


class ThreadBody(Body):
    messages: Objects | None = Field(None, description=f"Its first messages, at most {MAX_MESSAGES}")
    metadata: dict[str, str] | None = None
    tool_resources: dict[str, Any] | None = Field(None, description="Refused, unless empty")


class ThreadChangeBody(Body):
    metadata: dict[str, str] | None = None
    tool_resources: dict[str, Any] | None = Field(None, description="Refused, unless empty")


class MessageBody(Body):
    role: str = Field(description="`user` or `assistant`")
    content: str | list[Any] = Field(description="Text, or parts: `text` and `image_url`")
    attachments: list[Any] | None = Field(None, description="Documents of the thread")
    metadata: dict[str, str] | None = None


class MetadataBody(Body):
    metadata: dict[str, str] | None = None


class DeletedThread(ResponseModel):
    id: str
    object: Literal["thread.deleted"]
    deleted: Literal[True]


class DeletedMessage(ResponseModel):
    id: str
    object: Literal["thread.message.deleted"]
    deleted: Literal[True]


@bp.post("")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    body=ThreadBody,
    answers={200: ("The thread", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def create_thread() -> ResponseReturnValue:
    """Create a thread, as with OpenAI's Assistants API."""
    caller = openai_caller()
    thread = new_thread(caller, read_body(ThreadBody, optional=True))
    db.session.commit()
    return thread_object(thread)


@bp.get("/<thread_id>")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=READ,
    answers={200: ("The thread", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def thread(thread_id: str) -> ResponseReturnValue:
    """Get a thread."""
    return thread_object(own(thread_id))


@bp.post("/<thread_id>")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    body=ThreadChangeBody,
    answers={200: ("The thread", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def update_thread(thread_id: str) -> ResponseReturnValue:
    """Change the metadata of a thread."""
    found = own(thread_id)
    body = read_body(ThreadChangeBody)
    refuse_resources(body.tool_resources)
    if body.metadata is not None:
        threads.change_thread(found, metadata=body.metadata)
        db.session.commit()
    return thread_object(found)


@bp.delete("/<thread_id>")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    answers={200: ("It is deleted", DeletedThread), **REFUSED},
    door=OPENAI_DOOR,
)
def delete_thread(thread_id: str) -> ResponseReturnValue:
    """Delete a thread."""
    threads.delete_thread(own(thread_id))
    db.session.commit()
    return {"id": thread_id, "object": "thread.deleted", "deleted": True}


# -- messages ------------------------------------------------------------------------------------------------


@bp.post("/<thread_id>/messages")
@limiter.limit("600/minute", key_func=key_caller)
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    body=MessageBody,
    answers={200: ("The message", OpenAIObject), 409: FULL, **REFUSED},
    door=OPENAI_DOOR,
)
def create_message(thread_id: str) -> ResponseReturnValue:
    """Add a message to a thread. It is answered by a run."""
    found = own(thread_id)
    body = read_body(MessageBody)
    fields = message_fields(found, body.model_dump())
    try:
        message = threads.add_message(found, **fields)
    except Conflict as error:
        if error.code != "turn_in_progress":
            raise
        raise BadCall(f"Can't add messages to {found.id} while a run is active.") from None
    db.session.commit()
    return _shown(message)


@bp.get("/<thread_id>/messages")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=READ,
    parameters=[*PAGE_BOTH_WAYS, query("run_id", "Only the messages that this run wrote")],
    answers={200: ("A page of the messages", ListedObjects), **REFUSED},
    door=OPENAI_DOOR,
)
def messages(thread_id: str) -> ResponseReturnValue:
    """List the messages of a thread: those of the branch that it shows."""
    found, wanted = own(thread_id), page()
    rows, more = messages_list(found, wanted, request.args.get("run_id") or None)
    names = assistants_of(rows)
    return listed(
        [message_object(tree.message_json(row), names.get(row.turn_id or "")) for row in rows], more=more
    )


@bp.get("/<thread_id>/messages/<message_id>")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=READ,
    answers={200: ("The message", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def message(thread_id: str, message_id: str) -> ResponseReturnValue:
    """Get a message."""
    return _shown(shown_message(own(thread_id), message_id))


@bp.post("/<thread_id>/messages/<message_id>")
@limiter.limit("600/minute", key_func=key_caller)
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    body=MetadataBody,
    answers={200: ("The message", OpenAIObject), **REFUSED},
    door=OPENAI_DOOR,
)
def update_message(thread_id: str, message_id: str) -> ResponseReturnValue:
    """Change the metadata of a message."""
    found = shown_message(own(thread_id), message_id)
    body = read_body(MetadataBody)
    if body.metadata is not None:
        found.metadata_ = checked_metadata(body.metadata)
        db.session.commit()
    return _shown(found)


@bp.delete("/<thread_id>/messages/<message_id>")
@Operation(
    tag="Assistants API",
    caller="key",
    scope=WRITE,
    answers={200: ("It is deleted", DeletedMessage), **REFUSED},
    door=OPENAI_DOOR,
)
def delete_message(thread_id: str, message_id: str) -> ResponseReturnValue:
    """Delete a message. The others stay."""
    found = own(thread_id)
    tree.remove(found, shown_message(found, message_id))
    db.session.commit()
    return {"id": message_id, "object": "thread.message.deleted", "deleted": True}


def own(id: str) -> Thread:
    """The caller's thread. Raises NotFound."""
    caller = openai_caller()
    return threads.own_thread(caller.user_id, caller.account.id, id)


def new_thread(caller: OpenAICaller, body: ThreadBody) -> Thread:
    """A new thread with its first messages. Raises BadCall, Invalid."""
    refuse_resources(body.tool_resources)
    given = body.messages or []
    if len(given) > MAX_MESSAGES:
        raise BadCall(
            f"'messages' has more than {MAX_MESSAGES}. Add the others after them.", param="messages"
        )
    first = [message_fields(None, each, f"messages[{number}]") for number, each in enumerate(given)]
    made = threads.create_thread(
        caller.user_id, caller.account, kind=KIND, name=NAME, metadata=body.metadata or {}
    )
    added = [tree.append(made, **fields) for fields in first]
    size = sum(len(orjson.dumps(message.content)) for message in added)
    count_written(caller.user_id, messages=len(added), size=size)
    return made


def _shown(message: ThreadMessage) -> Json:
    return message_object(tree.message_json(message), assistants_of([message]).get(message.turn_id or ""))
