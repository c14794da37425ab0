"""Locks out whoever enters codes of devices that do not exist, so that codes cannot be guessed (RFC 8628, 5.1)."""

import logging
import time
from math import ceil

from limits import RateLimitItemPerMinute

from models.core.errors import DomainError
from views.web.guards import limiter

log = logging.getLogger("stoa.limits")

MISSES = RateLimitItemPerMinute(10, 15, namespace="code-misses")
"""Ten in a quarter of an hour, as long as a code lives."""


class TooManyMisses(DomainError):
    """No code is accepted from this person for now, not even a right one."""

    status = 429
    code = "too_many_codes"

    def __init__(self, seconds: int) -> None:
        super().__init__(
            "Too many codes that do not exist. Wait a quarter of an hour, then start the sign-in again in your terminal."
        )
        self.retry_after = seconds


def check_misses(user_id: str) -> None:
    """Raise TooManyMisses after ten misses of this person."""
    try:
        if limiter.limiter.test(MISSES, user_id):
            return
        seconds = ceil(limiter.limiter.get_window_stats(MISSES, user_id).reset_time - time.time())
    except Exception as error:
        # as the limiter does: a broken storage does not keep people out
        log.warning("could not read misses of codes: %s", type(error).__name__)
        return
    raise TooManyMisses(max(seconds, 1))


def count_miss(user_id: str) -> None:
    """Count a code that does not exist."""
    try:
        limiter.limiter.hit(MISSES, user_id)
    except Exception as error:
        log.warning("could not count a miss of a code: %s", type(error).__name__)
