"""Finds the provider key of the organisation that pays for a call."""

import logging
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from models.core.pool import Pool
from models.core.sealing import SealBroken, open_sealed
from models.gateway.routing import Route
from models.ledger import holds
from models.ledger.holds import Admission
from models.orgs.provider_keys import PURPOSE

log = logging.getLogger("stoa.gateway")

CACHED_SECONDS = 5.0
"""How long a change of an organisation's keys may take to have an effect."""
MAX_CACHED = 10_000
_QUERY = """
SELECT provider, sealed, models, user_ids, key_ids FROM org_provider_key
WHERE org_id = $1 AND is_active ORDER BY num_nonnulls(key_ids, user_ids, models) DESC, created_at, id
"""


class _OrgKey(NamedTuple):
    provider: str
    sealed: str
    models: list[str] | None
    user_ids: list[str] | None
    key_ids: list[str] | None


class OrganisationKeys:
    """The provider keys of organisations, read for each and cached for a few seconds."""

    def __init__(self, pool: Pool, secret_key: str) -> None:
        self._pool = pool
        self._secret_key = secret_key
        self._cached: dict[str, tuple[float, list[_OrgKey]]] = {}

    def find(self, admission: Admission, route: Route) -> str | None:
        """The key that pays for the admitted call, or None. Of several, the one with most restrictions, then the oldest.
        Raises LedgerUnavailable."""
        if admission.org_id is None:
            return None
        names = (admission.model, route.provider.public_model(route.model))
        for key in self._keys(admission.org_id):
            if (
                key.provider == route.provider.name
                and (key.user_ids is None or admission.user_id in key.user_ids)
                and (key.key_ids is None or admission.key_id in key.key_ids)
                and (key.models is None or _matches(key.models, names))
                and (secret := self._opened(admission.org_id, key))
            ):
                return secret
        return None

    def clear(self) -> None:
        """Forget what was read."""
        self._cached.clear()

    def _keys(self, org_id: str) -> list[_OrgKey]:
        moment = time.monotonic()
        until, keys = self._cached.get(org_id, (0.0, []))
        if until <= moment:
            rows: list[tuple[Any, ...]] = holds.read(self._pool, _QUERY, (org_id,))
            keys = [_OrgKey(*row) for row in rows]
            if len(self._cached) >= MAX_CACHED:
                self._cached.clear()
            self._cached[org_id] = moment + CACHED_SECONDS, keys
        return keys

    def _opened(self, org_id: str, key: _OrgKey) -> str | None:
        try:
            return open_sealed(self._secret_key, PURPOSE, key.sealed).decode()
        except SealBroken:
            log.error("a provider key of organisation %s was encrypted with another STOA_SECRET_KEY", org_id)
            return None


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a pattern matches a name, in any case: `*` stands for any text, `?` for one character."""
    plain = [pattern.lower().replace("[", "[[]") for pattern in patterns]
    return any(fnmatchcase(name.lower(), pattern) for pattern in plain for name in names)
