"""Why a sync is refused, with what a client needs to mend it (fastest contract 3.10)."""

from typing import Any

from models.core.errors import DomainError


class SyncRefused(DomainError):
    """A sync that cannot be prepared or executed. `facts` are for programs."""

    def __init__(
        self, message: str, *, code: str, status: int = 400, facts: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message, code=code, status=status)
        self.facts = facts


class PreviewGone(SyncRefused):
    """The preview is unknown, has expired, or was executed."""

    def __init__(self) -> None:
        super().__init__(
            "There is no such preview, or it has expired or was executed. Prepare the sync again.",
            code="preview_expired",
            status=404,
        )


class PreviewStale(SyncRefused):
    """A head moved since the preview was made. `moved` are `workspace` and `main`, `version` is the workspace's now."""

    def __init__(self, moved: list[str], version: int) -> None:
        super().__init__(
            "The workspace or main moved since the preview was made. Prepare the sync again.",
            code="preview_stale",
            status=409,
            facts={"moved": moved, "version": version},
        )


class SyncFilesMissing(SyncRefused):
    """Files that the merge needs were named by a manifest and never sent."""

    def __init__(self, hashes: list[str]) -> None:
        super().__init__(
            "Files that the merge needs are not stored. Send those of details.missingBlobs, then prepare the sync again.",
            code="manifest_invalid",
            status=409,
            facts={"missingBlobs": hashes[:1_000], "missingCount": len(hashes)},
        )
