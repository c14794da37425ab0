"""`/v1/conversations`: OpenAI's Conversations API on threads."""

from collections.abc import Mapping
from typing import Any, Literal

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models import threads
from models.core.db import db
from models.gateway.chat_format import BadCall
from models.gateway.response_state.response_items import shown
from models.threads import Thread, conversation_items
from models.threads.conversation_items import KIND, MAX_ITEMS, conversation_id, own_conversation
from views.gateway.api.stored_responses import INCLUDABLE, INCLUDE
from views.threads.api.openai_format import (
    OPENAI_DOOR,
    PAGE,
    READ,
    REFUSED,
    WRITE,
    ListedObjects,
    Objects,
    OpenAIObject,
    listed,
    openai_caller,
    page,
    read_body,
    unix,
)
from views.web.body import Body, Missing
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, path

bp = Blueprint("openai_conversations", __name__, url_prefix="/v1/conversations")
ITEM = path("itemId", "The id of an item")
FULL = "The conversation is full"


class NewConversation(Body):
    items: Objects | None = Field(None, description=f"Its first items, at most {MAX_ITEMS}")
    metadata: dict[str, str] | None = Field(None, description="At most 16 pairs of text")


class ConversationChange(Body):
    metadata: dict[str, str] | None = Field(description="At most 16 pairs of text; replaces all")


class NewItems(Body):
    items: Objects = Field(description=f"At most {MAX_ITEMS} items")


class ConversationObject(ResponseModel):
    id: str
    object: Literal["conversation"]
    created_at: int = Field(description="Seconds since 1970")
    metadata: dict[str, str]


class DeletedConversation(ResponseModel):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class ConversationItem(OpenAIObject):
    """An item: a message, a call of a function, its output, reasoning and others. It may have more fields."""

    object: Missing[str] = None  # type: ignore[assignment]
    type: str


@bp.post("")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Conversations",
    caller="key",
    scope=WRITE,
    body=NewConversation,
    answers={200: ("The conversation", ConversationObject), **REFUSED},
    door=OPENAI_DOOR,
)
def create_conversation() -> ResponseReturnValue:
    """Create a conversation.

    `POST /v1/responses` with `conversation` continues it.
    """
    caller = openai_caller()
    wanted = read_body(NewConversation, optional=True)
    items = conversation_items.checked_items(wanted.items or [])
    thread = threads.create_thread(
        caller.user_id, caller.account, kind=KIND, name="Conversation", metadata=wanted.metadata or {}
    )
    conversation_items.add_items(thread, items)
    db.session.commit()
    return _json(thread)


@bp.get("/<conversation_id>")
@Operation(
    tag="Conversations",
    caller="key",
    scope=READ,
    answers={200: ("The conversation", ConversationObject), **REFUSED},
    door=OPENAI_DOOR,
)
def conversation(conversation_id: str) -> ResponseReturnValue:
    """Get a conversation."""
    return _json(_own(conversation_id))


@bp.post("/<conversation_id>")
@limiter.limit("120/minute", key_func=key_caller)
@Operation(
    tag="Conversations",
    caller="key",
    scope=WRITE,
    body=ConversationChange,
    answers={200: ("The conversation", ConversationObject), **REFUSED},
    door=OPENAI_DOOR,
)
def update_conversation(conversation_id: str) -> ResponseReturnValue:
    """Change the metadata of a conversation."""
    thread = _own(conversation_id)
    wanted = read_body(ConversationChange)
    threads.change_thread(thread, metadata=wanted.metadata or {})
    db.session.commit()
    return _json(thread)


@bp.delete("/<conversation_id>")
@Operation(
    tag="Conversations",
    caller="key",
    scope=WRITE,
    answers={200: ("It is deleted", DeletedConversation), **REFUSED},
    door=OPENAI_DOOR,
)
def delete_conversation(conversation_id: str) -> ResponseReturnValue:
    """Delete a conversation with its items."""
    threads.delete_thread(_own(conversation_id))
    db.session.commit()
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@bp.post("/<conversation_id>/items")
@limiter.limit("600/minute", key_func=key_caller)
@Operation(
    tag="Conversations",
    caller="key",
    scope=WRITE,
    body=NewItems,
    parameters=[INCLUDE],
    answers={200: ("The new items", ListedObjects), 409: FULL, **REFUSED},
    door=OPENAI_DOOR,
)
def add_items(conversation_id: str) -> ResponseReturnValue:
    """Add items at the end of a conversation."""
    thread, include = _own(conversation_id), _include()
    items = conversation_items.checked_items(read_body(NewItems).items)
    added = conversation_items.add_items(thread, items)
    db.session.commit()
    return listed([shown(item, include) for item in added], more=False)


@bp.get("/<conversation_id>/items")
@Operation(
    tag="Conversations",
    caller="key",
    scope=READ,
    parameters=[*PAGE, INCLUDE],
    answers={200: ("A page of the items", ListedObjects), **REFUSED},
    door=OPENAI_DOOR,
)
def list_items(conversation_id: str) -> ResponseReturnValue:
    """List the items of a conversation."""
    thread, wanted, include = _own(conversation_id), page(), _include()
    found = conversation_items.items_page(
        thread, after=wanted.after, newest_first=wanted.newest_first, limit=wanted.limit
    )
    return listed([shown(item, include) for item in found.items], more=found.more)


@bp.get("/<conversation_id>/items/<item_id>")
@Operation(
    tag="Conversations",
    caller="key",
    scope=READ,
    parameters=[ITEM, INCLUDE],
    answers={200: ("The item", ConversationItem), **REFUSED},
    door=OPENAI_DOOR,
)
def retrieve_item(conversation_id: str, item_id: str) -> ResponseReturnValue:
    """Get an item of a conversation."""
    return shown(conversation_items.item_of(_own(conversation_id), item_id), _include())


@bp.delete("/<conversation_id>/items/<item_id>")
@Operation(
    tag="Conversations",
    caller="key",
    scope=WRITE,
    parameters=[ITEM],
    answers={200: ("The conversation", ConversationObject), **REFUSED},
    door=OPENAI_DOOR,
)
def delete_item(conversation_id: str, item_id: str) -> ResponseReturnValue:
    """Delete an item of a conversation. The others stay."""
    thread = _own(conversation_id)
    conversation_items.remove_item(thread, item_id)
    db.session.commit()
    return _json(thread)


def _own(id: str) -> Thread:
    caller = openai_caller()
    return own_conversation(caller.user_id, caller.account.id, id)


def _json(thread: Thread) -> Mapping[str, Any]:
    return {
        "id": conversation_id(thread),
        "object": "conversation",
        "created_at": unix(thread.created_at),
        "metadata": thread.metadata_,
    }


def _include() -> list[str]:
    wanted = [*request.args.getlist("include"), *request.args.getlist("include[]")]
    for name in wanted:
        if name not in INCLUDABLE:
            raise BadCall(f"'include' must be one of {', '.join(INCLUDABLE)}.", param="include")
    return wanted
