"""Ids of snapshots that clients compute from what the snapshot says (fastest contract 4.2)."""

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime

_COMPUTED = re.compile(r"[0-9a-f]{64}")


def is_computed(id: str) -> bool:
    """Whether an id has the format of those that clients compute."""
    return _COMPUTED.fullmatch(id) is not None


def computed_id(
    manifest_hash: str, parent_ids: Iterable[str], author_name: str, author_email: str, created_at: datetime
) -> str:
    """The id of a snapshot with this content. The order of parents does not matter, nor do message, agent and workspace."""
    parents = "".join(f"parent {parent}\n" for parent in sorted(parent_ids))
    text = (
        f"snapshot\0manifest_hash {manifest_hash}\n{parents}"
        f"author {author_name} {author_email}\ncreated_at {second_text(created_at)}\n"
    )
    return hashlib.sha256(text.encode()).hexdigest()


def second_text(moment: datetime) -> str:
    """A time as ids have it: RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
