"""Ends the calls of stopped accounts: each worker hears of a stop by NOTIFY and ends its calls of the account.

Admission refuses new calls (`gateway_admit`). A call that was admitted before the stop, and entered in this process after its
notification, is found by `check`.
"""

import logging
import os
import threading
import time
import weakref
from typing import Any

import psycopg

from models.core.pool import Pool
from models.gateway.call_errors import stop_message
from models.gateway.in_flight import HoldRenewer, InFlightCall
from models.gateway.upstream import UpstreamError
from models.ledger.account_stops import CHANNEL

log = logging.getLogger("stoa.gateway")

REFRESH_SECONDS = 30.0
"""How often the stopped accounts are read without a notification, which also finds a dead connection."""
RETRY_SECONDS = 1.0

_STOPPED = """
SELECT a.id, jsonb_build_object('by', t.stopped_by_name, 'at', t.stopped_at, 'org', o.name, 'slug', o.slug)
FROM credit_account a JOIN account_stop t ON t.id = a.stop_id LEFT JOIN org o ON o.id = a.id
WHERE a.stop_id IS NOT NULL
"""
_IS_STOPPED = "SELECT FROM credit_account WHERE id = $1 AND stop_id IS NOT NULL"


class AccountStopped(UpstreamError):
    """All calls of the account were stopped."""

    status = 403
    kind = type = "account_stopped"


class StoppedAccounts:
    """The stopped accounts, as this process knows them. Listens from the first call on."""

    def __init__(self, pool: Pool, calls: HoldRenewer, base_url: str) -> None:
        self._pool = pool
        self._calls = calls
        self._base_url = base_url
        self._stopped: dict[str, str] = {}
        """The message for the clients, by account."""
        self._lock = threading.Lock()
        self._pid = 0

    def check(self, call: InFlightCall) -> None:
        """Raise AccountStopped if the call's account was stopped after the call was admitted."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._pid = os.getpid()
                    listener = (weakref.ref(self), self._pool)
                    threading.Thread(target=_listen, args=listener, name="stoa-stops", daemon=True).start()
        message = self._stopped.get(call.admission.account_id or "")
        # it may have been resumed before the call was admitted
        if message and self._pool.execute(_IS_STOPPED, (call.admission.account_id,)):
            call.stop(AccountStopped(message))
        if call.stop_error is not None:
            raise call.stop_error

    def refresh(self, connection: psycopg.Connection[Any]) -> None:
        """Read the stopped accounts, and end their calls in this process."""
        self._stopped = {
            account_id: stop_message(stop, self._base_url)
            for account_id, stop in connection.execute(_STOPPED)
        }
        if not self._stopped:
            return
        for call in self._calls.calls():
            if message := self._stopped.get(call.admission.account_id or ""):
                call.stop(AccountStopped(message))


def _listen(owner: "weakref.ref[StoppedAccounts]", pool: Pool) -> None:
    """Refresh the owner at each notification, as long as it exists. Logs an outage of the database once."""
    failing = False
    while owner():
        try:
            with pool.connect() as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                failing = False
                while _refresh(owner, connection):
                    for _ in connection.notifies(timeout=REFRESH_SECONDS, stop_after=1):
                        pass
        except Exception as error:
            if not failing:
                log.warning("not listening for stopped accounts: %s", error)
            failing = True
            time.sleep(RETRY_SECONDS)


def _refresh(owner: "weakref.ref[StoppedAccounts]", connection: psycopg.Connection[Any]) -> bool:
    """Refresh the owner; False if it is gone."""
    stopped = owner()
    if stopped is not None:
        stopped.refresh(connection)
    return stopped is not None
