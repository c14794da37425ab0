"""Avatars on other servers: fetched once, re-encoded and served from here, so that no other server learns who views a page.
The original URL stays in `publisher.avatar_url`, which the compatible API returns."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

from sqlalchemy import text

from models.core import safe_fetch
from models.core.db import db
from models.core.errors import DomainError
from models.core.files import Files
from models.core.safe_fetch import FetchFailed, FetchPolicy
from models.store.catalogue import pictures
from models.store.tables import RemotePicture

MAX_TRIES = 3
"""The second attempt is an hour after the first, the third a day after the second."""
BATCH = 20
TIMEOUT = 10.0

_CLAIM = text(
    f"""
    INSERT INTO remote_picture AS known (address, tried_at)
    SELECT avatar_url, CAST(:now AS timestamptz) FROM publisher
    WHERE avatar_url ILIKE 'https://%' AND octet_length(avatar_url) <= {safe_fetch.MAX_URL_LENGTH} AND NOT EXISTS (
        SELECT FROM remote_picture AS kept WHERE kept.address = publisher.avatar_url AND (
            kept.picture IS NOT NULL OR kept.tries >= {MAX_TRIES}
            OR kept.tried_at > CAST(:now AS timestamptz) - interval '1 hour' * power(24, kept.tries - 1)
        )
    )
    LIMIT 1
    ON CONFLICT (address) DO UPDATE SET tries = known.tries + 1, tried_at = excluded.tried_at
        WHERE known.tried_at < excluded.tried_at - interval '30 minutes'
    RETURNING address
    """  # noqa: S608
)
_FORGET = text(
    """
    DELETE FROM remote_picture WHERE tried_at < CAST(:now AS timestamptz) - interval '1 day'
        AND NOT EXISTS (SELECT FROM publisher WHERE avatar_url = address)
    """
)


def fetch_due(
    transaction: Callable[[], AbstractContextManager[None]],
    files: Files,
    now: datetime,
    *,
    guard: FetchPolicy | None = None,
    seconds: float = TIMEOUT,
) -> int:
    """Fetch due avatars, at most `BATCH`; returns the number of attempts. Each `transaction` is one of `db.session`; none is
    open while fetching.

    An address is claimed before it is fetched, so that no two workers fetch it; a crash counts as an attempt.
    """
    for number in range(BATCH):
        with transaction():
            address = db.session.execute(_CLAIM, {"now": now}).scalar()
        if address is None:
            return number
        picture, problem = _fetch(address, files, guard, seconds)
        with transaction():
            row = db.session.get(RemotePicture, address)
            if row is not None:
                row.picture, row.problem = picture, problem
    return BATCH


def _fetch(
    address: str, files: Files, guard: FetchPolicy | None, seconds: float
) -> tuple[str | None, str | None]:
    try:
        raw = safe_fetch.fetch(address, max_bytes=pictures.MAX_BYTES, seconds=seconds, policy=guard)
        return pictures.store(files, raw), None
    except FetchFailed as error:
        return None, f"Not fetched: {error}."
    except DomainError as error:
        return None, error.message


def delete_unused(now: datetime) -> None:
    """Delete the rows of addresses that no publisher uses any more. Idempotent."""
    db.session.execute(_FORGET, {"now": now})
