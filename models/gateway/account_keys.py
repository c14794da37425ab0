"""Finds the provider keys of the account that pays for a call."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from models.core.pool import Pool
from models.core.sealing import SealBroken, has_context, open_sealed
from models.gateway.provider_keys import PROVIDERS, PURPOSE, key_context
from models.gateway.route import Route
from models.ledger import holds
from models.ledger.holds import Admission

log = logging.getLogger("stoa.gateway")

CACHED_SECONDS = 5.0
"""How long a change of an account's keys may take to have an effect."""
MAX_CACHED = 10_000
# a server that an operator configured may have the name of a provider whose keys pay for nothing here
_PAYING = f"is_active AND provider IN {tuple(PROVIDERS)}"
_OWNERS = f"SELECT DISTINCT coalesce(org_id, user_id) FROM org_provider_key WHERE {_PAYING}"  # noqa: S608
_QUERY = f"""
SELECT provider, sealed, name, use_credits, models, user_ids, key_ids FROM org_provider_key
WHERE (org_id = $1 OR user_id = $1) AND {_PAYING}
ORDER BY priority, num_nonnulls(key_ids, user_ids, models) DESC, created_at, id
"""  # noqa: S608


class PayingKey(NamedTuple):
    """A key of the account that pays, in the call's route. `use_credits`: whether credits pay when it fails."""

    route: Route
    use_credits: bool


class _StoredKey(NamedTuple):
    provider: str
    sealed: str
    name: str
    use_credits: bool
    models: list[str] | None
    user_ids: list[str] | None
    key_ids: list[str] | None


class AccountKeys:
    """The provider keys of accounts, read for each that has any and cached for a few seconds. Most have none: who has some is read
    at once for all, so their calls cost no query."""

    def __init__(self, pool: Pool, secret_key: str) -> None:
        self._pool = pool
        self._secret_key = secret_key
        self._owners: tuple[float, frozenset[str]] = 0.0, frozenset()
        self._cached: dict[str, tuple[float, list[_StoredKey]]] = {}

    def find(self, admission: Admission, route_at: Callable[[str], Route | None]) -> list[PayingKey]:
        """The keys that may pay for the call, in the order of their use. `route_at`: the call's route at a provider, if that may
        serve it. Raises LedgerUnavailable."""
        account_id = admission.account_id
        if account_id is None or account_id not in self._with_keys():
            return []
        whose = "the organisation’s" if admission.org_id else "your"
        found = []
        for key in self._keys(account_id):
            if (
                (key.user_ids is None or admission.user_id in key.user_ids)
                and (key.key_ids is None or admission.key_id in key.key_ids)
                and (route := route_at(key.provider)) is not None
                and (key.models is None or _matches(key.models, _names(admission, route)))
                and (secret := self._opened(account_id, key))
            ):
                named = replace(route, byok=secret, byok_name=f"{whose} own key '{key.name}'")
                found.append(PayingKey(named, key.use_credits))
        return found

    def clear(self) -> None:
        """Forget what was read."""
        self._owners = 0.0, frozenset()
        self._cached.clear()

    def _with_keys(self) -> frozenset[str]:
        until, owners = self._owners
        moment = time.monotonic()
        if until <= moment:
            # others use the old ones meanwhile
            self._owners = moment + CACHED_SECONDS, owners
            try:
                owners = frozenset(row[0] for row in holds.read(self._pool, _OWNERS, ()))
            except BaseException:
                self._owners = 0.0, owners
                raise
            self._owners = moment + CACHED_SECONDS, owners
        return owners

    def _keys(self, account_id: str) -> list[_StoredKey]:
        moment = time.monotonic()
        until, keys = self._cached.get(account_id, (0.0, []))
        if until <= moment:
            rows: list[tuple[Any, ...]] = holds.read(self._pool, _QUERY, (account_id,))
            keys = [_StoredKey(*row) for row in rows]
            if len(self._cached) >= MAX_CACHED:
                self._cached.clear()
            self._cached[account_id] = moment + CACHED_SECONDS, keys
        return keys

    def _opened(self, account_id: str, key: _StoredKey) -> str | None:
        # keys of earlier releases are bound to nothing until they are encrypted again
        context = key_context(account_id, key.provider) if has_context(PURPOSE, key.sealed) else ""
        try:
            return open_sealed(self._secret_key, PURPOSE, key.sealed, context=context).decode()
        except SealBroken:
            log.error("a provider key of account %s was encrypted with another STOA_SECRET_KEY", account_id)
            return None


def _names(admission: Admission, route: Route) -> tuple[str, str]:
    """The model as requested and as listed."""
    return admission.model, route.provider.public_model(route.model)


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a pattern matches a name, in any case: `*` stands for any text, `?` for one character."""
    plain = [pattern.lower().replace("[", "[[]") for pattern in patterns]
    return any(fnmatchcase(name.lower(), pattern) for pattern in plain for name in names)
