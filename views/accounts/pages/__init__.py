"""Account pages: sign-in, sign-out, device login, profile, sessions and API keys."""

from views.accounts.pages import (
    account_page,
    data_export_page,
    deletion_page,
    device,
    device_grant_page,
    email_change_page,
    oauth,
    passkey_pages,
    security,
    sign_in,
)
from views.accounts.pages.blueprint import bp

__all__ = [
    "account_page",
    "bp",
    "data_export_page",
    "deletion_page",
    "device",
    "device_grant_page",
    "email_change_page",
    "oauth",
    "passkey_pages",
    "security",
    "sign_in",
]
