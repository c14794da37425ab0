"""What the domain raises: errors whose message is written for the user and whose status the doors repeat."""


class DomainError(Exception):
    """A refusal. `message` is for the user, `code` for programs, `status` for HTTP. `details` say what caused it and how
    to mend it, where the message is one that the compatible contract gives."""

    status = 400
    code = "bad_request"
    retry_after: int | None = None
    """Seconds after which it may go, where waiting helps."""

    def __init__(
        self, message: str, *, code: str | None = None, status: int | None = None, details: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.code = code or type(self).code
        self.status = status or type(self).status


class Invalid(DomainError):
    """The input cannot be used as it is. `fields` maps a field's name to what is wrong with it."""

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
    """There is no such thing, or it is somebody else's."""

    status = 404
    code = "not_found"


class Forbidden(DomainError):
    """The caller is known and may not."""

    status = 403
    code = "forbidden"


class Conflict(DomainError):
    """The thing is not in a state that allows this."""

    status = 409
    code = "conflict"
