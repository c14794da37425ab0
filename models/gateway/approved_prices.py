"""Prices that an operator approved, as one process knows them. Every worker starts to use them at the same full minute."""

import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from models.core.db import now
from models.core.pool import Pool
from models.gateway.price_file import parse_price
from models.gateway.pricing import ModelPrice
from models.ledger import holds
from models.ledger.holds import LedgerUnavailable

log = logging.getLogger("stoa.gateway")

FRESH_SECONDS = 20.0
"""How long what was read is used. Less than `price_imports.NOTICE`, so that no worker learns of a change too late."""

RETRY_SECONDS = 2.0

_LATEST = """
SELECT id, effective_at, result FROM price_import
WHERE state = 'approved' AND (effective_at > $1 OR id = (
    SELECT id FROM price_import WHERE state = 'approved' AND effective_at <= $1 ORDER BY effective_at DESC, id DESC LIMIT 1
))
ORDER BY effective_at, id
"""


def scoped(table: str, name: str) -> str:
    """The key of a price that is for the models of one provider only."""
    return f"{table}\t{name}"


class ApprovedPrices:
    """The approved prices by model, in lower case. Reads the database at most every `FRESH_SECONDS`, and only when a price is
    looked up, which routes do once a minute."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._sets: list[tuple[int, datetime, Mapping[str, ModelPrice]]] = []

    def find(self, table: str, name: str) -> ModelPrice | None:
        """The price in force of a model with this name, of the provider with this price table. Raises LedgerUnavailable if no price was ever read."""
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._refresh()
        if not self._sets:
            return None
        moment = now()
        due = [prices for _, effective_at, prices in self._sets if effective_at <= moment]
        if not due:
            return None
        return due[-1].get(scoped(table, name.lower())) or due[-1].get(name.lower())

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._read_at <= FRESH_SECONDS:
                return
            known = {id: (id, effective_at, prices) for id, effective_at, prices in self._sets}
            try:
                rows = holds.read(self._pool, _LATEST, (now(),))
            except LedgerUnavailable:
                if self._read_at == float("-inf"):
                    raise
                log.warning("approved prices could not be read; the last ones stay")
                self._read_at = time.monotonic() - FRESH_SECONDS + RETRY_SECONDS
                return
            self._sets = [
                known.get(id) or (id, effective_at, _parsed(id, result)) for id, effective_at, result in rows
            ]
            self._read_at = time.monotonic()


def _parsed(id: int, result: Mapping[str, Any]) -> Mapping[str, ModelPrice]:
    return {key: parse_price(key, entry, f"import:{id}") for key, entry in result.items()}
