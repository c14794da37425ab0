"""What each role of an organisation may do (contract 3.14, and two roles that only narrow)."""

from models.core.errors import Forbidden
from models.orgs.org import OrgMember

_OWNER = frozenset({"owner"})
_ADMINS = frozenset({"owner", "admin"})
_MONEY = frozenset({"owner", "admin", "billing"})
_WORKERS = frozenset({"owner", "admin", "member", "service"})

CAN: dict[str, frozenset[str]] = {
    "edit_settings": _ADMINS,
    "manage_members": _ADMINS,
    "manage_teams": _ADMINS,
    "manage_keys": _ADMINS,
    "manage_budgets": _ADMINS,
    "manage_repos": _ADMINS,
    "manage_publishers": _ADMINS,
    "manage_alerts": _ADMINS,
    "stop_agents": _ADMINS,
    "see_audit": _ADMINS,
    "see_billing": _MONEY,
    "manage_billing": _MONEY,
    "see_all_usage": _MONEY,
    "read_messages": _ADMINS,
    "buy": frozenset({"owner", "billing"}),
    "spend": _WORKERS,
    "see_assistants": _WORKERS | {"viewer"},
    "run_assistants": _WORKERS,
    "edit_assistants": _WORKERS,
    "delete_assistants": _ADMINS,  # and whoever made one
    "see_projects": _WORKERS | {"viewer"},
    "edit_projects": _WORKERS,
    "manage_projects": _ADMINS,
    "manage_tools": _ADMINS,  # whoever chooses where a secret is sent could read it
    "manage_sso": _OWNER,  # whoever chooses the identity provider can sign in as anybody of its domains, owners too
    "keep_audit": _OWNER,
    "transfer": _OWNER,
    "delete_org": _OWNER,
}
"""The roles with each capability. Every member, whatever the role, sees the organisation, its members and its repositories."""


def can(member: OrgMember, capability: str) -> bool:
    """Whether the member's role has the capability."""
    return member.role in CAN[capability]


def require(member: OrgMember, capability: str, message: str = "Insufficient permissions") -> None:
    """Raise Forbidden unless the member's role has the capability."""
    if not can(member, capability):
        raise Forbidden(message)
