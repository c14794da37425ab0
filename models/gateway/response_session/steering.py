"""Steering: input of the user for a response that is being generated, queued until it ends."""

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_PENDING = 16
"""Submissions that wait for one response."""
_PARTS = ("input_text", "input_image", "input_file")
_REQUIRED: Mapping[str, Mapping[str, str]] = {
    "function_call": {"type": "function_call_output", "call_id": "call_id", "name": "name"},
    "custom_tool_call": {"type": "custom_tool_call_output", "call_id": "call_id"},
    "computer_call": {"type": "computer_call_output", "call_id": "call_id"},
    "shell_call": {"type": "shell_call_output", "call_id": "call_id"},
    "local_shell_call": {"type": "local_shell_call_output", "call_id": "call_id"},
    "apply_patch_call": {"type": "apply_patch_call_output", "call_id": "call_id"},
    "mcp_approval_request": {"type": "mcp_approval_response", "approval_request_id": "id"},
}
"""The input that a client owes for each kind of item, and from which of its fields each field comes."""


class SteerFailure(NamedTuple):
    """Why a submission cannot be queued or committed."""

    code: str
    message: str


NOT_FOUND = SteerFailure("response_not_found", "The response is not one of this connection.")
COMPLETED = SteerFailure("response_already_completed", "The response has completed.")
NOT_ACTIVE = SteerFailure("response_not_active", "The response ended without completing.")
TOO_MANY = SteerFailure(
    "too_many_pending_steers", f"At most {MAX_PENDING} submissions can wait for a response."
)
INVALID = SteerFailure(
    "invalid_input",
    "A steer has 'previous_response_id' and 'input': a text, or a list of messages of the user with text, images or files.",
)
NO_SUCCESSOR = SteerFailure(
    "successor_creation_failed", "The response that continues with the input could not be created."
)


@dataclass(frozen=True, slots=True)
class SteerSubmission:
    """Accepted input for a response."""

    target: str
    input: Any = field(repr=False)
    id: str = field(default_factory=lambda: f"steer_{uuid.uuid4().hex}")

    @property
    def items(self) -> list[Any]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input


class SteerEvents:
    """The events about steering of one connection."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def accepted(self, steer: SteerSubmission) -> dict[str, Any]:
        """The input was queued."""
        return self._event("accepted", {"id": steer.id, "previous_response_id": steer.target})

    def pending(self, steer: SteerSubmission, required: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The input waits until the client has sent what the response needs."""
        event = self._event("pending", {"id": steer.id, "previous_response_id": steer.target})
        return {**event, "reason": "waiting_for_required_input", "required_input": list(required)}

    def failed(self, target: Any, given: Any, failure: SteerFailure, id: str | None = None) -> dict[str, Any]:
        """The input is not used, and returned."""
        steer = {"input": given, "previous_response_id": target, **({"id": id} if id else {})}
        error = {"type": "invalid_request_error", "code": failure.code, "message": failure.message}
        return {**self._event("failed", steer), "error": error}

    def _event(self, kind: str, steer: Mapping[str, Any]) -> dict[str, Any]:
        return {"type": f"response.steer.{kind}", "sequence_number": next(self._numbers), "steer": steer}


def is_steer(frame: Mapping[str, Any]) -> bool:
    """Whether a steer has what it needs and nothing else."""
    given = frame.get("input")
    known = frame.keys() <= {"type", "previous_response_id", "input"}
    valid = (
        bool(given)
        if isinstance(given, str)
        else isinstance(given, list) and given and all(map(_is_message, given))
    )
    return known and isinstance(frame.get("previous_response_id"), str) and bool(valid)


def _is_message(item: Any) -> bool:
    if not isinstance(item, dict) or not item.keys() <= {"type", "role", "content"}:
        return False
    content = item.get("content")
    parts = isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") in _PARTS for part in content
    )
    return (
        item.get("type", "message") == "message"
        and item.get("role") == "user"
        and bool(content)
        and (isinstance(content, str) or parts)
    )


def required_input(output: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the client owes before a response can be continued, as stubs that it fills."""
    found = []
    for item in output:
        fields = _REQUIRED.get(str(item.get("type")))
        if fields:
            found.append(
                {name: source if name == "type" else item.get(source) for name, source in fields.items()}
            )
    return found
