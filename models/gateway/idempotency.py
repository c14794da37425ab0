"""Idempotent calls: a retry with the same `Idempotency-Key` gets the answer of the first call, which is charged once.

The key is claimed when the call is admitted, and the answer stored when it is settled (`models/ledger/idempotent_calls.py`).
A call that ends without a charge frees its key. While the first call is in flight a retry gets 409 at once, with the seconds
after which it is likely to have ended: SDKs wait as long, and a request that waited here would occupy a connection of the
client's and hit its time limit again.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from models.core.errors import DomainError
from models.ledger.idempotent_calls import Claim, ClaimRequest, StoredAnswer

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
ORIGINAL = "Original-Request"
"""Names the call whose answer is replayed."""
DROPPED = "X-Stoa-Dropped"
"""Names the request keys left out for the provider."""
MAX_DROPPED = 50
MAX_HEADER = 2_000
"""Most names, and characters of them, in that header."""
EVENT_STREAM = "text/event-stream"
NOT_STORED = "Idempotent-Stored"
"""`false` on a whole answer that is too large for a replay."""
MAX_KEY = 255
MAX_ANSWER = 4 << 20
"""Largest stored answer, compressed, in bytes."""
REPLAY_BLOCK = 64 << 10
SHOWN_KEY = 100
"""Characters of a key that an error quotes."""


class BadIdempotencyKey(DomainError):
    """The header is unusable."""

    def __init__(self) -> None:
        super().__init__(
            f"'{HEADER}' must have 1 to {MAX_KEY} printable ASCII characters, such as a UUID.",
            code="idempotency_key_invalid",
        )


class KeyReused(DomainError):
    """The key belongs to another request."""

    status = 422
    code = "idempotency_error"


class KeyInUse(DomainError):
    """The first call with the key is in flight."""

    status = 409
    code = "idempotency_key_in_use"


class AnswerNotKept(DomainError):
    """The first call was charged, and its answer was too large to store. A retry does not help."""

    status = 409
    code = "idempotency_answer_not_kept"


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A call's key as sent, and what it claims."""

    value: str = field(repr=False)
    claim: ClaimRequest


@dataclass(slots=True)
class Replay:
    """A stored answer for a retry. `request_id` is that of the call that was charged."""

    answer: StoredAnswer
    request_id: str

    @property
    def streamed(self) -> bool:
        """Whether the client gets it as a stream."""
        return self.answer.content_type.startswith(EVENT_STREAM)

    def blocks(self, greeting: bytes = b"") -> Iterator[bytes]:
        """The body, in blocks; it is never whole in memory."""
        if greeting:
            yield greeting
        reader, rest = zlib.decompressobj(), self.answer.body or b""
        while block := reader.decompress(rest, REPLAY_BLOCK):
            yield block
            rest = reader.unconsumed_tail


class AlreadyCalled(Exception):
    """An earlier call has the idempotency key, and its answer is stored."""

    def __init__(self, replay: Replay) -> None:
        super().__init__(replay.request_id)
        self.replay = replay


class AnswerRecorder:
    """Compresses an answer as it is produced, up to MAX_ANSWER bytes."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(level=3)
        self._parts: list[bytes] = []
        self._size = 0
        self.too_large = False

    def add(self, block: bytes) -> None:
        """Add a part of the answer."""
        if not self.too_large and block:
            self._keep(self._compressor.compress(block))

    def stored(
        self, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> StoredAnswer:
        """End the answer: what is stored of it. Nothing can be added afterwards."""
        if not self.too_large:
            self._keep(self._compressor.flush())
        body = None if self.too_large else b"".join(self._parts)
        self._parts.clear()
        return StoredAnswer(status, content_type, headers or {}, body)

    def _keep(self, compressed: bytes) -> None:
        self._parts.append(compressed)
        self._size += len(compressed)
        if self._size > MAX_ANSWER:
            self.too_large = True
            self._parts.clear()


def dropped_header(dropped: Sequence[str]) -> dict[str, str]:
    """The header that names the request keys left out for the provider: any text of the client's, of any length."""
    if not dropped:
        return {}
    value = ", ".join(dropped[:MAX_DROPPED]).encode("unicode_escape").decode()
    cut = len(dropped) > MAX_DROPPED or len(value) > MAX_HEADER
    return {DROPPED: f"{value[:MAX_HEADER]}, ..." if cut else value}


def recorded(
    body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> StoredAnswer:
    """A whole answer as it is stored."""
    recorder = AnswerRecorder()
    recorder.add(body)
    return recorder.stored(content_type, status, headers)


def idempotency_key(value: str, *parts: bytes | str | None, is_test: bool) -> IdempotencyKey:
    """Read the header. `parts` are what makes two requests the same: route, body, and what decides who pays. Keys of calls with test
    API keys (`is_test`) are apart. Raises BadIdempotencyKey."""
    if not (0 < len(value) <= MAX_KEY and value.isascii() and value.isprintable()):
        raise BadIdempotencyKey
    digest = hashlib.sha256()
    for part in parts:
        raw = b"\xff" if part is None else part.encode("utf-8", "replace") if isinstance(part, str) else part
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    key_hash = hashlib.sha256(f"test\0{value}".encode() if is_test else value.encode()).hexdigest()
    return IdempotencyKey(value, ClaimRequest(key_hash, digest.hexdigest()))


def claim_error(key: IdempotencyKey, claim: Claim, retry_after: int) -> DomainError:
    """Why a call whose key another call has is not made, in Stripe's words. `retry_after`: seconds until that one has probably
    ended."""
    shown = key.value[:SHOWN_KEY]
    if claim.state == "mismatch":
        return KeyReused(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. "
            f"Try using a key other than '{shown}' if you meant to execute a different request."
        )
    if claim.state == "not_kept":
        return AnswerNotKept(
            f"The first request with the key '{shown}' was charged as call {claim.request_id}, and its answer was too large to be "
            "stored for a retry. To make the call again, and be charged again, use another key."
        )
    error = KeyInUse(
        "There is currently another in-progress request using this idempotency key (that probably means you submitted twice, "
        f"and the other request is still going through): {shown}. Please try again later."
    )
    error.retry_after = retry_after
    return error
