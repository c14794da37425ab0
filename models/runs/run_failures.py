"""The failures of a run, each once: its own, and those of its calls, with the reason in full."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import any_, select

from models.core.db import db
from models.gateway import CallBody, GatewayCall
from models.runs.history import RunSummary
from models.runs.run_totals import text_array

MAX_CALLS = 5


@dataclass(frozen=True)
class RunFailure:
    """One failure: what failed, why, and the failing call; `call` is None where no call failed. `run_failed`: the run with it."""

    reason: str
    call: GatewayCall | None
    run_failed: bool


def failures_of(
    account_id: str, summary: RunSummary, run_ids: Sequence[str], *, reader: str | None = None
) -> list[RunFailure]:
    """Return the run's failure, then the last five of failed calls in it and in the runs it spawned (`run_ids`: all of these), in
    one query. The run's own failure is that of its last failed call if the client says the same, or gave no reason. With
    `reader`, the provider's words, which may quote the request, only of this user's calls; of others the code."""
    failed = _failed_calls(account_id, run_ids, reader) if summary.totals.all.failed else []
    found = []
    if summary.state == "failed":
        said = (summary.run.error_message or "").strip()
        cause = next((each for each in failed if _same(said, each)), None)
        if cause is not None:
            failed.remove(cause)
        reason = max(said, cause.reason if cause else "", key=len)
        call = cause.call if cause else None
        found.append(RunFailure(reason or "The client gave no reason.", call, run_failed=True))
    return found + [replace(each, reason=each.reason or "The provider gave no reason.") for each in failed]


def _failed_calls(account_id: str, run_ids: Sequence[str], reader: str | None) -> list[RunFailure]:
    query = (
        select(GatewayCall, CallBody.error_message)
        .outerjoin(CallBody, CallBody.request_id == GatewayCall.request_id)
        .where(GatewayCall.account_id == account_id, GatewayCall.run_id == any_(text_array(run_ids)))
        .where(GatewayCall.state == "failed")
        .order_by(GatewayCall.started_at.desc(), GatewayCall.request_id.desc())
        .limit(MAX_CALLS)
    )
    return [
        RunFailure((words if reader in (None, call.user_id) else None) or call.error or "", call, False)
        for call, words in db.session.execute(query)
    ]


def _same(said: str, failure: RunFailure) -> bool:
    codes = [words for words in (failure.reason, failure.call and failure.call.error) if words]
    return not said or any(words in said or said in words for words in codes)
