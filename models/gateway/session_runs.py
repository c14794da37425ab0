"""Gives calls of a client's session its run, so that unmodified clients have a tree of runs: one for the session, one below it for
each sub-agent. The runs are made by `client_session_run` (SQL) and ended for lack of calls by `models/runs/client_sessions.py`."""

import time
from dataclasses import replace
from typing import NamedTuple

from models.accounts.key_format import PresentedKey
from models.core.db import now
from models.core.pool import Parameter, Pool
from models.core.settings import Settings
from models.gateway.call_session import CallSession
from models.gateway.dialects.dialect import CallRequest
from models.ledger import holds
from models.ledger.holds import LedgerUnavailable

CACHED_SECONDS = 600.0
"""How long after its last call the run of a session is cached: less than a session may be idle."""
UNKNOWN_SECONDS = 10.0
"""How long a session that got no run is not asked for again."""
MAX_CACHED = 20_000
_QUERY = "SELECT client_session_run($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"


class _CacheKey(NamedTuple):
    key: PresentedKey
    org: str | None
    repo_url: str | None
    session: CallSession


class SessionRuns:
    """The runs of sessions that one process has seen. Safe for threads and greenlets."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self._pool = pool
        self._limits = settings.stoa_runs_per_minute, settings.stoa_runs_per_day
        self._cached: dict[_CacheKey, tuple[float, str | None]] = {}

    def attributed(self, request: CallRequest, *, ended: bool = False) -> CallRequest:
        """The request with the run of its session; without one if it names a run itself, or there are too many new ones. One
        round trip for a session or sub-agent that this process does not know, or whose cached run has `ended`; else none."""
        session = request.session
        if session is None or (request.run_id is not None and not ended):
            return request
        key = _CacheKey(request.presented, request.payer.org, request.payer.repo_url, session)
        moment = time.monotonic()
        until, run_id = self._cached.get(key, (0.0, None))
        if ended or until <= moment:
            run_id = self._find(key)
        if len(self._cached) >= MAX_CACHED:
            self._cached.clear()
        self._cached[key] = moment + (CACHED_SECONDS if run_id else UNKNOWN_SECONDS), run_id
        return replace(request, run_id=run_id, session=session if run_id else None)

    def clear(self) -> None:
        """Forget what was read."""
        self._cached.clear()

    def _find(self, key: _CacheKey) -> str | None:
        session = key.session
        who: tuple[Parameter, ...] = (*key.key, key.org, key.repo_url)
        what: tuple[Parameter, ...] = (
            *(session.client, session.id),
            *(session.agent, session.kind, session.parent),
        )
        try:
            rows = holds.read(self._pool, _QUERY, (*who, *what, *self._limits, now()))
        except LedgerUnavailable:
            # the call says so itself
            return None
        return next((str(run_id) for (run_id,) in rows if run_id is not None), None)
