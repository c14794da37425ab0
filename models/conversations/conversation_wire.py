"""Conversations, messages, timeline items and questions as the API and its events give them (fastest contract 3.12)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from models.conversations.conversation import ConversationQuestion, TimelineItem
from models.conversations.conversation_access import FoundConversation
from models.threads import ThreadMessage
from models.turns import Turn

PREFIXES = {"user": "msg_", "assistant": "turn_"}
"""What begins the id of the row of a message: the answer is one message, however many rounds its turn has."""
STATUS = {
    "queued": "pending",
    "running": "running",
    "requires_action": "running",
    "paused": "running",
    "completed": "completed",
}
"""The status of an answer by the state of its turn; `failed` by all others."""
_ENDED_BECAUSE = {
    "cancelled": "Stopped.",
    "interrupted": "The server stopped during this answer.",
    "expired": "The question was not answered in time.",
}


def wire_time(moment: datetime | None) -> str | None:
    """UTC in ISO 8601, with milliseconds and Z."""
    return (
        moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
    )


def conversation_json(found: FoundConversation, *, named: bool = True) -> dict[str, Any]:
    """A conversation; `named`: with its project and workspace, as lists and details have it."""
    row = found.conversation
    body: dict[str, Any] = {
        "id": row.id,
        "workspace_id": row.workspace_id,
        "title": row.title,
        "created_at": wire_time(row.created_at),
        "updated_at": wire_time(row.updated_at),
        "engine": row.engine,
        "level": row.level,
        "agent": row.agent,
        "model": row.model,
        "budget": found.thread.budget,
        "spent": found.thread.spent,
    }
    if named:
        body |= {
            "workspace_name": found.workspace.name,
            "project_id": found.project.id,
            "project_name": found.project.name,
        }
    return body


def answer_id(turn: Turn) -> str:
    """The id of the answer of a turn."""
    return turn.id.removeprefix(PREFIXES["assistant"])


def user_message_json(message: ThreadMessage) -> dict[str, Any]:
    """What a person said."""
    at = wire_time(message.created_at)
    return {
        "id": message.id.removeprefix(PREFIXES["user"]),
        "role": "user",
        "content": message.text,
        "status": "completed",
        "createdAt": at,
        "completedAt": at,
    }


def answer_json(
    turn: Turn,
    messages: Iterable[ThreadMessage] = (),
    files: Sequence[Mapping[str, Any]] | None = None,
    *,
    state: str | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """The answer of a turn: the texts of its messages, oldest first. `state` and `error` of a turn that is about to end."""
    state = state or turn.state
    body: dict[str, Any] = {
        "id": answer_id(turn),
        "role": "assistant",
        "content": "\n\n".join(each.text for each in messages if each.role == "assistant" and each.text),
        "status": STATUS.get(state, "failed"),
        "createdAt": wire_time(turn.created_at),
        "turnId": turn.id,
        "turnState": state,
        "credits": turn.credits or 0,
    }
    if files:
        body["filesChanged"] = list(files)
    if problem := error or turn.error_message or _ENDED_BECAUSE.get(state):
        body["error"] = problem
    if turn.ended_at:
        body["completedAt"] = wire_time(turn.ended_at)
    return body


def item_json(item: TimelineItem) -> dict[str, Any]:
    """A timeline item. Its undo is that of its operation; `syncPreviewId` is the prepared sync of work that lost a race."""
    body: dict[str, Any] = {
        "id": item.id,
        "messageId": item.message_id,
        "timestamp": wire_time(item.created_at),
        "summary": item.summary,
        "summaryStatus": item.summary_status,
        "files": item.files,
        "filesCount": item.files_count,
        "manifestHash": item.manifest_hash,
        "snapshotId": item.snapshot_id,
        "workspaceId": item.workspace_id,
        "operationId": item.operation_id,
        "turnState": item.state,
        "lostRace": item.lost_race,
        "syncPreviewId": item.sync_preview_id,
        "credits": item.credits,
    }
    if item.previous_manifest_hash:
        body["previousManifestHash"] = item.previous_manifest_hash
    return body


def question_json(question: ConversationQuestion) -> dict[str, Any]:
    """A question, with its answers if it has them."""
    return {
        "id": question.id,
        "kind": question.kind,
        "state": question.state,
        "messageId": question.turn_id.removeprefix(PREFIXES["assistant"]),
        "questions": question.questions,
        "answers": question.answers,
        "createdAt": wire_time(question.created_at),
    }


def parts_json(messages: Iterable[ThreadMessage]) -> list[dict[str, Any]]:
    """The parts of an answer, oldest first: reasoning, texts, and tools with what they returned."""
    parts: list[dict[str, Any]] = []
    tools: dict[str, dict[str, Any]] = {}
    for message in messages:
        if message.role == "tool":
            if (part := tools.get(message.tool_call_id or "")) is not None:
                part["state"] |= {"status": "completed", "output": message.text}
            continue
        if message.role != "assistant":
            continue
        parts += [
            {"type": each["type"], "text": each["text"], "messageID": message.id}
            for each in message.content
            if each["type"] in ("text", "reasoning")
        ]
        for call in message.tool_calls or ():
            function = call["function"]
            state = {"status": "running", "input": function.get("arguments")}
            part = {"type": "tool", "callID": call["id"], "tool": function["name"], "state": state}
            tools[call["id"]] = part
            parts.append(part)
    return parts
