"""What is deleted when, for operators: each rule with the job that keeps it and the last time it ran."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from models.admin.job_review import ScheduledTask
from models.core.audit_log import AuditLog
from models.core.db import db


@dataclass(frozen=True, slots=True)
class Retention:
    """`what` is deleted `after` some time, by the recurring `task` or (None) by a command."""

    what: str
    after: str
    task: str | None
    last: datetime | None = None
    next: datetime | None = None


_RULES = (
    Retention(
        "Prompts, answers and errors of calls", "When flask usage prune runs; billing data stays", None
    ),
    Retention(
        "Kept responses of the Responses API",
        "STOA_RESPONSE_DAYS after the last one of their chain",
        "gateway.prune_responses",
    ),
    Retention("Deleted threads", "STOA_DELETED_THREAD_DAYS", "threads.purge"),
    Retention("Responses of forms", "5 minutes, the rest after a day", "core.forget_submissions"),
    Retention("Expired sessions, sign-in links and codes", "A day after they end", "accounts.forget_expired"),
    Retention("Deleted accounts", "After their grace", "accounts.erase"),
    Retention("Deleted organisations", "14 days", "orgs.erase"),
    Retention("Audit logs of organisations", "As each organisation sets", "orgs.expire_audit"),
    Retention("Deliveries of webhooks", "30 days", "orgs.forget_deliveries"),
    Retention("Contents of Stripe’s events", "90 days after they were handled", "billing.forget_events"),
    Retention(
        "Client addresses of purchases", "When fraud checks no longer need them", "billing.forget_addresses"
    ),
    Retention("Spending of past budget windows", "When the window is long over", "ledger.prune_budgets"),
    Retention("Who downloaded an agent", "The day after; numbers stay", "store.forget_downloads"),
    Retention("Unused pictures", "A day", "store.forget_pictures"),
    Retention("Deleted documents, their texts and files", "7 days", "index.purge"),
    Retention(
        "Figures of providers",
        "15 days by 6 hours, 3 days by hour, 3 hours by 5 minutes",
        "gateway.count_providers",
    ),
    Retention("Errors of jobs that are gone", "A day", "core.forget_failures"),
    Retention("Daily sizes of tables", "400 days", "admin.sample_storage"),
)


def retention(scheduled: Mapping[str, ScheduledTask]) -> list[Retention]:
    """The rules, with the times of their jobs."""
    found = []
    for rule in _RULES:
        task = scheduled.get(rule.task) if rule.task else None
        last = task.last if task else _last_prune()
        found.append(Retention(rule.what, rule.after, rule.task, last, task.next if task else None))
    return found


def _last_prune() -> datetime | None:
    query = (
        select(AuditLog.at)
        .where(AuditLog.subject == "messages", AuditLog.action == "usage.prune")
        .order_by(AuditLog.id.desc())
        .limit(1)
    )
    return db.session.scalars(query).one_or_none()
