"""Errors of the Stripe simulator: Stripe's error objects, with their statuses and codes."""

from typing import Any


class SimulatedError(Exception):
    """An error of Stripe's API. `kept`: it is stored under the idempotency key, as Stripe does for errors of the operation but
    not for invalid parameters."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kept = status == 402
        self.body: dict[str, Any] = {"error": {"message": message, "type": type}}
        given = {"code": code, "param": param, **more}
        self.body["error"] |= {name: value for name, value in given.items() if value is not None}


def missing(kind: str, id: str, param: str = "id", status: int = 404) -> SimulatedError:
    """No such object: 404 if the path names it, 400 if a parameter does."""
    return SimulatedError(f"No such {kind}: '{id}'", status=status, code="resource_missing", param=param)


def required(param: str) -> SimulatedError:
    """A required parameter is missing."""
    return SimulatedError(f"Missing required param: {param}.", code="parameter_missing", param=param)


def invalid(message: str, param: str | None = None, code: str | None = None) -> SimulatedError:
    """A parameter has an invalid value."""
    return SimulatedError(message, code=code, param=param)
