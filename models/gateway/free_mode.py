"""Calls that an operator gives away: `cost_mode` free in a Codebuff call, for agents and models that the operator lists (contract A.4)."""

from dataclasses import replace
from math import ceil
from time import time

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from models.core.errors import DomainError
from models.core.pool import Pool
from models.core.settings import Settings
from models.gateway.dialects.dialect import CallRequest
from models.gateway.pricing import flat
from models.gateway.route import Route
from models.ledger import holds

FREE_PRICE = flat(0, 0, source="free")
"""The price of calls in free mode."""
_AGENT = """
SELECT r.agent_id, r.user_id FROM agent_run r JOIN session s ON s."userId" = r.user_id
WHERE r.id = $1 AND s."sessionToken" = $2 AND ($3::text IS NULL OR EXISTS (
    SELECT FROM api_key k WHERE k.key_id = $2 AND $3::text IN (k.hashed_key, k.prev_hashed_key)
))
"""
LIMITS: tuple[RateLimitItem, ...] = (
    RateLimitItemPerSecond(2),
    RateLimitItemPerMinute(25),
    RateLimitItemPerMinute(250, 30),
    RateLimitItemPerHour(2_000, 5),
    RateLimitItemPerHour(20_000, 168),
)
"""Of each person, over all their agents (contract A.4)."""


class NotInFreeMode(DomainError):
    """The operator does not give this model away to this agent."""

    status = 403
    code = "free_mode_invalid_agent_model"


class FreeModeLimited(DomainError):
    """The person's free calls are used up for now."""

    status = 429
    code = "free_mode_rate_limited"

    def __init__(self, seconds: int) -> None:
        super().__init__(f"You have used up your free calls for now. Try again in {seconds} seconds.")
        self.retry_after = seconds


class FreeMode:
    """Checks and counts free calls. A call that is refused later counts too."""

    def __init__(self, settings: Settings, pool: Pool, storage: Storage) -> None:
        self._allowed = frozenset(settings.stoa_free_agents)
        self._pool = pool
        self._limiter = FixedWindowRateLimiter(storage)

    def route(self, request: CallRequest, route: Route) -> Route:
        """The route at no price. One round trip. Raises NotInFreeMode, FreeModeLimited, LedgerUnavailable."""
        who = (request.run_id, request.presented.id, request.presented.secret)
        rows = holds.read(self._pool, _AGENT, who) if request.run_id else []
        agent, user_id = rows[0] if rows else ("", "")
        if (str(agent).partition("@")[0].lower(), route.name.lower()) not in self._allowed:
            raise NotInFreeMode(
                f"Free mode is not offered for this agent with the model '{route.name}'. Use another model, or pay with credits."
            )
        for item in LIMITS:
            if not self._limiter.test(item, "free-mode", user_id):
                until = self._limiter.get_window_stats(item, "free-mode", user_id).reset_time
                raise FreeModeLimited(max(ceil(until - time()), 1))
        for item in LIMITS:
            self._limiter.hit(item, "free-mode", user_id)
        return replace(route, price=FREE_PRICE)
