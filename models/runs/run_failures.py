"""The failures of a run, each once: its own, and those of its calls, with the reason in full."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import any_, select

from models.core.db import db
from models.gateway import GatewayCall
from models.runs.history import RunSummary
from models.runs.run_totals import text_array

MAX_CALLS = 5


@dataclass(frozen=True)
class RunFailure:
    """One failure: what failed, why, and the failing call; `call` is None where no call failed. `run_failed`: the run with it."""

    reason: str
    call: GatewayCall | None
    run_failed: bool


def failures_of(account_id: str, summary: RunSummary, run_ids: Sequence[str]) -> list[RunFailure]:
    """Return the run's failure, then the last five of failed calls in it and in the runs it spawned (`run_ids`: all of these), in
    one query. The run's own failure is that of its last failed call if the client says the same, or gave no reason."""
    failed: list[GatewayCall] = []
    if summary.totals.all.failed:
        query = (
            select(GatewayCall)
            .where(GatewayCall.account_id == account_id, GatewayCall.run_id == any_(text_array(run_ids)))
            .where(GatewayCall.state == "failed")
            .order_by(GatewayCall.started_at.desc(), GatewayCall.request_id.desc())
            .limit(MAX_CALLS)
        )
        failed = list(db.session.scalars(query))
    found = []
    if summary.state == "failed":
        reason = (summary.run.error_message or "").strip()
        cause = next((call for call in failed if _same(reason, call.error or "")), None)
        if cause is not None:
            failed.remove(cause)
        longer = max(reason, (cause and cause.error) or "", key=len)
        found.append(RunFailure(longer or "The client gave no reason.", cause, run_failed=True))
    found += [RunFailure(call.error or "The provider gave no reason.", call, False) for call in failed]
    return found


def _same(reason: str, error: str) -> bool:
    return not reason or (bool(error) and (error in reason or reason in error))
