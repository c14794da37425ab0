"""What requests about conversations send, and what they are answered."""

from typing import Any, Literal

from pydantic import Field

from views.web.body import Body, Missing
from views.web.operation import ResponseModel

MAX_CREDITS = 10**12
Credits = Field(None, ge=1, le=MAX_CREDITS)


class NewProjectConversation(Body):
    workspace_id: Missing[str] = Field(None, description="The workspace whose files it works on")
    title: str | None = Field(None, description="By default the beginning of the first prompt")
    engine: Missing[str] = Field(None, description="`builtin` (default), `acp` or `store`: what answers")
    level: Missing[str] = Field(
        None, description="`virtual` (default), `process` or `machine`: where it works"
    )
    agent: str | None = Field(None, description="The agent of the store, or the configured command")
    model: str | None = Field(None, description="The model of its turns; by default that of the server")
    budget: int | None = Field(
        None, ge=1, le=MAX_CREDITS, description="Credits that its turns may spend in all"
    )


class ProjectConversationChanges(Body):
    """Omitted keys stay."""

    title: str | None = None
    workspace_id: Missing[str] = Field(None, description="Another workspace of the same project")
    model: Missing[str] = Field(None, description="Empty for that of the server")
    level: Missing[str] = None
    budget: int | None = Field(None, ge=1, le=MAX_CREDITS, description="Credits; null for no limit")


class NewPrompt(Body):
    prompt: Missing[str] = Field(None, description="What to do")
    model: Missing[str] = Field(None, max_length=300)
    budget: Missing[int] = Field(None, ge=1, le=MAX_CREDITS, description="Credits that the turn may spend")
    max_rounds: Missing[int] = Field(None, ge=1, le=100, description="Model calls at most")
    on_busy: Missing[Literal["queue", "reject", "interrupt"]] = Field(
        None, description="While another turn is in progress; by default the prompt waits"
    )


class QuestionAnswers(Body):
    answers: Missing[Any] = Field(None, description="A list of texts for each question")


class ResumeTurn(Body):
    budget: Missing[int] = Field(
        None, ge=1, le=MAX_CREDITS, description="The new budget of the turn, with what it has spent"
    )


class ConversationSnapshot(Body):
    generate_summary: Missing[bool] = None


class BranchHere(Body):
    item_id: str | None = Field(None, description="A timeline item; by default the workspace as it is")
    name: Missing[str] = Field(None, description="The name of the new workspace")
    move: Missing[bool] = Field(None, description="Move this conversation there, instead of beginning one")


class ProjectConversationObject(ResponseModel):
    id: str
    workspace_id: str
    title: str | None
    created_at: str
    updated_at: str
    engine: str
    level: str
    agent: str | None
    model: str | None
    budget: int | None
    spent: int = Field(description="Credits that its turns cost")
    workspace_name: Missing[str] = None
    project_id: Missing[str] = None
    project_name: Missing[str] = None


class ProjectConversationAnswer(ResponseModel):
    conversation: ProjectConversationObject


class ProjectConversationList(ResponseModel):
    conversations: list[ProjectConversationObject]


class DoneAnswer(ResponseModel):
    success: Literal[True]


class ChangedFile(ResponseModel):
    path: str
    change: Literal["added", "modified", "deleted"]


class TalkMessage(ResponseModel):
    id: str
    role: Literal["user", "assistant"]
    content: str
    status: Literal["pending", "running", "completed", "failed"]
    filesChanged: Missing[list[ChangedFile]] = None
    error: Missing[str] = None
    createdAt: str
    completedAt: Missing[str] = None
    turnId: Missing[str] = None
    turnState: Missing[str] = Field(None, description="As in the API of turns, such as `paused`")
    credits: Missing[int] = None


class TalkMessages(ResponseModel):
    messages: list[TalkMessage]


class MessageBegun(ResponseModel):
    messageId: str = Field(description="The id of the answer")
    turnId: str
    status: str


class MessageParts(ResponseModel):
    info: Missing[dict[str, Any]] = None
    parts: list[dict[str, Any]]


class TalkParts(ResponseModel):
    messages: dict[str, MessageParts]


class TimelineEntry(ResponseModel):
    id: str
    messageId: str
    timestamp: str
    summary: str | None
    summaryStatus: Literal["pending", "generating", "completed", "failed"]
    files: list[ChangedFile]
    filesCount: int
    manifestHash: str
    previousManifestHash: Missing[str] = None
    snapshotId: str
    workspaceId: str
    operationId: str | None = Field(description="Undo it at the workspace's operations")
    turnState: str
    lostRace: bool = Field(description="The work is in a workspace beside that of the conversation")
    syncPreviewId: str | None
    credits: int


class TimelineAnswer(ResponseModel):
    timeline: list[TimelineEntry]


class QuestionObject(ResponseModel):
    id: str
    kind: Literal["ask", "permission", "loop_guard"]
    state: Literal["open", "answered", "rejected", "expired"]
    messageId: str
    questions: list[dict[str, Any]]
    answers: list[list[str]] | None
    createdAt: str


class QuestionList(ResponseModel):
    questions: list[QuestionObject]


class FileChangeCounts(ResponseModel):
    added: list[str]
    modified: list[str]
    deleted: list[str]


class SavedSnapshot(ResponseModel):
    snapshot_id: str | None
    manifest_hash: str | None
    was_dirty: bool
    summary: str | None
    file_changes: FileChangeCounts | None


class BranchedConversation(ResponseModel):
    conversation: ProjectConversationObject
    workspace_id: str
    snapshot_id: str | None


class StoppedAnswer(ResponseModel):
    success: Literal[True]
    turnId: str | None = Field(description="The turn that is stopped; null if none was in progress")


class ResumedAnswer(ResponseModel):
    success: Literal[True]
    turnId: str
