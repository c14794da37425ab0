"""Write to the audit log of an organisation."""

from typing import Any

from models.core.audit_log import current_actor, record


def record_org(
    org_id: str,
    action: str,
    subject: str = "",
    *,
    before: Any = None,
    after: Any = None,
    actor: str | None = None,
) -> None:
    """Record a change of the organisation in the current transaction: `action` is `noun.verb`, such as "member.added",
    `subject` the e-mail address, name or id it is about. The actor is that of the request, else `actor` or the system.
    Never pass secrets."""
    who = current_actor()
    record(
        action,
        subject,
        actor=actor or who.name,
        actor_id=who.id,
        before=before,
        after=after,
        ip=who.ip,
        request_id=who.request_id,
        org_id=org_id,
    )
