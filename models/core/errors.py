"""Domain errors, with a message for the user and an HTTP status."""


class DomainError(Exception):
    """A rejected request. `message` is for the user, `code` for programs, `status` for HTTP. `details` give cause and fix
    where the compatible contract fixes the message."""

    status = 400
    code = "bad_request"
    retry_after: int | None = None
    """Seconds until a retry may succeed; None if retrying does not help."""

    def __init__(
        self, message: str, *, code: str | None = None, status: int | None = None, details: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.code = code or type(self).code
        self.status = status or type(self).status


class Invalid(DomainError):
    """Invalid input. `fields` maps field names to error messages."""

    status = 422
    code = "invalid"

    def __init__(
        self,
        message: str,
        *,
        fields: dict[str, str] | None = None,
        code: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, code=code, status=status)
        self.fields = fields or {}


class NotFound(DomainError):
    """The resource does not exist or belongs to another account."""

    status = 404
    code = "not_found"


class Forbidden(DomainError):
    """The authenticated caller lacks permission."""

    status = 403
    code = "forbidden"


class Conflict(DomainError):
    """The state of the resource does not allow the operation."""

    status = 409
    code = "conflict"
