"""Bodies and answers of the JSON API of threads."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from models.threads.message_content import MAX_PARTS
from views.web.body import Body, Missing
from views.web.operation import ResponseModel

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True)
MAX_CALLS = 128
NAME = "1 to 255 characters"


class ThreadSettingsBody(Body):
    model_config = STRICT

    instructions: str | None = Field(None, description="System text of the thread, at most 64 KiB")
    model: str | None = Field(None, description="Model of its answers; null: the assistant's or the default")
    metadata: Missing[dict[str, str]] = Field(
        None, description="At most 16 pairs; keys of 64, values of 512 characters"
    )
    budget: int | None = Field(
        None, description="The most that its answers may cost, in credits; null: no limit"
    )


class NewAssistantThread(ThreadSettingsBody):
    name: str = Field(description=NAME)
    storage_id: Missing[str] = Field(
        None, description="An id of your own choice, unique in the account; at most 200 characters"
    )


class NewThread(NewAssistantThread):
    agent_id: str | None = Field(None, description="The assistant that answers, `agnt_…`")


class ThreadChanges(ThreadSettingsBody):
    """Omitted keys stay."""

    name: Missing[str] = Field(None, description=NAME)
    agent_id: str | None = Field(None, description="The assistant that answers; null: none")
    head_id: Missing[str] = Field(
        None, description="Show the branch of this message, down to the newest message below it"
    )


class NewMessage(Body):
    model_config = STRICT

    role: Literal["user", "assistant", "system", "tool"]
    content: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_PARTS)] = Field(
        description="Text, or parts: `{type: text, text}`, `{type: image_url, image_url: {url}}`,"
        " `{type: file, document_id, name}`, `{type: reasoning, text}`"
    )
    parent_id: str | None = Field(
        None,
        description="The message that it follows; by default the newest shown. null: it begins the thread anew",
    )
    name: str | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=MAX_CALLS)] | None = Field(
        None, description="As in chat completions"
    )
    tool_call_id: str | None = Field(None, description="The call that a tool's message answers")
    metadata: Missing[dict[str, str]] = None


class ShareBody(Body):
    model_config = STRICT

    lifetime: Literal["day", "week", "month", "never"]
    message_id: Missing[str] = Field(
        None, description="The last message to show; by default the newest shown"
    )
    with_documents: Missing[bool] = Field(
        None, description="Copies get the documents that the shown messages attach, whole; by default not"
    )


class ThreadAnswer(ResponseModel):
    id: str
    name: str
    kind: str = Field(description="The door that made it: thread, conversation or assistants")
    agent_id: str | None
    instructions: str | None
    model: str | None
    storage_id: str | None
    metadata: dict[str, str]
    head_id: str | None = Field(description="The newest message of the branch that is shown")
    messages: int = Field(description="Number of messages, in all branches")
    budget: int | None = Field(description="Credits")
    spent: int = Field(description="Credits that its answers cost")
    reserved: int = Field(description="Credits that running turns may still cost")
    created_at: datetime
    updated_at: datetime
    active_at: datetime = Field(description="When its last message was added")
    deleted_at: datetime | None


class FoundMessage(ResponseModel):
    message_id: str
    snippet: list[str] = Field(
        description="The text around, in pieces: every second one, from the second on, is a word found"
    )


class ListedThreadAnswer(ThreadAnswer):
    found: Missing[FoundMessage] = Field(
        None, description="With `q`: the newest message with the words; missing if only the name has them"
    )


class ThreadList(ResponseModel):
    data: list[ListedThreadAnswer]
    next_cursor: str | None


class MessageAnswer(ResponseModel):
    id: str
    thread_id: str
    seq: int = Field(description="Number of the message in the thread, without gaps")
    parent_id: str | None
    branch_id: str = Field(description="The first message of its branch")
    role: str
    state: str = Field(description="in_progress, completed or incomplete")
    content: list[dict[str, Any]]
    tool_calls: list[Any] | None
    tool_call_id: str | None
    name: str | None
    model: str | None
    finish_reason: str | None
    citations: list[Any] | None
    turn_id: str | None
    message_id: str | None = Field(description="The billed call")
    credits: int | None
    usage: dict[str, Any] | None
    metadata: dict[str, str]
    created_at: datetime
    completed_at: datetime | None


class SiblingsAnswer(ResponseModel):
    place: int = Field(description="From 1")
    count: int
    previous_id: str | None
    next_id: str | None


class ListedMessageAnswer(MessageAnswer):
    siblings: SiblingsAnswer = Field(description="Its place among the messages that follow the same message")


class MessageList(ResponseModel):
    data: list[ListedMessageAnswer]
    next_cursor: str | None = Field(description="The `before`, or with `after` the `after`, of the next page")


class ThreadFile(ResponseModel):
    thread: ThreadAnswer
    messages: list[MessageAnswer]


class ShareAnswer(ResponseModel):
    id: str
    thread_id: str
    message_id: str = Field(description="The last message that it shows")
    url: str = Field(description="Whoever has it may read; keep it secret")
    views: int
    with_documents: bool
    created_at: datetime
    expires_at: datetime | None = Field(description="null: never")
    revoked_at: datetime | None


class ListedShareAnswer(ShareAnswer):
    thread_name: str
    active: bool = Field(description="False: revoked or expired")


class ShareList(ResponseModel):
    data: list[ShareAnswer]


class OwnShareList(ResponseModel):
    data: list[ListedShareAnswer]
    next_cursor: str | None


class SharedMessage(ResponseModel):
    id: str
    role: str
    state: str
    content: list[dict[str, Any]]
    tools: list[str] = Field(description="Names of the tools that it called")
    model: str | None
    citations: list[dict[str, Any]]
    created_at: datetime


class SharedThread(ResponseModel):
    name: str
    expires_at: datetime | None
    with_documents: bool = Field(description="Whether a copy has the attached documents")
    data: list[SharedMessage] = Field(description="Newest first")
    next_cursor: str | None = Field(description="The `before` of the next page")
