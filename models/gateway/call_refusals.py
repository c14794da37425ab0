"""What is recorded of calls that were not admitted."""

import time
from datetime import datetime

from models.accounts.key_format import present
from models.core.db import now
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway import metrics
from models.gateway.admitter import Admitter
from models.gateway.call_errors import CallRefused
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import (
    MAX_STORED_REQUEST,
    CallRequest,
    Dialect,
    ErrorAnswer,
    ErrorContext,
)
from models.gateway.dialects.error_shapes import answer_message
from models.gateway.refused_calls import RefusedCalls
from models.ledger import holds
from models.ledger.holds import Admission


class CallRefusals:
    """Makes the records of refused calls, and queues them."""

    def __init__(self, settings: Settings, admitter: Admitter, refused: RefusedCalls) -> None:
        self._settings = settings
        self._admitter = admitter
        self._refused = refused

    def record(
        self,
        request: CallRequest,
        refusal: CallRefused | DomainError,
        admission: Admission | None,
        started: float,
        started_at: datetime,
    ) -> None:
        """Record a call that was not admitted, in the background. `admission`: what the ledger's checks found, if they passed."""
        if isinstance(refusal, CallRefused):
            admission = refusal.admission
            if admission.user_id is None:
                return
        elif admission is not None:
            metrics.of(metrics.ERRORS, request.dialect.door, refusal.code).inc()
        status, message = self.answer_to(request, refusal)
        record = holds.CallRefusal(
            request_id=request.request_id,
            key_id=request.presented.id,
            org_id=admission.org_id if admission else None,
            run_id=request.run_id,
            door=request.dialect.door,
            requested_model=request.model,
            error=refusal.code,
            http_status=status,
            error_message=message,
            stream=isinstance(request.call, Call) and request.call.stream,
            started_at=started_at,
            latency_ms=int((time.monotonic() - started) * 1000),
            parameters=request.parameters,
        )
        self._refused.add(record, request.refused_input, min(request.size, MAX_STORED_REQUEST))

    def record_unread(
        self,
        dialect: Dialect,
        request_id: str,
        key: str,
        error: CallRefused | DomainError,
        answer: ErrorAnswer,
    ) -> None:
        """Record a call that was refused before its body was read, unless the key is unknown."""
        code, status = error.code, answer.status
        admission = error.admission if isinstance(error, CallRefused) else None
        if status == 401:
            return
        presented = present(key)
        if presented.secret and not self._admitter.has_authenticated(presented, dialect):
            return  # anybody may know the public id
        record = holds.CallRefusal(
            request_id=request_id,
            key_id=presented.id,
            org_id=admission.org_id if admission else None,
            door=dialect.door,
            requested_model="",
            error=code,
            http_status=status,
            error_message=answer_message(answer.body),
            started_at=now(),
            latency_ms=0,
        )
        self._refused.add(record, lambda: (None, None), 0)

    def answer_to(self, request: CallRequest, error: Exception) -> tuple[int, str]:
        """The status and the message that the client gets for an error."""
        answer = request.dialect.error(
            error, ErrorContext(request.request_id, request.headers or {}, self._settings)
        )
        return answer.status, answer_message(answer.body)
