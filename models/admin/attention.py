"""What an operator should look at now, each in one line. Every check is an index lookup or bounded; no check changes anything."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Select, func, or_, select

from models import billing
from models.admin import job_review
from models.billing.payments import customers, stripe_events
from models.billing.proof_runs import ProofKind
from models.core.db import db, extension
from models.gateway.gateway_call import GatewayCall, refused_names
from models.gateway.provider_health import fault_rates
from models.ledger import CreditHold, SyncFailure
from models.orgs.webhooks import OrgWebhook

AttentionKind = Literal[
    "unsettled",
    "lost",
    "flagged",
    "unpriced",
    "jobs",
    "events",
    "purchases",
    "failures",
    "reconciliation",
    "webhooks",
    "ledger",
    "store",
    "providers",
    "disk",
    "migrations",
    "settings",
]
MOST, MOST_ROWS = 1_000, 100
"""Counted of each kind; of those whose rows are read."""
FLAGGED_FOR, UNPRICED_FOR = timedelta(days=30), timedelta(days=7)
PROOF_EVERY = timedelta(days=2)
"""A nightly proof older than this did not run."""
FEW_CALLS, FAULTY, VERY_FAULTY = 10, 0.1, 0.5
"""Calls of a provider in an hour, and the share of its faults, from which it is in trouble."""
DISK_SHARE, DISK_BYTES = 0.1, 2 << 30
"""Free space below both this share and this size is low."""


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing to look at. `urgent`: calls, money or jobs stand still, or figures are wrong."""

    kind: AttentionKind
    text: str
    urgent: bool = False


def attention(now: datetime, *, unsettled: Mapping[str, int], migrated: bool) -> list[Attention]:
    """Everything that needs an operator, urgent things first. `unsettled` are this machine's calls by state (`Spool.count`),
    `migrated` whether the database fits this release."""
    found = [
        *_server(migrated),
        *_unsettled(unsettled),
        *_calls(now),
        *_jobs(now),
        *_money(now),
        *_webhooks(),
        *_providers(now),
        *_proofs(now),
    ]
    return sorted(found, key=lambda each: not each.urgent)


def _server(migrated: bool) -> Iterator[Attention]:
    settings = extension("settings")
    if not migrated:
        yield Attention("migrations", "The database belongs to another release: migrations are pending", True)
    disk = shutil.disk_usage(settings.data_dir if settings.data_dir.exists() else settings.data_dir.parent)
    if disk.free < DISK_SHARE * disk.total and disk.free < DISK_BYTES:
        yield Attention("disk", f"{disk.free >> 20:,} MB of disk are left for the data directory", True)
    for warning in (*settings.warnings(), *extension("gateway").routes.problems()):
        yield Attention("settings", warning)


def _unsettled(calls: Mapping[str, int]) -> Iterator[Attention]:
    if waiting := calls["waiting"] + calls["unwritten"]:
        yield Attention(
            "unsettled",
            f"{_number(waiting, 'call')} wait to be settled; this machine admits none meanwhile",
            True,
        )
    if aside := calls["aside"]:
        yield Attention(
            "unsettled",
            f"{_number(aside, 'call')} cannot be settled; their accounts make no calls here",
            True,
        )


def _calls(now: datetime) -> Iterator[Attention]:
    if lost := _count(select(CreditHold.request_id).where(CreditHold.state == "lost")):
        yield Attention("lost", f"{_number(lost, 'lost call')}: the provider may have charged for them")
    flagged = select(GatewayCall.request_id).where(
        GatewayCall.flags.is_not(None), GatewayCall.finished_at >= now - FLAGGED_FOR
    )
    if count := _count(flagged):
        yield Attention(
            "flagged", f"{_number(count, 'charged call')} with a bill in doubt in the last 30 days"
        )
    if names := refused_names(now - UNPRICED_FOR):
        yield Attention("unpriced", f"Requests for {_number(len(names), 'model')} without a price this week")


def _jobs(now: datetime) -> Iterator[Attention]:
    heartbeat = job_review.last_heartbeat()
    if heartbeat is None or now - heartbeat > job_review.ALIVE_WITHIN:
        yield Attention("jobs", "No job worker is running: mail, expiry and reports stand still", True)
    if late := job_review.late_task():
        yield Attention("jobs", f"Jobs have been due for over 5 minutes, the oldest of {late}")
    if failed := job_review.failed_count(MOST):
        yield Attention("jobs", f"{_number(failed, 'job')} failed for good")


def _money(now: datetime) -> Iterator[Attention]:
    events = stripe_events.count_troubled(now=now)
    if events["failed"]:
        yield Attention("events", f"{_number(events['failed'], 'event')} of Stripe failed")
    if events["ignored"]:
        yield Attention("events", f"{_number(events['ignored'], 'event')} of Stripe did not match a purchase")
    if doubtful := billing.listed_purchases(account=None, state=None, in_doubt=True, limit=MOST_ROWS):
        yield Attention(
            "purchases", f"{_number(len(doubtful), 'purchase', MOST_ROWS)} in doubt: the outcome is overdue"
        )
    given_up = select(SyncFailure.id).where(SyncFailure.retry_count >= customers.MAX_TRIES)
    if failures := _count(given_up):
        yield Attention("failures", f"{_number(failures, 'change')} could not be synchronised with Stripe")
    if not billing.enabled():
        return
    last = billing.last_reconciliation()
    if last is None or now - last.started_at > PROOF_EVERY:
        yield Attention("reconciliation", "Payments were not compared with Stripe in the last two days")
    elif last.error:
        yield Attention("reconciliation", "The last reconciliation with Stripe did not finish", True)
    elif last.open_findings:
        yield Attention(
            "reconciliation", f"{_number(last.open_findings, 'difference')} to Stripe to review", True
        )


def _webhooks() -> Iterator[Attention]:
    troubled = or_(OrgWebhook.disabled_at.is_not(None), OrgWebhook.failing_since.is_not(None))
    if count := _count(select(OrgWebhook.id).where(troubled)):
        yield Attention("webhooks", f"{_number(count, 'webhook')} failing or switched off at organisations")


def _providers(now: datetime) -> Iterator[Attention]:
    for name, (calls, rate) in sorted(fault_rates(now).items()):
        if calls >= FEW_CALLS and rate >= FAULTY:
            text = f"{name}: {rate:.0%} of {calls:,} calls failed in the last hour"
            yield Attention("providers", text, rate >= VERY_FAULTY)


def _proofs(now: datetime) -> Iterator[Attention]:
    titles: tuple[tuple[ProofKind, str], ...] = (
        ("ledger", "ledger proof"),
        ("store", "proof of the store’s statistics"),
    )
    for kind, title in titles:
        last = billing.last_proof(kind)
        if last is None or now - last.started_at > PROOF_EVERY:
            yield Attention(kind, f"The {title} did not run in the last two days")
        elif last.error:
            yield Attention(kind, f"The last {title} did not finish", True)
        elif last.differences:
            yield Attention(kind, f"The {title} found {_number(last.differences, 'difference')}", True)


def _count(query: Select[str]) -> int:
    """The rows of a query, at most `MOST`."""
    return db.session.scalars(select(func.count()).select_from(query.limit(MOST).subquery())).one()


def _number(count: int, noun: str, most: int = MOST) -> str:
    return f"{count:,}{'+' if count >= most else ''} {noun}{'' if count == 1 else 's'}"
