"""Account pages: sign-in, sign-out, device login, sessions and API keys."""

from views.accounts.pages import device, oauth, security, sign_in
from views.accounts.pages.blueprint import bp

__all__ = ["bp", "device", "oauth", "security", "sign_in"]
