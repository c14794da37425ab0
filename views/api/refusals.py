"""How the compatible API refuses: the contract's words under `error`, cause and cure under `details`, and how long to wait."""

from flask import jsonify
from flask.typing import ResponseReturnValue

from models.errors import DomainError


def refusal(error: DomainError) -> ResponseReturnValue:
    """The answer that refuses with this error."""
    details = {"details": error.details} if error.details else {}
    return jsonify(error=error.message, **details), error.status, waiting(error)


def waiting(error: DomainError) -> dict[str, str]:
    """The header that says when to come again, where that helps."""
    return {"Retry-After": str(error.retry_after)} if error.retry_after else {}
