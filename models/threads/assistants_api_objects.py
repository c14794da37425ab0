"""Assistants, threads, messages, runs and steps as OpenAI's Assistants API shows them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from models.assistants import SavedAssistant
from models.threads.thread import Thread
from models.threads.thread_documents import FILE_SEARCH
from models.turns import Turn, is_over

RUN, TURN, MESSAGE, STEP = "run_", "turn_", "msg_", "step_"
TOOLS_STEP = "_tools"
"""How the id of a step of tool calls ends."""
_STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "requires_action": "requires_action",
    "paused": "failed",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "failed",
    "expired": "expired",
}
_ERRORS = {
    "insufficient_credits": "rate_limit_exceeded",
    "budget_exceeded": "rate_limit_exceeded",
    "credits_held": "rate_limit_exceeded",
    "rate_limit_exceeded": "rate_limit_exceeded",
    "invalid_request": "invalid_prompt",
}
_WHY_INCOMPLETE = {"cancelled": "run_cancelled", "expired": "run_expired", "length": "max_tokens"}
Json = dict[str, Any]


def unix(moment: datetime | str | None) -> int | None:
    """Seconds since 1970."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return None if moment is None else int(moment.timestamp())


def run_id(turn_id: str) -> str:
    """The id of a turn as a run."""
    return RUN + turn_id.removeprefix(TURN)


def turn_id(run_id: str) -> str:
    """The id of a run as a turn."""
    return TURN + run_id.removeprefix(RUN) if run_id.startswith(RUN) else ""


def assistant_object(saved: SavedAssistant) -> Json:
    """An assistant, in its current version."""
    version, params = saved.version, saved.version.model_params
    return {
        "id": saved.assistant.id,
        "object": "assistant",
        "created_at": unix(saved.assistant.created_at),
        "name": version.name,
        "description": version.description,
        "model": version.model,
        "instructions": version.instructions,
        "tools": tools_shown(version.tools),
        "tool_resources": {},
        "metadata": version.metadata_,
        "temperature": params.get("temperature", 1.0),
        "top_p": params.get("top_p", 1.0),
        "reasoning_effort": params.get("reasoning_effort"),
        "response_format": params.get("response_format", "auto"),
    }


def tools_shown(tools: Sequence[Any]) -> list[Json]:
    """Tools as that API names them; those that are registered here are functions."""
    named = {
        FILE_SEARCH: {"type": "file_search"},
    }
    return [
        named.get(tool, {"type": "function", "function": {"name": tool}}) if isinstance(tool, str) else tool
        for tool in tools
    ]


def thread_object(thread: Thread) -> Json:
    """A thread, without its messages."""
    return {
        "id": thread.id,
        "object": "thread",
        "created_at": unix(thread.created_at),
        "metadata": thread.metadata_,
        "tool_resources": {},
    }


def message_object(message: Mapping[str, Any], assistant_id: str | None = None) -> Json:
    """A message, of `tree.message_json`."""
    incomplete = message["state"] == "incomplete"
    files = [part for part in message["content"] if part["type"] == "file"]
    ended = unix(message["completed_at"])
    reason = _WHY_INCOMPLETE.get(str(message["finish_reason"]), "run_failed")
    return {
        "id": message["id"],
        "object": "thread.message",
        "created_at": unix(message["created_at"]),
        "thread_id": message["thread_id"],
        "role": message["role"],
        "content": _content(message),
        "assistant_id": assistant_id if message["role"] == "assistant" else None,
        "run_id": run_id(message["turn_id"])
        if message["turn_id"] and message["role"] == "assistant"
        else None,
        "attachments": [
            {"file_id": part["document_id"], "tools": [{"type": "file_search"}]} for part in files
        ],
        "metadata": message["metadata"],
        "status": message["state"],
        "completed_at": None if incomplete else ended,
        "incomplete_at": ended if incomplete else None,
        "incomplete_details": {"reason": reason} if incomplete else None,
    }


def begun_message(id: str, thread_id: str, turn_id: str, assistant_id: str | None, created: int) -> Json:
    """A message of which nothing is written yet."""
    return {
        "id": id,
        "object": "thread.message",
        "created_at": created,
        "thread_id": thread_id,
        "role": "assistant",
        "content": [],
        "assistant_id": assistant_id,
        "run_id": run_id(turn_id),
        "attachments": [],
        "metadata": {},
        "status": "in_progress",
        "completed_at": None,
        "incomplete_at": None,
        "incomplete_details": None,
    }


def _content(message: Mapping[str, Any]) -> list[Json]:
    parts: list[Json] = []
    for part in message["content"]:
        if part["type"] == "text":
            text = part["text"]
            parts.append(
                {
                    "type": "text",
                    "text": {"value": text, "annotations": _annotations(text, message["citations"])},
                }
            )
        elif part["type"] == "image_url":
            image = part["image_url"]
            parts.append(
                {
                    "type": "image_url",
                    "image_url": {"url": image["url"], "detail": image.get("detail", "auto")},
                }
            )
    return parts


def _annotations(text: str, citations: Sequence[Mapping[str, Any]] | None) -> list[Json]:
    found: list[Json] = []
    for citation in citations or ():
        mark = f"【{citation.get('number')}】"
        at = text.find(mark) if citation.get("valid") else -1
        if at >= 0:
            found.append(
                {
                    "type": "file_citation",
                    "text": mark,
                    "start_index": at,
                    "end_index": at + len(mark),
                    "file_citation": {"file_id": citation["document_id"]},
                }
            )
    return found


# -- runs ----------------------------------------------------------------------------------------------------


def run_status(turn: Turn, finish_reason: str | None = None) -> str:
    """The status of a turn as a run; `finish_reason` is that of its last message."""
    if turn.state == "running" and turn.stop:
        return "cancelling"
    if turn.state == "completed" and finish_reason == "length":
        return "incomplete"
    return _STATUS[turn.state]


def run_object(turn: Turn, written: Sequence[Mapping[str, Any]] = ()) -> Json:
    """A turn as a run; `written` are its messages. The facts that were asked for are stored with the turn."""
    facts = turn.request.get("run") or {}
    finish = written[-1]["finish_reason"] if written else None
    status = run_status(turn, finish)
    over = is_over(turn) or turn.state == "paused"
    ended = unix(turn.ended_at)
    action = turn.required_action if turn.state == "requires_action" else None
    return {
        "id": run_id(turn.id),
        "object": "thread.run",
        "created_at": unix(turn.created_at),
        "thread_id": turn.subject_id,
        "assistant_id": turn.request.get("assistant_id") or "",
        "status": status,
        "required_action": _action(action) if action else None,
        "last_error": _error(turn) if status == "failed" else None,
        "expires_at": None if over else unix(turn.expires_at),
        "started_at": unix(turn.started_at),
        "cancelled_at": ended if status == "cancelled" else None,
        "failed_at": ended if status == "failed" else None,
        "completed_at": ended if status in ("completed", "incomplete") else None,
        "incomplete_details": {"reason": "max_completion_tokens"} if status == "incomplete" else None,
        "model": facts.get("model") or turn.request.get("model") or "",
        "instructions": facts.get("instructions") or "",
        "tools": facts.get("tools") or [],
        "metadata": facts.get("metadata") or {},
        "usage": usage_of(written) if over else None,
        "temperature": facts.get("temperature", 1.0),
        "top_p": facts.get("top_p", 1.0),
        "reasoning_effort": facts.get("reasoning_effort"),
        "max_prompt_tokens": None,
        "max_completion_tokens": facts.get("max_completion_tokens"),
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "response_format": facts.get("response_format") or "auto",
        "tool_choice": facts.get("tool_choice") or "auto",
        "parallel_tool_calls": facts.get("parallel_tool_calls", True),
    }


def usage_of(messages: Sequence[Mapping[str, Any]]) -> Json:
    """The tokens of the calls that wrote these messages."""
    keys = ("prompt_tokens", "completion_tokens", "total_tokens")
    found = [message["usage"] or {} for message in messages]
    return {key: sum(each[key] for each in found if type(each.get(key)) is int) for key in keys}


def _action(action: Mapping[str, Any]) -> Json:
    return {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {"tool_calls": [_call(call) for call in action["tool_calls"]]},
    }


def _error(turn: Turn) -> Json:
    code = _ERRORS.get(turn.error_code or "", "server_error")
    return {"code": code, "message": turn.error_message or "The run failed."}


def _call(call: Mapping[str, Any], **more: Any) -> Json:
    function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
    return {"id": call["id"], "type": "function", "function": {**function, **more}}


# -- steps ---------------------------------------------------------------------------------------------------


def step_objects(turn: Turn, written: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The steps of a run, oldest first; `written` are its messages in their order."""
    outputs = {message["tool_call_id"]: _text(message) for message in written if message["role"] == "tool"}
    steps: list[Json] = []
    for message in written:
        if message["role"] != "assistant":
            continue
        calls = message["tool_calls"]
        if not calls or _text(message):
            steps.append(message_step(turn, message, whole=True))
        if calls:
            steps.append(tools_step(turn, message, outputs))
    return steps


def message_step(turn: Turn, message: Mapping[str, Any], *, whole: bool) -> Json:
    """The step that writes a message."""
    details = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
    done = whole and message["state"] == "completed"
    return _step(turn, message, "message_creation", details, done=done, over=whole)


def tools_step(turn: Turn, message: Mapping[str, Any], outputs: Mapping[str, str]) -> Json:
    """The step of a message's tool calls, with the outputs that are known."""
    calls = [_call(call, output=outputs.get(call["id"])) for call in message["tool_calls"] or ()]
    done = all(call["id"] in outputs for call in message["tool_calls"] or ())
    return _step(
        turn,
        message,
        "tool_calls",
        {"type": "tool_calls", "tool_calls": calls},
        done=done,
        over=is_over(turn),
    )


def _step(
    turn: Turn, message: Mapping[str, Any], kind: str, details: Json, *, done: bool, over: bool
) -> Json:
    ended = {"cancelled": "cancelled", "expired": "expired"}.get(turn.state, "failed")
    status = "completed" if done else ended if over else "in_progress"
    at = unix(message.get("completed_at")) if over or done else None
    suffix = TOOLS_STEP if kind == "tool_calls" else ""
    return {
        "id": f"{STEP}{message['id'].removeprefix(MESSAGE)}{suffix}",
        "object": "thread.run.step",
        "created_at": unix(message["created_at"]),
        "run_id": run_id(turn.id),
        "thread_id": turn.subject_id,
        "assistant_id": turn.request.get("assistant_id") or "",
        "type": kind,
        "status": status,
        "step_details": details,
        "last_error": _error(turn) if status == "failed" else None,
        "cancelled_at": at if status == "cancelled" else None,
        "completed_at": at if status == "completed" else None,
        "expired_at": at if status == "expired" else None,
        "failed_at": at if status == "failed" else None,
        "metadata": {},
        "usage": usage_of([message]) if over and message.get("usage") else None,
    }


def _text(message: Mapping[str, Any]) -> str:
    return "\n".join(part["text"] for part in message["content"] if part["type"] == "text")
