"""`/admin/proofs`: the proofs of the ledger and the store, and the reconciliation with Stripe: their last runs, and runs on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Response, url_for
from flask.typing import ResponseReturnValue

from models import billing
from models.billing import stripe_api
from models.billing.payments.reconciliation import Reconciliation
from models.billing.proof_runs import ProofRun
from models.core import jobs
from models.core.db import db
from models.core.errors import NotFound
from views.admin.pages.admin_blueprint import bp, operating_user
from views.web import format
from views.web.guards import admin_required, audit, limiter
from views.web.htmx import render, see_other, toast, wants_fragment

HISTORY = 30
FINDINGS = 20
"""Shown of a run."""


@dataclass(frozen=True, slots=True)
class ProofRow:
    """A finished run: `good` is None when it did not finish. `findings` are lines of text."""

    started_at: datetime
    took_ms: float
    good: bool | None
    result: str
    findings: list[str]


@dataclass(frozen=True, slots=True)
class ProofSummary:
    """A kind of proof with its last run. `pending` is "running" or "waiting"."""

    kind: str
    title: str
    about: str
    nightly: str
    last: ProofRow | None
    pending: str | None
    enabled: bool = True


_TASKS: dict[str, tuple[Any, str, str]] = {
    "ledger": (jobs.prove_ledger, "billing.prove", "proof"),
    "store": (jobs.prove_store, "store.prove", "proof"),
    "stripe": (jobs.reconcile_purchases, "billing.reconcile", "reconciliation"),
}
"""The job of each kind, and the action and subject in the audit log."""


@bp.get("/proofs")
@admin_required
def proofs() -> ResponseReturnValue:
    """The last runs of each proof. A fragment is the table of the last ones, which polls while one is queued or running."""
    return _page()


@bp.post("/proofs/<kind>/runs")
@admin_required
@limiter.limit("10 per minute")
def run_proof(kind: str) -> ResponseReturnValue:
    """Enqueue a run: `ledger`, `store` or `stripe`."""
    if kind not in _TASKS:
        raise NotFound("There is no such proof.")
    if kind == "stripe":
        stripe_api.client()
    task, action, subject = _TASKS[kind]
    jobs.run_now(task)
    audit(action, subject, user=operating_user())
    db.session.commit()
    if wants_fragment():
        return _page()
    toast("The run is requested.")
    return see_other(url_for(".proofs"))


def summaries() -> list[ProofSummary]:
    """Each proof with its last run."""
    return [
        ProofSummary(
            "ledger",
            "Ledger",
            "Balances against entries, calls and purchases",
            "01:17",
            _last(ledger_rows(1)),
            jobs.pending_state(jobs.prove_ledger),
        ),
        ProofSummary(
            "store",
            "Store",
            "Statistics of agents against their runs",
            "01:57",
            _last(store_rows(1)),
            jobs.pending_state(jobs.prove_store),
        ),
        ProofSummary(
            "stripe",
            "Stripe",
            "Payments and plans against Stripe",
            "02:37",
            _last(stripe_rows(1)),
            jobs.pending_state(jobs.reconcile_purchases),
            enabled=billing.enabled(),
        ),
    ]


def ledger_rows(limit: int) -> list[ProofRow]:
    """The last proofs of the ledger."""
    return [
        _proof_row(run, _counted(run.entries, "entry", "entries"))
        for run in billing.proof_runs("ledger", limit=limit)
    ]


def store_rows(limit: int) -> list[ProofRow]:
    """The last proofs of the store's statistics."""
    return [
        _proof_row(run, _counted(run.runs, "run", "runs")) for run in billing.proof_runs("store", limit=limit)
    ]


def stripe_rows(limit: int) -> list[ProofRow]:
    """The last reconciliations."""
    return [_reconciliation_row(run) for run in billing.reconciliations(limit=limit)]


def _page() -> Response:
    return render(
        "admin/proofs.html",
        partial="admin/_proof_summaries.html",
        proofs=summaries(),
        history=[
            ("ledger", "Ledger", ledger_rows(HISTORY)),
            ("store", "Store", store_rows(HISTORY)),
            ("stripe", "Stripe", stripe_rows(HISTORY)),
        ]
        if not wants_fragment()
        else [],
    )


def _last(rows: Sequence[ProofRow]) -> ProofRow | None:
    return rows[0] if rows else None


def _proof_row(run: ProofRun, checked: str) -> ProofRow:
    if run.error:
        return ProofRow(run.started_at, _took(run), None, f"Did not finish: {run.error}", [])
    findings = [
        f"{each['check']}: {text}" for each in run.findings for text in each["differences"][:FINDINGS]
    ]
    result = f"{format.number(run.differences)} differ" if run.differences else f"{checked} verified"
    return ProofRow(run.started_at, _took(run), not run.differences, result, findings[:FINDINGS])


def _reconciliation_row(run: Reconciliation) -> ProofRow:
    findings = [
        f"{'repaired' if each['repaired'] else 'NOT REPAIRED'}: {each['purchase_id']}: {each['what']}"
        for each in sorted(run.findings, key=lambda each: each["repaired"])
    ][:FINDINGS]
    if run.error:
        return ProofRow(run.started_at, _took(run), None, f"Did not finish: {run.error}", findings)
    repaired = len(run.findings) - run.open_findings
    result = f"{_counted(run.checked, 'payment', 'payments')} verified" + (
        f", {format.number(repaired)} repaired" if repaired else ""
    )
    if run.open_findings:
        result = f"{format.number(run.open_findings)} to review"
    return ProofRow(run.started_at, _took(run), not run.open_findings, result, findings)


def _counted(count: int, one: str, many: str) -> str:
    return f"{format.number(count)} {one if count == 1 else many}"


def _took(run: ProofRun | Reconciliation) -> float:
    assert run.finished_at
    return (run.finished_at - run.started_at).total_seconds() * 1000
