"""E-mails about invitations. The mail queue is encrypted; the token stands nowhere else."""

from models.accounts.users import User
from models.core import mail
from models.core.db import extension
from models.core.mail import moment_text
from models.orgs.org import Org, OrgInvite

INVITES_PATH = "/invites/"


def invite_url(token: str) -> str:
    """The address of an invitation's page."""
    return f"{extension('settings').base_url}{INVITES_PATH}{token}"


def person_name(user: User) -> str:
    """How an e-mail or page calls a user."""
    return user.display_name


def send_invitation(org: Org, row: OrgInvite, by: User, token: str, *, reminder: bool = False) -> None:
    """Enqueue the e-mail of an invitation, or its reminder, in the current transaction."""
    values = {
        "organisation": org.name,
        "inviter": person_name(by),
        "role": row.role,
        "email": row.email,
        "url": invite_url(token),
        "expires": moment_text(row.expires_at),
        "reminder": reminder,
    }
    mail.send(extension("settings"), mail.composed(row.email, "org_invite", values))
