"""Rate limits of attempts with a wrong API key, by address and by public id of the key.

Only failures are counted, after the look-up: a right key costs nothing and is never refused, whoever else guesses behind its address.
"""

import logging
import time
from contextlib import suppress
from math import ceil

from flask_limiter import Limiter
from limits import RateLimitItemPerMinute
from limits.strategies import RateLimiter

from models.accounts import key_format
from models.accounts.key_format import MistypedKey
from models.core.errors import DomainError

log = logging.getLogger("stoa.limits")

NAMESPACE = "failed-keys"


class TooManyFailedKeys(DomainError):
    """Too many attempts with a wrong key, from one address or with one id."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, seconds: int) -> None:
        super().__init__(
            "Too many attempts with an API key that is unknown or expired. Wait a minute, and use another key."
        )
        self.retry_after = seconds


def seconds_to_wait(limiter: Limiter, per_minute: int, address: str, key: str) -> int | None:
    """Count a failed attempt with `key` from `address` (a rate limit key). The seconds to wait if one of them had more than
    `per_minute` (0: no limit), else None. If the storage fails, None."""
    if not per_minute:
        return None
    limit = RateLimitItemPerMinute(per_minute, namespace=NAMESPACE)
    names = [address]
    with suppress(MistypedKey):
        names.append(key_format.present(key).id)
    try:
        waits = [_count(limiter.limiter, limit, name) for name in names]
    except Exception as error:
        log.warning("could not count a failed key: %s", type(error).__name__)
        return None
    return max(waits) or None


def _count(strategy: RateLimiter, limit: RateLimitItemPerMinute, name: str) -> int:
    if strategy.hit(limit, name):
        return 0
    return max(ceil(strategy.get_window_stats(limit, name).reset_time - time.time()), 1)
