"""Where the subjects of the operators' audit log lead."""

from collections.abc import Sequence

from flask import url_for

from models.admin.audit_subjects import NamedSubject, named_subjects
from models.core.audit_log import AuditLog


def subject_links(entries: Sequence[AuditLog]) -> dict[str, str]:
    """The addresses of the pages of what the entries' subjects name, by subject, and of who acted, by id. What does not exist any
    more has none."""
    return {subject: subject_address(named) for subject, named in named_subjects(entries).items()}


def subject_address(named: NamedSubject) -> str:
    """The page of the thing, for operators."""
    match named.kind:
        case "account":
            return url_for("admin.account", id=named.id)
        case "call":
            return url_for("admin.account", id=named.account_id, call=named.id)
        case "run":
            return url_for("admin.run_trace", run_id=named.id)
        case "plan":
            return url_for("plan_admin.plan", id=named.id)
        case "job":
            return url_for("admin.job_list", before=int(named.id) + 1)
        case "purchase":
            return url_for("admin_billing.purchase", id=named.id)
        case "eval":
            return url_for("admin.eval_result", id=named.id)
        case "publisher":
            return url_for("publishers.page", publisher_id=named.id)
        case "agent":
            publisher, _, agent = named.id.partition("/")
            return url_for("agent.newest", publisher_id=publisher, agent_id=agent)
